"""What a round adds: exact, in any order of parts, within bounded memory, and equal to what floats give."""

from __future__ import annotations

import hashlib
import statistics
import weakref
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2p import fold
from p2p.errors import WireError
from p2p.fold import Part, add, alarming, fold_round, subtract
from p2p.grid import Coarse, from_fine, state_hash
from p2p.records import Genesis, TensorSpec
from tests.vectors import delta_values, part, parts, small_genesis

# Result vectors: seven members with these weights fold rounds 1 and 2 of ``tests.vectors.delta_values``.
WEIGHTS = (1, 5, 0, 32, 7, 2, 9)
FOLDED = (
    # rule, share, values 10 to 13 of the state, SHA-256 of the values alone (int32, little-endian), hash of the state
    (
        "fedavg",
        "both",
        (4541851, -56576, 737591, -3860837),
        "5e1942d3b2fa4d399178a3845ad6f56c0edef5d84dfa38810e6c4abe9a374cff",
        "097d48e6b35b7c8c28af056cbd2a1d3fee3ffaf65256ebd78d234f39c39ae2fa",
    ),
    (
        "fedavg",
        "b",
        (-3100229, -3504416, -8102843, 480626),
        "509ba3afef77d911d190bf5bc660f26e658b8d9d347e7037fad1cd4b5d85cfd4",
        "7c1ed04330f2e30bb432cfef5e71870c94ffc82949d7a2dcdfd03d9ed8c7d451",
    ),
    (
        "fedavg",
        "alternate",
        (-4320032, -2049243, -2474752, -503552),
        "aca3f6a32d1406535f97f0d41e829a2c166b49eec3d615598e7bd56b40d6fe72",
        "dfe450b28205052040d5a394179d9de85da05496799a4321a431669d9b555213",
    ),
    (
        "trimmed_mean",
        "both",
        (3336064, -955136, 1761408, -2617472),
        "c4d66a00551a939fe759cb80e691b1c79a7d328947e0b611c41601aac6853cdd",
        "501a21270676c151cd9410a64fa0c6d26d807f6a48d415d2ac2b9dd7edb7b225",
    ),
    (
        "trimmed_mean",
        "b",
        (-324096, 2532160, -2912384, 590400),
        "5e373f2216b4f5a64f0f5a29ec5f2974be57e62c049ecf4ec1d081d43852cb30",
        "91bd67b4f71488d7ddd45b3b597b9dcfb665651367dde8143d3792544566bfd7",
    ),
    (
        "trimmed_mean",
        "alternate",
        (-1307904, 704384, -1250176, 1129216),
        "6f5232aa86a0ac6eea1e7b19f7fd25d89b1f161fb81af9382781cba44ca5f0f3",
        "3a29bfa0a9359062aa977f88c06c5a51ab22a892b690dae9e4ebf2020ba13e0f",
    ),
    (
        "median",
        "both",
        (3336064, -1585280, 1777792, -2617472),
        "25ca956938cf66f1547e8097f85075b1fff6c075f0ea78b5033365f9d02fc19f",
        "a44a695644f4a836dcec10c9574804d3e68a697b643c21fdb4681d05d30a9e50",
    ),
    (
        "median",
        "b",
        (-970624, 2671872, -3646592, 730112),
        "6c51e46c64cbae4128198945b8f681ff7169557c8c587da46b08349df97400da",
        "24639c65e30bd969779958ff91a1831d0ac66270f10373d295d5b6bea63abdfd",
    ),
    (
        "median",
        "alternate",
        (-1954432, 704384, -1250176, 1129216),
        "3df01b3065a29808cbd400d97dc330a8d9811f86cfb92e44374919e9b89c652e",
        "bc7c432b9f251f04422ed357d1a68170ba7ddbb3656fb77da1df4f93692f704a",
    ),
)

RULES = ("fedavg", "trimmed_mean", "median")
one_tensor = (TensorSpec("a.lora_A", 1, 6),)
six_values = hnp.arrays(np.int16, 6, elements=st.integers(-32767, 32767))
members = st.lists(st.tuples(st.integers(0, 2**16), six_values), max_size=9)


def folded(genesis: Genesis, rows: list[tuple[int, np.ndarray]]) -> list[int]:
    made = [part(genesis, 1, member, weight, values) for member, (weight, values) in enumerate(rows, 1)]
    return [int(value) for value in fold_round(genesis, 1, made)]


def nearest(exact: Fraction) -> int:
    """Halves away from zero."""
    whole = int(abs(exact) + Fraction(1, 2))
    return whole if exact >= 0 else -whole


