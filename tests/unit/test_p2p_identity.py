"""Keys of a node: what they are, and the file that keeps them."""

from __future__ import annotations

import base64
import hashlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from p2p import identity
from p2p.encoding import sign, verify
from p2p.errors import IdentityError
from p2p.identity import FILE_NAME, Identity

PASSPHRASE = b"correct horse battery staple"


def secrets_of(one: Identity) -> list[bytes]:
    """The secrets in the forms in which they could leak."""
    raw = [one.key.private_bytes_raw(), one.transport_secret]
    forms: list[Callable[[bytes], bytes]] = [
        bytes,
        lambda secret: secret.hex().encode(),
        base64.b64encode,
        lambda secret: repr(secret)[2:-1].encode(),
    ]
    return [form(secret) for secret in raw for form in forms]


def assert_no_secret(text: str, one: Identity) -> None:
    assert not [secret for secret in secrets_of(one) if secret in text.encode("utf-8", "surrogateescape")]


def refusal(folder: Path, passphrase: Callable[[], bytes] | None = None) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        identity.load(folder, passphrase)
    return caught.value


def rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / FILE_NAME
    path.write_bytes(change(path.read_bytes()))


# The keys.


def test_the_transport_keys_are_those_of_curve() -> None:
    for _ in range(20):
        one = identity.generate()
        assert zmq.curve_public(z85.encode(one.transport_secret)) == z85.encode(one.transport_public)


def test_the_node_id_verifies_what_the_key_signs() -> None:
    one = identity.generate()
    verify(one.node_id, "test", b"said", sign(one.key, "test", b"said"))
    assert len(one.node_id) == len(one.transport_public) == 32


def test_no_two_identities_are_alike() -> None:
    several = [identity.generate() for _ in range(8)]
    assert len({key for one in several for key in (one.node_id, one.transport_public, one.transport_secret)}) == 24


def test_printing_an_identity_shows_no_secret() -> None:
    one = identity.generate()
    for text in (repr(one), str(one), f"{one}", repr([one]), repr({"identity": one})):
        assert_no_secret(text, one)
        assert repr(one.node_id) in text


def test_the_short_form_is_twelve_digits() -> None:
    assert identity.short(bytes(range(32))) == "000102030405"


# The file.


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    one = identity.generate()
    path = identity.save(tmp_path, one)
    again = identity.load(tmp_path)
    assert path == tmp_path / FILE_NAME
    assert again == one
    assert again.key.private_bytes_raw() == one.key.private_bytes_raw()


def test_a_passphrase_locks_and_unlocks(tmp_path: Path) -> None:
    one = identity.generate()
    path = identity.save(tmp_path, one, PASSPHRASE)
    assert identity.load(tmp_path, lambda: PASSPHRASE) == one
    text = path.read_bytes()
    assert text.count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert PASSPHRASE not in text
    assert not [secret for secret in secrets_of(one) if secret in text]


def test_two_files_of_one_passphrase_share_nothing(tmp_path: Path) -> None:
    one = identity.generate()
    lines = []
    for name in "ab":
        (tmp_path / name).mkdir()
        lines += identity.save(tmp_path / name, one, PASSPHRASE).read_text().splitlines()
    assert not {line for line in lines if lines.count(line) > 1 and not line.startswith("-----")} - {""}


def test_a_passphrase_is_made_dear_to_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    scrypt = hashlib.scrypt

    def spy(passphrase: bytes, **settings: Any) -> bytes:
        calls.append(settings)
        return scrypt(passphrase, **settings)

    monkeypatch.setattr(hashlib, "scrypt", spy)
    for name in "ab":
        (tmp_path / name).mkdir()
        identity.save(tmp_path / name, identity.generate(), PASSPHRASE)
    assert len({call["salt"] for call in calls}) == len(calls) == 2
    assert all(call["n"] * call["r"] >= 1 << 18 for call in calls)  # 32 MiB a guess


