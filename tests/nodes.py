"""Nodes of a swarm that nobody has to join, as real processes on loopback; they learn from increments, without torch.

Run as a program, this is such a node: ``HOME LISTEN NAME``. What it reads from its environment makes it impatient,
writes down what goes over its links, and kills it at a chosen point:

    NODE_LIMITS     JSON: values for names in ``p2p.limits``, or ``TICK_S``
    NODE_TAP        a file for all messages
    NODE_DIES_AT    ``COUNT`` of fault points and messages, or ``COUNT chunk`` of pieces of blobs that came
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

import p2p.faults
from p2p import control, limits, node
from p2p.addresses import free_port
from p2p.codec import decode_payload
from p2p.encoding import domain_separated
from p2p.errors import P2PError
from p2p.founding import founder_certificate, genesis_of, new_genesis
from p2p.identity import Identity, generate, load, save
from p2p.increments import write_increment
from p2p.ledger import Ledger
from p2p.moving import move_in
from p2p.node import Node, Settings
from p2p.places import Places
from p2p.records import Certificate, Genesis, Header, Record, open_record, sign_record

if TYPE_CHECKING:
    from p2p.storage import Storage

ROOT = Path(__file__).parents[1]
LIMIT_S = 60.0
"""Only what hangs takes so long."""
POLL_S = 0.03
GRID = 2.0**-20
"""A step of what deltas carry."""
IMPATIENT = {"NULL_DELAY_S": (0.05, 0.2), "REDIAL_S": (0.05, 0.2), "TICK_S": 0.1}

T = TypeVar("T")
Steps = npt.NDArray[np.int64]
"""Values in steps of the grid."""


def until(found: Callable[[], T], what: str = "nothing came of it") -> T:
    """Waits for something that is true, and returns it."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)
    return value


# The process.


def main(home: str, listen: str, name: str) -> None:
    """Runs a node until it is told to stop."""
    logging.basicConfig(level=logging.INFO)
    for limit, value in json.loads(os.environ.get("NODE_LIMITS", "{}")).items():
        setattr(node if limit == "TICK_S" else limits, limit, tuple(value) if isinstance(value, list) else value)
    places = Places(Path(home))
    asyncio.run(_run(places, Settings(listen, (), name)))


async def _run(places: Places, settings: Settings) -> None:
    tap = _watch(os.environ.get("NODE_TAP", ""), os.environ.get("NODE_DIES_AT", ""))
    with Ledger(places.swarm) as ledger:
        running = Node(places, ledger, load(places.home), settings, tap=tap)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.stop)
        await running.run(lambda _: sys.stdout.write("up\n") and sys.stdout.flush())


