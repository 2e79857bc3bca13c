"""Tickets: how a newcomer is let in. One line, and a secret.

    "spear1" base32( version 1 byte | length of body 2 bytes, big-endian | body | checksum 4 bytes )

The body is the MessagePack of a ``Ticket``; the checksum is the start of SHA-256 over all before it, for the purpose
"ticket". Base32 (RFC 4648, lower case, no padding) because it has one case and no punctuation: it survives mail that
wraps lines, phones that capitalise, a double click that stops at a hyphen, and a QR code's alphanumeric mode. It is a
fifth longer than base64url.

From the secret, holder and issuer derive the same join keys, which may do nothing in the swarm but ask to join. The
swarm is told their public halves only, as a signed invite.

Not covered: a ticket that somebody else sees works for them, once, until it expires; whether it has expired or was used
is for its issuer to say. The checksum finds accidents, not forgeries: a ticket proves nothing about its swarm until the
genesis it names has been fetched and checked.
"""

from __future__ import annotations

import base64
import errno
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, TextIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta, Struct

from p2p import addresses, limits
from p2p.encoding import decode, digest, domain_separated, encode, is_printable
from p2p.errors import NetworkError, TicketError, WireError
from p2p.identity import Identity
from p2p.records import Address, Count, Hash, Invite, Key, MaybeHash, Name, Record, sign_record

PREFIX = "spear1"
SECRET_BYTES = 32

_VERSION = 1
_CHECKSUM_BYTES = 4
_MOST_SOURCE_CHARS = 16 * limits.MAX_TICKET_CHARS
"""Room for line breaks, quoting marks and indentation around a ticket."""
_AROUND = re.compile("[\\s\"'`<>\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u200b\u2060\ufeff\u00ad]+")
"""What mail, chats and shells put around or into a line: white space, quoting marks, invisible characters."""
_FOREIGN = re.compile(r"[^a-z2-7]")
_AGAIN = "copy the whole ticket again, or ask for a new one: spearctl invite"


class Endpoint(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a member can be dialled, and the CURVE key to expect there."""

    address: Address
    transport: Key


@dataclass(frozen=True, slots=True)
class JoinKeys:
    """Keys that may ask to join. Printing them shows the public transport key only.

    Attributes:
        sign: Signs the request to join.
        transport_secret: CURVE secret key, 32 bytes.
        transport_public: CURVE public key, 32 bytes.
    """

    sign: Ed25519PrivateKey = field(repr=False, compare=False)
    transport_secret: bytes = field(repr=False)
    transport_public: bytes


class Ticket(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a ticket says. Printing one does not show its secret.

    Attributes:
        genesis: Hash of the swarm.
        name: Of the swarm, for people.
        issuer: Node id of the member that wrote it, and that countersigns.
        endpoints: Where to dial, best first.
        expires_s: Unix time; the issuer's clock decides.
        seal: Id of the newest seal that the issuer knows; none before the first.
        seal_height: Its height; 0 without one.
        secret: What the join keys are derived from.
    """

    genesis: Hash
    name: Name
    issuer: Key
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=limits.MAX_ADDRESSES)]
    expires_s: Count
    seal: MaybeHash
    seal_height: Count
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]

    def join_keys(self) -> JoinKeys:
        """The keys that its holder asks with."""
        return derive_join_keys(self.genesis, self.secret)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "secret"]

    def __repr__(self) -> str:
        return f"Ticket({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def derive_join_keys(genesis_hash: bytes, secret: bytes) -> JoinKeys:
    """Join keys by HKDF-SHA256 (RFC 5869) of a ticket's secret, salted with the genesis hash."""
    sign, transport = (
        HKDF(SHA256(), length=32, salt=genesis_hash, info=domain_separated(purpose, b"")).derive(secret)
        for purpose in ("join sign", "join transport")
    )
    public = X25519PrivateKey.from_private_bytes(transport).public_key().public_bytes_raw()
    return JoinKeys(Ed25519PrivateKey.from_private_bytes(sign), transport, public)


def new_invite(
    identity: Identity, genesis_hash: bytes, *, life_s: int, now_s: int, secret: bytes
) -> tuple[Record, JoinKeys]:
    """Signs the public part of a new ticket.

    Args:
        identity: The issuer's.
        genesis_hash: Of the swarm.
        life_s: How long the ticket is good for, in seconds.
        now_s: Unix time.
        secret: 32 random bytes, which go into the ticket.

    Returns:
        The invite, and the keys that it admits.

    Raises:
        TicketError: The secret is too short, or the ticket would not last.
    """
    if len(secret) != SECRET_BYTES:
        raise TicketError(f"a ticket's secret of {len(secret)} bytes instead of {SECRET_BYTES}")
    if life_s < 1:
        raise TicketError(f"a ticket good for {life_s} seconds", "give it time: spearctl invite --expires 24h")
    keys = derive_join_keys(genesis_hash, secret)
    invite = Invite(
        genesis=genesis_hash,
        issuer=identity.node_id,
        join_key=keys.sign.public_key().public_bytes_raw(),
        join_transport=keys.transport_public,
        expires_s=now_s + life_s,
    )
    return sign_record(identity.key, invite), keys


