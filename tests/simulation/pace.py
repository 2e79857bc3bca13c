"""The limits of the protocol, made small enough that minutes of a swarm fit into a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest.mock import patch

from p2p import admission, gossip, limits, meeting, opening, outbox, records, state, transfers, wire
from p2p.codec import decode_payload
from p2p.encoding import verify
from p2p.records import open_record
from tests.simulation.plan import Plan

TIMES = {
    "BEAT_S": 4.0,
    "LINK_DEAD_S": 10.0,
    "NULL_DELAY_S": (0.3, 1.0),
    "ASK_AGAIN_S": 1.0,
    "CHUNK_PATIENCE_S": 2.0,
    "LACK_MEMORY_S": 1.5,
    "REDIAL_S": (0.3, 4.0),
    "INSTANCE_MEMORY_S": 12.0,
}
"""About a tenth of the real ones, in the same order of size."""

# Readers are made at their first use: with the real limits.
wire.read_message(wire.write_message(wire.Bye("")))

# What is true of a signature once is true for all devices of a process.
_verify = lru_cache(maxsize=1 << 14)(verify)
_decode_payload = lru_cache(maxsize=1 << 14)(decode_payload)
_open_record = lru_cache(maxsize=1 << 14)(open_record)


@contextmanager
def paced(plan: Plan) -> Iterator[None]:
    """Sets the limits for a run."""
    with ExitStack() as stack:
        for name, value in TIMES.items():
            stack.enter_context(patch.object(limits, name, value))
        stack.enter_context(patch.object(limits, "SEAL_DELAY_S", plan.seal_delay_s))
        stack.enter_context(patch.object(limits, "CHUNK_BYTES", plan.chunk_bytes))
        stack.enter_context(patch.object(limits, "MAX_DIALLED", plan.most_dialled))
        stack.enter_context(patch.object(limits, "MAX_RECORDS_PER_MESSAGE", plan.at_a_time))
        stack.enter_context(patch.object(limits, "MAX_IDS_PER_MESSAGE", 2 * plan.at_a_time))
        stack.enter_context(patch.object(gossip, "MOST_LISTINGS", 2))
        stack.enter_context(patch.object(admission, "WAIT_S", 30.0))
        for module in (records, wire):
            stack.enter_context(patch.object(module, "verify", _verify))
        for module in (meeting, gossip, opening):
            stack.enter_context(patch.object(module, "open_record", _open_record))
        for module in (state, outbox, transfers):
            stack.enter_context(patch.object(module, "decode_payload", _decode_payload))
        yield
