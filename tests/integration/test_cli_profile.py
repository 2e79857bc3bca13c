"""`profile detect`, `profile tune` and `--memory-budget`: what is measured, written, kept, and refused."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import profiles
from spearctl import budget
from spearctl.errors import UsageError
from spearctl.home import Home
from spearctl.signals import Signalled
from tests.cli import Cli, spawn
from tests.homes import assert_sound, files_of, winnable, write_log, write_profile
from training import memory, tuning

MB = 10**6


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size is run once, and there are few of them."""
    monkeypatch.setattr(tuning, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(tuning, "ROLLOUT_SIZES", (4, 16))
    monkeypatch.setattr(tuning, "MICRO_SIZES", (1, 2))


class Scripted:
    """A gauge that says what it is told: what is used, and one peak after another; the last stays."""

    def __init__(self, *peaks: int, used: int = 400 * MB) -> None:
        self._peaks = list(peaks)
        self._used = used
        self.restarts = 0

    def used(self) -> int:
        return self._used

    def peak(self) -> int:
        return self._peaks.pop(0) if len(self._peaks) > 1 else self._peaks[0]

    def restart(self) -> None:
        self.restarts += 1


def scripted(monkeypatch: pytest.MonkeyPatch, *peaks: int) -> Scripted:
    gauge = Scripted(*peaks)
    monkeypatch.setattr(memory, "gauge", lambda device: gauge)
    return gauge


def data_of(device: Cli, *words: str) -> dict[str, Any]:
    outcome = device(*words, "--json")
    assert outcome.code == 0, outcome.envelope["errors"]
    return dict(outcome.envelope["data"])


def settings_of(home: Home) -> dict[str, Any]:
    return tomllib.loads(home.config_path.read_text(encoding="utf-8"))


# Sizes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1.5GB", 1_500_000_000),
        ("900MB", 900_000_000),
        ("900 mb", 900_000_000),
        ("1GiB", 2**30),
        ("0.5gib", 2**29),
        ("1500000KB", 1_500_000_000),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, n_bytes: int) -> None:
    assert budget.parse(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["", "1.5", "GB", "1,5GB", "-1GB", "0GB", "1e3MB", "infGB", "1.5G", "1.5 G B", "9" * 400 + "GB", "1GBs", "²GB"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is no size") as caught:
        budget.parse(text)
    assert caught.value.hint is not None
    assert "--memory-budget 1.5GB" in caught.value.hint


@pytest.mark.parametrize("words", [("train",), ("eval", "--data", "x.jsonl"), ("profile", "tune")])
def test_a_budget_that_is_no_size_is_a_usage_error(device: Cli, words: tuple[str, ...]) -> None:
    outcome = device(*words, "--memory-budget", "lots")
    assert outcome.code == 2
    assert "--memory-budget 'lots' is no size" in outcome.err
    assert "--memory-budget 1.5GB" in outcome.err


def test_a_wrong_flag_is_not_laid_to_the_homes_settings(device: Cli) -> None:
    outcome = device("train", "--profile", "")
    assert outcome.code == 4
    assert outcome.err.startswith("error: flags: `profile`: ")


# A budget while training


def test_without_a_budget_the_peak_is_told(device: Cli) -> None:
    device.log(*winnable(6))
    data = data_of(device, "train", "--rounds", "2")
    assert data["memory_budget_bytes"] is None
    assert data["peak_bytes"] >= max(report["peak_bytes"] for report in data["rounds"]) > 50 * MB
    assert [report["micro_batch"] for report in data["rounds"]] == [4, 4]
    text = device("train", "--rounds", "1").out
    assert "memory: " in text
    assert " at most" in text


def test_a_budget_is_kept_by_a_whole_process_and_its_peak_is_the_systems(device: Cli) -> None:
    device.log(*winnable(6))
    outcome = spawn("train", "--rounds", "2", "--memory-budget", "2GB", "--json", folder=device.folder)
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)["data"]
    assert data["memory_budget_bytes"] == 2_000_000_000
    assert 100 * MB < data["peak_bytes"] <= 2_000_000_000
    assert not any(report["is_over"] for report in data["rounds"])
    assert "memory budget 2,000 MB: micro_batch 4, rollout_batch 8" in outcome.err


def test_a_budget_that_nothing_fits_is_code_4_names_what_would_do_and_trains_nothing(device: Cli) -> None:
    device.log(*winnable(6))
    outcome = device("train", "--memory-budget", "10MB")
    assert outcome.code == 4
    assert "a memory budget of 10MB is too small for this model: it takes at least " in outcome.err
    assert "--memory-budget " in outcome.err
    assert files_of(device.home.adapters_path) == {}
    assert_sound(device.home)


def test_a_tight_budget_makes_batches_smaller(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    device.log(*winnable(6))
    profile = str(write_profile(device.folder / "wide.toml", micro_batch=64, rollout_batch=512))
    scripted(monkeypatch, 400 * MB)
    wide, tight = (
        data_of(device, "train", "--rounds", "1", "--profile", profile, "--memory-budget", size)["rounds"][0]
        for size in ("100GB", "420MB")
    )
    assert (wide["micro_batch"], wide["rollout_batch"], wide["checkpointing"]) == (64, 512, False)
    assert tight["micro_batch"] < 64
    assert tight["rollout_batch"] < 512


def test_a_round_over_the_budget_is_told_and_halves_the_next(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    device.log(*winnable(6))
    gauge = scripted(monkeypatch, 500 * MB, 2100 * MB, 900 * MB)  # loaded, after the first round, and from then on
    outcome = device("train", "--rounds", "3", "--memory-budget", "2GB")
    assert outcome.code == 0
    assert "2,100 MB of memory taken, more than the budget of 2,000 MB; from here on micro_batch 2" in outcome.err
    assert "! 2,100 MB of memory taken, more than the budget of 2,000 MB in 1 of 3 rounds" in outcome.out
    assert gauge.restarts == 1
    scripted(monkeypatch, 500 * MB, 2100 * MB, 900 * MB)
    data = data_of(device, "train", "--rounds", "3", "--memory-budget", "2GB")
    sizes = [(one["micro_batch"], one["rollout_batch"], one["peak_bytes"], one["is_over"]) for one in data["rounds"]]
    assert sizes == [(4, 8, 2100 * MB, True), (2, 4, 900 * MB, False), (2, 4, 900 * MB, False)]
    assert data["peak_bytes"] == 2100 * MB
    assert any("more than the budget" in line for line in data["advice"])


def test_an_eval_tells_and_keeps_its_budget(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(device.folder / "test.jsonl", winnable(3))
    data = data_of(device, "eval", "--data", str(log), "--memory-budget", "100GB")
    assert data["memory_budget_bytes"] == 100_000_000_000
    assert data["peak_bytes"] > 50 * MB
    assert device("eval", "--data", str(log), "--memory-budget", "10MB").code == 4
    scripted(monkeypatch, 500 * MB, 2100 * MB)
    data = data_of(device, "eval", "--data", str(log), "--memory-budget", "2GB")
    assert any("more than the budget" in line for line in data["health"])


@pytest.mark.parametrize(
    ("n_bytes", "told"),
    [(1, "1 byte"), (1000, "1 KB"), (999_499, "999 KB"), (10**6, "1 MB"), (1_149_600_000, "1,150 MB")],
)
def test_no_size_is_told_as_nothing(n_bytes: int, told: str) -> None:
    assert budget.megabytes(n_bytes) == told


# Tuning


@pytest.mark.usefixtures("brief")
def test_tune_writes_a_profile_and_the_home_uses_it(device: Cli) -> None:
    device.log(*winnable(6))
    before = settings_of(device.home)
    outcome = device("profile", "tune")
    assert outcome.code == 0, outcome.err
    path = device.home.root / "profiles" / "tuned.toml"
    assert "profile tuned, which this home uses from now on" in outcome.out
    assert outcome.out.count("chosen") == 2
    assert "playing, batch 4: " in outcome.err
    assert "learning, batch 1: " in outcome.err
    assert settings_of(device.home) == before | {"profile": "tuned"}
    assert device.home.config_path.read_text(encoding="utf-8").startswith("# Written by `spearctl init`.")
    written, own = profiles.load(path), profiles.load(before["profile"])
    assert written.rollout_batch in (4, 8, 16)
    assert written.micro_batch in (1, 2, 4)
    assert (written.rollouts, written.max_sequence, written.threads) == (own.rollouts, own.max_sequence, own.threads)
    assert f"measured for {Path(before['model']).name} on " in written.summary
    for field in profiles.MEANINGS:
        assert f"# {field}: " in path.read_text(encoding="utf-8")
    assert {p.name for p in path.parent.iterdir()} == {"tuned.toml"}
    assert device("profile", "show").out.startswith("tuned\n")
    listed = data_of(device, "profile", "list")
    assert listed["used"] == "tuned"
    assert "tuned" in [one["name"] for one in listed["profiles"]]
    (report,) = data_of(device, "train", "--rounds", "1")["rounds"]
    assert (report["micro_batch"], report["rollout_batch"]) == (written.micro_batch, written.rollout_batch)


@pytest.mark.usefixtures("brief")
def test_tune_again_measures_against_the_tuned_profile(device: Cli) -> None:
    first = data_of(device, "profile", "tune", "--name", "quick")
    again = data_of(device, "profile", "tune", "--name", "quick")
    assert (first["before"]["name"], again["before"]["name"]) == ("small", "quick")
    assert again["before"]["rollout_batch"] == first["profile"]["rollout_batch"]
    assert settings_of(device.home)["profile"] == "quick"
    for one in (first, again):
        assert set(one["gain"]) == {"playing", "learning"}
        assert all(gain > 0 for gain in one["gain"].values())
        assert {point["phase"] for point in one["measured"]} == {"playing", "learning"}
        assert one["peak_bytes"] > 50 * MB


@pytest.mark.usefixtures("brief")
def test_tune_says_where_the_environment_counts_before_what_it_wrote(
    device: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = str(write_profile(device.folder / "other.toml"))
    with monkeypatch.context() as patched:
        patched.setenv("SPEARCTL_PROFILE", profile)
        (line,) = data_of(device, "profile", "tune")["health"]
        assert data_of(device, "profile", "list")["used"] == profile
    assert f"SPEARCTL_PROFILE is {profile} here" in line
    assert data_of(device, "profile", "tune")["health"] == []


def test_a_profile_of_ones_own_is_listed_by_the_name_that_it_is_asked_for(device: Cli) -> None:
    device.home.profiles_path.mkdir()
    write_profile(device.home.profiles_path / "mine.toml", name="cpu", summary="a copy")
    listed = data_of(device, "profile", "list")["profiles"]
    assert [one["name"] for one in listed if one["summary"] == "a copy"] == ["mine"]


@pytest.mark.parametrize("used", ["small", "bad"])
def test_a_profile_that_is_not_valid_hides_no_other(device: Cli, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device.home.profiles_path.mkdir()
    write_profile(device.home.profiles_path / "small.toml")
    (device.home.profiles_path / "bad.toml").write_text("= = =", encoding="utf-8")
    (device.home.profiles_path / "empty.toml").touch()
    monkeypatch.setenv("SPEARCTL_PROFILE", used)
    listed = data_of(device, "profile", "list")
    assert {"cpu", "small"} <= {one["name"] for one in listed["profiles"]}
    assert list(listed["broken"]) == ["bad", "empty"]
    assert "micro_batch: missing" in listed["broken"]["empty"]
    text = device("profile", "list").out
    assert "bad.toml is not valid TOML" in " ".join(text.split())
    assert "see `spearctl profile show empty`" in " ".join(text.split())
    assert "profile of your own" not in text
    assert device("profile", "show", "bad").code == 4


@pytest.mark.parametrize("name", ["My Board.toml", "cpu.toml", "UP.TOML"])
def test_a_profile_that_no_name_leads_to_is_told(device: Cli, name: str) -> None:
    device.home.profiles_path.mkdir()
    write_profile(device.home.profiles_path / name)
    assert list(data_of(device, "profile", "list")["broken"]) == [name]
    assert f"{name}: not what a profile can be called" in " ".join(device("profile", "list").out.split())


@pytest.mark.parametrize("place", ["profiles", "profiles/tuned.toml"])
def test_what_is_in_the_way_of_a_tuned_profile_is_told_before_anything_is_measured(
    device: Cli, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def measured(*args: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("spearctl.commands.profile._measure", measured)
    path = device.home.root / place
    if place == "profiles":
        path.symlink_to(device.folder / "nowhere")
    else:
        path.mkdir(parents=True)
    outcome = device("profile", "tune")
    assert outcome.code == 9
    assert str(path) in "".join(outcome.err.split())
    assert "move it away" in outcome.err


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    device: Cli, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    access = os.access
    place = device.home.profiles_path if exists else device.home.root
    place.mkdir(exist_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place and access(path, mode))
    monkeypatch.setattr("spearctl.commands.profile._measure", lambda *_: pytest.fail("too late"))
    outcome = device("profile", "tune")
    assert outcome.code == 9
    assert f"chmod u+rwx {place}" in " ".join(outcome.err.split())


def test_a_name_that_is_empty_is_no_profile(device: Cli) -> None:
    assert "no profile named ''" in device("profile", "show", "").err


@pytest.mark.usefixtures("brief")
def test_a_tuned_home_that_was_moved_still_finds_its_profile(device: Cli) -> None:
    assert device("profile", "tune").code == 0
    shutil.move(device.home.root, device.folder / "moved")
    assert device("profile", "show", "--home", str(device.folder / "moved")).out.startswith("tuned\n")


@pytest.mark.usefixtures("brief")
def test_tune_measures_nothing_that_would_be_over_the_budget(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "ROLLOUT_SIZES", (4, 4096))
    monkeypatch.setattr(tuning, "MICRO_SIZES", (1, 4096))
    scripted(monkeypatch, 400 * MB)
    outcome = device("profile", "tune", "--memory-budget", "430MB")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("would not fit") == 3  # playing, and learning without and with checkpointing
    assert "of a budget of 430 MB" in outcome.out
    assert "--memory-budget 430MB" in outcome.out  # the next step keeps it


def test_tune_refuses_a_budget_that_nothing_fits_and_writes_nothing(device: Cli) -> None:
    before = files_of(device.home.root)
    outcome = device("profile", "tune", "--memory-budget", "10MB")
    assert outcome.code == 4
    assert "it takes at least" in outcome.err
    after = files_of(device.home.root)
    assert {name: after[name] for name in ("config.toml",)} == {name: before[name] for name in ("config.toml",)}
    assert not (device.home.root / "profiles").exists()


@pytest.mark.parametrize("name", ["cpu", "../evil", "a b", "UPPER", ""])
def test_a_name_that_is_taken_or_no_name_is_a_usage_error(device: Cli, name: str) -> None:
    outcome = device("profile", "tune", "--name", name)
    assert outcome.code == 2
    assert not (device.home.root / "profiles").exists()


@pytest.mark.usefixtures("brief")
def test_a_tune_that_is_stopped_leaves_the_home_as_it_was(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_of(device.home)

    def stopped(*args: object, **kwargs: object) -> None:
        raise Signalled(2)

    monkeypatch.setattr(tuning, "update", stopped)
    assert device("profile", "tune").code == 130
    assert settings_of(device.home) == before
    assert not (device.home.root / "profiles").exists()


# Detection


def test_detect_names_the_hardware_and_why(cli: Cli) -> None:
    data = data_of(cli, "profile", "detect")
    text = cli("profile", "detect").out
    assert text.startswith(f"{data['choice']['profile']} suits this machine: {data['choice']['reason']}\n")
    assert data["hardware"]["cpu_name"] in text
    assert "GiB" in data["choice"]["reason"]


def test_an_unknown_field_of_ones_own_profile_is_code_4_and_named(cli: Cli) -> None:
    own: Path = write_profile(cli.folder / "own.toml")
    own.write_text(own.read_text(encoding="utf-8") + "\n[memory]\nmicro_batchs = 1\n", encoding="utf-8")
    outcome = cli("profile", "show", str(own))
    assert outcome.code == 4
    assert "memory.micro_batchs: no such field, perhaps micro_batch was meant" in outcome.err