def write(ticket: Ticket) -> str:
    """A ticket as one line.

    Raises:
        TicketError: It is too long, or says what no reader would accept.
    """
    body = encode(ticket)
    _open(body)
    raw = bytes([_VERSION]) + len(body).to_bytes(2, "big") + body
    text = PREFIX + _to_base32(raw + _checksum(raw))
    if len(text) > limits.MAX_TICKET_CHARS:
        raise TicketError(
            f"a ticket of {len(text):,} characters, where {limits.MAX_TICKET_CHARS:,} are allowed",
            "name fewer or shorter addresses: --addr HOST:PORT",
        )
    return text


def read(text: str) -> Ticket:
    """Reads a ticket. Never quotes any of it in an error.

    Args:
        text: A ticket; white space, line breaks and quoting marks around and inside it are ignored, and so is case.

    Raises:
        TicketError: There is none, or it is cut, changed, of a newer version, or contradicts itself.
    """
    if len(text) > _MOST_SOURCE_CHARS:
        raise TicketError(f"{len(text):,} characters are no ticket", _AGAIN)
    line = _strip(text)
    if not line:
        raise TicketError("the ticket is empty", _AGAIN)
    if re.match(r"spear[2-9]", line):
        raise _newer()
    if not line.startswith(PREFIX):
        raise TicketError(f"not a ticket: it does not begin with {PREFIX}", _AGAIN)
    if len(line) > limits.MAX_TICKET_CHARS:
        raise TicketError(f"{len(line):,} characters are no ticket", _AGAIN)
    return _open(_unpack(line[len(PREFIX) :]))


def read_source(argument: str, stdin: TextIO) -> str:
    """Fetches the text of a ticket for ``read``.

    Args:
        argument: The ticket, the name of a file that holds it, or ``-`` for standard input. What begins with ``spear1``
            is a ticket.
        stdin: Standard input.

    Raises:
        TicketError: The file is missing, too large or unreadable.
    """
    if not argument.strip() or re.match(r"spear\d", _strip(argument)):
        return argument
    if argument == "-":
        return _read_text(stdin, "standard input")
    try:
        with open(argument, encoding="utf-8") as file:
            return _read_text(file, argument)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.ENOENT) in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            # Not quoted, not even in a traceback: it may be a ticket that lost its first letter.
            raise TicketError(f"neither a ticket (one begins with {PREFIX}) nor a file that exists", _AGAIN) from None
        raise TicketError(f"{argument}: cannot be read: {error}", "name a file that holds a ticket") from error


def _read_text(file: TextIO, place: str) -> str:
    try:
        text = file.read(_MOST_SOURCE_CHARS + 1)
    except UnicodeDecodeError:
        raise TicketError(
            f"{place}: not text, so no ticket", "write one to a file: spearctl invite --out FILE"
        ) from None
    if len(text) > _MOST_SOURCE_CHARS:
        raise TicketError(f"{place}: too large for a ticket", "name the file that spearctl invite --out wrote")
    return text


def _strip(text: str) -> str:
    return _AROUND.sub("", text).lower()


def _to_base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _from_base32(text: str) -> bytes:
    """The whole bytes in a text; bits left over are dropped."""
    foreign = _FOREIGN.search(text)
    if foreign:
        place = len(PREFIX) + foreign.start() + 1
        raise TicketError(
            f"the ticket is damaged: {foreign.group()!r} at character {place} is never in one",
            f"{_AGAIN}; a file whose name begins with {PREFIX} is named ./{PREFIX}...",
        )
    return base64.b32decode(text.upper() + "A" * (-len(text) % 8))[: len(text) * 5 // 8]


def _unpack(text: str) -> bytes:
    """The body of a ticket. Its version counts only once the checksum shows that it arrived as it was sent."""
    raw = _from_base32(text)
    end = 3 + int.from_bytes(raw[1:3], "big")
    if len(raw) < end + _CHECKSUM_BYTES:
        raise TicketError("the ticket is cut: its end is missing", _AGAIN)
    if _to_base32(raw[: end + _CHECKSUM_BYTES]) != text or _checksum(raw[:end]) != raw[end:]:
        raise TicketError("the ticket is damaged: its checksum does not fit", _AGAIN)
    if raw[0] != _VERSION:
        raise _newer()
    return raw[3:end]


def _checksum(raw: bytes) -> bytes:
    return digest("ticket", raw)[:_CHECKSUM_BYTES]


def _open(body: bytes) -> Ticket:
    """Reads a body and refuses what contradicts itself."""
    try:
        ticket = decode(body, Ticket, limits.MAX_TICKET_CHARS)
        for endpoint in ticket.endpoints:
            if str(addresses.parse(endpoint.address)) != endpoint.address:
                raise WireError("an address in another than its one spelling")
    except (WireError, NetworkError) as error:
        raise TicketError(f"the ticket cannot be used: {error.message}", "ask for a new one: spearctl invite") from None
    if len(ticket.seal) not in (0, 32) or bool(ticket.seal) != (ticket.seal_height > 0):
        raise TicketError("the ticket cannot be used: half a seal", "ask for a new one: spearctl invite")
    if not is_printable(ticket.name):
        raise TicketError("the ticket cannot be used: its swarm's name has characters that cannot be printed")
    return ticket


def _newer() -> TicketError:
    return TicketError("the ticket was written by a newer spearctl", "install the newest version, then join again")
