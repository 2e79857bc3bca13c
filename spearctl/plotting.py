"""The history of a device as a picture: losses, wins, and accuracy where it was measured."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spearctl.errors import UsageError
from spearctl.extras import require

if TYPE_CHECKING:
    from training.history import RoundRecord

KINDS = (".png", ".svg", ".pdf")
WIDTH_INCHES, PANEL_INCHES = 8.0, 2.4
DPI = 150
FEWEST_ROUNDS = 6
"""There is room for so many even where there are fewer, so that bars stay bars."""
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
"""That people who see few colours tell apart (Okabe and Ito)."""


def check_target(path: Path, *, force: bool) -> None:
    """Refuses a file that no plot can be written to.

    Raises:
        UsageError: Its name has another ending, it is there already, or its folder is not.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{path}: a plot is a file of {', '.join(KINDS)}", "name it so: --plot history.png")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a new file: --plot history.png")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", "name a new file, or overwrite it: --force")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", "make it first, or choose another one")
    require("matplotlib", "plot", "--plot")


def write_plot(path: Path, title: str, rounds: Sequence[RoundRecord], accuracies: Sequence[float | None]) -> None:
    """Draws rounds, and replaces the file whole.

    Args:
        path: See `check_target`.
        title: Above it.
        rounds: Oldest first.
        accuracies: Of the adapter that each round made, on the same questions; None where it was not measured.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OSError: It cannot be written there.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of the fonts that it has looked at
    figure = require("matplotlib.figure", "plot", "--plot").Figure
    is_measured = any(value is not None for value in accuracies)
    panels = 3 if is_measured else 2
    made = figure(figsize=(WIDTH_INCHES, PANEL_INCHES * panels + 0.6), layout="constrained")
    made.suptitle(title, parse_math=False, fontsize=11)
    axes = made.subplots(panels, sharex=True)
    numbers = [record.number for record in rounds]
    _losses(axes[0], numbers, rounds)
    _wins(axes[1], numbers, rounds)
    if is_measured:
        _accuracy(axes[2], numbers, accuracies)
    _finish(axes, numbers)
    _save(made, path)


def _losses(axis: Any, numbers: list[int], rounds: Sequence[RoundRecord]) -> None:
    for name, label, colour in (("loss_win", "of wins", BLUE), ("loss_lose", "of losses", ORANGE)):
        values = [record.report.get(name) for record in rounds]
        if any(value is not None for value in values):
            shown = [float("nan") if value is None else value for value in values]
            axis.plot(numbers, shown, label=label, color=colour, marker=".", linewidth=1.5)
    axis.set_ylabel("loss")
    _legend(axis)


def _wins(axis: Any, numbers: list[int], rounds: Sequence[RoundRecord]) -> None:
    wins = [record.report.get("wins", 0) for record in rounds]
    losses = [record.report.get("losses", 0) for record in rounds]
    axis.bar(numbers, wins, label="wins", color=GREEN, width=0.8)
    axis.bar(numbers, losses, bottom=wins, label="losses", color=ORANGE, width=0.8)
    axis.set_ylabel("traces")
    _legend(axis)


def _accuracy(axis: Any, numbers: list[int], accuracies: Sequence[float | None]) -> None:
    known = [(number, value) for number, value in zip(numbers, accuracies, strict=True) if value is not None]
    axis.plot([number for number, _ in known], [value for _, value in known], color=BLUE, marker="o", linewidth=1.5)
    axis.set_ylabel("accuracy")
    axis.set_ylim(-0.03, 1.03)


def _finish(axes: Any, numbers: list[int]) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("round")
    axes[-1].set_xlim(numbers[0] - 0.6, max(numbers[-1], numbers[0] + FEWEST_ROUNDS - 1) + 0.6)
    ticks = require("matplotlib.ticker", "plot", "--plot").MaxNLocator
    axes[-1].xaxis.set_major_locator(ticks(integer=True, min_n_ticks=1))


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def _save(made: Any, path: Path) -> None:
    kind = path.suffix.lower()
    handle, scratch = tempfile.mkstemp(dir=path.absolute().parent, prefix=".plot.", suffix=kind)
    try:
        with open(handle, "wb") as file:
            made.savefig(file, format=kind[1:], dpi=DPI)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
