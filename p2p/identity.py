"""A node's keys: Ed25519 to sign with, Curve25519 for the transport; and the one file that keeps them.

The Ed25519 public key *is* the node's id. The transport key is bound to it by the certificate, which names both. The
file is text: a line with a checksum, then two PKCS8 PEM blocks, signing key first. The checksum tells a damaged file
from a wrong passphrase, which encryption alone does not. A passphrase goes through scrypt before PKCS8 gets it, because
PKCS8 as it is written here derives its key by 2,048 rounds of PBKDF2 alone.

Not covered: whoever runs as the same user or root, reads this process's memory or a backup of an unlocked file; a
passphrase that can be guessed; wiping keys from memory; a file that is copied to two devices (the swarm notices that).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from p2p.encoding import digest
from p2p.errors import IdentityError

FILE_NAME = "identity.pem"

_MOST_BYTES = 16 * 1024
_MOST_PASSPHRASE_BYTES = 1023
_SALT_BYTES = 16
_SCRYPT_N, _SCRYPT_R = 1 << 15, 8  # 32 MiB, about 0.1 s on a laptop
_HEAD = re.compile(rb"spearctl identity 1 ([0-9a-f]{64}) ([0-9a-f]{32})\n")
_NEWER = re.compile(rb"spearctl identity (?:[2-9]|[1-9]\d+) ")
_BLOCK = re.compile(rb"-----BEGIN (?:ENCRYPTED )?PRIVATE KEY-----\n.+?-----END (?:ENCRYPTED )?PRIVATE KEY-----\n", re.S)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is. Printing one shows public keys only.

    Attributes:
        key: Signs records.
        transport_secret: CURVE secret key, 32 bytes.
        node_id: Public key of ``key``, 32 bytes.
        transport_public: CURVE public key, 32 bytes.
    """

    key: Ed25519PrivateKey = field(repr=False, compare=False)
    transport_secret: bytes = field(repr=False)
    node_id: bytes = field(init=False)
    transport_public: bytes = field(init=False)

    def __post_init__(self) -> None:
        transport = X25519PrivateKey.from_private_bytes(self.transport_secret)
        object.__setattr__(self, "node_id", self.key.public_key().public_bytes_raw())
        object.__setattr__(self, "transport_public", transport.public_key().public_bytes_raw())


def generate() -> Identity:
    """Draws new keys."""
    return Identity(Ed25519PrivateKey.generate(), X25519PrivateKey.generate().private_bytes_raw())


def short(node_id: bytes) -> str:
    """A node's id, or a hash, for people: its first 12 hexadecimal digits."""
    return node_id.hex()[:12]


def save(folder: Path, identity: Identity, passphrase: bytes | None = None) -> Path:
    """Writes the keys for their owner alone, whole or not at all.

    Args:
        folder: Where; it exists.
        identity: Whose keys.
        passphrase: Encrypts them; at most 1,023 bytes.

    Returns:
        The file.

    Raises:
        IdentityError: There is one already, the passphrase cannot be used, or the folder cannot be written.
    """
    path = folder / FILE_NAME
    raw = _write(identity, passphrase)
    try:
        _commit(path, raw)
    except FileExistsError as error:
        raise IdentityError(
            f"{path}: there is an identity already", "use it, or move the file away yourself"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"{path}: the keys cannot be written: {error.strerror}", "look at the free space and the permissions there"
        ) from error
    return path


def load(folder: Path, passphrase: Callable[[], bytes] | None = None) -> Identity:
    """Reads the keys back.

    Args:
        folder: Where they are.
        passphrase: Asked once, and only if they are encrypted.

    Raises:
        IdentityError: They are missing, damaged, of a newer version, readable by others, locked and no passphrase is at
            hand, or the passphrase is wrong.
    """
    path = folder / FILE_NAME
    raw = _read(path)
    head = _HEAD.match(raw)
    if head is None and _NEWER.match(raw):
        raise IdentityError(f"{path}: written by a newer spearctl", "install the newer one again")
    text = raw[head.end() :] if head else b""
    blocks = _BLOCK.findall(text)
    if head is None or len(blocks) != 2 or _checksum(head[2], text) != head[1]:
        raise IdentityError(f"{path}: the keys are damaged", "put the file back from a backup")
    password = None
    if b"ENCRYPTED" in text:
        if passphrase is None:
            raise IdentityError(f"{path}: the keys are locked by a passphrase", "give the passphrase")
        password = _stretch(passphrase(), bytes.fromhex(head[2].decode()))
    try:
        key, transport = (load_pem_private_key(block, password) for block in blocks)
    except (ValueError, TypeError) as error:
        if password is None:
            raise IdentityError(f"{path}: not keys: {error}", "put the file back from a backup") from error
        raise IdentityError(f"{path}: the passphrase is wrong", "try again; it cannot be recovered") from None
    if not isinstance(key, Ed25519PrivateKey) or not isinstance(transport, X25519PrivateKey):
        raise IdentityError(f"{path}: keys of another kind", "put the file back from a backup")
    return Identity(key, transport.private_bytes_raw())


def _write(identity: Identity, passphrase: bytes | None) -> bytes:
    salt = secrets.token_bytes(_SALT_BYTES)
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(_stretch(passphrase, salt))
    keys = (identity.key, X25519PrivateKey.from_private_bytes(identity.transport_secret))
    text = b"".join(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption) for key in keys)
    salt_hex = salt.hex().encode()
    return b"spearctl identity 1 " + _checksum(salt_hex, text) + b" " + salt_hex + b"\n" + text


def _checksum(salt_hex: bytes, text: bytes) -> bytes:
    return digest("identity", salt_hex + b"\n" + text).hex().encode()


def _stretch(passphrase: bytes, salt: bytes) -> bytes:
    """What PKCS8 gets for a passphrase: text, so that other tools can be given it too."""
    if not 1 <= len(passphrase) <= _MOST_PASSPHRASE_BYTES:
        raise IdentityError(
            f"a passphrase of {len(passphrase):,} bytes", f"choose one of 1 to {_MOST_PASSPHRASE_BYTES:,} bytes"
        )
    memory_bytes = 256 * _SCRYPT_N * _SCRYPT_R
    return (
        hashlib.scrypt(passphrase, salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=1, maxmem=memory_bytes, dklen=32)
        .hex()
        .encode()
    )


def _commit(path: Path, raw: bytes) -> None:
    """Puts a new file in place durably; ``FileExistsError`` if there is one, even if another process just made it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".identity.")  # 0600
    scratch = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(scratch, path)  # unlike a rename, never replaces
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(path) from None
            os.rename(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise IdentityError(f"{path}: there are no keys yet", "make them: spearctl init") from error
    except OSError as error:
        hint = f"let yourself read it: chmod 600 {shlex.quote(str(path))}"
        raise IdentityError(f"{path}: the keys cannot be read: {error.strerror}", hint) from error
    if mode & 0o077:
        raise IdentityError(
            f"{path}: others on this machine may read or change the keys (mode {mode & 0o777:04o})",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return raw
