"""The records of a swarm: what is signed, gossiped and kept. Bodies only; ``Signed`` adds the signature.

A record's id is the hash of its *unsigned* body, so it cannot be changed by signing it again. ``open_record`` checks
size, encoding, the fields' own bounds and the signature; whether its author may say it is for the roster to judge.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct

from p2p import limits
from p2p.encoding import decode, digest, encode, is_printable, sign, verify
from p2p.errors import WireError

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""SHA-256."""
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A public key: Ed25519 for signing, Curve25519 for the transport."""
MaybeHash = Annotated[bytes, Meta(max_length=32)]
"""32 bytes, or none."""
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_CHARS)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Round = Annotated[int, Meta(ge=1, le=2**62)]
Address = Annotated[str, Meta(min_length=1, max_length=limits.MAX_ADDRESS_CHARS)]

NONE = b""


class TensorSpec(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor of the adapter: a name that ends in ``.lora_A`` or ``.lora_B``, and its dimensions."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    rows: Annotated[int, Meta(ge=1, le=limits.MAX_PARAMETERS)]
    columns: Annotated[int, Meta(ge=1, le=limits.MAX_PARAMETERS)]

    @property
    def size(self) -> int:
        """Values in it."""
        return self.rows * self.columns


class Genesis(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a swarm is; its hash names it. Never changes.

    Attributes:
        version: Of the protocol, 1.
        name: For people.
        fingerprint: Of the base model.
        prompt_format: How prompts are put to it.
        system_prompt: Put before every conversation; may be empty.
        rank: LoRA's r.
        alpha: Products are scaled by alpha / r.
        tensors: All tensors of the adapter, sorted by name.
        grid_bits: g: deltas lie on the grid 2^-g, state on 2^-(g+8).
        rule: How a round is folded.
        share: Which tensors travel: all, B alone, or A in even and B in odd rounds.
        weight_cap: A delta weighs its wins, at most this.
        norm_bound: Largest Euclidean norm of a delta, in grid steps.
        quorum: Deltas of the round before, by others, that a delta cites.
        seal_lag: K: rounds between the head and what may be sealed.
        sealer: The founder's key.
        recovery: A key kept offline that may one day name another sealer.
        nonce: Makes two swarms of the same founder different.
    """

    version: Literal[1]
    name: Name
    fingerprint: Hash
    prompt_format: Literal["chat", "raw"]
    system_prompt: Annotated[str, Meta(max_length=16384)]
    rank: Annotated[int, Meta(ge=1, le=1024)]
    alpha: Annotated[int, Meta(ge=1, le=65536)]
    tensors: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.MAX_TENSORS)]
    grid_bits: Annotated[int, Meta(ge=8, le=20)]
    rule: Literal["fedavg", "trimmed_mean", "median"]
    share: Literal["both", "b", "alternate"]
    weight_cap: Annotated[int, Meta(ge=1, le=limits.MAX_WEIGHT_CAP)]
    norm_bound: Annotated[int, Meta(ge=1, le=2**40)]
    quorum: Annotated[int, Meta(ge=1, le=limits.MAX_QUORUM)]
    seal_lag: Annotated[int, Meta(ge=1, le=64)]
    sealer: Key
    recovery: Key
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]

    @property
    def hash(self) -> bytes:
        """Names the swarm."""
        return digest("genesis", encode(self))

    @property
    def parameters(self) -> int:
        """Values in a whole adapter."""
        return sum(tensor.size for tensor in self.tensors)

    def travelling(self, round: int) -> tuple[TensorSpec, ...]:
        """The tensors that a delta of a round holds."""
        if self.share == "both":
            return self.tensors
        wanted = ".lora_A" if self.share == "alternate" and round % 2 == 0 else ".lora_B"
        return tuple(tensor for tensor in self.tensors if tensor.name.endswith(wanted))