def test_keys_that_are_not_locked_ask_for_no_passphrase(tmp_path: Path) -> None:
    identity.save(tmp_path, one := identity.generate())
    asked: list[bool] = []

    def ask() -> bytes:
        asked.append(True)
        return PASSPHRASE

    assert identity.load(tmp_path, ask) == one
    assert asked == []


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = identity.save(tmp_path, identity.generate())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_keys_are_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    path = identity.save(tmp_path, first := identity.generate())
    written = path.read_bytes()
    with pytest.raises(IdentityError, match="already") as caught:
        identity.save(tmp_path, second := identity.generate())
    assert caught.value.hint
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]
    assert_no_secret(str(caught.value), first)
    assert_no_secret("".join(traceback.format_exception(caught.value)), second)


def no_link(*_: object) -> None:
    raise PermissionError(1, "no hard links here")


def test_keys_are_on_disk_before_they_are_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the old state or the new one: flushed, then named, then the name flushed."""
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(handle: int) -> None:
        events.append("fsync folder" if os.path.isdir(f"/dev/fd/{handle}") else "fsync file")
        fsync(handle)

    def spy_link(source: Path, target: Path) -> None:
        events.append(f"link {target.name}, {source.stat().st_size > 0}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    identity.save(tmp_path, identity.generate())
    assert events == ["fsync file", f"link {FILE_NAME}, True", "fsync folder"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left on device"):
        identity.save(tmp_path, identity.generate())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_cannot_be_used_is_refused(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(IdentityError, match="passphrase of"):
        identity.save(tmp_path, identity.generate(), passphrase)
    assert list(tmp_path.iterdir()) == []


# What can be wrong with it.


def test_missing_keys_say_how_they_are_made(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert "no keys yet" in error.message
    assert error.hint == "make them: spearctl init"


def test_a_folder_in_the_place_of_the_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    assert "cannot be read" in refusal(tmp_path).message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o777])
def test_keys_that_others_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    path = identity.save(tmp_path, identity.generate())
    path.chmod(mode)
    error = refusal(tmp_path)
    assert f"{mode:04o}" in error.message
    assert error.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    assert identity.load(tmp_path)


def test_locked_keys_without_a_passphrase_say_so(tmp_path: Path) -> None:
    identity.save(tmp_path, identity.generate(), PASSPHRASE)
    assert "locked" in refusal(tmp_path).message


@pytest.mark.parametrize("wrong", [b"correct horse", PASSPHRASE + b"\n", b"\0"])
def test_a_wrong_passphrase_says_so_and_is_not_shown(tmp_path: Path, wrong: bytes) -> None:
    identity.save(tmp_path, one := identity.generate(), PASSPHRASE)
    error = refusal(tmp_path, lambda: wrong)
    assert "passphrase is wrong" in error.message
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert_no_secret(shown, one)
    assert repr(wrong)[2:-1] not in shown


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_damage_anywhere_is_told_apart_from_a_wrong_passphrase(tmp_path: Path, passphrase: bytes | None) -> None:
    path = identity.save(tmp_path, one := identity.generate(), passphrase)
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 3)]
    damaged += [b"", whole[:-1], whole[:200], whole + b"\n", whole + whole, whole.replace(b"\n", b"\r\n"), b"\xff" * 99]
    for raw in damaged:
        path.write_bytes(raw)
        error = refusal(tmp_path, lambda: PASSPHRASE)
        assert "damaged" in error.message, raw
        assert_no_secret("".join(traceback.format_exception(error)), one)


def test_keys_of_a_newer_version_are_not_called_damaged(tmp_path: Path) -> None:
    identity.save(tmp_path, identity.generate())
    rewrite(tmp_path, lambda raw: raw.replace(b"identity 1 ", b"identity 2 ", 1))
    assert "newer" in refusal(tmp_path).message


def test_keys_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    one = identity.generate()
    path = identity.save(tmp_path, one)
    head, _, text = path.read_bytes().partition(b"\n")
    first, second = text[: len(text) // 2], text[len(text) // 2 :]
    assert first.startswith(b"-----BEGIN")
    assert second.startswith(b"-----BEGIN")
    salt = head.split()[-1]
    path.write_bytes(
        b"spearctl identity 1 " + identity._checksum(salt, second + first) + b" " + salt + b"\n" + second + first
    )
    assert "another kind" in refusal(tmp_path).message


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = identity.save(tmp_path, identity.generate())
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would not end well
    assert "damaged" in refusal(tmp_path).message
