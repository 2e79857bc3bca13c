"""Strangers and members who mean harm: the others learn on, their memory stays small, and who it was can be seen."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from p2p import limits
from p2p.codec import encode_payload
from p2p.errors import NetworkError, TicketError
from p2p.identity import Identity, generate
from p2p.joining import join
from p2p.ledger import Ledger
from p2p.links import Link
from p2p.overview import BANNED, remember_drop
from p2p.records import Certificate, Genesis, Header, PeerRecord, Record, Signed, sign_record
from p2p.tickets import Endpoint, Ticket, read
from p2p.transport import (
    DISCONNECTED,
    HANDSHAKE,
    MALFORMED,
    REFUSED,
    REPLACED,
    SILENT,
    LinkDown,
    LinkUp,
    Received,
    Transport,
)
from p2p.wire import Beat, Chunk, Hello, Message, NoBlob, Push, Want, WantChunk, read_message, write_message
from tests.nodes import LIMIT_S, Peer, Swarm, agree, let_in, swarm, tiny_genesis, until

if TYPE_CHECKING:
    from p2p.context import Context

MOST_GROWTH_BYTES = 48 * limits.MIB
NOWHERE = Beat(
    head=0, height=0, seal=b"", state=bytes(32), membership=bytes(32), rounds=bytes(32), waits=False, time_s=0
)


class Actor:
    """Somebody with keys and a transport of its own, who says what a test wants and gives the blobs that it has.

    Attributes:
        heard: All messages that came.
        blobs: To give away, by name.
        is_up: Whether its link is.
        reason: Why its link went down, once it has.
    """

    def __init__(self, secret: bytes) -> None:
        self.heard: list[Message] = []
        self.blobs: dict[bytes, bytes] = {}
        self.is_up, self.reason, self._link = False, "", 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._transport = Transport(secret=secret, listen=None, admit=lambda key: True)
        self._run(self._transport.start())
        self._listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)

    def close(self) -> None:
        self._run(self._transport.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def dial(self, peer: Peer, server_key: bytes | None = None) -> str:
        """Dials until it is known what comes of that: nothing, or why it is no link."""
        self.is_up, self.reason = False, ""
        self._link = self._run(self._dial(peer.address, server_key or peer.identity.transport_public))
        until(lambda: self.is_up or self.reason)
        return self.reason

    def greet(self, peer: Peer, genesis: Genesis, chain: Sequence[Record]) -> None:
        """Dials, and says hello."""
        assert not self.dial(peer)
        signed = tuple(record.signed for record in chain)
        self.say(Hello(genesis=genesis.hash, instance=os.urandom(16), previous=b"", certificates=signed, beat=NOWHERE))

    def say(self, message: Message | bytes) -> bool:
        """Sends something, as soon as there is room; whether the link was up."""
        raw = message if isinstance(message, bytes) else write_message(message)
        return until(lambda: "down" if self.reason else self._run(self._send(raw))) != "down"

    def ask_for_nothing(self) -> None:
        """Waits until all that was said has been heard."""
        name = os.urandom(32)
        self.say(WantChunk(name, 0))
        until(lambda: self.reason or any(isinstance(said, NoBlob) and said.blob == name for said in self.heard))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _dial(self, address: str, key: bytes) -> int:
        return self._transport.dial(address, key)

    async def _send(self, raw: bytes) -> bool:
        return self._transport.send(self._link, raw)

    async def _listen(self) -> None:
        while True:
            try:
                event = await self._transport.next_event()
            except NetworkError:  # closed
                return
            match event:
                case LinkUp():
                    self.is_up = True
                case LinkDown(reason=reason):
                    self.reason = reason
                case Received(link=link, data=data):
                    message = read_message(data)
                    self.heard.append(message)
                    if isinstance(message, WantChunk) and message.blob in self.blobs:
                        raw, start = self.blobs[message.blob], message.index * limits.CHUNK_BYTES
                        piece = raw[start : start + limits.CHUNK_BYTES]
                        self._transport.send(link, write_message(Chunk(message.blob, message.index, len(raw), piece)))


@contextmanager
def actors(*secrets: bytes) -> Iterator[list[Actor]]:
    with ExitStack() as stack:
        made = []
        for secret in secrets:
            made.append(Actor(secret))
            stack.callback(made[-1].close)
        yield made


def delta(genesis: Genesis, author: Identity, certificate: Record, **changed: Any) -> tuple[Record, bytes]:
    """A signed header, and the payload that it names."""
    values = np.full(genesis.parameters, 1000, dtype=np.int16)
    raw = encode_payload(values, genesis.travelling(1))
    said = {
        "genesis": genesis.hash, "author": author.node_id, "round": 1, "prev": b"", "parents": (),
        "certificate": certificate.id, "wins": 7, "payload": hashlib.sha256(raw).digest(),
        "payload_bytes": len(raw), "base_state": bytes(32),
    }  # fmt: skip
    return sign_record(author.key, Header(**{**said, **changed})), raw


def rss_bytes(peer: Peer) -> int:
    return int(psutil.Process(peer.pid).memory_info().rss)


def up(made: Swarm, *peers: Peer) -> None:
    """Starts some nodes, and waits until they are linked."""
    for peer in peers:
        peer.up()
    until(lambda: all(one.standing(two) == "linked" for one in peers for two in peers if one is not two))


def all_learn(*peers: Peer) -> str:
    for peer in peers:
        peer.learn(np.full(12, 100), wins=1)
    return agree(peers)


def test_connections_of_strangers_keep_nobody_from_learning(tmp_path: Path) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f"
    curve = greeting + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    said = [b""] * 100 + [greeting[:5]] * 20 + [curve] * 20 + [os.urandom(50_000)] * 20 + [curve + os.urandom(900)] * 20
    with ExitStack() as stack, swarm(tmp_path, "ada", "bob") as made:
        victim, other = made
        up(made, victim, other)
        before = rss_bytes(victim)
        host, _, port = victim.address.rpartition(":")
        for raw in said:
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            stranger.setblocking(False)
            stranger.send(raw)
        all_learn(victim, other)
        assert victim.standing(other) == "linked"
        assert rss_bytes(victim) - before < MOST_GROWTH_BYTES


def test_a_member_who_floods_and_lies_is_dropped_and_the_others_learn_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MAX_MESSAGE_BYTES", 8 * limits.MIB)  # here, not in the nodes
    with swarm(tmp_path, "ada", "bob", "mal") as made:
        victim, other, mal = made
        up(made, victim, other)
        chain, key = made.chain_of(mal), mal.identity.transport_public
        before = rss_bytes(victim)
        with actors(mal.identity.transport_secret) as (actor,):

            def until_dropped(*messages: Message | bytes) -> None:
                actor.greet(victim, made.genesis, chain)
                until(lambda: actor.reason or not all(actor.say(message) for message in messages))

            header, payload = delta(made.genesis, mal.identity, chain[-1])
            forged = Push((Signed(header.signed.body, bytes(64)),) * limits.MAX_RECORDS_PER_MESSAGE)
            for _ in range(10):  # 64,000 of them, as fast as they go
                until_dropped(*[forged] * 100)
            assert any("signature" in reason for reason in victim.dropped(key))
            until_dropped(*[WantChunk(bytes(32), 0)] * 100)
            assert "too many messages" in victim.dropped(key)
            until_dropped(os.urandom(100_000))
            assert victim.dropped(key)[-1].startswith("not a message")
            for size in (512 * limits.KIB + 1, limits.MIB - 64, 4 * limits.MIB):
                until_dropped(bytes(size))
            until(lambda: victim.dropped(key).count(MALFORMED) == 2)  # libzmq ends the link of the longest by itself
            drop = next(drop for drop in victim.status()["dropped"] if drop["reason"] == MALFORMED)
            assert (drop["id"], drop["name"]) == (mal.identity.node_id.hex(), "mal")
            assert 0 <= drop["seconds_ago"] < LIMIT_S
            # Chunks of something else than the payload that a header names.
            actor.blobs[hashlib.sha256(payload).digest()] = bytes(len(payload))
            actor.greet(victim, made.genesis, chain)
            actor.say(Push((header.signed,)))
            until(lambda: actor.reason)
            assert "it sent something else than what was asked for" in victim.dropped(key)
            all_learn(victim, other)
        assert rss_bytes(victim) - before < MOST_GROWTH_BYTES
        assert victim.standing(other) == "linked"


def test_only_what_is_no_ordinary_end_of_a_link_is_remembered_and_not_for_ever() -> None:
    links = {number: Link(number, bytes([number]) * 32, dialled=False, since=0.0) for number in range(100)}
    context = cast("Context", SimpleNamespace(links=links, dropped=[]))
    for reason in (DISCONNECTED, REPLACED, BANNED):
        remember_drop(context, 1, reason, 0.0)
    remember_drop(context, 101, SILENT, 0.0)  # the member ended that one itself
    assert context.dropped == []
    for number in range(100):
        remember_drop(context, number, SILENT, float(number))
    assert [drop.at for drop in context.dropped] == [*range(100 - limits.MOST_REMEMBERED_DROPS, 100)]
    assert (context.dropped[-1].key, context.dropped[-1].reason) == (bytes([99]) * 32, SILENT)


def test_who_is_no_member_gets_no_link(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "mal") as made:
        victim, mal = made
        victim.up()
        stranger, own_chain = generate(), made.chain_of(mal)
        forged = let_in(own_chain[0], mal, stranger, "eve")  # by mal, in the founder's name
        assert isinstance(forged.body, Certificate)
        in_founders_name = sign_record(mal.identity.key, replace(forged.body, issuer=victim.identity.node_id))
        with actors(stranger.transport_secret, mal.identity.transport_secret) as (outside, inside):
            assert outside.dial(victim) == REFUSED
            assert inside.dial(victim, generate().transport_public) == HANDSHAKE
            inside.greet(victim, made.genesis, (own_chain[0], in_founders_name))
            until(lambda: inside.reason)
            inside.greet(victim, tiny_genesis(stranger), own_chain)
            until(lambda: inside.reason)
            inside.greet(victim, made.genesis, own_chain)
            inside.say(Push((in_founders_name.signed,)))
            until(lambda: inside.reason)
            assert outside.dial(victim) == REFUSED
            assert victim.status()["turned_away"]["refused keys"] >= 2
        reasons = victim.dropped(mal.identity.transport_public)
        assert reasons[1] == "a member of another swarm"
        assert all("signature does not hold" in reason for reason in (reasons[0], reasons[2]))
        assert len(victim.status()["peers"]) == 1


def test_a_revoked_member_loses_its_link_and_its_later_deltas_weigh_nothing_anywhere(tmp_path: Path) -> None:
    with ExitStack() as stack, swarm(tmp_path, "ada", "bob", "mal", "pal") as made:
        founder, other, mal, pal = made
        host, _, port = mal.address.rpartition(":")
        # It takes calls and never answers, so that the others are calling it all the time.
        stack.enter_context(socket.create_server((host, int(port))))
        up(made, founder, other)
        pals = made.chain_of(pal)
        with actors(mal.identity.transport_secret, pal.identity.transport_secret) as (outcast, accomplice):
            early, early_raw = delta(made.genesis, mal.identity, made.chain_of(mal)[-1])
            accomplice.blobs[hashlib.sha256(early_raw).digest()] = early_raw
            accomplice.greet(founder, made.genesis, pals)
            before = founder.swarm("state_hash")
            accomplice.say(Push((early.signed,)))
            until(lambda: founder.swarm("state_hash") == other.swarm("state_hash") != before)
            counted = agree((founder, other))
            outcast.greet(founder, made.genesis, made.chain_of(mal))
            until(lambda: founder.standing(mal) == "linked")
            round = founder.ask("revoke", member=mal.identity.node_id.hex(), reason="")["from_round"]
            outcast.say(WantChunk(bytes(32), 0))
            until(lambda: outcast.reason)
            until(lambda: founder.standing(mal) == other.standing(mal) == "revoked")
            assert [outcast.dial(peer) for peer in (founder, other)] == [REFUSED, REFUSED]
            # Others may still pass on what it signs.
            parent, _ = delta(made.genesis, pal.identity, pals[-1], wins=0, payload=b"", payload_bytes=0)
            said_late = {"round": round, "prev": early.id, "parents": (parent.id,)}
            late, _ = delta(made.genesis, mal.identity, made.chain_of(mal)[-1], **said_late)
            assert round == 2
            accomplice.say(Push((parent.signed, late.signed)))
            until(lambda: founder.swarm("head_round") == other.swarm("head_round") == round)
            assert agree((founder, other)) == counted


def test_a_ticket_lets_in_once_in_time_and_into_its_own_swarm(tmp_path: Path) -> None:
    def ask(ticket: Ticket, newcomer: Identity) -> Any:
        return asyncio.run(join(ticket, newcomer, "new", timeout_s=1.5))

    with swarm(tmp_path / "one", "ada") as one, swarm(tmp_path / "two", "zoe") as two:
        (ada,), (zoe,) = one, two
        ada.up()
        zoe.up()
        soon = read(ada.ask("invite", life_s=1)["ticket"])
        good, unused = (read(ada.ask("invite", life_s=600)["ticket"]) for _ in range(2))
        newcomer = generate()
        assert ask(good, newcomer).genesis == one.genesis
        assert ask(good, newcomer).genesis == one.genesis  # the answer may have been lost
        with pytest.raises(TicketError, match="used by another"):
            ask(good, generate())
        elsewhere = replace(unused, endpoints=(Endpoint(zoe.address, zoe.identity.transport_public),))
        with pytest.raises(NetworkError, match="not admitted"):
            ask(elsewhere, generate())
        with pytest.raises(NetworkError, match="not admitted"):
            ask(replace(unused, secret=bytes(32)), generate())
        until(lambda: time.time() > soon.expires_s + 1)
        with pytest.raises(TicketError, match="time is up"):
            ask(soon, generate())
        assert len(ada.status()["peers"]) == 1
        assert zoe.status()["peers"] == []


def test_a_ticket_is_good_for_nothing_but_to_join(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada") as made:
        (ada,) = made
        ada.up()
        keys = read(ada.ask("invite", life_s=600)["ticket"]).join_keys()
        with actors(keys.transport_secret) as (actor,):
            for message in (Want((bytes(32),)), WantChunk(bytes(32), 0), NOWHERE, b"\xff"):
                assert not actor.dial(ada)
                actor.say(message)
                until(lambda: actor.reason)
                assert actor.heard == []
        reasons = ada.dropped(keys.transport_public)
        assert len(reasons) == 4
        assert set(reasons[:3]) == {"a newcomer who says something else than that it wants to join"}


def test_old_records_said_again_change_nothing(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob", "mal") as made:
        victim, other, mal = made
        up(made, victim, other)
        state = all_learn(victim, other)
        old_place = PeerRecord(
            genesis=made.genesis.hash, member=other.identity.node_id, number=1, addresses=("127.0.0.1:9",), expires_s=1
        )
        with Ledger.open_readonly(victim.places.swarm) as ledger:
            everything = list(ledger.records())
        before = [victim.status()[name] for name in ("swarm", "addresses")], victim.status()["peers"][0]["addresses"]
        with actors(mal.identity.transport_secret) as (actor,):
            actor.greet(victim, made.genesis, made.chain_of(mal))
            for _ in range(3):
                actor.say(Push((*everything, sign_record(other.identity.key, old_place).signed)))
                actor.ask_for_nothing()
            assert not actor.reason
        after = [victim.status()[name] for name in ("swarm", "addresses")], victim.status()["peers"][0]["addresses"]
        assert after == before
        assert agree((victim, other)) == state