def read_genesis(raw: bytes) -> Genesis:
    """Reads a genesis.

    Raises:
        WireError: It is damaged or contradicts itself.
    """
    genesis = decode(raw, Genesis, limits.MAX_GENESIS_BYTES)
    names = [tensor.name for tensor in genesis.tensors]
    if names != sorted(set(names)):
        raise WireError("a genesis whose tensors are not sorted, or not different")
    if not all(name.endswith((".lora_A", ".lora_B")) for name in names):
        raise WireError("a genesis with a tensor that is neither a lora_A nor a lora_B")
    if genesis.parameters > limits.MAX_PARAMETERS:
        raise WireError(f"a genesis of {genesis.parameters:,} parameters")
    if not all(genesis.travelling(round) for round in (1, 2)):
        raise WireError("a genesis by which nothing would travel")
    if not is_printable(genesis.name):
        raise WireError("a genesis with a name that cannot be shown")
    if genesis.norm_bound > 32767 * math.isqrt(genesis.parameters) + 32767:
        raise WireError("a genesis whose norm bound bounds nothing")
    return genesis


class Certificate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="certificate"):
    """Lets a node into the swarm; signed by its issuer.

    Attributes:
        genesis: Hash.
        member: The node's id, which is its Ed25519 key.
        transport: Its CURVE key.
        name: What it calls itself.
        issuer: Who let it in. The founder lets in itself.
        issuer_certificate: Id of the issuer's certificate; none for the founder's own.
        invite: Id of the invite that was used; none for the founder's own.
    """

    genesis: Hash
    member: Key
    transport: Key
    name: Name
    issuer: Key
    issuer_certificate: MaybeHash
    invite: MaybeHash


class Invite(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="invite"):
    """The public part of a ticket; signed by its issuer. Its keys may do nothing but ask to join.

    Attributes:
        genesis: Hash.
        issuer: Who may countersign.
        join_key: Ed25519 key derived from the ticket's secret.
        join_transport: CURVE key derived from it.
        expires_s: Unix time, which the issuer alone judges.
    """

    genesis: Hash
    issuer: Key
    join_key: Key
    join_transport: Key
    expires_s: Count


class Revocation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="revocation"):
    """Ends a membership; signed by the founder or by whoever let the member in.

    Attributes:
        genesis: Hash.
        member: Whose.
        issuer: Who says so.
        from_round: The first round it is for; sealed rounds stay as they are.
        reason: For people.
    """

    genesis: Hash
    member: Key
    issuer: Key
    from_round: Round
    reason: Annotated[str, Meta(max_length=200)]


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="delta"):
    """A delta without its tensors; signed by its author.

    Attributes:
        genesis: Hash.
        author: Node id.
        round: Of the threshold clock, from 1.
        prev: Id of its author's previous delta; none for the first.
        parents: Ids of deltas of the round before by different other authors, sorted.
        certificate: Id of the author's.
        wins: What was learned from; the weight, up to the genesis's cap.
        payload: SHA-256 of the encoded tensors; none for a null delta, which has no wins either.
        payload_bytes: Their size.
        base_state: Hash of the state that its author held; informational.
    """

    genesis: Hash
    author: Key
    round: Round
    prev: MaybeHash
    parents: Annotated[tuple[Hash, ...], Meta(max_length=limits.MAX_PARENTS)]
    certificate: Hash
    wins: Annotated[int, Meta(ge=0, le=2**31)]
    payload: MaybeHash
    payload_bytes: Count
    base_state: Hash

    @property
    def is_null(self) -> bool:
        """Whether it only drives the clock."""
        return not self.payload


class Seal(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="seal"):
    """Ends the discussion of all rounds up to one; signed by the sealer.

    Attributes:
        genesis: Hash.
        height: From 1.
        previous: Id of the seal before; the genesis hash for the first.
        round: The last round it seals.
        contents: Hash of its ``SealContents``.
        contents_bytes: Their size.
        state: Hash of the state after that round.
        sealer: Whose key signs.
    """

    genesis: Hash
    height: Round
    previous: Hash
    round: Round
    contents: Hash
    contents_bytes: Count
    state: Hash
    sealer: Key


