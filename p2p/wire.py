"""The messages of a link. Each is one frame: MessagePack, tagged, canonical, at most ``MAX_MESSAGE_BYTES``.

A link belongs to one transport key for its whole life, and who may send what follows from that key: members everything,
join keys nothing but ``Join``. Nothing here is trusted; records inside are opened one by one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct

from p2p import limits
from p2p.encoding import decode, encode, sign, verify
from p2p.records import Address, Count, Hash, Key, MaybeHash, Name, Signature, Signed

Ids = Annotated[tuple[Hash, ...], Meta(max_length=limits.MAX_IDS_PER_MESSAGE)]
Records = Annotated[tuple[Signed, ...], Meta(max_length=limits.MAX_RECORDS_PER_MESSAGE)]

MEMBERSHIP = 0
"""The number under which everything that is not of a round is compared: certificates, invites, revocations, proofs."""


class Beat(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="beat"):
    """Where a node stands; sent when a link comes up, when that changes, and every so often.

    Attributes:
        head: Highest round in its set; 0 for none.
        height: Of its last seal; 0 for none.
        seal: Id of that seal; none without one.
        state: Hash of its state.
        membership: Digest of the ids of its membership records.
        rounds: Digest of the ids in its set above the last seal.
        waits: Whether it has learned something and cannot sign it before somebody else signs.
        time_s: Its clock; informational.
    """

    head: Count
    height: Count
    seal: MaybeHash
    state: Hash
    membership: Hash
    rounds: Hash
    waits: bool
    time_s: Count


class Hello(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="hello"):
    """The first message of a member on a link.

    Attributes:
        genesis: Hash of its swarm.
        instance: Drawn anew at each start; two at a time betray a copied home.
        previous: The instances before, 16 bytes each, oldest first: a peer may have missed the last ones.
        certificates: The founder's, then its issuer's and its own where these are others.
        beat: Where it stands.
    """

    genesis: Hash
    instance: Annotated[bytes, Meta(min_length=16, max_length=16)]
    previous: Annotated[bytes, Meta(max_length=16 * limits.KNOWN_INSTANCES)]
    certificates: Annotated[tuple[Signed, ...], Meta(min_length=1, max_length=3)]
    beat: Beat


class Tip(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="tip"):
    """The answer to a hello: what the receiver is known to have signed last. It signs nothing before it heard this.

    Attributes:
        header: Its newest header that the sender knows.
        seal: Its newest seal, if it is the sealer.
        contested: Another instance of the same identity was seen lately.
    """

    header: Signed | None
    seal: Signed | None
    contested: bool


class Push(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="push"):
    """Records, whole."""

    records: Records


class Have(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="have"):
    """Ids of records that the sender has."""

    ids: Ids


class Want(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="want"):
    """Ids of records that the sender would like to have."""

    ids: Ids


class RoundDigest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The digest of the ids of one round in the sender's set; round 0 stands for membership."""

    round: Count
    digest: Hash


class Compare(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="compare"):
    """Digests round by round, sent where those of a beat differ.

    Attributes:
        rounds: In which the sender holds something; round 0 stands for membership and is there only if it differs.
        whole: Whether rounds that are not named are empty at the sender's.
    """

    rounds: Annotated[tuple[RoundDigest, ...], Meta(max_length=limits.MOST_UNSEALED_ROUNDS + 1)]
    whole: bool


class Listing(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="listing"):
    """All ids of one round, sent where digests of a comparison differ."""

    round: Count
    ids: Ids


class WantSeals(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="want seals"):
    """Asks for seals from a height on, oldest first."""

    height: Count


class Proof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="proof"):
    """Two headers of one author that no honest author signs."""

    first: Signed
    second: Signed


class WantChunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="want chunk"):
    """Asks for a piece of a blob."""

    blob: Hash
    index: Annotated[int, Meta(ge=0, le=2**32)]


class Chunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="chunk"):
    """A piece of a blob: all are ``CHUNK_BYTES`` long but the last."""

    blob: Hash
    index: Annotated[int, Meta(ge=0, le=2**32)]
    total_bytes: Count
    data: Annotated[bytes, Meta(min_length=1, max_length=limits.CHUNK_BYTES)]


class NoBlob(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="no blob"):
    """The sender does not have a blob that it was asked for."""

    blob: Hash


class Join(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="join"):
    """Asks to become a member. Members pass it on to the issuer of the invite.

    Attributes:
        genesis: Hash of the swarm.
        invite: Id of the invite.
        member: The newcomer's node id.
        transport: Its CURVE key.
        name: What it calls itself.
        leaving: Hash of a swarm that the newcomer founded and gives up for this one; none without one.
        member_signature: By the newcomer's key, over all fields above.
        join_signature: By the ticket's key, over the same.
    """

    genesis: Hash
    invite: Hash
    member: Key
    transport: Key
    name: Name
    leaving: MaybeHash
    member_signature: Signature
    join_signature: Signature

    def _signed(self) -> bytes:
        return encode((self.genesis, self.invite, self.member, self.transport, self.name, self.leaving))

    def check(self, join_key: bytes) -> None:
        """Checks both signatures.

        Raises:
            TrustError: One does not hold.
        """
        verify(self.member, "join", self._signed(), self.member_signature)
        verify(join_key, "join", self._signed(), self.join_signature)


def make_join(
    *,
    genesis: bytes,
    invite: bytes,
    transport: bytes,
    name: str,
    leaving: bytes,
    key: Ed25519PrivateKey,
    join_key: Ed25519PrivateKey,
) -> Join:
    """A request to join, signed by the newcomer's key and the ticket's."""
    member = key.public_key().public_bytes_raw()
    raw = encode((genesis, invite, member, transport, name, leaving))
    return Join(
        genesis=genesis,
        invite=invite,
        member=member,
        transport=transport,
        name=name,
        leaving=leaving,
        member_signature=sign(key, "join", raw),
        join_signature=sign(join_key, "join", raw),
    )


class Joined(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="joined"):
    """The answer to a join that was granted. The newcomer redials with its own key.

    Attributes:
        genesis: The swarm's, encoded.
        certificates: The founder's, then the issuer's where that is another, then the newcomer's.
        others: Certificates and peer records of some members, each after what it depends on.
    """

    genesis: Annotated[bytes, Meta(max_length=limits.MAX_GENESIS_BYTES)]
    certificates: Annotated[tuple[Signed, ...], Meta(min_length=2, max_length=3)]
    others: Annotated[tuple[Signed, ...], Meta(max_length=48)]


class Refused(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="refused"):
    """The answer to a join that was not granted."""

    invite: Hash
    reason: Literal["expired", "used", "unknown", "merging", "revoked", "full"]


class Redirect(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="redirect"):
    """The sender has no room for another link; these members may."""

    records: Annotated[tuple[Signed, ...], Meta(max_length=16)]


class Bye(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="bye"):
    """The sender goes, or wants the other to go."""

    reason: Annotated[str, Meta(max_length=200)]


Message = (
    Beat | Hello | Tip | Push | Have | Want | Compare | Listing | WantSeals | Proof
    | WantChunk | Chunk | NoBlob | Join | Joined | Refused | Redirect | Bye
)  # fmt: skip


def write_message(message: Message) -> bytes:
    """A message as it travels."""
    return encode(message)


def read_message(raw: bytes) -> Message:
    """Reads a message.

    Raises:
        WireError: It is too long, unknown, damaged, or not encoded canonically.
    """
    return decode(raw, Message, limits.MAX_MESSAGE_BYTES)  # type: ignore[arg-type]  # a union is a type


__all__ = [
    "MEMBERSHIP", "Address", "Beat", "Bye", "Chunk", "Compare", "Have", "Hello", "Join", "Joined", "Listing", "Message",
    "NoBlob", "Proof", "Push", "Redirect", "Refused", "RoundDigest", "Tip", "Want", "WantChunk", "WantSeals",
    "make_join", "read_message", "write_message",
]  # fmt: skip
