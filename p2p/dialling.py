"""Whom a node dials: members it has no link to, at random, never more than a few, ever slower where it fails."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from p2p import limits
from p2p.actions import Dial
from p2p.context import Context
from p2p.encoding import decode, encode
from p2p.records import Certificate
from p2p.wire import Bye


@dataclass(slots=True)
class _Tried:
    next_at: float
    pause_s: float
    turn: int = 0


class Dialling:
    """Keeps enough links up.

    Args:
        context: Shared with the other parts.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tried: dict[bytes, _Tried] = {}
        self._under_way: dict[bytes, float] = {}
        self._nearby: dict[bytes, tuple[str, ...]] = {}

    def remember(self, address: str, key: bytes) -> None:
        """Keeps an address from a ticket; it is dialled like those of members."""
        self._context.storage.put(f"contact/{key.hex()}", encode(address))

    def nearby(self, key: bytes, addresses: Sequence[str]) -> None:
        """Takes note of where somebody in the local network says a key is; if that is news, it is tried at once."""
        told = tuple(addresses[: limits.MAX_NEARBY])
        if self._nearby.get(key) != told and self._context.replica.roster.admits(key):
            self._nearby[key] = told
            self._tried.pop(key, None)

    def up(self, key: bytes) -> None:
        """A dialled link came up."""
        self._under_way.pop(key, None)
        self._tried.pop(key, None)

    def failed(self, key: bytes) -> None:
        """A link that was dialled is gone, or never came up."""
        self._under_way.pop(key, None)

    def step(self, first: Set[bytes]) -> None:
        """Dials whom it is time to dial.

        Args:
            first: Members that have to be heard, and for whom others make room, one at a time.
        """
        context, now = self._context, self._context.now
        self._under_way = {key: at for key, at in self._under_way.items() if now - at < limits.LINK_DEAD_S}
        linked = {link.key for link in context.links.values()} | self._under_way.keys()
        dialled = sum(link.dialled for link in context.links.values()) + len(self._under_way)
        candidates = [(key, addresses) for key, addresses in sorted(self._contacts().items()) if key not in linked]
        context.rng.shuffle(candidates)
        wanted = {key for member in first for key in context.replica.roster.transports(member)}
        for key, addresses in candidates:
            is_full = dialled >= limits.MAX_DIALLED
            # One at a time: those of them that are away would take the place of everybody else.
            if is_full and (key not in wanted or wanted & self._under_way.keys()):
                continue
            tried = self._tried.setdefault(key, _Tried(now, limits.REDIAL_S[0]))
            if now < tried.next_at:
                continue
            if is_full and not self._make_room(first):
                return
            context.actions.append(Dial(addresses[tried.turn % len(addresses)], key))
            self._under_way[key] = now
            tried.turn += 1
            tried.next_at = now + tried.pause_s * (1 + context.rng.random())
            tried.pause_s = min(2 * tried.pause_s, limits.REDIAL_S[1])
            dialled += 1

    def _make_room(self, first: Set[bytes]) -> bool:
        """Ends a dialled link to somebody who was heard; whether there was one besides the last."""
        context = self._context
        others = [link for link in context.members() if link.dialled and link.member not in first]
        if len(others) < 2:
            return False
        link = context.rng.choice(others)
        context.send(link, Bye("others have to be heard"))
        context.drop(link, "others have to be heard")
        return True

    def _contacts(self) -> dict[bytes, list[str]]:
        """Addresses by CURVE key: of the local network, then what members say of themselves, then what tickets said."""
        roster, found = self._context.replica.roster, dict[bytes, list[str]]()
        for member in roster.members():
            record, certificate = roster.peer(member), roster.certificate_of(member)
            if member == self._context.me or certificate is None:
                continue
            assert isinstance(certificate.body, Certificate)
            key = certificate.body.transport
            found[key] = [*dict.fromkeys((*self._nearby.get(key, ()), *(record.addresses if record else ())))]
        for name in self._context.storage.keys("contact/"):
            key = bytes.fromhex(name.removeprefix("contact/"))
            address = decode(self._context.storage.get(name) or b"", str, 1024)
            if key == self._own_transport() or roster.shuts_out(key):
                continue
            if address not in found.setdefault(key, []):
                found[key].append(address)
        return {key: addresses for key, addresses in found.items() if addresses}

    def _own_transport(self) -> bytes:
        record = self._context.replica.roster.certificate_of(self._context.me)
        return record.body.transport if record and isinstance(record.body, Certificate) else b""
