"""Runs seeds of the simulator: ``python -m tests.simulator --seeds A:B [--nodes N] [--faults LIST] [--json]``.

Exits with 1 at the first violation, after printing the seed, the virtual time, what was violated, and what went before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from tests.simulation.plan import ALL, draw
from tests.simulation.world import Outcome, World


def run_seed(seed: int, *, nodes: int | None = None, faults: Sequence[str] | None = None) -> Outcome:
    """Runs one seed."""
    return World(draw(seed, nodes=nodes, faults=faults)).run()


def describe(outcome: Outcome) -> str:
    """A violation, for people."""
    lines = [f"seed {outcome.seed}, {outcome.time_s:.3f} s: {outcome.invariant}: {outcome.detail}", *outcome.trace]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parse(arguments)
    done: list[Outcome] = []
    for seed in options.seeds:
        outcome = run_seed(seed, nodes=options.nodes, faults=options.faults)
        done.append(outcome)
        if outcome.invariant:
            _print(options.json, {"ok": False, **_figures(done), **_violation(outcome)}, describe(outcome))
            return 1
    figures = _figures(done)
    text = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items())
    _print(options.json, {"ok": True, **figures}, f"no violation in {text}")
    return 0


def _figures(done: Sequence[Outcome]) -> dict[str, int]:
    return {
        "seeds": len(done),
        "events": sum(outcome.events for outcome in done),
        "virtual_seconds": round(sum(outcome.time_s for outcome in done)),
        "rounds": sum(outcome.rounds for outcome in done),
        "seals": sum(outcome.seals for outcome in done),
        "increments": sum(outcome.learned for outcome in done),
    }


def _violation(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "time_s": outcome.time_s,
        "invariant": outcome.invariant,
        "detail": outcome.detail,
        "trace": list(outcome.trace),
    }


def _print(as_json: bool, value: dict[str, object], text: str) -> None:
    sys.stdout.write((json.dumps(value) if as_json else text) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description="Runs seeds of the simulator.")
    parser.add_argument("--seeds", type=_range, required=True, metavar="A:B", help="from A to B - 1, or one seed")
    parser.add_argument("--nodes", type=int, metavar="N", help="devices; drawn by default")
    parser.add_argument(
        "--faults", type=_list, metavar="LIST", help=f"only these, and always; or `none`. All: {','.join(ALL)}"
    )
    parser.add_argument("--json", action="store_true", help="one object instead of text")
    return parser.parse_args(arguments)


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last) if last else int(first) + 1)


def _list(text: str) -> list[str]:
    found = [] if text == "none" else text.split(",")
    wrong = sorted(set(found) - set(ALL))
    if wrong:
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(wrong)}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
