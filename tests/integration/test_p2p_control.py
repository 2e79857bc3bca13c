"""The control socket, with real sockets and clients in threads."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import select
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from p2p import control
from p2p.control import MAX_CLIENTS, ControlServer, Request, ask, is_running, write_frame
from p2p.errors import NetworkError, P2PError, TicketError, WireError
from tests.transports import PATIENCE_S, in_loop, turn

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket; short, as pytest's own folders are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder, "spearctl", "socket")


async def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    match command:
        case "echo":
            return arguments
        case "expired":
            raise TicketError("the ticket has expired", "ask for a new one")
        case "bug":
            return {"never": 1 / 0}
        case "large":
            return {"large": "x" * 1_000_000}
        case "odd":
            return {"odd": object()}
        case _:
            raise P2PError(f"there is no {command}")


@asynccontextmanager
async def serving(path: Path, handle: control.Handle = answer, **options: Any) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, handle, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def asking(path: Path, command: str, timeout_s: float = PATIENCE_S, /, **arguments: Any) -> dict[str, Any]:
    return await asyncio.to_thread(ask, path, command, arguments, timeout_s)


async def say(path: Path, raw: bytes, *, end: bool = False) -> bytes:
    """Says some bytes, and returns all that comes back."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@in_loop
async def test_a_command_is_answered(path: Path) -> None:
    async with serving(path):
        assert await asking(path, "echo", text="☃", number=1, list=[None, True, 0.5]) == {
            "text": "☃", "number": 1, "list": [None, True, 0.5],
        }  # fmt: skip
        large = "x" * 1_000_000
        assert await asking(path, "echo", large=large) == {"large": large}
        assert await asking(path, "echo") == {}


@in_loop
async def test_what_went_wrong_is_told_as_the_error_that_it_was(path: Path) -> None:
    async with serving(path):
        with pytest.raises(TicketError, match="the ticket has expired") as caught:
            await asking(path, "expired")
        assert caught.value.hint == "ask for a new one"
        with pytest.raises(P2PError, match="there is no chair") as other:
            await asking(path, "chair")
        assert (type(other.value), other.value.hint) == (P2PError, None)


@in_loop
async def test_a_bug_is_told_and_written_down_and_harms_no_later_command(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path):
        for command, said in (("bug", "ZeroDivisionError: division by zero"), ("odd", "JSON")):
            with pytest.raises(P2PError, match=said) as caught:
                await asking(path, command)
            assert caught.value.message
        assert await asking(path, "echo", still="here") == {"still": "here"}
    assert "division by zero" in caplog.text


