"""Homes that can really train, in about a second: a tiny random model, a small profile, and logs to learn from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import profiles
from spearctl.home import Home
from spearctl.main import main
from tests.cli import clean_environment
from training.adapters import Adapter, adapter_digest, read_peft_folder
from training.history import BASE, History

ROLLOUTS = 6
Entry = dict[str, Any]


def write_profile(path: Path, **changes: Any) -> Path:
    """Writes a hardware profile under which a round of the tiny model takes a fraction of a second."""
    small = dataclasses.replace(
        profiles.load("cpu"),
        name=path.stem,
        dtype="float32",
        micro_batch=4,
        rollout_batch=8,
        rollouts=ROLLOUTS,
        steps=2,
        batch=4,
        max_sequence=160,
        new_tokens=8,
        threads=1,
    )
    fields = dataclasses.asdict(dataclasses.replace(small, **changes))
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()), encoding="utf-8")
    return path


def make_template(folder: Path, model: Path) -> Home:
    """Makes a home by `spearctl init`, for tests to copy."""
    home = Home(folder / "template")
    profile = write_profile(folder / "small.toml")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in clean_environment(folder).items():
            patched.setenv(name, value)
        words = ("init", "--home", str(home.root), "--model", str(model), "--profile", str(profile), "--quiet")
        assert main([*words, "--name", "lab"]) == 0
    return home


def winnable(count: int, *, name: str = "play") -> list[Entry]:
    """Entries with a check that whatever a random model says passes."""
    check = {"type": "regex", "expect": "(?s).+"}
    return [
        {"v": 1, "id": f"{name}-{i}", "prompt": f"Say something, {name} {i}.", "check": check} for i in range(count)
    ]


def hopeless(count: int) -> list[Entry]:
    """Entries with a check that nobody can pass by luck."""
    check = {"type": "exact", "expect": "antidisestablishmentarianism"}
    return [{"v": 1, "id": f"lost-{i}", "prompt": f"Which word, {i}?", "check": check} for i in range(count)]


def told(count: int, *, right: str = "yes", wrong: str = "no", losses: int = 0) -> list[Entry]:
    """Entries with one attempt each that a person judged, the last `losses` of them wrong."""
    verdicts = ["right"] * (count - losses) + ["wrong"] * losses
    return [
        {
            "v": 1,
            "id": f"told-{i}",
            "prompt": f"Is it so, {i}?",
            "attempts": [{"completion": right if verdict == "right" else wrong, "verdict": verdict}],
        }
        for i, verdict in enumerate(verdicts)
    ]


def write_log(path: Path, entries: Iterable[Entry | bytes]) -> Path:
    """Writes a feedback log; what is given as bytes is a line already."""
    lines = [entry if isinstance(entry, bytes) else json.dumps(entry).encode() for entry in entries]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def adapter_of(home: Home, name: str) -> Adapter:
    """The tensors of a version, from its folder."""
    return read_peft_folder(home.adapters_path / name.replace(":", "-"))


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder with the SHA-256 of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_sound(home: Home) -> None:
    """Asserts that history and folders agree: no round is there by half, and nothing that was recorded is lost."""
    with History(home.history_path) as history:
        versions, rounds, current = history.versions(), history.rounds(), history.current
        trained, plays = history.trained_count(), history.plays()
    assert [record.number for record in rounds] == list(range(1, len(rounds) + 1))
    assert [record.version for record in rounds if record.version] == [version.name for version in versions]
    for version in (version for version in versions if version.present):
        assert adapter_digest(adapter_of(home, version.name)) == version.sha256
    assert current in {BASE, *(version.name for version in versions if version.present)}
    kept = [record.report for record in rounds if record.version or record.report["discarded"]]
    assert sum(report["told"] for report in kept) == trained
    assert sum(record.report["played"] for record in rounds) == sum(plays.values())


def assert_tidy(home: Home) -> None:
    """Asserts that nothing lies among the adapters but the versions that the history knows."""
    with History(home.history_path) as history:
        present = {version.name.replace(":", "-") for version in history.versions() if version.present}
    assert {path.name for path in home.adapters_path.iterdir()} == present
