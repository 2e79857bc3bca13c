"""Puts a member together from what an earlier run left on its disk. Order follows from what depends on what."""

from __future__ import annotations

import random
from contextlib import suppress

from p2p import limits
from p2p.context import Context
from p2p.encoding import decode
from p2p.errors import LedgerError
from p2p.grid import state_hash
from p2p.outbox import Author
from p2p.records import Genesis, Header, Record, Seal, SealContents, Signed, open_record
from p2p.replica import Replica
from p2p.roster import Missing
from p2p.state import start
from p2p.storage import Storage
from p2p.wire import Proof


def open_context(
    genesis: Genesis, author: Author, storage: Storage, rng: random.Random, now: float, clock_s: int
) -> Context:
    """The context of a member, with everything in its replica that its disk holds.

    Raises:
        LedgerError: The disk lacks something that was written before what it holds.
    """
    replica = Replica(genesis, state_hash(start(genesis), genesis))
    context = Context(genesis, author, replica, storage, rng, now=now, clock_s=clock_s)
    records = [open_record(signed, replica.hash) for signed in storage.records()]
    _load_membership(context, [record for record in records if not isinstance(record.body, Header)])
    _load_seals(context)
    _load_set(context, [record for record in records if isinstance(record.body, Header)])
    _load_newest(context)
    return context


def _load_membership(context: Context, records: list[Record]) -> None:
    waiting = records
    while waiting:
        again = []
        for record in waiting:
            try:
                context.replica.roster.add(record)
            except Missing:
                again.append(record)
        if len(again) == len(waiting):
            raise LedgerError(f"{len(again)} membership records stand alone", "restore this home from a backup")
        waiting = again
    for key in context.storage.keys("proof/"):
        proof = decode(_value(context.storage, key), Proof, 4 * limits.MAX_RECORD_BYTES)
        context.replica.add_proof(
            open_record(proof.first, context.replica.hash), open_record(proof.second, context.replica.hash)
        )


def _load_seals(context: Context) -> None:
    for key in context.storage.keys("seal/"):
        signed = decode(_value(context.storage, key), Signed, 2 * limits.MAX_RECORD_BYTES)
        context.replica.seals.offer(open_record(signed, context.replica.hash))
    chain = context.replica.seals.offered()
    if chain:
        last = chain[-1].body
        assert isinstance(last, Seal)
        raw = context.storage.read_blob(last.contents)
        context.replica.accept_seal(chain[-1], decode(raw, SealContents, limits.MAX_SEAL_CONTENTS_BYTES))
    for key in (*context.storage.keys("offered/"), *context.storage.keys("forked/")):
        signed = decode(_value(context.storage, key), Signed, 2 * limits.MAX_RECORD_BYTES)
        context.replica.seals.offer(open_record(signed, context.replica.hash))


def _load_set(context: Context, records: list[Record]) -> None:
    """Takes headers by round, so that the head rises with them."""
    replica, storage = context.replica, context.storage
    for record in sorted(records, key=lambda record: _header(record).round):
        with suppress(Missing):
            replica.add_header(record, was_kept=True)
        header = _header(record)
        if not (header.is_null or replica.seals.names(header.payload)) and storage.has_blob(header.payload):
            # A payload is here only if it was checked for every header that was here then.
            replica.add_payload(header)


def _load_newest(context: Context) -> None:
    for key in context.storage.keys("newest/"):
        signed = decode(_value(context.storage, key), Signed, 2 * limits.MAX_RECORD_BYTES)
        context.replica.remember(open_record(signed, context.replica.hash))


def forget_refused(context: Context) -> None:
    """Removes headers from the disk that the replica did not take back: seals or limits went past them."""
    for signed in [*context.storage.records()]:
        record = open_record(signed, context.replica.hash)
        if isinstance(record.body, Header) and context.replica.get(record.id) is None:
            context.storage.remove_record(record.id)


def _header(record: Record) -> Header:
    assert isinstance(record.body, Header)
    return record.body


def _value(storage: Storage, key: str) -> bytes:
    value = storage.get(key)
    assert value is not None
    return value
