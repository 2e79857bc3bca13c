"""The control socket: how commands on a device talk to its running node. A UNIX socket, one request a connection.

A frame is a length of 4 bytes, big-endian, and so many bytes of JSON: a request, ``{"command", "arguments"}``, or a
reply, ``{"ok": true, "data"}`` or ``{"ok": false, "kind", "message", "hint"}``.

The socket lies in a folder that only its owner can enter. A lock beside it is held while its node lives, so that a
socket which a killed node left behind is told from one in use.

Not covered: other programs of the same user. They may do whatever the user may.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2p import errors
from p2p.errors import NetworkError, P2PError, WireError

MAX_FRAME_BYTES = 1024 * 1024
MAX_CLIENTS = 16
CLIENT_S = 10.0
"""A client has so long to ask, and so long to take its answer. Finding the answer may take longer."""
MAX_PATH_BYTES = 100
"""Excluded; some systems allow 104."""

Handle = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

T = TypeVar("T")

_LENGTH = struct.Struct(">I")
_BUG = "bug"
_RETRY_S = 0.02
_MOST_CHARS = 8192
_log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a command asks."""

    command: str
    arguments: dict[str, Any]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the node answers: data, or what went wrong."""

    ok: bool
    data: dict[str, Any] | None = None
    kind: str = ""
    message: str = ""
    hint: str | None = None


# Where it is.


def socket_path(home: Path) -> Path:
    """Where the socket of a home is: in the user's runtime folder if there is one, else under that for temporary files.

    Short, however deep the home is: a socket's path has about 100 bytes.
    """
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    own = f"spearctl-{os.geteuid()}"
    folders = [Path(tempfile.gettempdir(), own), Path("/tmp", own)]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        folders.insert(0, Path(runtime, "spearctl"))
    return next(folder / name for folder in folders if len(os.fsencode(folder / name)) < MAX_PATH_BYTES)


def _check_folder(folder: Path) -> None:
    """Refuses a folder in which somebody else could have put a socket."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        hint = "remove it, or set XDG_RUNTIME_DIR to a folder of your own"
        raise NetworkError(f"{folder} is not a folder of this user", hint)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise NetworkError(f"others can enter {folder}", f"chmod 700 {folder}")


# What is said.


def write_frame(said: Request | Reply) -> bytes:
    """A request or a reply as it travels.

    Raises:
        WireError: It is too long, or holds what JSON cannot.
    """
    try:
        body = msgspec.json.encode(said)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise WireError(f"not to be said in JSON: {error}") from error
    _check_length(len(body))
    return _LENGTH.pack(len(body)) + body


def read_length(raw: bytes) -> int:
    """Reads the 4 bytes before a body: its length.

    Raises:
        WireError: It is too long.
    """
    (length,) = _LENGTH.unpack(raw)
    _check_length(length)
    return int(length)


def read_request(body: bytes) -> Request:
    """Reads what a command asks.

    Raises:
        WireError: It is not a request.
    """
    return _read(body, Request)


def read_reply(body: bytes) -> Reply:
    """Reads what a node answers.

    Raises:
        WireError: It is not a reply.
    """
    return _read(body, Reply)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WireError(f"not a {kind.__name__.lower()}: {error}") from error


def _check_length(length: int) -> None:
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {length:,} bytes where at most {MAX_FRAME_BYTES:,} are allowed")


def _failure(kind: str, message: str, hint: str | None = None) -> bytes:
    """A reply that says what went wrong, cut to fit; texts may hold names of files that are no Unicode."""
    return write_frame(Reply(ok=False, kind=kind, message=_fit(message), hint=None if hint is None else _fit(hint)))