@in_loop
async def test_a_message_that_is_no_unicode_or_very_long_arrives_in_part(path: Path) -> None:
    async def fail(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        raise NetworkError("\udcff" + "x" * 2_000_000, "y" * 2_000_000)

    async with serving(path, fail):
        with pytest.raises(NetworkError, match=r"^\\udcffx+$") as caught:
            await asking(path, "fail")
        assert caught.value.hint
        assert set(caught.value.hint) == {"y"}


@pytest.mark.parametrize(
    "message", [b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"GET / HTTP/1.1"]
)
@in_loop
async def test_a_bad_frame_is_answered_with_an_error(path: Path, message: bytes) -> None:
    async with serving(path):
        said = await say(path, message)
        reply = control.read_reply(said[4:])
        assert (reply.ok, reply.kind) == (False, "WireError")
        assert await asking(path, "echo", still="here") == {"still": "here"}


@in_loop
async def test_half_a_frame_is_not_answered(path: Path) -> None:
    frame = write_frame(Request("echo", {"never": "whole"}))
    async with serving(path):
        for cut in range(len(frame)):
            assert await say(path, frame[:cut], end=True) == b""
        assert await say(path, frame, end=True) != b""


@in_loop
async def test_a_client_that_is_too_slow_is_let_go(path: Path) -> None:
    async with serving(path, client_s=0.05):
        assert await say(path, b"\x00") == b""
        assert await say(path, write_frame(Request("echo", {}))[:-1]) == b""
        with socket.socket(socket.AF_UNIX) as client:  # asks for much, and takes none of it
            client.connect(str(path))
            client.sendall(write_frame(Request("large", {})))
            poll = select.poll()
            poll.register(client, 0)
            await turn(lambda: bool(poll.poll(0)))  # the other side hangs up
        assert await asking(path, "echo", still="here") == {"still": "here"}


@in_loop
async def test_beyond_the_most_clients_one_is_told_to_come_again(path: Path) -> None:
    goes_on, asked = asyncio.Event(), []

    async def wait(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked.append(command)
        await goes_on.wait()
        return {}

    async with serving(path, wait):
        frame = write_frame(Request("wait", {}))
        waiting = [asyncio.create_task(say(path, frame)) for _ in range(MAX_CLIENTS)]
        await turn(lambda: len(asked) == MAX_CLIENTS)
        with pytest.raises(NetworkError, match="busy"):
            await asking(path, "echo")
        goes_on.set()
        assert len(set(await asyncio.gather(*waiting))) == 1
        assert await asking(path, "wait") == {}
        assert len(asked) == MAX_CLIENTS + 1


@in_loop
async def test_closing_lets_go_of_who_waits_and_leaves_no_socket(path: Path) -> None:
    asked = asyncio.Event()

    async def wait(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    async with serving(path, wait) as server:
        waiting = asyncio.create_task(say(path, write_frame(Request("wait", {}))))
        await asked.wait()
        assert is_running(path)
        await server.close()
        assert await waiting == b""
        assert not path.exists()
        assert not is_running(path)
        await server.close()
    async with serving(path):
        assert await asking(path, "echo") == {}


# Who is there.


@in_loop
async def test_without_a_node_a_command_says_so(path: Path) -> None:
    for _ in range(2):
        assert not is_running(path)
        with pytest.raises(NetworkError, match="no node of this home is running") as caught:
            await asking(path, "echo")
        assert caught.value.hint == "spearctl up"
        async with serving(path):
            assert is_running(path)


@in_loop
async def test_a_node_that_does_not_answer_is_not_waited_for(path: Path) -> None:
    async def never(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()

    async with serving(path, never):
        with pytest.raises(NetworkError, match=r"did not answer within 0.1 s"):
            await asking(path, "echo", 0.1)


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        (b"", NetworkError, "went away"),
        (b"\x00\x00\x00\x09{}", NetworkError, "went away"),
        (b"\x00\x00\x00\x02{}", WireError, "not a reply"),
        (b"\xff\xff\xff\xff", WireError, "at most 1,048,576"),
        (b'\x00\x00\x00\x21{"ok":false,"kind":"annotations"}', P2PError, "^$"),
    ],
)
@in_loop
async def test_a_node_that_answers_nonsense_is_told_from_one_that_answers(
    path: Path, said: bytes, error: type[P2PError], match: str
) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(said)
        writer.close()

    path.parent.mkdir(mode=0o700)
    async with await asyncio.start_unix_server(respond, path):
        with pytest.raises(error, match=match) as caught:
            await asking(path, "echo")
        assert type(caught.value) is error


@in_loop
async def test_a_second_node_of_a_home_is_refused_and_harms_not_the_first(path: Path) -> None:
    async with serving(path):
        for _ in range(2):
            second = ControlServer(path, answer)
            with pytest.raises(NetworkError, match="already running") as caught:
                await second.start()
            assert caught.value.hint
            await second.close()
        assert await asking(path, "echo", still="here") == {"still": "here"}
    async with serving(path):
        assert is_running(path)


@in_loop
async def test_a_listener_without_a_lock_is_not_replaced(path: Path) -> None:
    async with serving(path):
        path.with_name("socket.lock").unlink()  # as those who tidy temporary folders do
        with pytest.raises(NetworkError, match="already running"):
            await ControlServer(path, answer).start()
        assert await asking(path, "echo", still="here") == {"still": "here"}


@in_loop
async def test_a_node_that_is_about_to_listen_is_not_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with path.with_name("socket.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NetworkError, match="already running"):
            await ControlServer(path, answer).start()
        assert not path.exists()
    async with serving(path):
        assert is_running(path)


@in_loop
async def test_a_claimed_home_is_one_nodes_and_answers_nobody_yet(path: Path) -> None:
    first = ControlServer(path, answer)
    first.claim()
    assert not is_running(path)
    with pytest.raises(NetworkError, match="already running"):
        ControlServer(path, answer).claim()
    await first.close()  # it cannot be reached after all
    async with serving(path):
        assert is_running(path)


def test_a_node_for_which_as_many_wait_as_may_is_running_and_is_waited_for(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        assert is_running(path)
        with pytest.raises(NetworkError, match="did not answer within"):
            ask(path, "echo", {}, 0.2)


@in_loop
async def test_what_a_killed_node_left_behind_is_replaced(path: Path) -> None:
    program = (
        "import asyncio, os, pathlib, signal, sys; from p2p.control import ControlServer\n"
        "async def main():\n"
        "    await ControlServer(pathlib.Path(sys.argv[1]), None).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert not is_running(path)
    async with serving(path):
        assert await asking(path, "echo", now="here") == {"now": "here"}


@in_loop
async def test_nobody_else_can_reach_the_socket(path: Path) -> None:
    async with serving(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.stat().st_uid == os.geteuid()


@in_loop
async def test_a_folder_that_others_can_enter_is_not_used(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o755)
    for use in (ControlServer(path, answer).start, functools.partial(asking, path, "echo")):
        with pytest.raises(NetworkError, match="others can enter") as caught:
            await use()
        assert caught.value.hint == f"chmod 700 {path.parent}"
    assert not is_running(path)


@pytest.mark.parametrize("kind", ["file", "link", "other"])
@in_loop
async def test_a_folder_of_somebody_else_is_not_used(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match kind:
        case "file":
            path.parent.write_text("")
        case "link":
            path.parent.symlink_to(path.parent.parent)
        case "other":
            path.parent.mkdir(mode=0o700)
            monkeypatch.setattr(os, "geteuid", lambda: path.parent.stat().st_uid + 1)
    with pytest.raises(NetworkError) as caught:
        await ControlServer(path, answer).start()
    assert str(path.parent) in caught.value.message
    if kind != "file":
        with pytest.raises(NetworkError, match="not a folder of this user"):
            await asking(path, "echo")
    assert not is_running(path)


def test_a_path_that_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120) / "socket"
    with pytest.raises(NetworkError, match="cannot listen on"):
        asyncio.run(ControlServer(long, answer).start())
    assert not is_running(long)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(str(long))
