"""What `train`, `eval` and `demo` share: the model of a home with an adapter in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spearctl import sharing
from spearctl.config import Config
from spearctl.errors import ConfigError
from spearctl.pace import PaceWriter
from spearctl.progress import Meter
from spearctl.run import Run

if TYPE_CHECKING:
    from profiles import Profile
    from training.history import History
    from training.models import LanguageModel
    from training.sources import ModelSource
    from training.store import AdapterStore

HandOver = Callable[["AdapterStore", "History"], None]
Fit = Callable[["LanguageModel", "Profile"], "Profile"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, and the profile that it was loaded with, resolved for this machine.

    They belong together: a profile that is changed later is for who loads the model anew.
    """

    lm: LanguageModel
    profile: Profile


@dataclass(frozen=True, slots=True)
class Learner:
    """A home's model, ready to work.

    Attributes:
        loaded: As it was loaded.
        store: The home's adapter versions.
        history: The home's training history, open.
        profile: With batches that fit a memory budget.
        adapter: Name of the version that was loaded.
    """

    loaded: Loaded
    store: AdapterStore
    history: History
    profile: Profile
    adapter: str

    @property
    def lm(self) -> LanguageModel:
        """Carries the adapter that was asked for."""
        return self.loaded.lm


@contextmanager
def learner(
    run: Run,
    config: Config,
    *,
    adapter: str | None = None,
    hand_over: HandOver | None = None,
    loaded: Loaded | None = None,
    fit: Fit = lambda lm, profile: profile,
) -> Iterator[Learner]:
    """Loads the home's model with a version of its adapter, the one in use by default.

    A member uses what its swarm knows, with everything of its own on top; before it trains, that becomes a version.

    Args:
        run: Whose home.
        config: Its settings.
        adapter: Name of a version.
        hand_over: For who is going to train, and holds the training lock: hands over what earlier runs did not, before
            what the swarm knows becomes a version.
        loaded: The home's model, if it is loaded already.
        fit: Makes the profile fit a memory budget, once the model is loaded.

    Raises:
        ConfigError: The model is not the one that the home was made for.
        ProfileError: The profile is none, or does not suit this machine or a budget.
        UnknownAdapterError: There is no such version.
    """
    from training.history import History

    with History(run.home.history_path) as history:
        name = adapter or history.current
        if name != "base":
            history.version(name)
        loaded = loaded or load_model(run, config)
        profile = fit(loaded.lm, loaded.profile)
        store = sharing.open_store(run, config, history, loaded.lm.adapter_shape)
        from training.lora import set_adapter

        if hand_over is not None:
            hand_over(store, history)
        found = sharing.shared(run, config) if adapter is None else None
        if found is not None and hand_over is not None:
            sharing.take_over(store, history, found)
            name = history.current
        elif found is not None:
            name = f"round:{found.head_round}"
        set_adapter(loaded.lm.network, found.adapter if found else store.load(name))
        yield Learner(loaded, store, history, profile, name)


def load_model(run: Run, config: Config) -> Loaded:
    """Loads the home's model.

    Raises:
        ConfigError: The model is not the one that the home was made for.
        ProfileError: The profile is none, or does not suit this machine.
        ModelError: The model cannot be read.
    """
    import profiles

    chosen = profiles.load(config.profile, run.home.profiles_path)
    # A GPU that is asked makes itself ready, which takes memory of this process.
    profile = profiles.resolve(chosen, profiles.detect(accelerators=chosen.device != "cpu"))
    run.detail(f"loading {config.model} ({profile.dtype}, {profile.threads} threads)")
    from training.models import LoraSettings, load

    source, size = find_model(run, config), config.adapter
    settings = LoraSettings(size.rank, size.alpha, size.dropout)
    lm = load(source, profile, settings, prompt_format=config.prompt_format, system_prompt=config.system_prompt)
    return Loaded(lm, profile)


def find_model(run: Run, config: Config) -> ModelSource:
    """Finds the home's model on this disk, fetching it where needed.

    Raises:
        ConfigError: The model is not the one that the home was made for.
        ModelError: It cannot be found or read.
    """
    from training.sources import resolve

    source = resolve(config.model, run.cache, say=run.say)
    if source.fingerprint != config.model_fingerprint:
        raise ConfigError(
            f"the model {config.model} is not the one this home was made for"
            f" (fingerprint {source.fingerprint[:12]}, expected {config.model_fingerprint[:12]})",
            "put the old model back, or make another home for this one: spearctl --home DIR init",
        )
    return source


class Phases:
    """Shows the phases that the learner reports, one bar after another; on a terminal only.

    Args:
        run: Whose stderr is written to.
        pace: Is told, too; each `begin` is a round.
    """

    def __init__(self, run: Run, pace: PaceWriter | None = None) -> None:
        self._run = run
        self._pace = pace
        self._label = ""
        self._shown: tuple[str, int] | None = None
        self._meter = Meter()
        self._bar: AbstractContextManager[Meter] | None = None

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._pace is not None:
            self._pace.close()

    def begin(self, label: str) -> None:
        """Ends the bar and names what comes next: "round 2 of 5"."""
        self.end()
        self._label = label
        if self._pace is not None:
            self._pace.begin()

    def show(self, phase: str, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` of a phase is done."""
        if self._pace is not None:
            self._pace.show(phase, done, total)
        if not self._run.stderr.is_terminal:
            return
        if self._shown != (phase, total):
            self.end()
            self._shown = (phase, total)
            self._bar = self._run.progress(f"{self._label} {phase}".strip(), total)
            self._meter = self._bar.__enter__()
        self._meter.update(done)

    def end(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = self._shown = None
        self._meter = Meter()
