"""The tensors of deltas, and sealed states, as bytes to be sent.

    payload = "SPD" 1  zstd( safetensors header, planes of int16 )
    state   = "SPS" 1  zstd( planes of int32 )

Planes are the lowest bytes of all values, then their next bytes, and so on: high bytes are mostly alike, and compress.
With the planes put back together into little-endian values, what is inside a payload is a safetensors file of I16
tensors. Its header has exactly one form, as the safetensors library writes it: JSON without spaces, tensors sorted by
name, padded with spaces to a multiple of 8, behind its length as an unsigned 64-bit integer. So it is compared, never
parsed. The compressed bytes are not unique: another version of zstd may write others for the same values.

The frame must declare its size. Every size is known from the shapes before anything is decompressed, and output is
written into a buffer of that size, so hostile bytes cost no more memory than honest ones. Not covered here: whether the
bytes are the ones that a header or a seal names, and whether the values are any good.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zstandard

from p2p import limits
from p2p.errors import PayloadError
from p2p.grid import MOST_STEPS, Coarse, Fine, squared_norm, values_in
from p2p.records import Genesis, TensorSpec

Integer = TypeVar("Integer", bound=np.signedinteger[Any])

_PAYLOAD = b"SPD\x01"
_STATE = b"SPS\x01"
_MAGIC_BYTES = 4
_LEVEL = 3
_MOST_WINDOW_BYTES = 8 * limits.MIB
"""What every zstd decoder supports (RFC 8878, 3.1.1.1.2), and more than our level uses."""


def most_payload_bytes(tensors: Sequence[TensorSpec]) -> int:
    """The longest payload that these tensors can have."""
    return _most_packed_bytes(len(_safetensors_header(tensors)) + 2 * values_in(tensors))


def encode_payload(values: Coarse, tensors: Sequence[TensorSpec]) -> bytes:
    """A delta's tensors as they travel.

    Args:
        values: Flat over ``tensors``, from -32767 to 32767.
        tensors: Those that travel in its round.
    """
    if values.shape != (values_in(tensors),):
        raise ValueError(f"values of shape {values.shape} for tensors of {values_in(tensors)}")
    return pack(_PAYLOAD, _safetensors_header(tensors), values)


def decode_payload(raw: bytes, tensors: Sequence[TensorSpec], norm_bound: int) -> Coarse:
    """Reads a delta's tensors, and checks them.

    Args:
        raw: As they travelled.
        tensors: Those that travel in its round.
        norm_bound: Of the genesis.

    Returns:
        Flat over ``tensors``.

    Raises:
        PayloadError: They are damaged, of another shape, or above the bound.
    """
    values = unpack(raw, _PAYLOAD, _safetensors_header(tensors), np.int16, values_in(tensors))
    if values.size and values.min() < -MOST_STEPS:
        raise PayloadError(f"a delta with a value below {-MOST_STEPS}")
    if squared_norm(values) > norm_bound * norm_bound:
        raise PayloadError(f"a delta whose norm is above the swarm's bound of {norm_bound}")
    return values


def most_state_bytes(genesis: Genesis) -> int:
    """The longest encoding that a state can have."""
    return _most_packed_bytes(4 * genesis.parameters)


def encode_state(state: Fine) -> bytes:
    """A state ``[parameters]`` as it travels."""
    return pack(_STATE, b"", state)


def decode_state(raw: bytes, genesis: Genesis) -> Fine:
    """Reads a state ``[parameters]``; the caller holds its hash against a seal.

    Raises:
        PayloadError: It is damaged, or of another shape.
    """
    return unpack(raw, _STATE, b"", np.int32, genesis.parameters)


def pack(magic: bytes, head: bytes, values: npt.NDArray[Integer]) -> bytes:
    """Compresses flat integers.

    Args:
        magic: 4 bytes that say what this is.
        head: Put before the planes.
        values: Flat, of any width.
    """
    width, count = values.itemsize, values.size
    plain = np.empty(len(head) + values.nbytes, dtype=np.uint8)
    plain[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).view(np.uint8)
    planes = plain[len(head) :]
    for place in range(width):
        planes[place * count : (place + 1) * count] = data[place::width]
    return magic + zstandard.ZstdCompressor(level=_LEVEL).compress(plain.data)


def unpack(raw: bytes, magic: bytes, head: bytes, kind: type[Integer], count: int) -> npt.NDArray[Integer]:
    """Reads what ``pack`` wrote.

    Args:
        raw: From anywhere.
        magic: What it must be.
        head: What it must have before the planes.
        kind: Of integer that the values are.
        count: How many there must be.

    Returns:
        The values, flat.

    Raises:
        PayloadError: It is not exactly that.
    """
    little = np.dtype(kind).newbyteorder("<")
    width = little.itemsize
    plain = _decompress(raw, magic, len(head) + count * width)
    if plain[: len(head)] != head:
        raise PayloadError("tensors of other names, shapes or type than this swarm's")
    values = np.empty(count, dtype=little)
    data, planes = values.view(np.uint8), np.frombuffer(plain, dtype=np.uint8)[len(head) :]
    for place in range(width):
        data[place::width] = planes[place * count : (place + 1) * count]
    return values.astype(kind, copy=False)


def _decompress(raw: bytes, magic: bytes, size: int) -> bytes:
    """The content of one zstd frame, which must be ``size`` bytes and all there is behind ``magic``."""
    if len(raw) > _most_packed_bytes(size):
        raise PayloadError(f"{len(raw):,} bytes where at most {_most_packed_bytes(size):,} are possible")
    if raw[:_MAGIC_BYTES] != magic:
        raise PayloadError(f"bytes that begin with {raw[:_MAGIC_BYTES]!r}, not with {magic!r}")
    frame = memoryview(raw)[_MAGIC_BYTES:]
    try:
        declared = zstandard.get_frame_parameters(frame)
        if declared.content_size != size:
            raise PayloadError(f"a frame that does not declare {size:,} bytes")
        if declared.window_size > _MOST_WINDOW_BYTES:
            raise PayloadError(f"a frame with a window of {declared.window_size:,} bytes")
        return zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).decompress(
            frame, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise PayloadError(f"not one whole zstd frame: {error}") from error


def _most_packed_bytes(size: int) -> int:
    """Nothing compresses to more: what zstd needs at worst, and the magic."""
    return _MAGIC_BYTES + size + size // 256 + 64


def _safetensors_header(tensors: Sequence[TensorSpec]) -> bytes:
    described, first = {}, 0
    for tensor in tensors:
        last = first + 2 * tensor.size
        described[tensor.name] = {
            "dtype": "I16",
            "shape": [tensor.rows, tensor.columns],
            "data_offsets": [first, last],
        }
        first = last
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