@pytest.mark.parametrize(
    ("rule", "share", "some", "values", "named"), FOLDED, ids=[f"{row[0]}-{row[1]}" for row in FOLDED]
)
def test_results_as_pinned(rule: str, share: str, some: tuple[int, ...], values: str, named: str) -> None:
    genesis = small_genesis(rule=rule, share=share)
    state = np.zeros(genesis.parameters, dtype=np.int32)
    for round in (1, 2):
        state = add(state, fold_round(genesis, round, parts(genesis, round, WEIGHTS)))
    assert tuple(state[10:14].tolist()) == some
    assert hashlib.sha256(state.astype("<i4").tobytes()).hexdigest() == values
    assert state_hash(state, genesis).hex() == named


@given(members)
def test_fedavg_is_the_exact_weighted_mean_to_the_nearest_step(rows: list[tuple[int, np.ndarray]]) -> None:
    found = folded(small_genesis(tensors=one_tensor), rows)
    total = sum(weight for weight, _ in rows)
    for place in range(6):
        weighed = sum(weight * int(values[place]) for weight, values in rows)
        assert found[place] == (nearest(Fraction(weighed * 256, total)) if total else 0)


@given(members)
def test_the_trimmed_mean_is_the_exact_mean_of_what_is_left(rows: list[tuple[int, np.ndarray]]) -> None:
    found = folded(small_genesis(tensors=one_tensor, rule="trimmed_mean"), rows)
    counted = [values for weight, values in rows if weight]
    cut = max(1, len(counted) // 5)
    for place in range(6):
        kept = sorted(int(values[place]) for values in counted)[cut : len(counted) - cut]
        assert found[place] == (nearest(Fraction(sum(kept) * 256, len(kept))) if len(counted) >= 3 else 0)


@given(members)
def test_the_median_is_the_exact_median(rows: list[tuple[int, np.ndarray]]) -> None:
    found = folded(small_genesis(tensors=one_tensor, rule="median"), rows)
    counted = [values for weight, values in rows if weight]
    for place in range(6):
        exact = (
            statistics.median(Fraction(int(values[place])) for values in counted) if len(counted) >= 3 else Fraction()
        )
        assert found[place] == nearest(exact * 256)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32))
