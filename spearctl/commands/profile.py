"""`spearctl profile`: the hardware profiles, the one that suits this machine, and one measured on it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl import config as settings
from spearctl.budget import BudgetOption, Taken, Watch, megabytes, parse
from spearctl.command import command, group
from spearctl.errors import HomeError, UsageError
from spearctl.learner import Learner, learner
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import binary_size, clip, tilde

if TYPE_CHECKING:
    from profiles import Choice, Hardware, Profile
    from training.feedback import Entry
    from training.tuning import Phase, Point, Tuning

commands = group("profile", "Shows hardware profiles, finds the one that suits this machine, and measures one.")

DEFAULT_NAME = "tuned"
NO_ROOM = 0.1
"""Of the free memory is left free where no budget is given."""


@dataclass(frozen=True, slots=True)
class ProfileList(Result):
    """The shipped profiles and this home's own, which it uses, and those that are not valid, with the reason."""

    profiles: tuple[Profile, ...]
    used: str | None
    broken: Mapping[str, str]

    def data(self) -> Mapping[str, Any]:
        return {"used": self.used, "profiles": self.profiles, "broken": self.broken}

    def render(self, console: Page) -> None:
        rows = [["*" if one.name == self.used else "", one.name, one.device, one.summary] for one in self.profiles]
        console.rows(["", "NAME", "DEVICE", "FOR"], rows)
        if self.used is not None and self.used not in {*self.broken, *(one.name for one in self.profiles)}:
            console.print()
            console.print(f"This home uses a profile of your own: {self.used}")
        for name, reason in self.broken.items():
            first, _, more = reason.partition("\n")
            console.health([f"{first.rstrip(':')}: see `spearctl profile show {name}`" if more else first])


@dataclass(frozen=True, slots=True)
class ProfileShow(Result):
    """One profile, as its file says it."""

    profile: Profile
    meanings: Mapping[str, str]

    def data(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self.profile)

    def render(self, console: Page) -> None:
        console.title(self.profile.name)
        console.print(f"  {self.profile.summary}")
        console.print()
        values = dataclasses.asdict(self.profile)
        shown = [name for name in values if name not in {"name", "summary"}]
        console.rows(["FIELD", "VALUE", ""], [[name, _spelled(values[name]), self.meanings[name]] for name in shown])


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
                ("board", machine.board or ""),
                ("bfloat16", "native" if machine.native_bf16 else "not native, so float32 is used on the CPU"),
                ("accelerator", _accelerator(machine)),
                ("dtype", self.profile.dtype),
                ("threads", str(self.profile.threads)),
            ]
        )
        if self.used is not None and self.used != self.choice.profile:
            console.print()
            console.print(f"This home uses {self.used}.")


@dataclass(frozen=True, slots=True)
class ProfileTune(Result):
    """What was measured, the profile that was written, and what it gained."""

    name: str
    path: Path
    tuning: Tuning
    taken: Taken
    used: str
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "path": self.path,
            "before": self.tuning.before,
            "profile": self.tuning.after,
            "measured": self.tuning.points,
            "gain": {"playing": self.tuning.gain("playing"), "learning": self.tuning.gain("learning")},
            **self.taken.data(),
            "health": self._health(),
        }

    def render(self, console: Page) -> None:
        console.title(f"{tilde(self.path)}: profile {self.name}, which this home uses from now on")
        console.print()
        columns: list[str | Column] = ["", Column("BATCH", justify="right"), Column("TOKENS/S", justify="right")]
        rows = [self._row(point) for point in self.tuning.points]
        console.rows([*columns, Column("MEMORY", justify="right"), ""], rows)
        console.print()
        before, after = self.tuning.before, self.tuning.after
        console.fields(
            [
                ("rollout_batch", self._gained(before.rollout_batch, after.rollout_batch, "playing")),
                ("micro_batch", self._gained(before.micro_batch, after.micro_batch, "learning")),
                ("checkpointing", f"{_spelled(before.checkpointing)} -> {_spelled(after.checkpointing)}"),
                ("memory", self.taken.line()),
            ]
        )
        console.health(self._health())
        console.next_steps(*self.next_lines)

    def _health(self) -> list[str]:
        before = f"SPEARCTL_PROFILE is {self.used} here, which counts before the home's: unset it to use {self.name}"
        return [*self.taken.health(), *([before] if self.used != self.name else [])]

    def _row(self, point: Point) -> list[str]:
        tuning = self.tuning
        notes = [
            "" if point.fits else "would not fit" if point.tokens_per_s is None else "took more than it may",
            "before" if point == tuning.point(tuning.before, point.phase) else "",
            "chosen" if point.fits and point == tuning.point(tuning.after, point.phase) else "",
        ]
        return [
            f"{point.phase}{', checkpointing' if point.checkpointing else ''}",
            str(point.size),
            "-" if point.tokens_per_s is None else f"{point.tokens_per_s:,.0f}",
            megabytes(point.peak_bytes),
            ", ".join(filter(None, notes)),
        ]

    def _gained(self, before: int, after: int, phase: Phase) -> str:
        if before == after:
            return f"{after}, as before"
        gain = self.tuning.gain(phase)
        told = f"as {before} does not fit" if gain is None else f"{gain:.2f} times as fast"
        return f"{before} -> {after}, {told}"


