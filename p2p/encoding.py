"""Canonical bytes, and what is hashed and signed over them.

Every structure is MessagePack with its fields in order, as an array. There is exactly one encoding of a value: decoders
re-encode what they read and refuse anything else. Hashes and signatures cover

    "spearctl/" domain "/1" NUL bytes

so that nothing signed for one purpose can stand for another.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p.errors import TrustError, WireError

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(value: Any) -> bytes:
    """The one encoding of a structure."""
    return _encoder.encode(value)


_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    if kind not in _decoders:
        _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return _decoders[kind]


def decode(raw: bytes, kind: type[T], most_bytes: int) -> T:
    """Reads a structure.

    Raises:
        WireError: It is longer than ``most_bytes``, not a ``kind``, or not encoded in the one way.
    """
    if len(raw) > most_bytes:
        raise WireError(f"{len(raw):,} bytes where at most {most_bytes:,} are allowed")
    try:
        value: T = _decoder(kind).decode(raw)
        again = encode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
        raise WireError(f"not a {getattr(kind, '__name__', 'message')}: {error}") from error
    if again != raw:
        raise WireError("not encoded canonically")
    return value


def domain_separated(domain: str, raw: bytes) -> bytes:
    """What is hashed or signed for a purpose."""
    return b"spearctl/" + domain.encode() + b"/1\0" + raw


def digest(domain: str, raw: bytes) -> bytes:
    """SHA-256 of bytes for a purpose."""
    return hashlib.sha256(domain_separated(domain, raw)).digest()


def sign(key: Ed25519PrivateKey, domain: str, raw: bytes) -> bytes:
    """An Ed25519 signature, 64 bytes."""
    return key.sign(domain_separated(domain, raw))


def verify(public: bytes, domain: str, raw: bytes, signature: bytes) -> None:
    """Checks a signature.

    Raises:
        TrustError: It does not hold, or ``public`` is no key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain_separated(domain, raw))
    except (InvalidSignature, ValueError) as error:
        raise TrustError(f"a {domain}'s signature does not hold") from error
