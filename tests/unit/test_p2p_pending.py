"""What is learned and not yet signed: nothing of it is lost, and nothing counts twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2p.errors import LedgerError
from p2p.grid import FINE_STEPS, scatter, squared_norm, to_fine
from p2p.pending import MOST_WINS, Pending
from p2p.records import Genesis, TensorSpec
from tests.vectors import small_genesis

sums = hnp.arrays(
    np.int64, 38, elements=st.integers(-(2**40), 2**40) | st.integers(-(2**18), 2**18) | st.integers(-300, 300)
)
swarms = st.builds(small_genesis, share=st.sampled_from(["both", "b", "alternate"]), norm_bound=st.integers(1, 250_000))
rounds = st.integers(1, 4)


def pending(*values: int, wins: int = 3) -> Pending:
    return Pending(np.array([*values, *[0] * (38 - len(values))], dtype=np.int64), wins)


@given(swarms, sums, rounds, st.integers(0, 1000))
def test_a_delta_and_what_stays_are_what_was_pending(
    genesis: Genesis, values: np.ndarray, round: int, wins: int
) -> None:
    before = Pending(values.copy(), wins)
    delta, taken, rest = before.take(genesis, round)
    carried = scatter(delta.astype(np.int64), genesis, genesis.travelling(round))
    assert (carried * FINE_STEPS + rest.values == values).all()
    assert taken + rest.wins == wins
    assert (before.values == values).all()


@given(swarms, sums, rounds)
def test_a_delta_is_one_that_others_accept(genesis: Genesis, values: np.ndarray, round: int) -> None:
    delta, _, _ = Pending(values, 1).take(genesis, round)
    assert delta.dtype == np.int16
    assert delta.shape == (sum(tensor.size for tensor in genesis.travelling(round)),)
    assert np.abs(delta.astype(np.int64)).max() <= 32767
    assert squared_norm(delta) <= genesis.norm_bound**2


@given(swarms, sums, rounds, st.integers(0, 1000))
def test_a_delta_that_is_given_back_was_never_taken(
    genesis: Genesis, values: np.ndarray, round: int, wins: int
) -> None:
    before = Pending(values, wins)
    delta, taken, rest = before.take(genesis, round)
    after = rest.give_back(genesis, round, delta, taken)
    assert (after.values == before.values).all()
    assert after.wins == before.wins


@given(st.lists(sums, min_size=1, max_size=5), rounds)
def test_nothing_is_lost_over_many_increments_and_deltas(increments: list[np.ndarray], first: int) -> None:
    genesis = small_genesis(share="alternate")
    left, sent = Pending.empty(genesis), np.zeros(38, dtype=np.int64)
    for number, increment in enumerate(increments):
        delta, _, left = left.plus(increment, 1).take(genesis, first + number)
        sent += scatter(delta.astype(np.int64), genesis, genesis.travelling(first + number)) * FINE_STEPS
    assert (sent + left.values == sum(increments)).all()


def test_whole_steps_go_and_remainders_stay() -> None:
    delta, wins, rest = pending(256, 127, 128, -128, -600, 0).take(small_genesis(), 1)
    assert delta[:6].tolist() == [1, 0, 1, -1, -2, 0]
    assert rest.values[:6].tolist() == [0, 127, -128, 128, -88, 0]
    assert (wins, rest.wins) == (3, 0)


def test_remainders_add_up_to_a_step() -> None:
    genesis = small_genesis()
    left, sent = Pending.empty(genesis), 0
    for _ in range(10):
        delta, _, left = left.plus(pending(100).values, 1).take(genesis, 1)
        sent += int(delta[0])
    assert sent == round(10 * 100 / 256)


def test_what_is_too_much_for_one_delta_goes_with_the_next() -> None:
    genesis = small_genesis()
    left, sent = pending(100_000 * 256, -40_000 * 256), []
    for _ in range(4):
        delta, _, left = left.take(genesis, 1)
        sent.append(delta[:2].tolist())
    assert sent == [[32767, -32767], [32767, -7233], [32767, 0], [1699, 0]]
    assert not left.values.any()


def test_what_is_above_the_norm_bound_stays() -> None:
    delta, _, rest = pending(300 * 256, 400 * 256).take(small_genesis(norm_bound=250), 1)
    assert delta[:2].tolist() == [150, 200]
    assert rest.values[:2].tolist() == [150 * 256, 200 * 256]


def test_tensors_that_do_not_travel_stay_whole() -> None:
    genesis, everything = small_genesis(share="alternate"), Pending(np.full(38, 512, dtype=np.int64), 1)
    delta, _, rest = everything.take(genesis, 1)
    assert delta.tolist() == [2] * 20
    assert rest.values.tolist() == [512] * 10 + [0] * 6 + [512] * 8 + [0] * 14


def test_wins_beyond_what_a_header_can_name_stay() -> None:
    _, wins, rest = pending(256, wins=MOST_WINS + 5).take(small_genesis(), 1)
    assert (wins, rest.wins) == (MOST_WINS, 5)


def test_increments_add_up() -> None:
    genesis = small_genesis()
    increment = np.full(38, 0.25, dtype=np.float32)
    both = Pending.empty(genesis).plus(to_fine(increment, genesis), 2).plus(to_fine(increment, genesis), 5)
    assert both.wins == 7
    assert both.values.tolist() == [2**27] * 38


def test_a_delta_of_another_round_is_not_given_back() -> None:
    genesis = small_genesis(share="b")
    with pytest.raises(ValueError, match="shape"):
        pending().give_back(genesis, 1, np.zeros(38, dtype=np.int16), 1)


@given(
    st.sampled_from([0, 2**7 - 1, 2**7, 2**15 - 1, 2**15, 2**31 - 1, 2**31, 2**61]),
    sums,
    st.integers(0, 2**40),
)
def test_it_is_kept_as_it_is_whatever_its_width(furthest: int, values: np.ndarray, wins: int) -> None:
    for edge in (furthest, -furthest):
        kept = Pending(np.append(np.clip(values[1:], -furthest, furthest), edge), wins)
        found = Pending.from_bytes(kept.to_bytes(), small_genesis())
        assert found.values.dtype == np.int64
        assert (found.values == kept.values).all()
        assert found.wins == wins


def test_remainders_are_kept_in_little_room() -> None:
    genesis = small_genesis(tensors=(TensorSpec("a.lora_A", 100, 1000),))
    left = Pending(np.random.default_rng(0).integers(-128, 129, genesis.parameters), 0)
    assert len(left.to_bytes()) < 1.3 * genesis.parameters


def test_any_damage_on_disk_is_noticed() -> None:
    raw = bytearray(pending(1, -2, 3).to_bytes())
    for place in range(len(raw)):
        raw[place] ^= 1
        with pytest.raises(LedgerError, match="damaged"):
            Pending.from_bytes(bytes(raw), small_genesis())
        raw[place] ^= 1
    for size in range(len(raw)):
        with pytest.raises(LedgerError, match="damaged"):
            Pending.from_bytes(bytes(raw[:size]), small_genesis())
    assert Pending.from_bytes(bytes(raw), small_genesis()).wins == 3


@pytest.mark.parametrize(
    "changes", [{"tensors": (TensorSpec("a.lora_A", 1, 37),)}, {"tensors": (TensorSpec("a.lora_A", 1, 39),)}]
)
def test_what_was_learned_for_other_shapes_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="does not fit the swarm 'vectors'"):
        Pending.from_bytes(pending(1).to_bytes(), small_genesis(**changes))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(raw: bytes) -> None:
    with pytest.raises(LedgerError):
        Pending.from_bytes(raw, small_genesis())
