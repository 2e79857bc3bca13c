"""Flat vectors on the grid, exact integer arithmetic, and the hash of a state."""

from __future__ import annotations

import hashlib
import math
import struct
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2p import grid
from p2p.errors import PayloadError
from p2p.grid import clip_to_norm, from_fine, rounddiv, scatter, select, slices, squared_norm, state_hash, to_fine
from p2p.records import TensorSpec
from tests.vectors import small_genesis

coarse_vectors = hnp.arrays(np.int16, st.integers(0, 40), elements=st.integers(-32767, 32767))

# Result vectors: another implementation must find the same.
ROUNDED = (
    # numerator, divisor, quotient
    (0, 1, 0),
    (1, 2, 1),
    (-1, 2, -1),
    (3, 2, 2),
    (-3, 2, -2),
    (1, 3, 0),
    (2, 3, 1),
    (-2, 3, -1),
    (127, 256, 0),
    (128, 256, 1),
    (-128, 256, -1),
    (2**55 + 1, 2, 2**54 + 1),
    (2**62 - 1, 2**62, 1),
    (-(2**61) + 1, 2**62, 0),
)
CLIPPED = (
    # values, bound, shortened
    ((3, -4), 5, (3, -4)),
    ((3, -4), 4, (2, -3)),
    ((30, 40, 0, -120), 13, (3, 4, 0, -12)),
    ((1, 1, 1), 1, (0, 0, 0)),
    ((-32767, 32767), 1000, (-707, 707)),
)
HASH_OF_ZEROS = "0cbb3c376122f32bd1e1a9f7db72a36d374e23df63dd7e2be4a0e3a369050b36"
HASH_OF_COUNTING = "491d33eeed8f007892a21767915937750a186ae126158b0aa5527fb6b8abfb7f"


def vector(values: tuple[int, ...]) -> grid.Coarse:
    return np.array(values, dtype=np.int16)


@pytest.mark.parametrize(("numerator", "divisor", "quotient"), ROUNDED)
def test_rounding_as_pinned(numerator: int, divisor: int, quotient: int) -> None:
    assert rounddiv(np.array([numerator]), divisor).tolist() == [quotient]


@given(st.lists(st.integers(-(2**62) + 1, 2**62 - 1), min_size=1), st.integers(1, 2**62))
def test_rounding_is_exact_and_takes_halves_away_from_zero(numerators: list[int], divisor: int) -> None:
    found = rounddiv(np.array(numerators, dtype=np.int64), divisor).tolist()
    for numerator, quotient in zip(numerators, found, strict=True):
        exact = Fraction(abs(numerator), divisor)
        assert abs(quotient) == math.floor(exact + Fraction(1, 2))
        assert quotient * numerator >= 0


def test_rounding_leaves_what_it_is_given_alone() -> None:
    given_numbers = np.array([5, -5], dtype=np.int64)
    rounddiv(given_numbers, 2)
    assert given_numbers.tolist() == [5, -5]


@given(hnp.arrays(np.float32, 38, elements=st.floats(-8, 8, width=32)), st.integers(8, 22))
def test_an_increment_goes_to_the_nearest_fine_step(increment: np.ndarray, bits: int) -> None:
    genesis = small_genesis(grid_bits=bits)
    for value, step in zip(increment.tolist(), to_fine(increment, genesis).tolist(), strict=True):
        assert abs(Fraction(value) * 2 ** (bits + 8) - step) <= Fraction(1, 2)


@given(hnp.arrays(np.int32, 38))
def test_values_of_the_state_are_the_nearest_floats(state: np.ndarray) -> None:
    found = from_fine(state, small_genesis())
    assert found.dtype == np.float32
    assert (found == (state.astype(np.float64) / 2**28).astype(np.float32)).all()


def test_what_is_on_the_grid_survives_the_way_there_and_back() -> None:
    genesis = small_genesis()
    increment = (np.arange(-19, 19) / 2**20).astype(np.float32)
    assert (from_fine(to_fine(increment, genesis), genesis) == increment).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 8.001, -9.0, 3e38])
def test_an_increment_that_is_no_learning_is_refused(value: float) -> None:
    increment = np.zeros(38, dtype=np.float32)
    increment[17] = value
    with pytest.raises(PayloadError, match="goes as far as"):
        to_fine(increment, small_genesis())


@pytest.mark.parametrize("shape", [(37,), (39,), (0,), (2, 19)])
def test_an_increment_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PayloadError, match="shape"):
        to_fine(np.zeros(shape, dtype=np.float32), small_genesis())


