"""Where a home keeps what the swarm needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2p.control import socket_path


@dataclass(frozen=True, slots=True)
class Places:
    """Files and folders of one home.

    Attributes:
        home: The home itself; holds the node's keys.
    """

    home: Path

    @property
    def swarm(self) -> Path:
        """The ledger's folder."""
        return self.home / "swarm"

    @property
    def next_swarm(self) -> Path:
        """A ledger that is about to take its place."""
        return self.home / "swarm.next"

    @property
    def ledger(self) -> Path:
        """The folder to read the ledger from: where a move was interrupted, the one that is about to take its place."""
        return self.next_swarm if self.next_swarm.is_dir() else self.swarm

    def left_swarm(self, genesis: bytes) -> Path:
        """Where the ledger of a swarm goes that this home left."""
        return self.home / f"swarm.left-{genesis.hex()[:16]}"

    @property
    def outbox(self) -> Path:
        """What trainers leave for the node."""
        return self.home / "outbox"

    @property
    def log(self) -> Path:
        """What a detached node says."""
        return self.home / "node.log"

    @property
    def recovery(self) -> Path:
        """The recovery key of a swarm that was founded here."""
        return self.home / "recovery.pem"

    @property
    def control(self) -> Path:
        """The socket by which commands talk to the node."""
        return socket_path(self.home)

    @property
    def is_member(self) -> bool:
        """Whether this home belongs to a swarm."""
        return (self.swarm / "ledger.db").is_file() or (self.next_swarm / "ledger.db").is_file()
