"""What an idle node with eight links costs: memory, processor and traffic, over half a minute.

python -m tests.benchmarks.idle
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from p2p import limits, node
from tests.nodes import Peer, swarm

NAMES = ("hub", *(f"n{number}" for number in range(8)))
SETTLE_S = 15.0
WATCH_S = 30.0
OWN_PACE = {"NULL_DELAY_S": limits.NULL_DELAY_S, "REDIAL_S": limits.REDIAL_S, "TICK_S": node.TICK_S}
"""These nodes are as patient as real ones."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, swarm(Path(folder), *NAMES, **OWN_PACE) as made:
        made.up()
        hub = made.peers[0]
        time.sleep(SETTLE_S)
        process = psutil.Process(hub.pid)
        cpu, traffic = sum(process.cpu_times()[:2]), bytes_of(hub)
        time.sleep(WATCH_S)
        cpu, traffic = sum(process.cpu_times()[:2]) - cpu, bytes_of(hub) - traffic
        links = sum(peer["state"] == "linked" for peer in hub.status()["peers"])
        memory = process.memory_info().rss
    print(
        f"idle node, {links} links, {WATCH_S:.0f} s: {memory / 1e6:.0f} MB resident, "
        f"{100 * cpu / WATCH_S:.2f} % of a core, {traffic / WATCH_S:.0f} bytes/s of messages, sent and received"
    )


def bytes_of(peer: Peer) -> int:
    return sum(entry["sent_bytes"] + entry["received_bytes"] for entry in peer.status()["peers"])


if __name__ == "__main__":
    main()