def test_the_sum_of_squares_is_exact_where_narrow_integers_wrap() -> None:
    size = 2**18 + 3
    assert squared_norm(np.full(size, -32768, dtype=np.int16)) == size * 2**30
    assert squared_norm(vector(())) == 0


@pytest.mark.parametrize(("values", "bound", "shortened"), CLIPPED)
def test_clipping_as_pinned(values: tuple[int, ...], bound: int, shortened: tuple[int, ...]) -> None:
    assert clip_to_norm(vector(values), bound).tolist() == list(shortened)


@given(coarse_vectors, st.integers(1, 300_000))
def test_a_clipped_vector_is_within_the_bound_and_hardly_shorter_than_it_must_be(
    values: np.ndarray, bound: int
) -> None:
    found = clip_to_norm(values, bound)
    square = sum(value**2 for value in values.tolist())
    assert squared_norm(found) <= bound**2
    if square <= bound**2:
        assert found.tolist() == values.tolist()
        return
    norm = math.isqrt(square - 1) + 1
    for before, after in zip(values.tolist(), found.tolist(), strict=True):
        assert abs(after) == abs(before) * bound // norm
        assert before * after >= 0


def test_a_long_vector_is_clipped_in_pieces_as_one() -> None:
    values = np.resize(np.array([32767, -5, 0], dtype=np.int16), 2**18 + 7)
    found = clip_to_norm(values, 1_000_000)
    norm = math.isqrt(squared_norm(values) - 1) + 1
    assert set(found.tolist()) == {32767 * 1_000_000 // norm, 0}


def test_tensors_lie_one_behind_the_other() -> None:
    assert slices(small_genesis()) == {
        "a.lora_A": slice(0, 10),
        "a.lora_B": slice(10, 16),
        "b.lora_A": slice(16, 24),
        "b.lora_B": slice(24, 38),
    }


def test_the_tensors_of_a_round_are_taken_out_and_put_back() -> None:
    genesis = small_genesis(share="alternate")
    flat = np.arange(38, dtype=np.int32)
    odd, even = (select(flat, genesis, genesis.travelling(round)) for round in (1, 2))
    assert odd.tolist() == [*range(10, 16), *range(24, 38)]
    assert even.tolist() == [*range(10), *range(16, 24)]
    whole = scatter(odd, genesis, genesis.travelling(1))
    assert whole.dtype == flat.dtype
    assert whole.tolist() == [value if value in odd else 0 for value in range(38)]
    assert (whole + scatter(even, genesis, genesis.travelling(2)) == flat).all()


def test_taking_tensors_out_copies_them() -> None:
    genesis, flat = small_genesis(), np.zeros(38, dtype=np.int64)
    select(flat, genesis, genesis.tensors)[:] = 1
    assert not flat.any()


def test_a_state_is_hashed_over_the_bytes_that_are_written_down() -> None:
    genesis = small_genesis()
    state = np.arange(-19, 19, dtype=np.int32) * 1_000_003
    raw = b"spearctl/state/1\0" + genesis.hash
    for tensor in genesis.tensors:
        raw += tensor.name.encode() + b"\0" + struct.pack("<II", tensor.rows, tensor.columns)
    raw += struct.pack("<38i", *state.tolist())
    assert state_hash(state, genesis) == hashlib.sha256(raw).digest()


def test_hashes_of_states_as_pinned() -> None:
    assert state_hash(np.zeros(38, dtype=np.int32), small_genesis()).hex() == HASH_OF_ZEROS
    assert state_hash(np.arange(-19, 19, dtype=np.int32) * 1_000_003, small_genesis()).hex() == HASH_OF_COUNTING


def test_a_hash_does_not_depend_on_how_a_state_lies_in_memory() -> None:
    state = np.arange(76, dtype=np.int32)[::2]
    expected = state_hash(state.copy(), small_genesis())
    assert state_hash(state, small_genesis()) == expected
    assert state_hash(state.astype(">i4"), small_genesis()) == expected


def test_every_value_changes_the_hash() -> None:
    zeros = np.zeros(38, dtype=np.int32)
    hashes = {state_hash(zeros, small_genesis())}
    for place in range(38):
        changed = zeros.copy()
        changed[place] = 1
        hashes.add(state_hash(changed, small_genesis()))
    assert len(hashes) == 39


def test_a_state_is_not_copied_to_be_hashed() -> None:
    genesis = small_genesis(tensors=(TensorSpec("a.lora_A", 1000, 1000),))
    state = np.zeros(1_000_000, dtype=np.int32)
    tracemalloc.start()
    state_hash(state, genesis)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < state.nbytes // 10