class SealedDelta(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A delta that a seal counts, null ones too."""

    round: Round
    author: Key
    id: Hash


class SealContents(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a seal counts.

    Attributes:
        deltas: Since the seal before, sorted.
        certificates: Ids of all certificates up to here, sorted.
        revocations: Ids of all revocations up to here, sorted.
        equivocators: Members proven to have said two things at once, sorted.
    """

    deltas: tuple[SealedDelta, ...]
    certificates: tuple[Hash, ...]
    revocations: tuple[Hash, ...]
    equivocators: tuple[Key, ...]

    @property
    def hash(self) -> bytes:
        """What the seal names."""
        return digest("seal contents", encode(self))


class PeerRecord(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="peer"):
    """Where a member can be reached; signed by it. The one with the highest number counts.

    Attributes:
        genesis: Hash.
        member: Whose.
        number: Rises with every new record of a member.
        addresses: ``host:port``, best first; empty for one that only dials.
        expires_s: Unix time.
    """

    genesis: Hash
    member: Key
    number: Count
    addresses: Annotated[tuple[Address, ...], Meta(max_length=limits.MAX_ADDRESSES)]
    expires_s: Count


Body = Certificate | Invite | Revocation | Header | Seal | PeerRecord


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A record's body as it was signed, and the signature."""

    body: Annotated[bytes, Meta(max_length=limits.MAX_RECORD_BYTES)]
    signature: Signature


class Record(Struct, frozen=True, kw_only=True):
    """A record whose signature was checked.

    Attributes:
        id: Hash of the body.
        body: What it says.
        signed: As it travels.
    """

    id: bytes
    body: Body
    signed: Signed


def author_of(body: Body) -> bytes:
    """Whose signature a record bears."""
    match body:
        case Header():
            return body.author
        case Seal():
            return body.sealer
        case PeerRecord():
            return body.member
        case Certificate() | Invite() | Revocation():
            return body.issuer


def record_id(body: bytes) -> bytes:
    """The id of a record from its encoded body."""
    return digest("record", body)


def sign_record(key: Ed25519PrivateKey, body: Body) -> Record:
    """Signs a body with its author's key.

    Raises:
        WireError: Nobody would take it.
    """
    raw = encode(body)
    if decode(raw, Body, limits.MAX_RECORD_BYTES) != body:  # type: ignore[arg-type]  # a union is a type
        raise WireError("a record that reads otherwise than it was written")
    _check(body)
    return Record(id=record_id(raw), body=body, signed=Signed(raw, sign(key, "record", raw)))


def open_record(signed: Signed, genesis: bytes) -> Record:
    """Checks a record that came from elsewhere.

    Args:
        signed: As it travelled.
        genesis: Hash of the swarm it must be for.

    Raises:
        WireError: It is damaged or contradicts itself.
        TrustError: Its signature does not hold.
    """
    body: Body = decode(signed.body, Body, limits.MAX_RECORD_BYTES)  # type: ignore[arg-type]  # a union is a type
    if body.genesis != genesis:
        raise WireError("a record of another swarm")
    _check(body)
    verify(author_of(body), "record", signed.body, signed.signature)
    return Record(id=record_id(signed.body), body=body, signed=signed)


def _check(body: Body) -> None:
    """Refuses what no honest author says, as far as the record alone shows it."""
    match body:
        case Header():
            if len(body.prev) not in (0, 32) or len(body.payload) not in (0, 32):
                raise WireError("a header with half a hash")
            if list(body.parents) != sorted(set(body.parents)):
                raise WireError("a header whose parents are not sorted, or not different")
            if bool(body.parents) != (body.round > 1):
                raise WireError("a header whose parents do not fit its round")
            if body.prev and body.round == 1:
                raise WireError("a header of the first round that follows another")
            if body.is_null != (body.wins == 0) or body.is_null != (body.payload_bytes == 0):
                raise WireError("a header whose wins do not fit its payload")
        case Certificate():
            own = body.member == body.issuer
            if (len(body.issuer_certificate), len(body.invite)) != ((0, 0) if own else (32, 32)):
                raise WireError("a certificate that does not say who let its member in")
            if not is_printable(body.name):
                raise WireError("a certificate with a name that cannot be shown")
        case Revocation():
            if not is_printable(body.reason):
                raise WireError("a revocation with a reason that cannot be shown")
        case _:
            return
