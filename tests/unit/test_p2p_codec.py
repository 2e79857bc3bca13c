"""Payloads and states as bytes: what goes in comes out, and hostile bytes get one kind of error."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2p.codec import (
    decode_payload,
    decode_state,
    encode_payload,
    encode_state,
    most_payload_bytes,
    most_state_bytes,
)
from p2p.errors import PayloadError
from p2p.grid import Coarse, values_in
from p2p.records import TensorSpec
from tests.vectors import TENSORS, delta_values, small_genesis

BOUND = 200_000
GENESIS = small_genesis()
HONEST = delta_values(GENESIS, 1, 1)
LARGE = (TensorSpec("a.lora_A", 512, 1024),)

# A result vector: another implementation must read 1, -1, 256 and -32767 out of this.
PINNED_TENSORS = (TensorSpec("x.lora_A", 1, 2), TensorSpec("x.lora_B", 2, 1))
PINNED_PAYLOAD = (
    "5350440128b52ffd20901d0300640580007b22782e6c6f72615f41223a7b226474797065223a22493136222c227368617065223a5b312c32"
    "5d2c22646174615f6f666673657473223a5b302c345d7d2c42322c31342c385d7d7d20202001ff000100ff01800400c01bb0f783f02006b0"
)


def frame(content: bytes, *, declared: int | None = None, window_log: int = 17) -> bytes:
    """A zstd frame of one raw block, made by hand (RFC 8878)."""
    size = len(content) if declared is None else declared
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1000_0000, (window_log - 10) << 3]) + struct.pack("<I", size)
    return head + (1 | len(content) << 3).to_bytes(3, "little") + content


def plain(values: Coarse, tensors: tuple[TensorSpec, ...] = TENSORS, **changes: str) -> bytes:
    """What a payload compresses, as the safetensors library makes it, with some of its header's text replaced."""
    where, arrays = 0, {}
    for tensor in tensors:
        arrays[tensor.name] = values[where : where + tensor.size].reshape(tensor.rows, tensor.columns)
        where += tensor.size
    raw = safetensors.numpy.save(arrays)
    size = int.from_bytes(raw[:8], "little")
    text = raw[8 : 8 + size].decode()
    for before, after in changes.items():
        text = text.replace(before, after)
    data = np.frombuffer(raw[8 + size :], dtype=np.uint8).reshape(-1, 2)
    return struct.pack("<Q", len(text.encode())) + text.encode() + data.T.tobytes()


def squeezed(content: bytes) -> bytes:
    return b"SPD\x01" + zstandard.compress(content)


def peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(hnp.arrays(np.int16, values_in(TENSORS), elements=st.integers(-32767, 32767)))
def test_a_payload_comes_out_as_it_went_in(values: np.ndarray) -> None:
    raw = encode_payload(values, TENSORS)
    assert len(raw) <= most_payload_bytes(TENSORS)
    found = decode_payload(raw, TENSORS, 300_000)
    assert found.dtype == np.int16
    assert found.tolist() == values.tolist()


@given(hnp.arrays(np.int32, GENESIS.parameters))
def test_a_state_comes_out_as_it_went_in(state: np.ndarray) -> None:
    raw = encode_state(state)
    assert len(raw) <= most_state_bytes(GENESIS)
    found = decode_state(raw, GENESIS)
    assert found.dtype == np.int32
    assert found.tolist() == state.tolist()


def test_values_that_do_not_compress_still_fit() -> None:
    noise = np.frombuffer(np.random.default_rng(0).bytes(2 * values_in(LARGE)), dtype=np.int16).copy()
    noise[noise == -32768] = 0
    raw = encode_payload(noise, LARGE)
    assert noise.nbytes < len(raw) <= most_payload_bytes(LARGE)
    assert (decode_payload(raw, LARGE, 2**40) == noise).all()


def test_small_values_take_half_the_room() -> None:
    small = np.random.default_rng(0).integers(-100, 100, values_in(LARGE)).astype(np.int16)
    assert len(encode_payload(small, LARGE)) < 0.6 * small.nbytes


def test_a_round_in_which_no_tensor_travels_has_a_payload_too() -> None:
    nothing = np.zeros(0, dtype=np.int16)
    assert decode_payload(encode_payload(nothing, ()), (), 1).size == 0


def test_the_pinned_payload_is_read() -> None:
    found = decode_payload(bytes.fromhex(PINNED_PAYLOAD), PINNED_TENSORS, BOUND)
    assert found.tolist() == [1, -1, 256, -32767]


