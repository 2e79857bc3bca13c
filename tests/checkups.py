"""What `spearctl doctor` finds on a device, and its lines done as somebody would who copies them."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from tests.swarms import Device

Line = dict[str, Any]


def examined(device: Device, code: int = 0, **environ: str) -> list[Line]:
    outcome = device("doctor", "--json", **environ)
    assert outcome.code == code, outcome.out
    assert outcome.envelope["ok"] == (code == 0)
    return list(outcome.envelope["data"]["checks"])


def line(checks: list[Line], name: str) -> Line:
    (found,) = (check for check in checks if check["name"] == name)
    return found


def states(checks: list[Line]) -> dict[str, str]:
    """How things are that are not ok."""
    return {check["name"]: check["state"] for check in checks if check["state"] != "ok"}


def mend(device: Device, check: Line, **environ: str) -> None:
    """Runs the command of a line, as somebody would who copies it."""
    command = check["mend"].rpartition(": ")[2]
    if command.startswith("spearctl "):
        words = shlex.split(command)[1:]
        assert device(*words, *(["--yes"] if "leave" in words else []), **environ).code == 0, command
    else:
        subprocess.run(["sh", "-c", command], check=True)
