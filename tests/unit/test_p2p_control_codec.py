"""What travels over the control socket, and where that socket is."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.control import (
    MAX_FRAME_BYTES,
    MAX_PATH_BYTES,
    Reply,
    Request,
    read_length,
    read_reply,
    read_request,
    socket_path,
    write_frame,
)
from p2p.errors import WireError

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8"))
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)
objects = st.dictionaries(st.text(st.characters(codec="utf-8")), plain | st.lists(plain), max_size=5)


def unframed(frame: bytes) -> bytes:
    assert read_length(frame[:4]) == len(frame) - 4
    return frame[4:]


@given(st.text(st.characters(codec="utf-8")), objects)
def test_a_request_arrives_as_it_was_said(command: str, arguments: dict[str, Any]) -> None:
    body = unframed(write_frame(Request(command, arguments)))
    assert read_request(body) == Request(command, arguments)
    assert json.loads(body) == {"command": command, "arguments": arguments}


@given(objects)
def test_a_reply_arrives_as_it_was_said(data: dict[str, Any]) -> None:
    body = unframed(write_frame(Reply(ok=True, data=data)))
    assert read_reply(body) == Reply(ok=True, data=data)
    assert json.loads(body) == {"ok": True, "data": data}


def test_a_failure_is_said_with_what_mends_it() -> None:
    failure = Reply(ok=False, kind="TicketError", message="the ticket has expired", hint="ask for a new one")
    body = unframed(write_frame(failure))
    assert read_reply(body) == failure
    assert json.loads(body) == {
        "ok": False, "kind": "TicketError", "message": "the ticket has expired", "hint": "ask for a new one",
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b'{"command":"status"}', b'{"arguments":{}}', b'{"command":1,"arguments":{}}',
        b'{"command":"status","arguments":[]}', b'{"command":"status","arguments":{},"more":1}',
        b'{"command":"status","arguments":{}} ' + b"x", b'{"command":"\\ud800","arguments":{}}', b"\xff\xfe",
        b'{"command":"status","arguments":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"command":"status","arguments":{"long":' + b"9" * 100_000 + b"}}",
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(WireError, match="not a request"):
        read_request(body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ok":1}', b'{"ok":true,"data":[]}', b'{"ok":false,"message":null}'])
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(WireError, match="not a reply"):
        read_reply(body)


@given(
    st.binary(max_size=200) | st.recursive(plain, lambda inner: st.lists(inner), max_leaves=5).map(repr).map(str.encode)
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (read_request, read_reply):
        try:
            assert isinstance(read(body), Request | Reply)
        except WireError as error:
            assert error.message


@given(values)
def test_a_request_of_any_arguments_is_read_or_refused(arguments: object) -> None:
    body = json.dumps({"command": "status", "arguments": arguments}).encode()
    try:
        assert read_request(body).arguments == arguments
    except WireError:
        assert not isinstance(arguments, dict) or "\\ud" in body.decode()


@given(st.binary(min_size=4, max_size=4))
def test_a_length_is_bounded_before_anything_is_read(raw: bytes) -> None:
    length = int.from_bytes(raw, "big")
    if length <= MAX_FRAME_BYTES:
        assert read_length(raw) == length
    else:
        with pytest.raises(WireError, match="at most 1,048,576"):
            read_length(raw)


def test_a_frame_that_is_too_long_is_not_written() -> None:
    assert len(write_frame(Reply(ok=True, data={"x": "y" * (MAX_FRAME_BYTES - 100)}))) > MAX_FRAME_BYTES - 100
    with pytest.raises(WireError, match="at most 1,048,576"):
        write_frame(Reply(ok=True, data={"x": "y" * MAX_FRAME_BYTES}))


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, "\ud800", (itself := [])])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    itself.append(itself)
    with pytest.raises(WireError, match="JSON"):
        write_frame(Request("status", {"value": value}))


# Where it is.


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder with a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@given(st.lists(st.text("abcxyz ☃", min_size=1, max_size=60), min_size=1, max_size=30))
def test_the_path_is_short_however_deep_the_home(parts: list[str]) -> None:
    path = socket_path(Path("/home", *parts))
    assert len(os.fsencode(path)) < MAX_PATH_BYTES
    assert path.is_absolute()
    assert path == socket_path(Path("/home", *parts))
    assert path != socket_path(Path("/home", *parts, "other"))


def test_one_home_has_one_socket_however_it_is_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert socket_path(tmp_path / "link" / "home") == socket_path(Path("home")) == socket_path(tmp_path / "home")
    assert socket_path(tmp_path / "home").parent == own / "spearctl"
    assert len(socket_path(tmp_path / "home").name) == 16


@pytest.mark.parametrize("runtime", ["", "relative", "/no/such/folder", "LONG"])
def test_without_a_usable_runtime_folder_it_is_among_temporary_files(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 99)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime.replace("LONG", str(long)))
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert socket_path(tmp_path).parent == Path("/var/tmp", f"spearctl-{os.geteuid()}")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert socket_path(tmp_path).parent == Path("/tmp", f"spearctl-{os.geteuid()}")