@command(commands, "list")
def list_(run: Run) -> ProfileList:
    """Lists the shipped profiles, from the smallest machine to the largest, and this home's own."""
    import profiles

    own = run.place.profiles_path
    found: dict[str, Profile] = {}
    broken: dict[str, str] = {}
    for name in profiles.names(own):
        try:
            found[name] = profiles.load(name, own)
        except profiles.ProfileError as error:
            broken[name] = error.message
    for path in profiles.misnamed(own):
        broken[path.name] = f"{path}: not what a profile can be called; {profiles.NAMING}"
    # A file of one's own is asked for by its own name, whatever it says inside.
    named = tuple(dataclasses.replace(one, name=name) for name, one in found.items())
    return ProfileList(named, _used(run), broken)


@command(commands, "show")
def show(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(help="A name or a .toml file; this home's profile if not given.", metavar="[NAME]")
    ] = None,
) -> ProfileShow:
    """Shows what a profile says."""
    import profiles

    found = profiles.load(run.config().profile if name is None else name, run.place.profiles_path)
    return ProfileShow(found, profiles.MEANINGS)


@command(commands, "detect")
def detect(run: Run) -> ProfileDetect:
    """Looks at this machine and names the profile that suits it."""
    import profiles

    run.detail("asking torch for accelerators")
    hardware = profiles.detect()
    choice = profiles.choose(hardware)
    return ProfileDetect(hardware, choice, profiles.resolve(profiles.load(choice.profile), hardware), _used(run))


@command(commands, "tune")
def tune(
    run: Run,
    memory_budget: BudgetOption = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What to call the profile; one of the same name is replaced.")
    ] = DEFAULT_NAME,
) -> ProfileTune:
    """Measures batch sizes on this machine, writes the best as a profile and uses it.

    Each size is run for a few seconds with this home's model; sizes that would take more than the memory budget, or
    without one than what is free, are left out. Ctrl-C leaves the home as it was.
    """
    import profiles
    from training.log import read_log

    watch = Watch(run, parse(memory_budget))
    if not profiles.is_free(name):
        raise UsageError(f"a profile cannot be called {name!r}", profiles.NAMING)
    config = run.config()
    path = run.home.profiles_path / f"{name}.toml"
    _refuse_what_is_in_the_way(path)
    before = profiles.load(config.profile, run.home.profiles_path)
    with run.home.training_lock("profile tune"), learner(run, config) as ready:
        found = _measure(run, ready, watch, read_log(run.home.feedback_path).entries)
        sizes = {field: getattr(found.after, field) for field in ("rollout_batch", "micro_batch", "checkpointing")}
        machine = profiles.detect(accelerators=False)
        summary = f"measured for {clip(Path(config.model).name, 40)} on {clip(machine.cpu_name, 60)}"
        written = dataclasses.replace(before, name=name, summary=summary, **sizes)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        settings.write_text(path, profiles.dumps(written))
        settings.use_profile(run.home.config_path, name)
    budget = ("--memory-budget", memory_budget) if memory_budget else ()
    tuning = dataclasses.replace(found, before=before, after=written)
    used = run.config().profile
    return ProfileTune(name, path, tuning, watch.taken(), used, (run.spell("train", *budget),))


def _refuse_what_is_in_the_way(path: Path) -> None:
    """Says before minutes of measuring what would fail after them."""
    folder = path.parent
    if os.path.lexists(folder) and not folder.is_dir():
        raise HomeError(f"{folder} is in the way: profiles are kept in a folder of this name", "move it away")
    if os.access(folder, os.X_OK) and path.is_dir():
        raise HomeError(f"{path} is a folder", "move it away, or choose another --name")
    place = folder if folder.is_dir() else folder.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise HomeError(f"{place} cannot be written by you", f"chmod u+rwx {shlex.quote(str(place))}")


def _measure(run: Run, ready: Learner, watch: Watch, entries: Sequence[Entry]) -> Tuning:
    """Measures what fits; tells each figure as it comes."""
    import profiles
    from training import memory, tuning

    def tell(point: Point) -> None:
        rate = "would not fit" if point.tokens_per_s is None else f"{point.tokens_per_s:,.0f} tokens/s"
        again = " with checkpointing" if point.checkpointing else ""
        run.say(f"{point.phase}, batch {point.size}{again}: {rate}, {megabytes(point.peak_bytes)}")
        watch.note(gauge, point.peak_bytes if point.tokens_per_s is not None else 0)

    gauge = memory.gauge(ready.profile.device)
    lengths = memory.longest(ready.lm, ready.profile, entries)
    demand = watch.demand(ready.lm, ready.profile, lengths)
    watch.note(gauge, gauge.peak())
    if watch.budget is not None:  # says what would do if nothing fits
        memory.fit(ready.profile, demand, lengths, watch.budget, loaded=gauge.peak())
    device = ready.profile.device
    free = profiles.detect(accelerators=device != "cpu").room_bytes(device)
    bench = tuning.Bench(
        lm=ready.lm,
        demand=demand,
        lengths=lengths,
        gauge=gauge,
        budget=watch.budget or gauge.used() + int((1 - NO_ROOM) * free),
        prompts=tuning.bench_prompts(ready.lm, entries, lengths),
        tell=tell,
    )
    return tuning.tune(bench, ready.profile)


def _used(run: Run) -> str | None:
    """Returns this home's profile, None without a home: profiles can be looked at before there is one."""
    return run.config().profile if run.place.is_initialised else None


def _accelerator(machine: Hardware) -> str:
    if machine.accelerator is None:
        return "none that torch can use"
    shared = " shared with the CPU" if machine.is_jetson or machine.accelerator == "mps" else ""
    memory = binary_size(machine.accelerator_memory_bytes or 0)
    return f"{machine.accelerator_name} ({machine.accelerator}), {memory}{shared}"


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
