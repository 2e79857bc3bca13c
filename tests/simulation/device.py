"""A device: a disk, a member that runs on it or does not, and a trainer that brings increments."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from p2p.actions import Action, Dial, Drop, Send
from p2p.encoding import decode
from p2p.grid import to_fine
from p2p.identity import Identity
from p2p.limits import MAX_RECORD_BYTES
from p2p.member import Member
from p2p.outbox import Author
from p2p.records import Header, Record, Seal, Signed, open_record
from p2p.wire import Message, write_message
from tests.memory import Snapshot
from tests.simulation.books import Books
from tests.simulation.disk import Disk, PowerCutError
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.newcomer import Newcomer
    from tests.simulation.world import World

TOO_MUCH = ("too many messages", "too many records that nobody asked for")
"""Why an honest member never ends a link to another."""


class Device:
    """One device of a simulated swarm.

    Args:
        world: It lives in.
        name: For people; ``n0`` is the founder's.
        identity: Its keys.
        certificate: Id of its certificate; none before it has joined.

    Attributes:
        member: What runs on it; None while it is off.
        run: Counts its starts.
        newcomer: Asks to join, before it is a member.
        has_left: Whether it never comes back.
        is_copy: Whether its home is a copy of another's that is still there.
        skew_s: By how much its clock is wrong.
        power_goes: Whether the power goes before the actions of the next step are carried out.
    """

    is_honest = True

    def __init__(self, world: World, name: str, identity: Identity, certificate: bytes = b"") -> None:
        self.world = world
        self.name = name
        self.identity = identity
        self.certificate = certificate
        self.address = f"{name}:1"
        self.rng = random.Random(f"device {world.plan.seed} {name}")
        self.disk = Disk(self._committed)
        self.books = Books(world.plan.genesis, world.evidence, identity.node_id, world.increments)
        self.member: Member | None = None
        self.newcomer: Newcomer | None = None
        self.run = 0
        self.has_left = False
        self.is_copy = False
        self.skew_s = 0
        self.power_goes = False
        self._seals = 0
        self._learned = 0
        self._waiting: list[tuple[str, int]] = []

    def __repr__(self) -> str:
        return self.name

    # What it is.

    @property
    def is_up(self) -> bool:
        """Whether a member runs on it."""
        return self.member is not None

    def is_running(self, run: int) -> bool:
        """Whether this is still the same run, of a member or a newcomer."""
        return self.run == run and (self.member is not None or self.newcomer is not None)

    def is_cut_off(self, members: Collection[bytes]) -> bool:
        """Whether it has a link to none of some members."""
        return self.member is None or not any(link.member in members for link in self.member.context.members())

    @property
    def clock_s(self) -> int:
        """Its own Unix time."""
        return int(self.world.now) + 1_000_000_000 + self.skew_s

    # What its user and the world do.

    def start(self) -> None:
        """Switches it on, unless it is on or gone for good."""
        if self.is_up or self.has_left:
            return
        self.run += 1
        self._step(self._open)
        if self.member is None:
            return
        self.step("reachable_at", (self.address,))
        self._tick(self.run)
        for id, wins in [*self._waiting]:
            self._learn(id, wins)

    def go(self) -> None:
        """The power goes, or the process is killed."""
        self.member = self.newcomer = None
        self.run += 1
        self.power_goes = False
        self.disk.crash(blobs_stay=self.rng.random() < 0.5)
        self.world.network.vanish(self)

    def restore(self, snapshot: Snapshot, books: Books) -> None:
        """Puts a backup of this home, or of another one, onto its disk."""
        self.disk.restore(snapshot)
        self.books = books
        self._seals = len(self.disk.keys("seal/"))
        self._waiting.clear()

    def learn(self) -> None:
        """A trainer brings an increment."""
        self._learned += 1
        id = f"{self.name}-{self.run}-{self._learned}"
        reach = self.world.plan.reach * self.rng.choice((0.1, 1.0))
        values = np.random.default_rng(self.rng.getrandbits(64)).uniform(
            -reach, reach, self.world.plan.genesis.parameters
        )
        increment, wins = values.astype(np.float32), self.rng.choice((1, 3, 16, 40, 1000))
        self.world.increments[id] = to_fine(increment, self.world.plan.genesis), wins
        self.world.learned[id] = increment
        self._waiting.append((id, wins))
        self._learn(id, wins)

    def say(self, record: Record) -> None:
        """Signs and spreads a record of its own."""
        self.step("add_own", record)

    # What the network does.

    def link_up(self, number: int, key: bytes, *, dialled: bool) -> None:
        if self.newcomer is not None:
            self.newcomer.link_up(number)
        else:
            self.step("link_up", number, key, dialled=dialled)

    def link_down(self, number: int) -> None:
        if self.newcomer is not None:
            self.newcomer.link_down(number)
        else:
            self.step("link_down", number)

    def received(self, number: int, raw: bytes, message: Message | None = None) -> None:
        if self.newcomer is not None:
            self.newcomer.received(number, raw)
        elif self.step("received", number, raw) and message is not None:
            self.world.evidence.received(self, message)

    # How it does it.

    def step(self, what: str, *arguments: object, **named: object) -> bool:
        """Lets the member take a step; whether it got through."""
        member = self.member
        if member is None:
            return False
        self.world.note(self, what, arguments)
        method: Callable[..., list[Action]] = getattr(member, what)
        return self._step(lambda: method(*arguments, **named, now=self.world.now, clock_s=self.clock_s))

    def send(self, number: int, message: Message) -> None:
        """Sends a message."""
        self.world.network.send(self, number, write_message(message), message)

    def _step(self, act: Callable[[], list[Action]]) -> bool:
        try:
            actions = act()
        except PowerCutError:
            self.world.note(self, "power cut in a step", ())
            self.go()
            return False
        except Violation:
            raise
        except Exception as error:
            raise Violation("no exceptions", f"{self}: {error!r}") from error
        if self.power_goes:
            self.world.note(self, "power cut before sending", ())
            self.go()
            return False
        # Whoever receives these messages may know what is not on this disk yet, if anything is not.
        self.world.evidence.committed(self.identity.node_id, self.disk.news, self.disk.blobs_written)
        self._carry_out(actions)
        if self.member is not None:
            if self.disk.is_suspect and self.member.is_cleared:
                self.disk.accept_as_own()
            self.world.invariants.stepped(self)
        return True

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(link=link, message=message):
                    self.send(link, message)
                case Drop(link=link, reason=reason):
                    self.world.note(self, "drops a link", (link, reason))
                    other = self.world.network.other_end(link)
                    if reason in TOO_MUCH and self.is_honest and other is not None and other.is_honest:
                        raise Violation("bounds", f"{other} said more to {self} than that puts up with: {reason}")
                    self.world.network.close(link)
                case Dial(address=address, key=key):
                    self.world.network.dial(self, address, key, self.identity.transport_public)

    def _open(self) -> list[Action]:
        world = self.world
        world.note(self, "starts", ("suspect",) if self.disk.is_suspect else ())
        self.member = Member(
            world.plan.genesis,
            Author(self.identity.key, self.identity.node_id, self.certificate),
            self.disk,
            rng=random.Random(self.rng.getrandbits(64)),
            instance=self.rng.randbytes(16),
            now=world.now,
            clock_s=self.clock_s,
        )
        self.disk.tidy(self.member.referenced())
        self.disk.commit()
        return []

    def _tick(self, run: int) -> None:
        if self.is_running(run):
            self.world.after(self.rng.uniform(0.6, 1.0), self._tick, run)
            self.step("tick")

    def _learn(self, id: str, wins: int) -> None:
        if self.step("learn", id, self.world.learned[id], wins):
            self._waiting.remove((id, wins))
            self.books.promised.add(id)

    def could_know_better(self) -> bool:
        """Whether a member that it knows of still has the newest header that it does not know itself.

        A restored home asks the members that it knows of, and those of whom they know. It cannot ask one that it let in
        itself, after the backup was made, and that nobody else knows of; nor one that was restored as well. The
        original of a copy takes the word of the first that it meets, also after it was cut off from everybody who
        heard of that. What a copy or its original signed and sent to nobody, because it was cut off at that moment and
        still is, nobody can tell the other.
        """
        assert self.member is not None
        context = self.member.context
        me, members = self.identity.node_id, context.replica.roster.members()
        if self.books.was_copied:
            members = [link.member for link in context.members() if link.confirmed and link.member is not None]
        signed = dict(self.world.evidence.said.get(me, {}))
        for device in self.world.devices:
            if device.identity.node_id == me and not device.has_left and device.is_cut_off(members):
                signed |= device.books.signed_rounds()
        forgotten = [round for id, round in signed.items() if id not in self.books.mine]
        kept = [0]
        for device in self.world.devices:
            raw = device.disk.get(f"newest/{me.hex()}")
            is_lost = device.is_copy and not device.is_up
            if raw is not None and device.is_honest and device.identity.node_id in members and not is_lost:
                record = open_record(decode(raw, Signed, 2 * MAX_RECORD_BYTES), self.world.plan.genesis.hash)
                assert isinstance(record.body, Header)
                kept.append(record.body.round)
        return max(kept) >= max(forgotten, default=0)

    def _excuse_second_seal(self, record: Record) -> None:
        """A sealer whose seal was kept by nobody, because all who had it were restored as well, cannot hear of it."""
        assert isinstance(record.body, Seal)
        height, kept = record.body.height, set[str]()
        for device in self.world.devices:
            if device is not self and device.is_honest:
                kept |= {*device.disk.keys(f"seal/{height:012}"), *device.disk.keys(f"offered/{height:012}")}
        if not kept and self.identity.node_id == self.world.plan.genesis.sealer:
            self.world.evidence.seals.pop(height, None)

    def _committed(self) -> None:
        disk, evidence = self.disk, self.world.evidence
        new = evidence.committed(self.identity.node_id, disk.news, disk.blobs_written)
        seals = disk.keys("seal/")
        for key in seals[self._seals :]:
            raw = disk.get(key)
            assert raw is not None
            seal = open_record(decode(raw, Signed, 2 * MAX_RECORD_BYTES), self.world.plan.genesis.hash)
            evidence.seal(seal)
            self._excuse_second_seal(seal)
        self._seals = len(seals)
        if self.is_honest:
            self.books.committed(disk, new, self)
