"""`spearctl doctor`: looks at everything that can be wrong, and says what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from spearctl import checkup, checkup_swarm
from spearctl.checkup import Check
from spearctl.command import command, group
from spearctl.errors import CONFIG, FEEDBACK, HOME, IDENTITY, NETWORK, TRAINING
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import count, printable

commands = group()

LOOKS = (
    ("libraries", checkup.libraries),
    ("home", checkup.home),
    ("permissions", checkup.permissions),
    ("profile", checkup.profile),
    ("model", checkup.model),
    ("feedback", checkup.feedback),
    ("history", checkup.history),
    ("training", checkup.trainer),
    ("disk", checkup.disk),
    ("clock", checkup.clock),
    ("keys", checkup_swarm.keys),
    ("swarm", checkup_swarm.moves),
    ("ledger", checkup_swarm.ledger),
    ("node", checkup_swarm.node),
)
WORST = (HOME, CONFIG, IDENTITY, TRAINING, NETWORK, FEEDBACK)
"""Exit codes, worst first: with a damaged home nothing works, with a busy port everything but being dialled. A bug, 1,
and every other code come before these."""

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class DoctorResult(Result):
    """All lines."""

    checks: tuple[Check, ...]

    @property
    def error(self) -> Exception | None:
        """The worst failure."""
        failures = [check for check in self.checks if check.state == "fail"]
        if not failures:
            return None
        worst = min(failures, key=lambda check: WORST.index(check.code) if check.code in WORST else -1)
        assert isinstance(worst.error, Exception)
        return worst.error

    def data(self) -> Mapping[str, Any]:
        names = ("name", "state", "message", "mend")
        return {
            "checks": [
                {**{name: getattr(check, name) for name in names}, "code": check.code or None} for check in self.checks
            ]
        }

    def render(self, console: Page) -> None:
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            line = Text.assemble(
                "  ", (f"{check.state:<4}", STYLES[check.state]), f"  {check.name:<{width}}  ", printable(check.message)
            )
            console.print(line)
            if check.mend:
                console.print(Text(f"{'':<{width + 10}}{printable(check.mend)}"), style="cyan", soft_wrap=True)
        states = [check.state for check in self.checks]
        if set(states) == {"ok"}:
            console.print("nothing needs a hand")
        else:
            warned = count(states.count("warn"), "warning")
            console.print(f"{count(states.count('fail'), 'failure')}, {warned}; below each, what mends it")


@command(commands, "doctor")
def doctor(run: Run) -> DoctorResult:
    """Checks this device: home, keys, model, ledger, node and what they need; says what mends what is wrong.

    Changes nothing, and works beside a running node, on a damaged home and on none.
    """
    return DoctorResult(checkup.checkup(run, LOOKS))