def _watch(path: str, dies_at: str) -> Callable[[str, int, bytes], None]:
    """Writes messages down, and counts until it is time to die."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else -1
    number, _, kind = dies_at.partition(" ")
    left = int(number or -1)

    def count(_: str = "") -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def tap(direction: str, link: int, data: bytes) -> None:
        if file >= 0:
            os.write(file, direction[:1].encode() + struct.pack(">I", len(data)) + data)
        if not kind or (direction == "received" and is_chunk(data)):
            count()

    if not kind:
        p2p.faults.hook = count
    return tap


def is_chunk(data: bytes) -> bool:
    """Whether a message is a piece of a blob."""
    return data[1:7] == b"\xa5chunk"


def read_tap(path: Path, direction: Literal["sent", "received"]) -> Iterator[bytes]:
    """The messages that a node wrote down."""
    raw, start = path.read_bytes(), 0
    while start < len(raw):
        end = start + 5 + int.from_bytes(raw[start + 1 : start + 5], "big")
        if raw[start : start + 1] == direction[:1].encode():
            yield raw[start + 5 : end]
        start = end


# The tests' side.


@dataclass
class Peer:
    """A member on this machine: its home, and the process of its node.

    Attributes:
        name: What it calls itself.
        places: Its home's.
        identity: Its keys.
        address: Where its node listens.
        limits: What its node is told instead of the values in ``p2p.limits``.
    """

    name: str
    places: Places
    identity: Identity
    address: str
    limits: dict[str, Any] = field(default_factory=lambda: dict(IMPATIENT))
    process: subprocess.Popen[str] | None = None
    learned: int = 0

    def begin(self, *, tap: Path | None = None, dies_at: str = "") -> None:
        """Starts its node, and leaves it to come up, or to die, as it is told."""
        told = {"NODE_LIMITS": json.dumps(self.limits), "NODE_TAP": str(tap or ""), "NODE_DIES_AT": dies_at}
        with open(self.places.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.nodes", str(self.places.home), self.address, self.name],
                cwd=ROOT,
                env={**os.environ, **told},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def up(self, *, tap: Path | None = None) -> None:
        """Starts its node, and waits until it can be reached."""
        self.begin(tap=tap)
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n", self.places.log.read_text()

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Ends its node, if one runs; how that went."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        with process:
            process.send_signal(number)
            try:
                return process.wait(LIMIT_S)
            finally:
                process.kill()

    def close(self) -> None:
        """Ends its node, and leaves nothing of it behind."""
        self.end()
        for path in (self.places.control, Path(f"{self.places.control}.lock")):
            path.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self.places.control, command, arguments, LIMIT_S)

    def status(self) -> dict[str, Any]:
        """What its node says; nothing while none answers."""
        with suppress(P2PError):
            return self.ask("status")
        return {}

    def swarm(self, name: str) -> Any:
        """What its node says of the swarm."""
        return self.status().get("swarm", {}).get(name)

    def standing(self, other: Peer) -> str:
        """What another member is to its node."""
        peers = {peer["id"]: peer["state"] for peer in self.status().get("peers", ())}
        return str(peers.get(other.identity.node_id.hex(), ""))

    def dropped(self, key: bytes) -> list[str]:
        """Why its node ended links with a key lately, as ``status`` says."""
        return [str(entry["reason"]) for entry in self.status().get("dropped", ()) if entry["key"] == key.hex()]

    def learn(self, values: Steps, wins: int, base: int = 0) -> None:
        """Leaves an increment for its node, which need not run."""
        self.learned += 1
        id = f"{self.name}-{self.learned}"
        write_increment(self.places.outbox, id, (values * GRID).astype(np.float32), wins, base)
        with suppress(P2PError):
            self.ask("wake")

    @property
    def is_waiting(self) -> bool:
        """Whether something that was learned lies where its node has not taken it yet."""
        return any(self.places.outbox.glob("*.safetensors"))

    def headers(self) -> list[Header]:
        """All deltas in its ledger that no seal has passed, by round; also while its node runs."""
        with Ledger.open_readonly(self.places.swarm) as ledger:
            hash = genesis_of(cast("Storage", ledger)).hash
            bodies = [open_record(signed, hash).body for signed in ledger.records()]
        headers = [body for body in bodies if isinstance(body, Header)]
        return sorted(headers, key=lambda header: (header.round, header.author))

    def sum_of_deltas(self) -> Steps:
        """The sum of all deltas in its ledger that no seal has passed, whatever they weigh."""
        headers = [header for header in self.headers() if not header.is_null]
        with Ledger.open_readonly(self.places.swarm) as ledger:
            genesis = genesis_of(cast("Storage", ledger))
            payloads = [(header, ledger.read_blob(header.payload)) for header in headers]
        deltas = [decode_payload(raw, genesis.travelling(h.round), genesis.norm_bound) for h, raw in payloads]
        return np.sum(deltas, axis=0, dtype=np.int64)


def agree(peers: Iterable[Peer], head: int = 1) -> str:
    """Waits until all nodes hold the same, at a round or later, and nothing is left to share; the state's hash."""
    peers = list(peers)

    def found() -> str:
        swarms = [peer.status().get("swarm") for peer in peers]
        said = {(s["state_hash"], s["head_round"], s["pending_wins"]) if s else None for s in swarms}
        one = said.pop()
        waiting = any(peer.is_waiting for peer in peers)
        return one[0] if not said and one and one[1] >= head and not one[2] and not waiting else ""

    try:
        return until(found, "they never agreed")
    except AssertionError as error:
        for peer in peers:
            error.add_note(f"{peer.name}: {json.dumps(peer.status())}")
        raise


