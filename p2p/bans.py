"""Members that a home holds no link to, whatever the others think of them."""

from __future__ import annotations

from p2p.storage import Storage

_BAN = "ban/"


def banned(storage: Storage) -> set[bytes]:
    """The members that a home has banned."""
    return {bytes.fromhex(key.removeprefix(_BAN)) for key in storage.keys(_BAN)}


def ban(storage: Storage, member: bytes) -> None:
    """Bans a member for good; committed at once."""
    storage.put(_BAN + member.hex(), b"1")
    storage.commit()


def unban(storage: Storage, member: bytes) -> None:
    """Takes a ban back; committed at once."""
    storage.delete(_BAN + member.hex())
    storage.commit()