def test_fedavg_equals_that_of_floats_to_a_step_a_round(count: int, rounds: int, seed: int) -> None:
    """McMahan et al. 2017 in float64: the mean of the members' values, weighted by their wins."""
    genesis, rng = small_genesis(), np.random.default_rng(seed)
    state, floats = np.zeros(38, dtype=np.int32), np.zeros(38)
    for round in range(1, rounds + 1):
        wins = rng.integers(1, genesis.weight_cap + 1, count)
        payloads = rng.integers(-32767, 32768, (count, 38)).astype(np.int16)
        made = [part(genesis, round, m + 1, int(wins[m]), payloads[m]) for m in range(count)]
        state = add(state, fold_round(genesis, round, made))
        floats += (wins[:, None] * (payloads / 2**20)).sum(0) / wins.sum()
    assert np.abs(state / 2**28 - floats).max() <= rounds / 2**28
    assert from_fine(state, genesis) == pytest.approx(floats, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
@given(order=st.permutations(range(7)))
def test_the_order_of_parts_does_not_matter(rule: str, order: list[int]) -> None:
    genesis = small_genesis(rule=rule)
    made = parts(genesis, 1, WEIGHTS)
    assert (fold_round(genesis, 1, [made[place] for place in order]) == fold_round(genesis, 1, made)).all()


@pytest.mark.parametrize("rule", RULES)
def test_what_weighs_nothing_is_not_even_loaded(rule: str) -> None:
    genesis = small_genesis(rule=rule)

    def load() -> Coarse:
        raise AssertionError("loaded")

    silent = Part(id=bytes(32), author=bytes(32), weight=0, load=load)
    counted = parts(genesis, 1, (3, 4, 5))
    assert (fold_round(genesis, 1, [silent, *counted]) == fold_round(genesis, 1, counted)).all()
    assert not fold_round(genesis, 1, [silent]).any()


@pytest.mark.parametrize("rule", RULES)
def test_a_round_without_deltas_adds_nothing(rule: str) -> None:
    found = fold_round(small_genesis(rule=rule), 1, [])
    assert found.dtype == np.int32
    assert found.tolist() == [0] * 38


def test_a_rule_that_cuts_needs_three_members_that_say_something() -> None:
    for rule, least in (("fedavg", 1), ("trimmed_mean", 3), ("median", 3)):
        genesis = small_genesis(rule=rule)
        for count in range(1, 5):
            made = parts(genesis, 1, [1] * count + [0, 0, 0])
            assert fold_round(genesis, 1, made).any() == (count >= least)


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
def test_a_rule_that_cuts_counts_every_author_once(rule: str) -> None:
    genesis = small_genesis(rule=rule)
    alike, loud = (fold_round(genesis, 1, parts(genesis, 1, w)) for w in ([1, 1, 1, 1], [1, 65536, 2, 1]))
    assert (alike == loud).all()


@pytest.mark.parametrize(("rule", "holds"), [("fedavg", False), ("trimmed_mean", True), ("median", True)])
def test_one_liar_does_not_move_a_rule_that_cuts_beyond_the_honest(rule: str, holds: bool) -> None:
    genesis = small_genesis(rule=rule)
    honest = [part(genesis, 1, m, 1, np.full(38, m, dtype=np.int16)) for m in range(1, 5)]
    found = fold_round(genesis, 1, [*honest, part(genesis, 1, 5, 32, np.full(38, 32767, dtype=np.int16))])
    assert bool((found <= 4 << 8).all()) == holds


def test_two_deltas_of_one_author_are_refused() -> None:
    genesis = small_genesis()
    first, second = parts(genesis, 7, (1, 1))
    twin = Part(id=second.id, author=first.author, weight=1, load=second.load)
    with pytest.raises(WireError, match="one author count in round 7"):
        fold_round(genesis, 7, [first, twin])
    silent = Part(id=twin.id, author=twin.author, weight=0, load=twin.load)
    assert (fold_round(genesis, 7, [first, silent]) == fold_round(genesis, 7, [first])).all()


def test_the_largest_values_and_weights_do_not_wrap() -> None:
    genesis = small_genesis()
    top = np.full(38, 32767, dtype=np.int16)
    made = [part(genesis, 1, member, 2**16, top) for member in range(1, 101)]
    assert fold_round(genesis, 1, made).tolist() == [32767 << 8] * 38


def test_only_the_tensors_of_the_round_change() -> None:
    genesis = small_genesis(share="alternate")
    odd, even = (fold_round(genesis, round, parts(genesis, round, (1, 2))) for round in (1, 2))
    assert not odd[0:10].any()
    assert odd[10:16].all()
    assert not odd[16:24].any()
    assert even[0:10].all()
    assert not even[24:38].any()


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@pytest.mark.parametrize("table_bytes", [1, 100, 14 * 20])
def test_a_round_larger_than_the_table_is_folded_in_pieces(
    rule: str, table_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    genesis = small_genesis(rule=rule)
    whole = fold_round(genesis, 1, parts(genesis, 1, [1] * 7))
    monkeypatch.setattr(fold, "_TABLE_BYTES", table_bytes)
    assert (fold_round(genesis, 1, parts(genesis, 1, [1] * 7)) == whole).all()


@pytest.mark.parametrize("rule", RULES)
def test_only_one_payload_is_held_at_a_time(rule: str) -> None:
    genesis = small_genesis(rule=rule)
    alive: set[int] = set()
    most = 0

    def made(member: int) -> Part:
        def load() -> Coarse:
            nonlocal most
            values = delta_values(genesis, 1, member)
            alive.add(member)
            weakref.finalize(values, alive.discard, member)
            most = max(most, len(alive))
            return values

        return Part(id=bytes([member] * 32), author=bytes([member] * 32), weight=1, load=load)

    assert fold_round(genesis, 1, [made(member) for member in range(1, 9)]).any()
    assert most == 1


@given(hnp.arrays(np.int32, 6), hnp.arrays(np.int32, 6))
def test_states_add_modulo_two_to_the_32(state: np.ndarray, other: np.ndarray) -> None:
    found = add(state, other)
    assert found.dtype == np.int32
    assert [(a + b - c) % 2**32 for a, b, c in zip(state.tolist(), other.tolist(), found.tolist(), strict=True)] == [
        0
    ] * 6
    assert (subtract(found, other) == state).all()


@pytest.mark.parametrize(("bits", "furthest"), [(8, 7 << 16), (20, 7 << 28), (22, 7 << 28)])
def test_values_that_go_too_far_are_counted(bits: int, furthest: int) -> None:
    genesis = small_genesis(grid_bits=bits)
    state = np.zeros(38, dtype=np.int32)
    state[:2] = furthest, -furthest
    assert alarming(state, genesis) == 0
    state[:3] = furthest + 1, -furthest - 1, -(2**31)
    assert alarming(state, genesis) == 3
