"""Members with valid certificates that do not play by the rules.

Each runs a real member, so that it keeps up with the others, changes what that sends, and says more than it should.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from p2p.clock import citable, open_round
from p2p.codec import encode_payload
from p2p.grid import clip_to_norm, values_in
from p2p.identity import Identity
from p2p.records import NONE, Certificate, Header, Record, sign_record
from p2p.wire import Chunk, Compare, Have, Message, NoBlob, Push, RoundDigest, Want, WantChunk
from tests.simulation.device import Device
from tests.simulation.people import person

if TYPE_CHECKING:
    from tests.simulation.world import World

SYBILS = 60
"""Persons from here on belong to nobody."""


class Hostile(Device):
    """A member that does worse than nothing."""

    is_honest = False

    def __init__(self, world: World, name: str, identity: Identity, certificate: bytes) -> None:
        super().__init__(world, name, identity, certificate)
        self.forged: dict[bytes, bytes] = {}
        self._next_at = 0.0

    # For those that follow.

    def mischief(self) -> None:
        """Done every few seconds while there is trouble."""

    def say_again(self) -> Record | None:
        """The newest header that its member signed and that is not sealed."""
        assert self.member is not None
        replica, me = self.member.context.replica, self.identity.node_id
        own = [record for record in replica.unsealed() if replica.header(record.id).author == me]
        return own[-1] if own else None

    def forge(
        self,
        round: int,
        *,
        parents: tuple[bytes, ...] | None = None,
        prev: bytes = NONE,
        wins: int = 5,
        payload: bytes | None = None,
        author: Identity | None = None,
        certificate: bytes = b"",
    ) -> Record:
        """Signs a header that its member knows nothing of; its payload is given to whoever asks."""
        assert self.member is not None
        replica = self.member.context.replica
        who = author or self.identity
        if parents is None:
            parents = citable(replica, round - 1, who.node_id)
        raw = self.payload(round) if payload is None else payload
        name = hashlib.sha256(raw).digest()
        self.forged[name] = raw
        # What an attacker makes counts as committed: others may take it.
        self.world.evidence.blobs[name] = raw
        header = Header(
            genesis=replica.hash,
            author=who.node_id,
            round=round,
            prev=prev if round > 1 else NONE,
            parents=tuple(sorted({*parents} or {self.rng.randbytes(32)})) if round > 1 else (),
            certificate=certificate or self.certificate,
            wins=wins,
            payload=name,
            payload_bytes=len(raw),
            base_state=bytes(32),
        )
        return sign_record(who.key, header)

    def payload(self, round: int) -> bytes:
        """Noise of the right shape."""
        genesis = self.world.plan.genesis
        tensors = genesis.travelling(round)
        noise = np.random.default_rng(self.rng.getrandbits(32)).integers(
            -3000, 3000, values_in(tensors), dtype=np.int16
        )
        return encode_payload(clip_to_norm(noise, genesis.norm_bound), tensors)

    def push(self, *records: Record, share: float = 1.0) -> None:
        """Sends records to some of its links."""
        for number in self.numbers():
            if self.rng.random() < share:
                self.send(number, Push(tuple(record.signed for record in records)))

    def numbers(self) -> list[int]:
        """Its links."""
        return sorted(self.member.context.links) if self.member is not None else []

    def change(self, message: Message) -> Message | None:
        """What is sent instead of what its member would send."""
        return message

    # How it is done.

    def send(self, number: int, message: Message) -> None:
        changed = self.change(message)
        if changed is not None:
            super().send(number, changed)

    def received(self, number: int, raw: bytes, message: Message | None = None) -> None:
        if isinstance(message, WantChunk) and message.blob in self.forged and self.member is not None:
            raw_blob, size = self.forged[message.blob], self.world.plan.chunk_bytes
            data = raw_blob[message.index * size :][:size]
            if data:
                self.send(number, Chunk(message.blob, message.index, len(raw_blob), data))
            return
        super().received(number, raw, message)
        if message is not None:
            self.world.evidence.received(self, message)

    def _tick(self, run: int) -> None:
        super()._tick(run)
        if self.is_running(run) and not self.world.is_calm and self.world.now >= self._next_at and self.member:
            self._next_at = self.world.now + self.rng.uniform(1.0, 4.0)
            self.world.note(self, "does mischief", ())
            self.mischief()


class Equivocator(Hostile):
    """Signs two bodies of one round, and shows each to some."""

    def mischief(self) -> None:
        said = self.say_again()
        if said is None:
            self.learn()
            return
        assert isinstance(said.body, Header)
        second = self.forge(said.body.round, parents=said.body.parents, prev=said.body.prev)
        self.push(said, share=0.5)
        self.push(second, share=0.5)


class LateEquivocator(Hostile):
    """Keeps its second bodies for a long time."""

    def __init__(self, world: World, name: str, identity: Identity, certificate: bytes) -> None:
        super().__init__(world, name, identity, certificate)
        self._kept: list[tuple[float, Record]] = []

    def mischief(self) -> None:
        self.learn()
        said = self.say_again()
        if said is not None and isinstance(said.body, Header):
            second = self.forge(said.body.round, parents=said.body.parents, prev=said.body.prev)
            self._kept.append((self.world.now + self.rng.uniform(1.0, 12.0), second))
        for due, record in [*self._kept]:
            if due <= self.world.now:
                self.push(record, share=0.7)
                self._kept.remove((due, record))


class SamePrev(Hostile):
    """Lets two deltas of different rounds follow the same one."""

    def mischief(self) -> None:
        assert self.member is not None
        said, head = self.say_again(), self.member.context.replica.head
        if said is None:
            self.learn()
            return
        assert isinstance(said.body, Header)
        round = head + 1 if head == said.body.round else head
        if round > 1 and len(citable(self.member.context.replica, round - 1, self.identity.node_id)):
            self.push(self.forge(round, prev=said.body.prev), share=0.6)


class Withholder(Hostile):
    """Announces deltas and gives their payloads to nobody, or to one member alone."""

    def __init__(self, world: World, name: str, identity: Identity, certificate: bytes) -> None:
        super().__init__(world, name, identity, certificate)
        self._says_so = self.rng.random() < 0.5
        self._favourite = self.rng.random() < 0.5

    def mischief(self) -> None:
        self.learn()

    def change(self, message: Message) -> Message | None:
        if not isinstance(message, Chunk) or (self._favourite and self.rng.random() < 0.3):
            return message
        return NoBlob(message.blob) if self._says_so else None


class BadPayload(Hostile):
    """Signs deltas whose payloads are what they are named after, and nonsense."""

    def mischief(self) -> None:
        assert self.member is not None
        room = open_round(self.member.context.replica, self.identity.node_id, 0)
        if room is not None:
            nonsense = self.rng.choice((self.rng.randbytes(150), self.payload(room[0])[:-3], b"x"))
            self.push(self.forge(room[0], parents=room[1], payload=nonsense, prev=self.rng.randbytes(32)))


class Minter(Hostile):
    """Drives the clock alone: cites itself, nobody, or deltas of other rounds."""

    def mischief(self) -> None:
        assert self.member is not None
        replica = self.member.context.replica
        last = self.forge(max(1, replica.head), prev=self.rng.randbytes(32))
        chain = [last]
        for round in range(replica.head + 1, replica.head + self.rng.randint(2, 12)):
            wrong = replica.in_round(max(1, round - 2))[:1] or (self.rng.randbytes(32),)
            parents = self.rng.choice(((last.id,), wrong, (last.id, *wrong), (self.rng.randbytes(32),) * 1))
            enough = tuple({*parents, *(self.rng.randbytes(32) for _ in range(replica.genesis.quorum - len(parents)))})
            last = self.forge(round, parents=self.rng.choice((parents, enough)), prev=last.id)
            chain.append(last)
        self.rng.shuffle(chain)
        self.push(*chain[:20])


class Backdater(Hostile):
    """Holds the keys of an inviter that the founder revokes, and lets others in by them, before and after."""

    def __init__(self, world: World, name: str, identity: Identity, certificate: bytes) -> None:
        super().__init__(world, name, identity, certificate)
        self._inviter = person(SYBILS)
        self._certificate = world.certify(SYBILS, "inviter")
        self._sybils = 0
        self._at = self.rng.uniform(5.0, 15.0)

    def mischief(self) -> None:
        assert self.member is not None
        founder = self.world.devices[0]
        if self.world.now > self._at and founder.is_up and founder.member is not None:
            self._at = float("inf")
            if founder.member.context.replica.roster.holds(self._certificate.id):
                from_round = max(1, founder.member.context.replica.head - self.rng.choice((-1, 0, 3)))
                self.world.faults.revoke(founder, self._inviter.node_id, from_round)
        if self._sybils >= 8:
            return
        self._sybils += 1
        sybil = person(SYBILS + self._sybils)
        certificate = Certificate(
            genesis=self.world.plan.genesis.hash,
            member=sybil.node_id,
            transport=sybil.transport_public,
            name="sybil",
            issuer=self._inviter.node_id,
            issuer_certificate=self._certificate.id,
            invite=self.rng.randbytes(32),
        )
        given = sign_record(self._inviter.key, certificate)
        replica = self.member.context.replica
        round = max(1, replica.head - self.rng.choice((-1, 0, 0, 1)))
        delta = self.forge(round, author=sybil, certificate=given.id, wins=40, prev=self.rng.randbytes(32))
        self.push(self._certificate, given, delta, share=0.7)


class Liar(Hostile):
    """Claims to have won more than anybody can."""

    def mischief(self) -> None:
        assert self.member is not None
        room = open_round(self.member.context.replica, self.identity.node_id, self.member.outbox.last.round)
        if room is not None:
            reach = np.full(self.world.plan.genesis.parameters, self.world.plan.reach, dtype=np.float32)
            self.step("learn", f"lie {self.world.now}", reach, 2**31)


class Flooder(Hostile):
    """Sends more than anybody can want: garbage, headers, wishes and comparisons."""

    def mischief(self) -> None:
        assert self.member is not None
        replica, rng = self.member.context.replica, self.rng
        kind = rng.randrange(4)
        if kind == 0:
            headers = [self.forge(max(1, replica.head + rng.randint(0, 8)), parents=(rng.randbytes(32),) * 1,
                                  prev=rng.randbytes(32), payload=rng.randbytes(20)) for _ in range(40)]  # fmt: skip
        else:
            headers = []
        for number in self.numbers():
            if headers:
                self.send(number, Push(tuple(record.signed for record in headers)))
            elif kind == 1:
                self.world.network.send(self, number, rng.randbytes(rng.randint(1, 300)))
            elif kind == 2:
                for _ in range(20):
                    ids = tuple(rng.randbytes(32) for _ in range(50))
                    self.send(number, rng.choice((Have(ids), Want(ids))))
            else:
                rounds = tuple(RoundDigest(round, rng.randbytes(32)) for round in range(100))
                for _ in range(20):
                    self.send(number, Compare(rounds, True))


class WrongChunks(Hostile):
    """Gives other bytes than it was asked for."""

    def change(self, message: Message) -> Message | None:
        if not isinstance(message, Chunk) or self.rng.random() < 0.3:
            return message
        kind = self.rng.randrange(3)
        if kind == 0:
            return Chunk(message.blob, message.index, message.total_bytes, message.data[:-1] + b"?")
        if kind == 1:
            return Chunk(message.blob, message.index + 1, message.total_bytes, message.data)
        return Chunk(message.blob, message.index, message.total_bytes + 1, message.data)


_KINDS: dict[str, type[Hostile]] = {
    "equivocator": Equivocator,
    "late-equivocator": LateEquivocator,
    "same-prev": SamePrev,
    "withholder": Withholder,
    "bad-payload": BadPayload,
    "minter": Minter,
    "backdater": Backdater,
    "liar": Liar,
    "flooder": Flooder,
    "wrong-chunks": WrongChunks,
}


def make_hostile(kind: str, world: World, name: str, identity: Identity, certificate: bytes) -> Hostile:
    """A hostile member of a kind."""
    return _KINDS[kind](world, name, identity, certificate)


__all__ = ["Hostile", "make_hostile"]