def _fit(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()[:_MOST_CHARS]


# The node's side.


class ControlServer:
    """Answers the commands of this device.

    Args:
        path: Of the socket.
        handle: Answers a command with its arguments; its ``P2PError``s reach the asker as they are.
        client_s: How long a client may take, in seconds.
    """

    def __init__(self, path: Path, handle: Handle, *, client_s: float = CLIENT_S) -> None:
        self._path = path
        self._handle = handle
        self._client_s = client_s
        self._server: asyncio.Server | None = None
        self._lock: int | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def claim(self) -> None:
        """Makes this node the only one of its home, before anybody can ask it. Claiming twice does nothing.

        Raises:
            NetworkError: Another node of this home runs already, or the socket's folder cannot be used.
        """
        if self._lock is not None:
            return
        with self._explained():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(self._path.parent)
            self._lock = _lock(self._path.with_name(self._path.name + ".lock"))
            if self._lock is None or is_running(self._path):
                raise NetworkError(
                    "a node of this home is already running", "spearctl status, or to stop it: spearctl down"
                )
            self._path.unlink(missing_ok=True)  # left by a node that was killed

    async def start(self) -> None:
        """Begins to listen; claims the home first, where that was not done.

        Raises:
            NetworkError: Another node listens there already, or its folder cannot be used.
        """
        self.claim()
        with self._explained():
            self._server = await asyncio.start_unix_server(self._connected, self._path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What the system refuses, as an error of ours; lets go of the home where anything fails."""
        try:
            yield
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise NetworkError(f"cannot listen on {self._path}: {error.strerror}") from error
            raise

    async def close(self) -> None:
        """Stops listening, lets go of whoever waits for an answer, and of the home. Closing twice does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            writer.write(_failure("NetworkError", "the node is busy with other commands", "try again"))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await self._reply(reader)
            async with asyncio.timeout(self._client_s):
                writer.write(reply)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):  # too slow, or gone
            writer.transport.abort()
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._client_s):
                length = read_length(await reader.readexactly(_LENGTH.size))
                request = read_request(await reader.readexactly(length))
        except WireError as error:
            return _failure(type(error).__name__, error.message)
        try:
            return write_frame(Reply(ok=True, data=await self._handle(request.command, request.arguments)))
        except P2PError as error:
            return _failure(type(error).__name__, error.message, error.hint)
        except Exception as error:
            _log.exception("the command %.80r failed", request.command)
            return _failure(_BUG, f"{type(error).__name__}: {error}")


def _lock(path: Path) -> int | None:
    """A descriptor that holds a lock as long as it is open; none if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


# The commands' side.


def is_running(path: Path) -> bool:
    """Whether a node listens on a socket."""
    try:
        _check_folder(path.parent)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            client.connect(str(path))
    except (TimeoutError, BlockingIOError):
        return True  # somebody is there, and busy; the latter says that others wait already, as many as may
    except (OSError, NetworkError):
        return False
    return True


def ask(path: Path, command: str, arguments: dict[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
    """Asks a running node, and waits for the answer.

    Args:
        path: Of its socket.
        command: What is asked.
        arguments: JSON.
        timeout_s: How long to wait for the whole answer, in seconds.

    Raises:
        NetworkError: No node is running, or it does not answer in time.
        P2PError: What the node said, as the class that it was there.
        WireError: The answer is no reply, or the question does not fit into a frame.
    """
    frame = write_frame(Request(command, arguments))
    try:
        _check_folder(path.parent)
        reply = read_reply(_exchange(path, frame, time.monotonic() + timeout_s))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NetworkError("no node of this home is running", "spearctl up") from error
    except TimeoutError as error:
        raise NetworkError(f"the node did not answer within {timeout_s:g} s", "try again, or restart it") from error
    except OSError as error:
        raise NetworkError(f"the node went away: {error.strerror or error}", "spearctl status") from error
    if reply.ok:
        return reply.data or {}
    raise _as_error(reply)


def _exchange(path: Path, frame: bytes, deadline: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        _connect(client, path, deadline)
        with contextlib.suppress(BrokenPipeError):  # a node that refuses does not listen to the end, but says why
            client.sendall(frame)
        return _receive(client, read_length(_receive(client, _LENGTH.size, deadline)), deadline)


def _connect(client: socket.socket, path: Path, deadline: float) -> None:
    while True:
        _limit(client, deadline)
        try:
            return client.connect(str(path))
        except BlockingIOError:  # as many wait for it as may; a UNIX socket does not join a queue that is full
            time.sleep(_RETRY_S)


def _receive(client: socket.socket, length: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < length:
        _limit(client, deadline)
        piece = client.recv(length - len(received))
        if not piece:
            raise ConnectionError("it closed the connection")
        received += piece
    return bytes(received)


def _limit(client: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    client.settimeout(left_s)


def _as_error(reply: Reply) -> P2PError:
    """What a node said, as the class that it was there."""
    if reply.kind == _BUG:
        return P2PError(f"the node failed: {reply.message}", "see its log; to restart it: spearctl down, spearctl up")
    kind = getattr(errors, reply.kind, P2PError)
    if not (isinstance(kind, type) and issubclass(kind, P2PError)):
        kind = P2PError
    return kind(reply.message, reply.hint)
