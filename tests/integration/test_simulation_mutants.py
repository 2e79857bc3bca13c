"""The simulator finds what it is there to find: each mutant breaks the logic in one place, and is reported for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from p2p import fold
from p2p.actions import Action
from p2p.grid import rounddiv, scatter, values_in
from p2p.outbox import Outbox
from p2p.records import Genesis, Header
from p2p.replica import Replica
from tests.simulation.device import Device
from tests.simulation.disk import PowerCutError
from tests.simulator import describe, run_seed

MOST_SEEDS = 100

Mutation = Callable[[pytest.MonkeyPatch], None]


def void_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cites an equivocator falls with it."""
    fits = Replica._fits

    def strict(self: Replica, header: Header, parents: Sequence[bytes]) -> bool:
        cited = {self.header(parent).author for parent in parents}
        return fits(self, header, parents) and not cited & self.roster.equivocators

    monkeypatch.setattr(Replica, "_fits", strict)


def self_citation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An author's own delta counts for its quorum."""

    def any_author(self: Replica, header: Header, parents: Sequence[bytes]) -> bool:
        return all(self.header(parent).round == header.round - 1 for parent in parents)

    monkeypatch.setattr(Replica, "_fits", any_author)


def send_before_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step says what it has to say although the power goes before that is durable."""
    step = Device._step

    def step_that_sends_first(self: Device, act: Callable[[], list[Action]]) -> bool:
        def hasty() -> list[Action]:
            try:
                return act()
            except PowerCutError:
                if self.member is not None:
                    self._carry_out(self.member.context.actions)
                raise

        return step(self, hasty)

    monkeypatch.setattr(Device, "_step", step_that_sends_first)


def double_re_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that starts again forgets what it signed last."""
    opened = Outbox.opened

    def forgetful(self: Outbox, *, is_suspect: bool) -> None:
        opened(self, is_suspect=is_suspect)
        self._storage.delete("own/last")

    monkeypatch.setattr(Outbox, "opened", forgetful)


def arrival_order_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is averaged as its deltas come, rounding each time."""
    composition = Replica.composition

    def as_they_came(self: Replica, round: int) -> tuple[tuple[bytes, int], ...]:
        weights = dict(composition(self, round))
        return tuple((id, weights[id]) for id in self._headers if id in weights)

    def running_mean(genesis: Genesis, round: int, parts: Sequence[fold.Part]) -> object:
        tensors = genesis.travelling(round)
        mean, weight = np.zeros(values_in(tensors), dtype=np.int64), 0
        for part in parts:
            weight += part.weight
            mean += rounddiv((part.load().astype(np.int64) * 256 - mean) * part.weight, weight)
        return scatter(mean.astype(np.int32), genesis, tensors)

    monkeypatch.setattr(Replica, "composition", as_they_came)
    monkeypatch.setattr(fold, "fold_round", running_mean)


def unwidened_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a round are kept in 32 bits, as numpy does it silently."""

    def narrow(parts: Sequence[fold.Part], size: int) -> object:
        total = np.zeros(size, dtype=np.int32)
        for part in parts:
            total += part.load() * np.int32(part.weight)
        return rounddiv((total << 8).astype(np.int64), max(1, sum(part.weight for part in parts))).astype(np.int32)

    monkeypatch.setattr(fold, "_weighted_mean", narrow)


def int16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta is weighted in the 16 bits that it came in."""

    def narrow(total: np.ndarray[tuple[int], np.dtype[np.int64]], values: object, weight: int) -> None:
        total += values * np.array(weight).astype(np.int16)  # type: ignore[operator]  # an array

    monkeypatch.setattr(fold, "_add_weighted", narrow)


@pytest.mark.parametrize(
    ("mutate", "faults", "invariants"),
    [
        (void_cascade, ["equivocator", "late-equivocator"], {"purity", "bounds", "convergence", "seal agreement"}),
        (self_citation, ["minter"], {"clock"}),
        (send_before_fsync, ["crash", "power-cut"], {"durability", "conservation", "equivocation"}),
        (double_re_sign, ["crash"], {"equivocation"}),
        (arrival_order_fold, [], {"purity"}),
        (unwidened_integers, [], {"purity"}),
        (int16_products, [], {"purity"}),
    ],
)
def test_simulator_finds_a_mutant(
    mutate: Mutation, faults: list[str], invariants: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    found = next((outcome for seed in range(MOST_SEEDS) if (outcome := run_seed(seed, faults=faults)).invariant), None)
    assert found is not None, f"no violation in {MOST_SEEDS} seeds"
    assert found.invariant in invariants, describe(found)
    assert found.trace
