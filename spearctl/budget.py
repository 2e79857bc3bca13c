"""The memory that a run may take: read from the command line, kept by the size of batches, and looked at afterwards.

A budget is first kept by choosing batches that should fit (see `training.memory`). What the process took at most is
then read from the system after every round; if that was more, the batches halve and the run says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import allocator
from spearctl.errors import UsageError
from spearctl.run import Run
from spearctl.text import count

if TYPE_CHECKING:
    from profiles import Profile
    from training.feedback import Entry
    from training.memory import Demand, Gauge, Lengths
    from training.models import LanguageModel

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]+)\s*", re.IGNORECASE)

BudgetOption = Annotated[
    str | None, typer.Option("--memory-budget", metavar="SIZE", help="Most memory to take, such as 1.5GB or 900MiB.")
]


def parse(text: str | None) -> int | None:
    """Reads a size in bytes.

    Args:
        text: A number and a unit, such as "1.5GB", "900 mb" or "1GiB".

    Raises:
        UsageError: It is none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    factor = UNITS.get(found[2].upper()) if found else None
    n_bytes = math.floor(float(found[1]) * factor) if found and factor else 0
    if not 0 < n_bytes < 2**60:
        raise UsageError(
            f"--memory-budget {text!r} is no size", "give a number with MB, GB, MiB or GiB: --memory-budget 1.5GB"
        )
    return n_bytes


def megabytes(n_bytes: int) -> str:
    """Says a size as finely as budgets are given: "1,150 MB"; what is less than one, in smaller units."""
    if n_bytes < 10**6:
        return f"{n_bytes / 1e3:,.0f} KB" if n_bytes >= 10**3 else count(n_bytes, "byte")
    return f"{n_bytes / 1e6:,.0f} MB"


@dataclass(frozen=True, slots=True)
class Peak:
    """What one round took.

    Attributes:
        peak_bytes: The most memory that the process had taken when the round ended.
        micro_batch: The round's.
        rollout_batch: The round's.
        checkpointing: Whether the round computed activations again.
        is_over: Whether that was more than the budget.
    """

    peak_bytes: int
    micro_batch: int
    rollout_batch: int
    checkpointing: bool
    is_over: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run took.

    Attributes:
        peak_bytes: The most memory that the process has taken, loading the model included; 0 if nothing was loaded.
        budget_bytes: What it was allowed.
        rounds: Of its rounds.
    """

    peak_bytes: int = 0
    budget_bytes: int | None = None
    rounds: tuple[Peak, ...] = ()

    def line(self) -> str:
        """The figure, for a person."""
        of = f", of a budget of {megabytes(self.budget_bytes)}" if self.budget_bytes is not None else ""
        return f"{megabytes(self.peak_bytes)} at most{of}"

    def data(self) -> Mapping[str, Any]:
        """The same for scripts."""
        return {"peak_bytes": self.peak_bytes, "memory_budget_bytes": self.budget_bytes}

    def health(self) -> list[str]:
        """What somebody should know of the budget."""
        if self.budget_bytes is None or self.peak_bytes <= self.budget_bytes:
            return []
        over = sum(peak.is_over for peak in self.rounds)
        halved = f" in {over} of {count(len(self.rounds), 'round')}; batches were halved after each" if over else ""
        return [f"{_over(self.peak_bytes, self.budget_bytes)}{halved}"]


class Watch:
    """Keeps a run within its budget, and knows what it took.

    With a budget that the profile's batches would not keep, the allocator keeps less in reserve from then on, for as
    long as the process lives. The peak is the system's own figure for the process, loading the model included. It is
    measured anew only after a round that was over the budget, so that the next one can be judged.

    Args:
        run: Is told what is chosen.
        budget: In bytes; None measures only.
    """

    def __init__(self, run: Run, budget: int | None) -> None:
        self._run = run
        self._gauge: Gauge | None = None
        self._most = 0
        self._halved: Profile | None = None
        self.budget = budget
        if budget is not None:
            allocator.keep_few_kernels()
        self.rounds: list[Peak] = []

    def fit(self, lm: LanguageModel, profile: Profile, entries: Sequence[Entry], *, learns: bool = True) -> Profile:
        """Returns the profile with batches that should fit, and starts to watch.

        Args:
            lm: The loaded model.
            profile: Its batches are the most that is taken.
            entries: What there is to work on.
            learns: Whether anything is trained.

        Raises:
            ProfileError: Nothing would fit; says what would do.
        """
        from training import memory

        self._gauge = memory.gauge(profile.device)
        if self.budget is None:
            return profile
        profile = self._halved or profile  # what was too much once is not tried again
        lengths = memory.longest(lm, profile, entries)
        demand = self.demand(lm, profile, lengths, learns=learns)
        fitted = memory.fit(profile, demand, lengths, self.budget, loaded=self._gauge.peak(), learns=learns)
        memory.recompute(lm, fitted.checkpointing)
        expected = demand.of(fitted, lengths, learns=learns)
        self._run.say(
            f"memory budget {megabytes(self.budget)}: {_batches(fitted)}, for which {megabytes(expected)} should do"
        )
        return fitted

    def demand(self, lm: LanguageModel, profile: Profile, lengths: Lengths, *, learns: bool = True) -> Demand:
        """What the model takes; less, and a third more time, where the profile's batches would not keep the budget."""
        from training import memory

        self._gauge = self._gauge or memory.gauge(profile.device)
        used = memory.settle(lm, self._gauge)
        found = memory.demand(lm, used)
        if self.budget is None or found.of(profile, lengths, learns=learns) <= self.budget:
            return found
        allocator.return_large_blocks()
        return memory.demand(lm, used, frugal=True)

    def note(self, gauge: Gauge, peak_bytes: int) -> None:
        """Takes over what somebody else measured, and may have begun to measure anew."""
        self._gauge = gauge
        self._most = max(self._most, peak_bytes)

    def look(self, lm: LanguageModel, profile: Profile) -> Profile:
        """Reads what a round with a profile took, and returns the profile for the next one."""
        from training import memory

        assert self._gauge is not None, "fit comes first"
        peak = self._gauge.peak()
        over = self.budget is not None and peak > self.budget
        self._most = max(self._most, peak)
        self.rounds.append(Peak(peak, profile.micro_batch, profile.rollout_batch, profile.checkpointing, over))
        if not over:
            return profile
        self._halved = smaller = memory.halved(profile)
        self._gauge.restart()
        memory.recompute(lm, smaller.checkpointing)
        self._run.say(f"{_over(peak, self.budget)}; from here on {_batches(smaller)}")
        return smaller

    def taken(self) -> Taken:
        """What was taken until now."""
        peak = max(self._most, self._gauge.peak()) if self._gauge is not None else 0
        return Taken(peak, self.budget, tuple(self.rounds))


def _over(peak_bytes: int, budget_bytes: int | None) -> str:
    return f"{megabytes(peak_bytes)} of memory taken, more than the budget of {megabytes(budget_bytes or 0)}"


def _batches(profile: Profile) -> str:
    again = ", checkpointing" if profile.checkpointing else ""
    return f"micro_batch {profile.micro_batch}, rollout_batch {profile.rollout_batch}{again}"
