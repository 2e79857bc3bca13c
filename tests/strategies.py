"""Hypothesis strategies for what travels in a swarm, as an honest node writes it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from p2p import limits
from p2p.encoding import is_printable
from p2p.records import (
    NONE,
    Body,
    Certificate,
    Genesis,
    Header,
    Invite,
    PeerRecord,
    Revocation,
    Seal,
    TensorSpec,
)
from p2p.tickets import Endpoint, Ticket

T = TypeVar("T")

_MOST_ITEMS = 12
_TEXTS = st.characters(exclude_categories=["Cs"])
_PRINTABLE = st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" ").filter(is_printable)
_HASHES = st.binary(min_size=32, max_size=32)
_NAMES = st.text(_PRINTABLE, min_size=1, max_size=limits.MAX_NAME_CHARS)
_STEMS = st.lists(st.text(_TEXTS, max_size=20), min_size=1, max_size=4, unique=True)
_SIZES = st.integers(1, 4096)
_SHARES = st.sampled_from(["both", "b", "alternate"])
_PARENTS = st.lists(_HASHES, min_size=1, max_size=limits.MAX_PARENTS, unique=True).map(sorted)
_HOSTS = st.sampled_from(["10.0.0.1", "192.168.1.20", "203.0.113.9", "[2001:db8::7]", "box.example", "a.b-c.example"])
_ENDPOINTS = st.builds(lambda host, port, key: Endpoint(f"{host}:{port}", key), _HOSTS, st.integers(1, 65535), _HASHES)
_SEALS = st.one_of(st.just((NONE, 0)), st.tuples(_HASHES, st.integers(1, 2**62)))


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a structure within the bounds that it declares; texts and tuples stay short."""
    return _values(msgspec.inspect.type_info(kind))


def _values(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _values(field.type) for field in fields})
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(_values, types))
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            return st.lists(_values(item), min_size=least or 0, max_size=_most(least, most)).map(tuple)
        case msgspec.inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=_most(least, most))
        case msgspec.inspect.StrType(min_length=least, max_length=most):
            return st.text(_TEXTS, min_size=least or 0, max_size=_most(least, most))
        case msgspec.inspect.IntType(ge=least, le=most):
            return st.integers(least, most)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
    raise NotImplementedError(info)


def _most(least: int | None, most: int | None) -> int:
    return max(least or 0, min(most or _MOST_ITEMS, _MOST_ITEMS))


def bodies(genesis: bytes, author: bytes) -> st.SearchStrategy[Body]:
    """Records of any kind that a member of a swarm may have signed."""
    kinds: list[st.SearchStrategy[Any]] = [
        _but(Certificate, genesis=genesis, issuer=author, name=_NAMES, issuer_certificate=_HASHES, invite=_HASHES),
        _but(
            Certificate,
            genesis=genesis,
            issuer=author,
            name=_NAMES,
            member=author,
            issuer_certificate=NONE,
            invite=NONE,
        ),
        _but(Invite, genesis=genesis, issuer=author),
        _but(Revocation, genesis=genesis, issuer=author, reason=st.text(_PRINTABLE, max_size=200)),
        headers(genesis, author),
        _but(Seal, genesis=genesis, sealer=author),
        _but(PeerRecord, genesis=genesis, member=author),
    ]
    return st.one_of(*kinds)


def _but(kind: type[T], **fixed: Any) -> st.SearchStrategy[T]:
    """Any value of a structure, but for some fields: a value or a strategy each."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {field.name: _values(field.type) for field in info.fields}
    given = {name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fixed.items()}
    return st.builds(kind, **{**fields, **given})


_GENESES = _but(Genesis, name=_NAMES, norm_bound=st.integers(1, 32767))


@st.composite
def headers(draw: st.DrawFn, genesis: bytes, author: bytes) -> Header:
    """Headers, null ones too."""
    round, is_null = draw(st.integers(1, 2**62)), draw(st.booleans())
    parents = draw(_PARENTS)
    return Header(
        genesis=genesis,
        author=author,
        round=round,
        prev=draw(st.one_of(st.just(NONE), _HASHES)) if round > 1 else NONE,
        parents=tuple(parents) if round > 1 else (),
        certificate=draw(_HASHES),
        wins=0 if is_null else draw(st.integers(1, 2**31)),
        payload=NONE if is_null else draw(_HASHES),
        payload_bytes=0 if is_null else draw(st.integers(1, 2**62)),
        base_state=draw(_HASHES),
    )


@st.composite
def geneses(draw: st.DrawFn) -> Genesis:
    """Swarms of a few tensors; some have no A or no B for one of them."""
    share = draw(_SHARES)
    names = [f"{stem}.lora_{which}" for stem in draw(_STEMS) for which in "AB"]
    if share == "both":
        names = names[draw(st.integers(0, 1)) :]
    tensors = tuple(TensorSpec(name, draw(_SIZES), draw(_SIZES)) for name in sorted(names))
    return msgspec.structs.replace(draw(_GENESES), share=share, tensors=tensors)


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    """Tickets that can be used."""
    seal, height = draw(_SEALS)
    return Ticket(
        genesis=draw(_HASHES),
        name=draw(_NAMES),
        issuer=draw(_HASHES),
        endpoints=tuple(draw(st.lists(_ENDPOINTS, min_size=1, max_size=limits.MAX_ADDRESSES))),
        expires_s=draw(st.integers(0, 2**62)),
        seal=seal,
        seal_height=height,
        secret=draw(_HASHES),
    )
