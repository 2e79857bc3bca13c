"""Settings: what `config.toml` may say, and which of several sayings counts.

Flags > `SPEARCTL_*` > `HOME/config.toml` > the user's own `preferences.toml` > defaults. What a home is made of (its
model, that model's fingerprint, prompt format, system prompt and adapter shape) is fixed by `init` and read from the
home alone. Nothing is read from the current folder.
"""

from __future__ import annotations

import difflib
import os
import tempfile
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
import tomlkit
from msgspec import Meta

from spearctl.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=65_536)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
Text = Annotated[str, Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

T = typing.TypeVar("T")


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a home's adapters.

    Attributes:
        rank: r, the inner dimension of every product.
        alpha: Products are scaled by alpha / r.
        dropout: While training.
        shape: SHA-256 over the names and dimensions of all tensors.
    """

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.1
    shape: Hex


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """What the user's own `preferences.toml`, the environment and flags may say.

    Attributes:
        name: What this device is called.
        model: Reference of the base model, for `init`.
        system_prompt: Put before every conversation, for `init`.
        profile: Name of a hardware profile, or path of one.
        seed: Of everything random.
    """

    name: Text | None = None
    model: Text | None = None
    system_prompt: Text | None = None
    profile: Text | None = None
    seed: Seed | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a home's `config.toml` says, as it counts for this run.

    Attributes:
        format: Of the home.
        name: What this device is called.
        model: Reference of the base model.
        model_fingerprint: SHA-256 over its source files' names and SHA-256s.
        prompt_format: `chat` for instruct models, `raw` for others.
        system_prompt: Put before every conversation.
        profile: Name of a hardware profile, or path of one.
        seed: Of everything random.
        listen: Where its node listens; port 0 for any that is free.
        advertise: Addresses by which others reach it, besides its own.
        lan: Whether its node announces itself in the local network, and looks for members there.
        adapter: The size of the home's adapters.
    """

    format: Count
    name: Text
    model: Text
    model_fingerprint: Hex
    prompt_format: Literal["chat", "raw"]
    system_prompt: Text | None = None
    profile: Text
    seed: Seed = 0
    listen: Text = "0.0.0.0:0"
    advertise: tuple[Text, ...] = ()
    lan: bool = False
    adapter: AdapterConfig


PREFERENCES_NAME = "preferences.toml"
_MOST_DIGITS = 40
OVERRIDABLE = ("profile", "seed")
"""What flags, the environment and the user's own settings may say of a home that exists."""


def user_config_path() -> Path:
    """Returns where the user's own settings are: on macOS in the folder of the default home."""
    return platformdirs.user_config_path("spearctl") / PREFERENCES_NAME


def read_table(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and a thousand brackets
        raise ConfigError(f"{path}: not valid TOML: {error}", "mend that place in an editor") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "check its permissions") from error


def preferences(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Preferences:
    """Returns what is said outside of any home.

    Args:
        flags: Values of flags by setting; None where not given.
        environ: The environment.

    Raises:
        ConfigError: A value is wrong, or a key of the user's own settings is unknown.
    """
    path = user_config_path()
    own = _own(path)
    said = {**_given(own), **_given(_from_environment(environ)), **_without_none(flags)}
    return check(said, Preferences, "flags")


def load(table: Mapping[str, Any], path: Path, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """Returns the settings of a home as they count for this run.

    Args:
        table: What its `config.toml` says.
        path: Where that is, for errors.
        flags: Values of flags by setting; None where not given.
        environ: The environment.

    Raises:
        ConfigError: A value is wrong or missing, or a key is unknown; all of a file are named together.
    """
    check(table, Config, str(path))
    own = _own(user_config_path())
    given = _given(check(_without_none(flags), Preferences, "flags"))
    table = _anchored(table, path.parent)
    layers = {**_given(own), **table, **_given(_from_environment(environ)), **given}
    kept = {key: value for key, value in layers.items() if key in table or key in OVERRIDABLE}
    fixed = {key: value for key, value in table.items() if key not in OVERRIDABLE}
    return check({**kept, **fixed}, Config, str(path))


def _own(path: Path) -> Preferences:
    """The user's own settings, if there are any."""
    if not path.exists():
        return Preferences()
    return check(_anchored(read_table(path), path.parent), Preferences, str(path))


def _anchored(table: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A table whose relative paths, of a profile or a model, lead from the folder of the file that says them."""
    from profiles import is_path

    def is_ours(key: str, value: object) -> bool:
        if not isinstance(value, str) or value.startswith("~"):
            return False
        is_model = key == "model" and (value.startswith(".") or value.endswith(".gguf"))
        return is_model or (key == "profile" and is_path(value))

    return {key: str(folder / value) if is_ours(key, value) else value for key, value in table.items()}


def write(path: Path, config: Config) -> None:
    """Writes a home's `config.toml`, whole or not at all, for its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("Written by `spearctl init`. `name`, `profile`, `seed`, `listen`, `advertise`,"))
    document.add(tomlkit.comment("`lan` are yours to change; the rest is what this home's adapters are made for."))
    for key, value in _without_none(msgspec.to_builtins(config)).items():
        document.add(key, value)
    write_text(path, tomlkit.dumps(document))


def use_profile(path: Path, profile: str) -> None:
    """Changes the profile in a home's `config.toml`, and nothing else in it.

    Raises:
        ConfigError: It cannot be read.
        OSError: It cannot be written.
    """
    read_table(path)
    document = tomlkit.parse(path.read_text(encoding="utf-8-sig"))
    document["profile"] = profile
    write_text(path, tomlkit.dumps(document))


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all, for its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new.")  # 0600
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        Path(scratch).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(table: Mapping[str, Any], into: type[T], place: str) -> T:
    """Turns a table into a record.

    Args:
        table: Keys and values as read.
        into: A struct.
        place: The table's place, for the error.

    Raises:
        ConfigError: Names every key that is unknown, missing or wrong.
    """
    problems: list[str] = []
    known = {field.encode_name: field for field in msgspec.structs.fields(into)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            problems.append(f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
            continue
        problems.extend(_problem(key, value, known[key].type))
    problems.extend(f"`{key}` is missing" for key, field in known.items() if field.required and key not in table)
    if problems:
        raise ConfigError(f"{place}: {'; '.join(problems)}", f"known keys: {', '.join(known)}")
    return msgspec.convert(dict(table), into)


def _problem(key: str, value: Any, wanted: Any) -> list[str]:
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct) and isinstance(value, Mapping):
        try:
            check(value, wanted, key)
        except ConfigError as error:
            return [error.message]
        return []
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        return [f"`{key}`: {str(error)[:1].lower()}{str(error)[1:]}"]
    return []


def _from_environment(environ: Mapping[str, str]) -> Preferences:
    said: dict[str, Any] = {}
    for key in ("name", "model", "profile", "seed"):
        value = environ.get(f"SPEARCTL_{key.upper()}")
        if value:
            is_number = key == "seed" and value.isdecimal() and len(value) < _MOST_DIGITS
            said[key] = int(value) if is_number else value
    return check(said, Preferences, "the environment variables SPEARCTL_*")


def _given(record: msgspec.Struct) -> dict[str, Any]:
    return _without_none(msgspec.structs.asdict(record))


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
