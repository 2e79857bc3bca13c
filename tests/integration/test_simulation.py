"""The swarm's logic under the seeded simulator: hundreds of swarms, all faults mixed, invariants after every event."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.replica import Replica
from tests.simulation.dissemination import spread
from tests.simulation.plan import ALL, draw
from tests.simulator import describe, main, run_seed

SEEDS = 300
SOAK_SEEDS = 10_000
PART = 50
ROOT = Path(__file__).parents[2]


def seeds_of(count: int) -> list[range]:
    """All seeds up to a count, in parts that run side by side."""
    return [range(first, first + PART) for first in range(0, count, PART)]


def assert_nothing_violated(seeds: range) -> None:
    for seed in seeds:
        outcome = run_seed(seed)
        assert not outcome.invariant, describe(outcome)


@pytest.mark.parametrize("seeds", seeds_of(SEEDS), ids=str)
def test_nothing_is_violated_in_hundreds_of_swarms(seeds: range) -> None:
    assert_nothing_violated(seeds)


@pytest.mark.soak
@pytest.mark.parametrize("seeds", seeds_of(SOAK_SEEDS), ids=str)
def test_nothing_is_violated_in_ten_thousand_swarms(seeds: range) -> None:
    assert_nothing_violated(seeds)


def test_a_delta_reaches_five_hundred_nodes_in_a_few_hops_without_flooding_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = spread(500, seed=0)
    with capsys.disabled():
        print(f"[{found}]", end=" ")  # noqa: T201  # the figures
    assert found.reached == 500
    assert found.hops <= 8
    assert found.most_copies <= 12


def test_seeds_draw_every_fault_and_every_kind_of_swarm() -> None:
    plans = [draw(seed) for seed in range(SEEDS)]
    assert {kind for plan in plans for kind in (*plan.faults, *plan.hostile)} == set(ALL)
    assert {plan.genesis.rule for plan in plans} == {"fedavg", "trimmed_mean", "median"}
    assert {plan.genesis.share for plan in plans} == {"both", "b", "alternate"}
    assert {plan.genesis.quorum for plan in plans} == {1, 2, 3}
    sizes = {plan.first + plan.joining + len(plan.hostile) for plan in plans}
    assert min(sizes) == 3
    assert max(sizes) == 12


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Whatever order Python's sets have: else a seed could not be looked into."""
    runs = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulator", "--seeds", "28:30", "--json"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for number in (1, 2)
    }
    assert len(runs) == 1
    assert json.loads(runs.pop())["events"] > 0


def test_command_reports_a_range_without_violation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5:7", "--nodes", "4", "--faults", "none"]) == 0
    assert capsys.readouterr().out.startswith("no violation in 2 seeds, ")


def test_command_reports_a_violation_with_what_went_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Replica, "_fits", lambda self, header, parents: True)
    assert main(["--seeds", "0:40", "--faults", "minter", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["invariant"] == "clock"
    assert report["time_s"] > 0
    assert 0 < len(report["trace"]) <= 40
    again = ["--seeds", str(report["seed"]), "--faults", "minter"]
    assert main(again) == 1
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line.startswith(f"seed {report['seed']}, {report['time_s']:.3f} s: clock: ")


@pytest.mark.parametrize("wrong", [["--seeds", "x"], ["--seeds", "1:2", "--faults", "gremlins"], []])
def test_command_refuses_what_it_does_not_know(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
