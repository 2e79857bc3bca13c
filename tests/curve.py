"""A peer that speaks CURVE by hand (RFC 26), so that it can say what ZeroMQ never would."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.poly1305 import Poly1305

from tests.transports import Node

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


def _mix(words: list[int]) -> list[int]:
    """The twenty rounds of Salsa20."""
    x = list(words)
    quarters = [(0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)]
    quarters += [(0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)]
    for _ in range(10):
        for a, b, c, d in quarters:
            for into, one, other, by in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (x[one] + x[other]) & 0xFFFFFFFF
                x[into] ^= ((total << by) | (total >> (32 - by))) & 0xFFFFFFFF
    return x


def _state(key: bytes, tail: bytes) -> list[int]:
    k, n, c = struct.unpack("<8I", key), struct.unpack("<4I", tail), struct.unpack("<4I", b"expand 32-byte k")
    return [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]


def _hsalsa(key: bytes, nonce: bytes) -> bytes:
    x = _mix(_state(key, nonce))
    return struct.pack("<8I", *(x[place] for place in (0, 5, 10, 15, 6, 7, 8, 9)))


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    key, made = _hsalsa(key, nonce[:16]), bytearray()
    while len(made) < length:
        state = _state(key, nonce[16:] + struct.pack("<Q", len(made) // 64))
        made += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(_mix(state), state, strict=True)))
    return bytes(made[:length])


class Box:
    """NaCl's box between a secret and a public key."""

    def __init__(self, secret: X25519PrivateKey, public: bytes) -> None:
        self.key = _hsalsa(secret.exchange(X25519PublicKey.from_public_bytes(public)), bytes(16))

    def _xor(self, nonce: bytes, data: bytes) -> tuple[bytes, bytes]:
        stream = _stream(self.key, nonce, 32 + len(data))
        return stream[:32], bytes(a ^ b for a, b in zip(data, stream[32:], strict=True))

    def close(self, nonce: bytes, data: bytes) -> bytes:
        key, hidden = self._xor(nonce, data)
        return Poly1305.generate_tag(key, hidden) + hidden

    def open(self, nonce: bytes, boxed: bytes) -> bytes:
        return self._xor(nonce, boxed[16:])[1]


def frame(body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BQ", flags | 2, len(body)) + body


class Stranger:
    """A peer that speaks CURVE over a plain socket, and says of itself what it likes."""

    def __init__(self, node: Node) -> None:
        self.server = node.key
        self.secret = X25519PrivateKey.generate()
        self.key = self.secret.public_key().public_bytes_raw()
        self.short = X25519PrivateKey.generate()
        self.count = 0
        self.host, _, port = node.address.rpartition(":")
        self.port = int(port)

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.writer.write(GREETING)
        await self.reader.readexactly(64)

    def _nonce(self) -> bytes:
        self.count += 1
        return struct.pack(">Q", self.count)

    async def _read(self) -> bytes:
        flags = (await self.reader.readexactly(1))[0]
        raw = await self.reader.readexactly(8 if flags & 2 else 1)
        return await self.reader.readexactly(int.from_bytes(raw, "big"))

    async def hello(self) -> bytes:
        """Half a handshake; returns the answer."""
        public, nonce = self.short.public_key().public_bytes_raw(), self._nonce()
        boxed = Box(self.short, self.server).close(b"CurveZMQHELLO---" + nonce, bytes(64))
        self.writer.write(frame(b"\x05HELLO\x01\x00" + bytes(72) + public + nonce + boxed, 4))
        return await self._read()

    async def handshake(self, *properties: tuple[bytes, bytes]) -> None:
        welcome = await self.hello()
        opened = Box(self.short, self.server).open(b"WELCOME-" + welcome[8:24], welcome[24:])
        passing, cookie = opened[:32], opened[32:]
        self.box = Box(self.short, passing)
        vouch_nonce, nonce = secrets.token_bytes(16), self._nonce()
        vouched = self.short.public_key().public_bytes_raw() + self.server
        vouch = Box(self.secret, passing).close(b"VOUCH---" + vouch_nonce, vouched)
        told = b"".join(
            bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
            for name, value in ((b"Socket-Type", b"DEALER"), *properties)
        )
        boxed = self.box.close(b"CurveZMQINITIATE" + nonce, self.key + vouch_nonce + vouch + told)
        self.writer.write(frame(b"\x08INITIATE" + cookie + nonce + boxed, 4))
        assert (await self._read()).startswith(b"\x05READY")

    def say(self, data: bytes, *, more: bool = False) -> None:
        nonce = self._nonce()
        boxed = self.box.close(b"CurveZMQMESSAGEC" + nonce, bytes([more]) + data)
        self.writer.write(frame(b"\x07MESSAGE" + nonce + boxed))

    async def hung_up(self) -> bool:
        """Waits until the other side ends the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True


@asynccontextmanager
async def stranger_at(node: Node) -> AsyncIterator[Stranger]:
    stranger = Stranger(node)
    await stranger.connect()
    try:
        yield stranger
    finally:
        stranger.writer.close()
