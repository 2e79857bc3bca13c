"""A memory budget over several fits: what was halved stays so."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

import profiles
from spearctl.budget import Watch
from training import memory


class Gauge:
    """Measures what a test says."""

    def __init__(self) -> None:
        self.taken = 100

    def used(self) -> int:
        return self.taken

    def peak(self) -> int:
        return self.taken

    def restart(self) -> None:
        self.taken = 100


def test_batches_that_were_halved_stay_so_at_the_next_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge, lm = Gauge(), cast("Any", None)
    demand = memory.Demand(fixed=1, optimised=0, trained=0, between=0, in_a_layer=0, cached=0, read=0, scores=0)
    for name, found in (("gauge", gauge), ("settle", 100), ("demand", demand), ("longest", memory.Lengths(1, 1))):
        monkeypatch.setattr(memory, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(memory, "recompute", lambda *_: None)

    class Run:
        def say(self, text: str) -> None:
            assert text

    watch = Watch(cast("Any", Run()), None)
    watch.budget = 1000  # without telling the allocator of this process
    profile = dataclasses.replace(profiles.load("cpu"), micro_batch=4, rollout_batch=8)
    assert watch.fit(lm, profile, []).micro_batch == 4
    gauge.taken = 2000
    assert watch.look(lm, profile).micro_batch == 2
    again = watch.fit(lm, profile, [])
    assert (again.micro_batch, again.rollout_batch) == (2, 4)