@pytest.mark.parametrize("names", [("a", "b"), ('q"\\/', "\x01\x1f\x7f\n"), ("Ünïcødé", "層.\U0001f600")])
def test_inside_is_the_file_that_the_safetensors_library_writes(names: tuple[str, str]) -> None:
    tensors = tuple(TensorSpec(f"{name}.lora_A", rows, 3) for rows, name in enumerate(sorted(names), 1))
    values = np.arange(9, dtype=np.int16) - 4
    raw = encode_payload(values, tensors)
    assert raw[:4] == b"SPD\x01"
    assert zstandard.decompress(raw[4:]) == plain(values, tensors)


def test_values_of_another_number_are_not_encoded() -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_payload(HONEST[:-1], TENSORS)


@pytest.mark.parametrize("other", [b"", b"SPD", b"SPD\x01", b"SPD\x02" + encode_payload(HONEST, TENSORS)[4:]])
def test_what_does_not_begin_as_a_payload_is_refused(other: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_payload(other, TENSORS, BOUND)


def test_a_state_is_no_payload() -> None:
    with pytest.raises(PayloadError, match="begin with"):
        decode_payload(encode_state(np.zeros(38, dtype=np.int32)), TENSORS, BOUND)


def test_a_payload_that_is_cut_short_anywhere_is_refused() -> None:
    raw = encode_payload(HONEST, TENSORS)
    for size in range(len(raw)):
        with pytest.raises(PayloadError):
            decode_payload(raw[:size], TENSORS, BOUND)


@pytest.mark.parametrize(
    "more", [b"\0", b"\x50\x2a\x4d\x18\0\0\0\0", zstandard.compress(b""), zstandard.compress(b"more")]
)
def test_nothing_may_follow_the_frame(more: bytes) -> None:
    with pytest.raises(PayloadError, match="frame"):
        decode_payload(encode_payload(HONEST, TENSORS) + more, TENSORS, BOUND)


def test_what_is_longer_than_any_payload_is_not_looked_into() -> None:
    with pytest.raises(PayloadError, match="possible"):
        decode_payload(encode_payload(HONEST, TENSORS) + bytes(most_payload_bytes(TENSORS)), TENSORS, BOUND)


def test_a_frame_must_declare_its_size() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(plain(HONEST))
    with pytest.raises(PayloadError, match="declare"):
        decode_payload(b"SPD\x01" + silent, TENSORS, BOUND)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_frame_that_lies_about_its_size_is_refused(off: int) -> None:
    content = plain(HONEST)
    assert (decode_payload(b"SPD\x01" + frame(content), TENSORS, BOUND) == HONEST).all()
    with pytest.raises(PayloadError, match="declare"):
        decode_payload(b"SPD\x01" + frame(content, declared=len(content) + off), TENSORS, BOUND)
    lying = frame((content + b"\0")[: len(content) + off], declared=len(content))
    with pytest.raises(PayloadError, match="frame"):
        decode_payload(b"SPD\x01" + lying, TENSORS, BOUND)


def test_a_frame_with_a_large_window_is_refused() -> None:
    assert (decode_payload(b"SPD\x01" + frame(plain(HONEST), window_log=23), TENSORS, BOUND) == HONEST).all()
    with pytest.raises(PayloadError, match="window"):
        decode_payload(b"SPD\x01" + frame(plain(HONEST), window_log=24), TENSORS, BOUND)


@pytest.mark.parametrize(
    "changes",
    [
        {"a.lora_A": "c.lora_A"},
        {"[2,5]": "[5,2]"},
        {"I16": "F16"},
        {"I16": "U16"},
        {"[0,20]": "[2,22]"},
        {'"a.lora_B"': '"a.lora_A"'},
        {'{"a': '{"__metadata__":{"x":"y"},"a'},
        {'{"a': '{ "a'},
        {"}}": "}} "},
        {"{": "[" * 1000},
    ],
)
def test_tensors_that_are_described_otherwise_are_refused(changes: dict[str, str]) -> None:
    assert (decode_payload(squeezed(plain(HONEST)), TENSORS, BOUND) == HONEST).all()
    with pytest.raises(PayloadError):
        decode_payload(squeezed(plain(HONEST, **changes)), TENSORS, BOUND)


def test_tensors_of_the_same_size_in_another_order_are_refused() -> None:
    first, second = TensorSpec("a.lora_A", 2, 3), TensorSpec("b.lora_A", 2, 3)
    renamed = TensorSpec("c.lora_A", 2, 3)
    raw = encode_payload(np.arange(12, dtype=np.int16), (first, second))
    for others in [(second, first), (first, renamed), (TensorSpec("a.lora_A", 3, 2), second)]:
        with pytest.raises(PayloadError, match="tensors of other names"):
            decode_payload(raw, others, BOUND)


def test_the_value_that_cannot_be_negated_is_refused() -> None:
    values = HONEST.copy()
    values[5] = -32768
    with pytest.raises(PayloadError, match="below -32767"):
        decode_payload(encode_payload(values, TENSORS), TENSORS, 2**40)


def test_the_norm_may_reach_the_bound_and_not_pass_it() -> None:
    values = np.zeros(values_in(TENSORS), dtype=np.int16)
    values[[3, 20]] = 3000, -4000
    assert (decode_payload(encode_payload(values, TENSORS), TENSORS, 5000) == values).all()
    with pytest.raises(PayloadError, match="bound of 4999"):
        decode_payload(encode_payload(values, TENSORS), TENSORS, 4999)


def test_a_bomb_costs_less_than_twice_the_honest_memory() -> None:
    values = np.zeros(values_in(LARGE), dtype=np.int16)
    honest = encode_payload(values, LARGE)
    zeros = bytes(64 * 2**20)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    loud = zstandard.ZstdCompressor().compress(zeros)
    lying = loud[:6] + struct.pack("<I", len(plain(values, LARGE))) + loud[10:]  # after magic, descriptor and window
    assert zstandard.get_frame_parameters(loud).content_size == len(zeros)
    assert zstandard.get_frame_parameters(lying).content_size == len(plain(values, LARGE))
    allowed = 2 * peak_bytes(lambda: decode_payload(honest, LARGE, BOUND))

    def explode(bomb: bytes) -> None:
        with pytest.raises(PayloadError):
            decode_payload(b"SPD\x01" + bomb, LARGE, BOUND)

    for bomb in (silent, loud, lying, frame(b"", declared=2**32 - 1), frame(b"", window_log=41)):
        assert peak_bytes(lambda bomb=bomb: explode(bomb)) < allowed  # type: ignore[misc]


def test_a_state_is_its_bytes_the_lowest_of_all_values_first() -> None:
    state = np.array([1, -2, 0x01020304, *[0] * 35], dtype=np.int32)
    planes = b"".join(bytes([*first, *[0] * 35]) for first in ((1, 254, 4), (0, 255, 3), (0, 255, 2), (0, 255, 1)))
    assert zstandard.decompress(encode_state(state)[4:]) == planes
    assert (decode_state(b"SPS\x01" + frame(planes), GENESIS) == state).all()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b"SPD" + raw[3:]])
