"""A profile and its file: the record, its rules, the reader and the writer.

Does not cover: whether a profile fits the memory of the machine it runs on (see `profiles.detect.choose`), and a file
that somebody changes while it is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from profiles.errors import ProfileError

Device = Literal["cpu", "mps", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "nf4"]

_SHIPPED = ("phone", "cpu-small", "cpu", "apple", "jetson", "cuda-8g", "cuda-24g", "cuda-80g")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAMING = "use small letters, digits, - and _, and no shipped profile's name"
"""What `is_free` asks of a name, told in a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How much work a device takes on at once.

    Attributes:
        name: What the profile is called.
        summary: One line on the machines it is for.
        device: Where the model runs.
        dtype: Precision of the base model's weights; "auto" until `profiles.resolve` has seen the hardware.
        quantization: How the base model's weights are packed.
        micro_batch: Traces of 128 tokens in one forward and backward pass; bounds the memory of training.
        rollout_batch: Sequences decoded at once; bounds the memory of generation.
        rollouts: Prompts played a round.
        steps: Optimiser steps a round.
        batch: Wins (and at most as many losses) a step.
        max_sequence: Longest sequence in tokens, prompt and completion together.
        new_tokens: Most tokens of an answer; a check may allow fewer.
        threads: CPU threads; 0 means all that the process may use.
        checkpointing: Whether activations are computed again in the backward pass rather than kept.

    Raises:
        ProfileError: If values are of the wrong type or out of range; names every one.
    """

    name: str
    summary: str
    device: Device
    dtype: Dtype
    quantization: Quantization
    micro_batch: int
    rollout_batch: int
    rollouts: int
    steps: int
    batch: int
    max_sequence: int
    new_tokens: int
    threads: int
    checkpointing: bool

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        _refuse(f"profile {self.name!r}", _wrong_values(values))


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one field accepts, in words and as a function."""

    expected: str
    accepts: Callable[[object], bool]


def _integer(low: int, high: int) -> _Rule:
    # `type(...) is int` and not isinstance: true and false are integers to Python, but not to a person.
    return _Rule(f"an integer from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _one_of(literal: object) -> _Rule:
    options = get_args(literal)
    return _Rule("one of " + ", ".join(f'"{option}"' for option in options), lambda value: value in options)


_TEXT = _Rule(
    "one line of text", lambda value: isinstance(value, str) and value.strip() != "" and len(value.splitlines()) == 1
)
_SWITCH = _Rule("true or false", lambda value: isinstance(value, bool))

# One rule for each field of Profile. The upper limits only catch slips of the finger, such as a byte count.
_RULES: Mapping[str, _Rule] = {
    "name": _TEXT,
    "summary": _TEXT,
    "device": _one_of(Device),
    "dtype": _one_of(Dtype),
    "quantization": _one_of(Quantization),
    "micro_batch": _integer(1, 4096),
    "rollout_batch": _integer(1, 4096),
    "rollouts": _integer(1, 100_000),
    "steps": _integer(1, 10_000),
    "batch": _integer(1, 4096),
    "max_sequence": _integer(32, 1_048_576),
    "new_tokens": _integer(4, 65_536),
    "threads": _integer(0, 4096),
    "checkpointing": _SWITCH,
}

MEANINGS: Mapping[str, str] = {
    "name": "what the profile is called",
    "summary": "the machines it is for",
    "device": "where the model runs",
    "dtype": "precision of the model's weights",
    "quantization": "how the model's weights are packed",
    "micro_batch": "traces of 128 tokens in one forward and backward pass",
    "rollout_batch": "sequences decoded at once",
    "rollouts": "prompts played a round",
    "steps": "optimiser steps a round",
    "batch": "wins, and at most as many losses, a step",
    "max_sequence": "tokens of prompt and completion together",
    "new_tokens": "tokens of an answer at most",
    "threads": "CPU threads; 0 for all that may be used",
    "checkpointing": "compute activations again to save memory",
}
"""Each field in a few words; `cpu.toml` says more."""


def names(own: Path | None = None) -> tuple[str, ...]:
    """Return the names of the shipped profiles, from the smallest machine to the largest, then of the user's own.

    Args:
        own: A folder of the user's own profiles; there may be none.

    Raises:
        ProfileError: It cannot be read.
    """
    mine = sorted(path.stem for path in _files(own) if _is_named(path)) if own is not None else []
    return (*_SHIPPED, *mine)


def misnamed(own: Path) -> tuple[Path, ...]:
    """Return the files in a folder of the user's own profiles that no name leads to."""
    return tuple(sorted(path for path in _files(own) if not _is_named(path)))


def _is_named(path: Path) -> bool:
    return path.suffix == ".toml" and is_free(path.stem)


def _files(own: Path) -> list[Path]:
    if own.is_dir() and not os.access(own, os.R_OK | os.X_OK):
        raise ProfileError(f"{own} cannot be read by you", hint=f"chmod u+rwx {shlex.quote(str(own))}")
    return [path for path in own.glob("*") if path.suffix.lower() == ".toml"]


def is_free(name: str) -> bool:
    """Whether a profile of the user's own may have this name: short, plain and not that of a shipped one."""
    return name not in _SHIPPED and _NAME.fullmatch(name) is not None and not name.endswith(".toml")


def load(name_or_path: str | Path, own: Path | None = None) -> Profile:
    """Read a shipped profile, or one of the user's own.

    Args:
        name_or_path: A name such as "cpu", or the path of a `.toml` file. Text without a path separator and without
            `.toml` is always a name, so nothing in the current folder can take a profile's place.
        own: A folder in which names that are not shipped are looked for.

    Returns:
        The profile as written: "auto" and 0 are still in place, see `profiles.resolve`.

    Raises:
        ProfileError: If there is no such name or file, or the file is not a valid profile. All problems of a file are
            reported together, each with its field.
    """
    if is_path(name_or_path):
        return _load_file(Path(name_or_path))
    if name_or_path in _SHIPPED:
        shipped = files("profiles").joinpath(f"{name_or_path}.toml").read_bytes()
        return _parse(shipped, f"profile {name_or_path!r}")
    if own is not None and name_or_path in names(own):
        return _load_file(own / f"{name_or_path}.toml")
    raise ProfileError(
        f"there is no profile named {name_or_path!r}",
        hint=f"known profiles: {', '.join(names(own))}; or give the path of a .toml file",
    )


def dumps(profile: Profile) -> str:
    """Write a profile as a file that `load` reads back and that explains itself."""
    lines = ["# The shipped cpu.toml says more of each field: `spearctl profile show cpu`."]
    for name, value in dataclasses.asdict(profile).items():
        # JSON's strings are TOML's, but for the one character that TOML wants escaped and JSON lets through.
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines += ["", f"# {name}: {MEANINGS[name]}; {_RULES[name].expected}.", f"{name} = {text}"]
    return "\n".join(lines) + "\n"


def _load_file(path: Path) -> Profile:
    try:
        found = path.expanduser()
        if found.exists() and not (found.is_file() or found.is_dir()):
            raise ValueError("it is a pipe or a device")
        content = found.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # no home folder for ~, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ProfileError(
            f"cannot read the profile file {str(path)!r}: {reason}",
            hint=f"check the path, or use a shipped profile: {', '.join(_SHIPPED)}",
        ) from error
    return _parse(content, str(path))


