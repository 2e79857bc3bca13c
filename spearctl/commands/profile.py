"""`spearctl profile`: the hardware profiles, and the one that suits this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl.command import command, group
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import binary_size

if TYPE_CHECKING:
    from profiles import Choice, Hardware, Profile

commands = group("profile", "Shows hardware profiles and the one that suits this machine.")

MEANINGS = {
    "device": "where the model runs",
    "dtype": "precision of the model's weights",
    "quantization": "how the model's weights are packed",
    "micro_batch": "traces in one forward and backward pass",
    "rollout_batch": "sequences decoded at once",
    "rollouts": "prompts played a round",
    "steps": "optimiser steps a round",
    "batch": "wins, and at most as many losses, a step",
    "max_sequence": "tokens of prompt and completion together",
    "new_tokens": "tokens of an answer at most",
    "threads": "CPU threads; 0 for all that may be used",
    "checkpointing": "compute activations again to save memory",
}


@dataclass(frozen=True, slots=True)
class ProfileList(Result):
    """The shipped profiles, and which one this home uses."""

    profiles: tuple[Profile, ...]
    used: str | None

    def data(self) -> Mapping[str, Any]:
        return {"used": self.used, "profiles": self.profiles}

    def render(self, console: Page) -> None:
        rows = [["*" if one.name == self.used else "", one.name, one.device, one.summary] for one in self.profiles]
        console.rows(["", "NAME", "DEVICE", "FOR"], rows)
        if self.used is not None and self.used not in {one.name for one in self.profiles}:
            console.print()
            console.print(f"This home uses a profile of your own: {self.used}")


@dataclass(frozen=True, slots=True)
class ProfileShow(Result):
    """One profile, as its file says it."""

    profile: Profile

    def data(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self.profile)

    def render(self, console: Page) -> None:
        console.title(self.profile.name)
        console.print(f"  {self.profile.summary}")
        console.print()
        values = dataclasses.asdict(self.profile)
        console.rows(
            ["FIELD", "VALUE", ""], [[name, _spelled(values[name]), meaning] for name, meaning in MEANINGS.items()]
        )


@dataclass(frozen=True, slots=True)
class ProfileDetect(Result):
    """What this machine has, and the profile that suits it, with what it leaves open filled in."""

    hardware: Hardware
    choice: Choice
    profile: Profile
    used: str | None

    def data(self) -> Mapping[str, Any]:
        return {"hardware": self.hardware, "choice": self.choice, "profile": self.profile, "used": self.used}

    def render(self, console: Page) -> None:
        console.title(f"{self.choice.profile} suits this machine: {self.choice.reason}")
        console.print()
        machine = self.hardware
        cores = f"{machine.cores_usable} usable, {machine.cores_physical} physical"
        available, memory = binary_size(machine.memory_available_bytes), binary_size(machine.memory_bytes)
        console.fields(
            [
                ("system", f"{machine.system}, {machine.machine}"),
                ("processor", machine.cpu_name),
                ("cores", cores),
                ("memory", f"{memory}, {available} of it free"),
                ("bfloat16", "native" if machine.native_bf16 else "not native, so float32 is used on the CPU"),
                ("accelerator", machine.accelerator_name or "none"),
                ("dtype", self.profile.dtype),
                ("threads", str(self.profile.threads)),
            ]
        )
        if self.used is not None and self.used != self.choice.profile:
            console.print()
            console.print(f"This home uses {self.used}.")


@command(commands, "list")
def list_(run: Run) -> ProfileList:
    """Lists the shipped profiles, from the smallest machine to the largest."""
    import profiles

    return ProfileList(tuple(profiles.load(name) for name in profiles.names()), _used(run))


@command(commands, "show")
def show(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(help="A name or a .toml file; this home's profile if not given.", metavar="[NAME]")
    ] = None,
) -> ProfileShow:
    """Shows what a profile says."""
    import profiles

    return ProfileShow(profiles.load(name or run.config().profile))


@command(commands, "detect")
def detect(run: Run) -> ProfileDetect:
    """Looks at this machine and names the profile that suits it."""
    import profiles

    run.detail("asking torch for accelerators")
    hardware = profiles.detect()
    choice = profiles.choose(hardware)
    return ProfileDetect(hardware, choice, profiles.resolve(profiles.load(choice.profile), hardware), _used(run))


def _used(run: Run) -> str | None:
    """Returns this home's profile, None without a home: profiles can be looked at before there is one."""
    return run.config().profile if run.place.is_initialised else None


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
