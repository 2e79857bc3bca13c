"""`spearctl init`: makes a home, with a model, a profile and an empty feedback log. Twice changes nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from spearctl import config as settings
from spearctl.command import command, group
from spearctl.config import AdapterConfig, Config, Preferences
from spearctl.errors import ConfigError, HomeError
from spearctl.home import FORMAT, Home
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.swarm import new_passphrase
from spearctl.text import tilde

commands = group()

FALLBACK_NAME = "device"


@dataclass(frozen=True, slots=True)
class InitResult(Result):
    """What a home is made of, and whether this run made it."""

    home: Path
    created: bool
    config: Config
    profile_reason: str
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {
            "home": self.home,
            "created": self.created,
            "name": self.config.name,
            "profile": {"name": self.config.profile, "reason": self.profile_reason or None},
            "model": {
                "reference": self.config.model,
                "fingerprint": self.config.model_fingerprint,
                "prompt_format": self.config.prompt_format,
                "system_prompt": self.config.system_prompt,
            },
            "adapter": {name: getattr(self.config.adapter, name) for name in ("rank", "alpha", "dropout", "shape")},
        }

    def render(self, console: Page) -> None:
        if self.created:
            console.title(f"Made a spearctl home in {tilde(self.home)}")
        else:
            console.title(f"There is a spearctl home in {tilde(self.home)} already; nothing was changed")
        adapter = self.config.adapter
        console.print()
        console.fields(
            [
                ("name", self.config.name),
                ("model", f"{self.config.model} ({self.config.prompt_format})"),
                ("fingerprint", self.config.model_fingerprint[:16]),
                ("system prompt", self.config.system_prompt or ""),
                ("adapter", f"LoRA, r {adapter.rank}, alpha {adapter.alpha}, dropout {adapter.dropout:g}"),
                ("profile", self.config.profile + (f": {self.profile_reason}" if self.profile_reason else "")),
            ]
        )
        console.print()
        console.next_steps(*self.next_lines, before="Next, tell it what was right and what was wrong, then train:")


@command(commands, "init")
def init(
    run: Run,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call this device, instead of its host name.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Base model: a folder, a .gguf file, a hub id or a catalogue name."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile: a name or a .toml file.")
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to put before every conversation.")
    ] = None,
    lock: Annotated[bool, typer.Option("--lock", help="Lock the keys of this device by a passphrase.")] = False,
) -> InitResult:
    """Makes a home: keys, profile, model, an empty feedback log.

    Without --profile this machine decides, without --model the catalogue's default is taken, fetched once and kept
    in a cache that all homes share. Run again, it changes nothing and says so.
    """
    flags = _absolute({"name": name, "model": model, "profile": profile, "system_prompt": system_prompt})
    home = run.place
    if home.is_initialised:
        config = run.config()
        _refuse_other_values(run, config, flags)
        return InitResult(home.root, False, config, "", _next_lines(run))
    wanted = Preferences(**_absolute(msgspec.structs.asdict(run.preferences(**flags))))
    profile, reason = chosen_profile(run, wanted.profile)
    home.prepare()
    with home.training_lock("init"):
        config = make_home(run, home, wanted, profile, passphrase=new_passphrase() if lock else None)
    return InitResult(home.root, True, config, reason, _next_lines(run))


def make_home(
    run: Run,
    home: Home,
    wanted: Preferences,
    profile: str,
    *,
    passphrase: bytes | None = None,
    host: str = "0.0.0.0",
) -> Config:
    """Fills a prepared home; its `config.toml` comes last, so that a killed run leaves what the next one completes."""
    from p2p.addresses import free_port
    from training.history import History

    source, shape = _model(run, wanted.model)
    config = Config(
        format=FORMAT,
        name=wanted.name or platform.node() or FALLBACK_NAME,
        model=source.reference,
        model_fingerprint=source.fingerprint,
        prompt_format=source.prompt_format,
        system_prompt=wanted.system_prompt,
        profile=profile,
        seed=wanted.seed or 0,
        listen=f"{host}:{free_port()}",
        adapter=AdapterConfig(shape=shape),
    )
    History(home.history_path).close()
    _make_keys(home, passphrase)
    try:
        settings.write(home.config_path, config)  # last: from here on it is a home
    except OSError as error:
        raise HomeError(
            f"{home.config_path}: cannot be written: {error.strerror}", "free some space, then init again"
        ) from error
    return config


def _make_keys(home: Home, passphrase: bytes | None) -> None:
    from p2p.identity import FILE_NAME, generate, save

    if not (home.root / FILE_NAME).exists():
        save(home.root, generate(), passphrase)


def chosen_profile(run: Run, wanted: str | None) -> tuple[str, str]:
    """Returns the profile's name and, if this machine decided, why."""
    import profiles

    if wanted is not None:
        profiles.load(wanted)
        return wanted, ""
    run.detail("looking at this machine")
    choice = profiles.choose(profiles.detect())
    return choice.profile, choice.reason


def _model(run: Run, wanted: str | None) -> tuple[Any, str]:
    """Returns where the model is and the digest of its adapters' shape."""
    from training.catalogue import DEFAULT
    from training.sources import resolve

    reference = wanted or DEFAULT
    run.detail(f"looking for the model {reference}")
    source = resolve(reference, run.cache, say=run.say)

    from training.models import LoraSettings, shape_of

    adapter = AdapterConfig(shape="0" * 64)
    lora = LoraSettings(rank=adapter.rank, alpha=adapter.alpha, dropout=adapter.dropout)
    return source, shape_of(source, lora).digest().hex()


def _refuse_other_values(run: Run, config: Config, flags: Mapping[str, str | None]) -> None:
    """Refuses to change what a home is made of.

    Raises:
        ConfigError: A flag asks for something else than what the home has.
    """
    for key, value in flags.items():
        found = getattr(config, key)
        if value is None or value == found:
            continue
        if key in {"name", "profile"}:
            hint = f'edit it: {key} = "{value}" in {run.home.config_path}'
        else:
            hint = "adapters belong to one model; make another home for this one: spearctl --home DIR init ..."
        what = key.replace("_", " ")
        has = f"this home has the {what} {found!r}" if found else f"this home has no {what}"
        raise ConfigError(f"{has}, not {value!r}; nothing was changed", hint)


def _next_lines(run: Run) -> tuple[str, ...]:
    return (f'{run.spell("feedback", "add")} --prompt "..." --completion "..." --verdict wrong', run.spell("train"))


def _absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the paths of a model and of a profile mean the same from every folder; names stay as they are."""
    import profiles

    model, profile = values["model"], values["profile"]
    made: dict[str, str] = {}
    if model is not None:
        path = Path(os.path.expanduser(model))
        if model.startswith((".", "~", "/")) or path.suffix == ".gguf" or path.is_dir():
            made["model"] = os.path.abspath(path)
    if profile is not None and profiles.is_path(profile):
        made["profile"] = os.path.abspath(os.path.expanduser(profile))
    return {**values, **made}