def is_path(name_or_path: str | Path) -> bool:
    """Whether `load` takes something for a path rather than a name."""
    return isinstance(name_or_path, Path) or name_or_path.endswith(".toml") or any(c in name_or_path for c in "/\\")


def _parse(content: bytes, place: str) -> Profile:
    try:
        table = tomllib.loads(content.decode("utf-8-sig"))  # some editors begin with a mark
    except UnicodeDecodeError as error:
        raise ProfileError(f"{place} is not UTF-8 text: {error}", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and numbers of thousands of digits
        raise ProfileError(f"{place} is not valid TOML: {error}", hint="see https://toml.io for the syntax") from error
    unknown = [f"{name}: {_unknown(name)}" for name in _unknown_names(table)]
    missing = [f"{name}: missing, must be {rule.expected}" for name, rule in _RULES.items() if name not in table]
    _refuse(place, [*_wrong_values(table), *missing, *unknown])
    return Profile(**table)


def _unknown_names(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a profile does not have: "colour", and of a table, of which profiles have none, each field in it."""
    for name, value in table.items():
        if name not in _RULES:
            yield from [f"{name}.{inner}" for inner in value] if isinstance(value, dict) and value else [name]


def _unknown(name: str) -> str:
    alike = difflib.get_close_matches(name.rpartition(".")[2], _RULES, n=1)
    return f"no such field, perhaps {alike[0]} was meant" if alike else "no such field"


def _wrong_values(table: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: must be {rule.expected}, not {_shorten(table[name])}"
        for name, rule in _RULES.items()
        if name in table and not rule.accepts(table[name])
    ]


def _shorten(value: object) -> str:
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # TOML has hexadecimal numbers that are too long for Python to spell in decimal
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(place: str, problems: list[str]) -> None:
    if problems:
        lines = [f"{place} is not a valid profile:", *problems]
        raise ProfileError("\n  ".join(lines), hint=f"known fields: {', '.join(_RULES)}")
