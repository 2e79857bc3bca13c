"""Canonical bytes, and what is hashed and signed over them.

Every structure is MessagePack with its fields in order, as an array. There is exactly one encoding of a value: decoders
re-encode what they read and refuse anything else. Hashes and signatures cover

    "spearctl/" domain "/1" NUL bytes

so that nothing signed for one purpose can stand for another.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p.errors import TrustError, WireError

T = TypeVar("T")

MOST_QUOTED_CHARS = 200

_P = 2**255 - 19
_WEAK = frozenset(
    (
        0,
        1,
        _P - 1,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    )
)
"""The y of the points of small order: under such a key, signatures hold for other messages than were signed."""

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
        # What it says may quote what came.
        said = ascii(str(error)[:MOST_QUOTED_CHARS])[1:-1]
        raise WireError(f"not a {getattr(kind, '__name__', 'message')}: {said}") from error
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
        TrustError: It does not hold, or ``public`` is no key: of small order, or not encoded in the one way.
    """
    y = int.from_bytes(public, "little") & (2**255 - 1)
    if y in _WEAK or y >= _P:
        raise TrustError(f"a {domain} under a key that proves nothing")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain_separated(domain, raw))
    except (InvalidSignature, ValueError) as error:
        raise TrustError(f"a {domain}'s signature does not hold") from error


# Controls, signs without a shape, and those that turn the direction of a line. Ranges and not Python's own notion of
# what can be printed: that grows with every version of Unicode, and members must agree.
_UNPRINTABLE = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\uffff\U000e0000-\U000e007f]"
)


def is_printable(text: str) -> bool:
    """Whether a name may be shown to people as it is, whatever version of Unicode this Python knows."""
    return _UNPRINTABLE.search(text) is None
