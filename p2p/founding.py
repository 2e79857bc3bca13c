"""How a swarm begins, and how a home becomes a part of it: what has to be in a ledger before a member can run on it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from p2p import limits
from p2p.encoding import encode
from p2p.errors import IdentityError, LedgerError, TrustError
from p2p.identity import Identity
from p2p.outbox import Author
from p2p.records import (
    NONE,
    Certificate,
    Genesis,
    Record,
    Signed,
    TensorSpec,
    open_record,
    read_genesis,
    record_id,
    sign_record,
)
from p2p.roster import Missing, Roster
from p2p.storage import Storage

GRID_BITS = 20
LARGEST_NORM = 32
"""Of a delta: far above what rounds of training give."""
WEIGHT_CAP = 32
QUORUM = 1
SEAL_LAG = 4

_GENESIS = "genesis"
_CERTIFICATE = "certificate"


def new_genesis(
    *,
    name: str,
    fingerprint: bytes,
    prompt_format: str,
    system_prompt: str,
    rank: int,
    alpha: int,
    tensors: Sequence[tuple[str, int, int]],
    sealer: bytes,
    recovery: bytes,
) -> Genesis:
    """The genesis of a new swarm, with the defaults of this version.

    Args:
        name: Of the swarm.
        fingerprint: Of the base model, 32 bytes.
        prompt_format: ``chat`` or ``raw``.
        system_prompt: May be empty.
        rank: LoRA's r.
        alpha: LoRA's alpha.
        tensors: Names, rows and columns.
        sealer: The founder's node id.
        recovery: Public half of a key that is kept offline.
    """
    steps = 32767 * math.isqrt(sum(rows * columns for _, rows, columns in tensors))
    specs = tuple(sorted((TensorSpec(*tensor) for tensor in tensors), key=lambda spec: spec.name))
    genesis = Genesis(
        version=1,
        name=name[: limits.MAX_NAME_CHARS],
        fingerprint=fingerprint,
        prompt_format=prompt_format,  # type: ignore[arg-type]  # read_genesis refuses anything else
        system_prompt=system_prompt,
        rank=rank,
        alpha=alpha,
        tensors=specs,
        grid_bits=GRID_BITS,
        rule="fedavg",
        share="both",
        weight_cap=WEIGHT_CAP,
        norm_bound=min(LARGEST_NORM << GRID_BITS, steps),
        quorum=QUORUM,
        seal_lag=SEAL_LAG,
        sealer=sealer,
        recovery=recovery,
        nonce=os.urandom(16),
    )
    return read_genesis(encode(genesis))


def founder_certificate(identity: Identity, genesis: Genesis, name: str) -> Record:
    """The founder lets in itself."""
    return sign_record(
        identity.key,
        Certificate(
            genesis=genesis.hash,
            member=identity.node_id,
            transport=identity.transport_public,
            name=name[: limits.MAX_NAME_CHARS],
            issuer=identity.node_id,
            issuer_certificate=NONE,
            invite=NONE,
        ),
    )


def new_recovery_key() -> Ed25519PrivateKey:
    """A key that may one day name another sealer."""
    return Ed25519PrivateKey.generate()


def write_recovery_key(key: Ed25519PrivateKey) -> str:
    """The key as PKCS8 PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def read_recovery_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file.

    Raises:
        IdentityError: There is none.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise IdentityError(f"{path}: no readable recovery key: {error}", "put the file back, or remove it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path}: a key of another kind", "put the right file back, or remove it")
    return key


def enter(storage: Storage, genesis: Genesis, records: Sequence[Record]) -> None:
    """Writes into an empty ledger what a member needs to run on it, in one step.

    Args:
        storage: Of the new swarm.
        genesis: The swarm's.
        records: What the node begins with; the last is its own certificate.
    """
    storage.put(_GENESIS, encode(genesis))
    for record in records:
        storage.add_record(record)
    storage.put(_CERTIFICATE, records[-1].id)
    storage.commit()


def genesis_of(storage: Storage) -> Genesis:
    """The genesis that a ledger is for.

    Raises:
        LedgerError: It is for none.
    """
    raw = storage.get(_GENESIS)
    if raw is None:
        raise LedgerError("the ledger is empty", "join again with a new ticket, or found a swarm: spearctl invite")
    return read_genesis(raw)


def author_of_home(storage: Storage, identity: Identity) -> Author:
    """Who signs with an identity in the swarm of a ledger."""
    certificate = storage.get(_CERTIFICATE)
    if certificate is None:
        raise LedgerError("the ledger lacks this node's certificate", "join again with a new ticket")
    return Author(identity.key, identity.node_id, certificate)


def reader_of_home(storage: Storage) -> Author:
    """Who a home is in the swarm of its ledger, for who only reads that: the key is anybody's, and signs nothing."""
    certificate = storage.get(_CERTIFICATE)
    for signed in storage.records() if certificate is not None else ():
        if record_id(signed.body) == certificate:
            body = open_record(signed, genesis_of(storage).hash).body
            assert isinstance(body, Certificate)
            return Author(Ed25519PrivateKey.generate(), body.member, certificate)
    raise LedgerError("the ledger lacks this node's certificate", "join again with a new ticket")


def check_chain(genesis: Genesis, certificates: Sequence[Signed], identity: Identity) -> list[Record]:
    """Checks certificates that came with a granted join.

    Returns:
        Them, opened; the last is this node's.

    Raises:
        WireError: One is damaged.
        TrustError: They do not lead from the founder to this node.
    """
    roster, records = Roster(genesis), [open_record(signed, genesis.hash) for signed in certificates]
    for record in records:
        if not isinstance(record.body, Certificate):
            raise TrustError("something else than certificates came with a granted join")
        try:
            roster.add(record)
        except Missing as missing:
            raise TrustError("certificates that do not follow from the founder's") from missing
    own = records[-1].body
    assert isinstance(own, Certificate)
    if (own.member, own.transport) != (identity.node_id, identity.transport_public):
        raise TrustError("a certificate for somebody else came with a granted join")
    return records