def test_a_damaged_state_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(PayloadError):
        decode_state(damage(encode_state(np.arange(38, dtype=np.int32))), GENESIS)


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(PayloadError, match="declare 152 bytes"):
        decode_state(encode_state(np.zeros(37, dtype=np.int32)), GENESIS)


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda tail: b"SPD\x01\x28\xb5\x2f\xfd" + tail))
def test_any_bytes_are_a_payload_or_a_payload_error(raw: bytes) -> None:
    try:
        assert decode_payload(raw, TENSORS, BOUND).shape == HONEST.shape
    except PayloadError as error:
        assert error.message


changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)


@given(changes, st.booleans())
@example([(4, 0)], True)
def test_a_changed_payload_is_a_payload_or_a_payload_error(changed: list[tuple[int, int]], inside: bool) -> None:
    """Changed as it travels, or before it is compressed."""
    raw = bytearray(plain(HONEST) if inside else encode_payload(HONEST, TENSORS))
    for place, byte in changed:
        raw[place % len(raw)] = byte
    try:
        found = decode_payload(squeezed(bytes(raw)) if inside else bytes(raw), TENSORS, BOUND)
    except PayloadError as error:
        assert error.message
    else:
        assert found.shape == HONEST.shape
        assert not inside or plain(found) == raw


@given(st.binary(max_size=300), changes)
def test_any_bytes_are_a_state_or_a_payload_error(raw: bytes, changed: list[tuple[int, int]]) -> None:
    honest = bytearray(encode_state(np.arange(38, dtype=np.int32) * 77_777))
    for place, byte in changed:
        honest[place % len(honest)] = byte
    for candidate in (raw, b"SPS\x01" + raw, bytes(honest)):
        try:
            assert decode_state(candidate, GENESIS).shape == (38,)
        except PayloadError as error:
            assert error.message


def test_the_header_is_json_in_the_order_of_the_names() -> None:
    content = zstandard.decompress(encode_payload(HONEST, TENSORS)[4:])
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    described = json.loads(content[8 : 8 + size])
    assert list(described) == [tensor.name for tensor in TENSORS]
    assert described["b.lora_A"] == {"dtype": "I16", "shape": [2, 4], "data_offsets": [32, 48]}
