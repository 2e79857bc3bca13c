"""Hypothesis strategies for bytes that no honest node sends: made of honest ones, so that they get far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st

CLAIMS = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff")
"""The beginnings of an array, a map, bytes and a text of 4,294,967,295 things in MessagePack."""

_NESTS = (b"\x91" * 3_000, b"[" * 3_000, b'{"":' * 3_000)
_PIECES = st.one_of(st.binary(max_size=8), st.sampled_from(CLAIMS + _NESTS), st.binary(min_size=32, max_size=32))
_LENGTHS = st.one_of(st.integers(0, 8), st.just(1 << 20))
_EDGES = [0, 1, -1, 127, 128, 255, 256, 2**31, 2**31 + 1, 2**32, 2**62, 2**62 + 1, 2**63, 2**64 - 1, -(2**63)]
_LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(_EDGES),
    st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300]).map(bytes),
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([None, True, False, 1.0, float("nan"), "", [], {}, ["delta"], "\x1b[2J", "x" * 300]),
)


@st.composite
def damaged(draw: st.DrawFn, honest: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were cut, stretched or overwritten in up to 4 places."""
    raw = draw(honest)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        raw = raw[:start] + draw(_PIECES) + raw[start + draw(_LENGTHS) :]
    return raw


@st.composite
def altered(draw: st.DrawFn, honest: st.SearchStrategy[bytes]) -> bytes:
    """MessagePack in which one thing, at any depth, is another, is missing, or is there twice."""
    tree = msgspec.msgpack.decode(draw(honest))
    place = draw(st.sampled_from([*places(tree)]))
    how = draw(st.sampled_from(["replace", "replace", "remove", "double"])) if place else "replace"
    things = [draw(_LEAVES)] if how == "replace" else [] if how == "remove" else [_at(tree, place)] * 2
    return msgspec.msgpack.encode(with_things(tree, place, things))


def places(tree: Any) -> Iterator[tuple[int, ...]]:
    """Where something is in nested lists: the whole first."""
    yield ()
    if isinstance(tree, list):
        for index, inner in enumerate(tree):
            yield from ((index, *place) for place in places(inner))


def with_things(tree: Any, place: tuple[int, ...], things: list[Any]) -> Any:
    """Nested lists with any number of things in the place of one."""
    if not place:
        return things[0]
    first, *rest = place
    return [*tree[:first], *([with_things(tree[first], tuple(rest), things)] if rest else things), *tree[first + 1 :]]


def _at(tree: Any, place: tuple[int, ...]) -> Any:
    for index in place:
        tree = tree[index]
    return tree