def fold(rounds: Iterable[Iterable[tuple[Steps, int]]], cap: int) -> npt.NDArray[np.int32]:
    """The state after rounds of deltas with their wins: of each the average in 256ths of a step."""
    total: Any = 0
    for parts in rounds:
        weighed = [(values, min(wins, cap)) for values, wins in parts]
        above = sum(values * weight for values, weight in weighed) * 256
        below = sum(weight for _, weight in weighed)
        total = total + np.sign(above) * ((2 * np.abs(above) + below) // (2 * below))
    return np.asarray(total, dtype=np.int32)


def state_name(state: npt.NDArray[np.int32], genesis: Genesis) -> str:
    """The hash that nodes give to a state, as the protocol defines it."""
    shapes = b"".join(t.name.encode() + b"\0" + struct.pack("<II", t.rows, t.columns) for t in genesis.tensors)
    return hashlib.sha256(domain_separated("state", genesis.hash + shapes + state.astype("<i4").tobytes())).hexdigest()


@dataclass(frozen=True)
class Swarm:
    """Members whose homes are made, and of whom no node runs yet.

    Attributes:
        genesis: Theirs; the first of them founded it.
        peers: In the order of their names.
        certificates: Theirs.
    """

    genesis: Genesis
    peers: tuple[Peer, ...]
    certificates: tuple[Record, ...]

    def __iter__(self) -> Iterator[Peer]:
        return iter(self.peers)

    def up(self) -> None:
        """Starts all nodes, and waits until all are linked."""
        for peer in self.peers:
            peer.up()
        for peer in self.peers:
            others = [other for other in self.peers if other is not peer]
            until(lambda peer=peer, others=others: all(peer.standing(other) == "linked" for other in others))

    def chain_of(self, peer: Peer) -> tuple[Record, ...]:
        """The founder's certificate, and a member's where that is another."""
        return tuple(dict.fromkeys((self.certificates[0], self.certificates[self.peers.index(peer)])))


def tiny_genesis(founder: Identity, parameters: int = 12) -> Genesis:
    """A swarm whose adapter has two small tensors."""
    half = parameters // 2
    return new_genesis(
        name="test",
        fingerprint=bytes(32),
        prompt_format="raw",
        system_prompt="",
        rank=1,
        alpha=1,
        tensors=[("layer.lora_A", 1, half), ("layer.lora_B", parameters - half, 1)],
        sealer=founder.node_id,
        recovery=generate().node_id,
    )


@contextmanager
def swarm(folder: Path, *names: str, parameters: int = 12, **changed: Any) -> Iterator[Swarm]:
    """Members of one swarm, who know where the others listen. Their nodes end with the block.

    Args:
        folder: For their homes.
        names: Of the founder, then of those whom it let in.
        parameters: Of their adapter.
        changed: Limits of their nodes.
    """
    with ExitStack() as stack:
        peers = []
        for name in names:
            peers.append(new_peer(folder / name, **changed))
            stack.callback(peers[-1].close)
        founder = peers[0].identity
        genesis = tiny_genesis(founder, parameters)
        first = founder_certificate(founder, genesis, names[0])
        certificates = [first, *(let_in(first, peers[0], peer.identity, peer.name) for peer in peers[1:])]
        for peer, own in zip(peers, certificates, strict=True):
            others = {other.identity.transport_public: other.address for other in peers if other is not peer}
            move_in(peer.places, genesis, [*certificates, own], others, None)  # the last is its own
        yield Swarm(genesis, tuple(peers), tuple(certificates))


def new_peer(home: Path, **changed: Any) -> Peer:
    """A home with keys, that belongs to no swarm yet."""
    home.mkdir(parents=True)
    identity = generate()
    save(home, identity)
    return Peer(home.name, Places(home), identity, f"127.0.0.1:{free_port()}", {**IMPATIENT, **changed})


def let_in(issuer_certificate: Record, issuer: Peer, newcomer: Identity, name: str) -> Record:
    """A certificate, as if its member had come with a ticket."""
    assert isinstance(issuer_certificate.body, Certificate)
    return sign_record(
        issuer.identity.key,
        Certificate(
            genesis=issuer_certificate.body.genesis,
            member=newcomer.node_id,
            transport=newcomer.transport_public,
            name=name,
            issuer=issuer.identity.node_id,
            issuer_certificate=issuer_certificate.id,
            invite=bytes(32),
        ),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
