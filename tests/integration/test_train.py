"""`spearctl train`: what it learns from, what it leaves out and says so, and what it never changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spearctl.home import Home
from tests.cli import Cli
from tests.homes import (
    ROLLOUTS,
    Entry,
    adapter_of,
    assert_sound,
    assert_tidy,
    files_of,
    hopeless,
    told,
    winnable,
    write_log,
    write_profile,
)
from tests.tiny import make_tiny_model
from training.history import BASE, History

LEARNING_RATE = 1e-4
STEPS = 2


def data_of(device: Cli, *words: str) -> dict[str, Any]:
    outcome = device(*words, "--json")
    assert outcome.code == 0, outcome.envelope["errors"]
    return dict(outcome.envelope["data"])


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"v": 1, "id": "cut", "prompt": "What is', "the JSON stops before its end"),
    "wrong type": (b'{"v": 1, "id": "typed", "prompt": 7}', "`prompt` is a whole number"),
    "NUL bytes": (b'{"v": 1, "id": "nul", \0\0\0"prompt": "p"}', "NUL bytes"),
    "50 MB": (b'{"v": 1, "id": "big", "prompt": "' + b"a" * 50_000_000 + b'"}', "the line has 50,000,035 bytes"),
    "two prompts": (b'{"v": 1, "id": "play-0", "prompt": "Another?"}', "already has another prompt, in line 1"),
    "version": (b'{"v": 2, "id": "newer", "prompt": "p"}', "version 2"),
    "not UTF-8": (b'{"v": 1, "id": "latin", "prompt": "caf\xe9"}', "not UTF-8 (byte 0xe9"),
}


@pytest.fixture
def broken_log(device: Cli) -> Path:
    """A log in which every 10th line is broken, each in another way."""
    good = iter([*winnable(40), *told(23, losses=5)])
    lines: list[Entry | bytes] = []
    for line, _ in BROKEN.values():
        lines += [next(good) for _ in range(9)]
        lines.append(line)
    assert list(good) == []
    return write_log(device.folder / "broken.jsonl", lines)


def test_a_broken_log_trains_on_its_good_lines_and_every_bad_one_is_named(device: Cli, broken_log: Path) -> None:
    outcome = device("train", "--feedback", str(broken_log), "--rounds", "1")
    assert outcome.code == 0
    reported = [line for line in outcome.err.splitlines() if line.startswith(f"{broken_log}:")]
    for line, number, (_, reason) in zip(reported, range(10, 71, 10), BROKEN.values(), strict=True):
        assert line.startswith(f"{broken_log}:{number}: ")
        assert reason in line
    data = data_of(device, "train", "--feedback", str(broken_log), "--rounds", "1")
    assert [problem["line"] for problem in data["problems"]] == list(range(10, 71, 10))
    assert data["supply"]["problems"] == len(BROKEN)
    assert (data["supply"]["entries"], data["supply"]["playable"]) == (63, 40)
    assert data["supply"]["waiting"] + data["supply"]["already_trained"] == 23
    assert data["adapter"] == "local:2"


def test_feedback_check_of_a_broken_log_is_code_8_and_names_every_bad_line(device: Cli, broken_log: Path) -> None:
    outcome = device("feedback", "check", str(broken_log))
    assert outcome.code == 8
    for number, (_, reason) in zip(range(10, 71, 10), BROKEN.values(), strict=True):
        (line,) = [line for line in outcome.out.splitlines() if f"broken.jsonl:{number}: " in line]
        assert reason in line
    envelope = device("feedback", "check", str(broken_log), "--json").envelope
    assert [problem["line"] for problem in envelope["data"]["problems"]] == list(range(10, 71, 10))


def test_a_line_that_is_still_being_written_is_left_for_the_next_train(device: Cli) -> None:
    path = device.log(*winnable(2))
    last = json.dumps(told(1)[0]).encode()
    with path.open("ab") as file:
        file.write(last)
        file.flush()
        outcome = device("train", "--rounds", "1")
        assert "the last line has no line end yet" in outcome.err
        file.write(b"\n")
    assert data_of(device, "train", "--dry-run")["supply"]["waiting"] == 1


def test_without_wins_the_adapter_stays_byte_identical_and_train_says_why(device: Cli) -> None:
    device.log(*winnable(6))
    assert device("train", "--rounds", "1").code == 0
    before = files_of(device.home.adapters_path)
    assert len(before) == 2
    log = write_log(device.folder / "lost.jsonl", [*hopeless(4), *told(2, losses=2)])
    outcome = device("train", "--feedback", str(log), "--rounds", "2")
    assert outcome.code == 0
    assert "no answer was right, so nothing was learned: SPEAR needs wins." in outcome.out
    assert "Add easier prompts, hints, or attempts judged right" in outcome.out
    assert outcome.out.count("no change") == 2
    assert "adapter in use: local:1" in outcome.out
    data = data_of(device, "train", "--feedback", str(log), "--rounds", "1")
    assert any("no answer was right" in line for line in data["advice"])
    assert data["adapter"] == "local:1"
    (report,) = data["rounds"]
    assert (report["played"], report["told"]) == (4, 2)
    assert (report["wins"], report["steps"], report["loss_win"]) == (0, 0, None)
    assert files_of(device.home.adapters_path) == before
    assert_sound(device.home)


def test_without_wins_a_new_home_stays_at_the_base_model(device: Cli) -> None:
    device.log(*hopeless(4))
    assert data_of(device, "train", "--rounds", "1")["adapter"] == BASE
    assert files_of(device.home.adapters_path) == {}


def test_contradictory_verdicts_are_left_out_and_counted(device: Cli) -> None:
    disputed = told(2, right="maybe", wrong="maybe", losses=1)
    for number, entry in enumerate(disputed):  # two people, one prompt, one answer, two verdicts
        entry |= {"id": f"disputed-{number}", "prompt": "Who is right?"}
    both = {"completion": "both", "verdict": "right"}, {"completion": "both", "verdict": "wrong"}
    device.log(*told(4, losses=1), *disputed, {"v": 1, "id": "torn", "prompt": "And now?", "attempts": both})
    data = data_of(device, "train")
    assert (data["supply"]["contradictory"], data["supply"]["waiting"]) == (4, 4)
    (report,) = data["rounds"]
    assert (report["told"], report["wins"], report["losses"]) == (4, 3, 1)
    assert "4 attempts left out, because people disagree on what was answered" in data["advice"]
    assert_sound(device.home)


def test_what_is_too_long_for_the_sequence_is_cut_and_counted(device: Cli) -> None:
    profile = write_profile(device.folder / "short.toml", max_sequence=64, rollouts=8)
    entries = told(6, losses=1)
    for entry in entries[:3]:
        entry["prompt"] = "Once upon a time, " * 20 + entry["prompt"]
    for entry in entries[2:5]:
        entry["attempts"][0]["completion"] = "because " * 20
    played = winnable(2)
    played[0]["prompt"] = "Tell me more. " * 20
    device.log(*entries, *played)
    data = data_of(device, "train", "--rounds", "1", "--profile", str(profile))
    (report,) = data["rounds"]
    assert (report["told"], report["played"]) == (6, 2)
    assert (report["prompts_cut"], report["completions_cut"]) == (4, 3)
    assert "too long for the profile's sequence: 4 prompts cut in front, 3 answers at the end" in data["advice"]
    assert data["adapter"] == "local:1"


@pytest.mark.parametrize("entries", [[], [{"v": 1, "id": "bare", "prompt": "p", "attempts": [{"completion": "c"}]}]])
def test_a_log_without_anything_to_learn_from_is_no_error_and_says_what_is_missing(
    device: Cli, entries: list[Entry]
) -> None:
    device.log(*entries)
    outcome = device("train")
    assert outcome.code == 0
    assert "nothing in this log can be learned from" in outcome.out
    assert data_of(device, "train")["rounds"] == []


def test_a_dry_run_trains_nothing_and_says_what_would_be_learned_from(device: Cli) -> None:
    device.log(*winnable(3), *told(4))
    outcome = device("train", "--dry-run")
    assert outcome.code == 0
    assert "3 prompts with a check" in outcome.out
    assert "4 attempts by people" in outcome.out
    data = data_of(device, "train", "--dry-run")
    assert (data["dry_run"], data["rounds"], data["adapter"]) == (True, [], BASE)
    assert (data["supply"]["playable"], data["supply"]["waiting"]) == (3, 4)
    assert files_of(device.home.adapters_path) == {}
    with History(device.home.history_path) as history:
        assert history.rounds() == ()


def test_what_people_said_is_trained_on_once_unless_asked_again(device: Cli) -> None:
    device.log(*told(4, losses=1))
    first = data_of(device, "train")
    assert [report["told"] for report in first["rounds"]] == [4]
    outcome = device("train")
    assert outcome.code == 0
    assert "everything in this log was trained on already; add feedback, or train --again" in outcome.out
    second = data_of(device, "train")
    assert (second["rounds"], second["adapter"]) == ([], "local:1")
    assert second["supply"]["already_trained"] == 4
    again = data_of(device, "train", "--again")
    assert [report["told"] for report in again["rounds"]] == [4]
    assert again["adapter"] == "local:2"


def test_a_corrected_verdict_and_a_new_attempt_are_trained_on(device: Cli) -> None:
    device.log(*told(3))
    assert device("train").code == 0
    attempts = [{"completion": "yes", "verdict": "wrong"}, {"completion": "perhaps", "verdict": "right"}]
    device.log(told(1)[0] | {"attempts": attempts})
    (report,) = data_of(device, "train")["rounds"]
    assert (report["told"], report["wins"], report["losses"]) == (2, 1, 1)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(device: Cli, template: Home) -> None:
    entries = [*winnable(9), *told(9, losses=2)]
    weights = {}
    for name, words in {
        "one": ("--seed", "7", "--rounds", "3"),
        "same": ("--seed", "7", "--rounds", "3"),
        "another": ("--seed", "8", "--rounds", "3"),
    }.items():
        home = Home(device.folder / name)
        shutil.copytree(template.root, home.root)
        write_log(home.feedback_path, entries)
        assert device("train", "--home", str(home.root), *words).code == 0
        weights[name] = files_of(home.adapters_path)
    assert len(weights["one"]) == 6
    assert weights["one"] == weights["same"]
    name = str(Path("local-3") / "adapter_model.safetensors")
    assert weights["one"][name] != weights["another"][name]


def test_rounds_one_by_one_give_the_bytes_of_one_go_until_its_learning_rate_falls(device: Cli, template: Home) -> None:
    entries = [*winnable(9), *hopeless(9), *told(9, losses=2)]
    device.log(*entries)
    assert device("train", "--rounds", "3").code == 0
    other = Home(device.folder / "other")
    shutil.copytree(template.root, other.root)
    write_log(other.feedback_path, entries)
    for _ in range(3):
        assert device("train", "--home", str(other.root), "--rounds", "1").code == 0
    one_go, one_by_one = files_of(device.home.adapters_path), files_of(other.adapters_path)
    assert one_go.keys() == one_by_one.keys()
    differing = {name for name in one_go if one_go[name] != one_by_one[name]}
    assert differing == {str(Path("local-3") / "adapter_model.safetensors")}


def test_prompts_that_were_played_least_come_next(device: Cli) -> None:
    device.log(*hopeless(ROLLOUTS), *winnable(2 * ROLLOUTS))
    assert device("train", "--rounds", "3").code == 0
    with History(device.home.history_path) as history:
        assert sorted(history.plays().values()) == [1] * (3 * ROLLOUTS)


def test_a_home_in_which_something_is_trained_is_code_9_and_the_holder_is_named(device: Cli) -> None:
    device.log(*told(2))
    with device.home.training_lock("train"):
        outcome = device("train")
        envelope = device("train", "--json").envelope
    assert outcome.code == 9
    assert f"process {os.getpid()} (train) took it just now" in outcome.err
    assert [error["code"] for error in envelope["errors"]] == [9]
    assert data_of(device, "train")["adapter"] == "local:1"


def test_training_goes_on_from_the_version_in_use_and_numbers_never_repeat(device: Cli) -> None:
    device.log(*winnable(6))
    assert data_of(device, "train", "--rounds", "2")["adapter"] == "local:2"
    assert data_of(device, "adapter", "rollback")["current"] == "local:1"
    assert data_of(device, "train", "--rounds", "1")["adapter"] == "local:3"
    assert data_of(device, "adapter", "use", "base")["current"] == "base"
    assert data_of(device, "train", "--rounds", "1")["adapter"] == "local:4"
    with History(device.home.history_path) as history:
        parents = {version.name: version.parent for version in history.versions()}
    assert parents == {"local:1": "base", "local:2": "local:1", "local:3": "local:1", "local:4": "base"}
    # B starts at 0, and a step of AdamW moves no weight by more than the learning rate: so many rounds deep is each.
    most = LEARNING_RATE * STEPS * 1.001
    for name, rounds in {"local:1": 1, "local:2": 2, "local:3": 2, "local:4": 1}.items():
        deepest = max(np.abs(array).max() for key, array in adapter_of(device.home, name).items() if "lora_B" in key)
        assert (rounds - 1) * most < deepest <= rounds * most, name
    assert_sound(device.home)
    assert_tidy(device.home)


def test_only_so_many_versions_are_kept_and_the_one_in_use_is(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.store.KEPT_VERSIONS", 2)
    device.log(*winnable(6))
    assert device("train", "--rounds", "1").code == 0
    assert device("train", "--rounds", "4").code == 0
    rows = data_of(device, "adapter", "list")["adapters"]
    assert [row["name"] for row in rows if row["present"]] == ["base", "local:4", "local:5"]
    assert_tidy(device.home)
    assert device("adapter", "use", "local:1").code == 2
    assert device("adapter", "use", "local:4").code == 0
    assert data_of(device, "train", "--rounds", "2")["adapter"] == "local:7"
    assert_sound(device.home)


def test_another_model_in_the_same_place_is_code_4_and_changes_nothing(cli: Cli) -> None:
    folder = make_tiny_model(cli.folder / "model")
    profile = write_profile(cli.folder / "small.toml")
    assert cli("init", "--model", str(folder), "--profile", str(profile)).code == 0
    log = cli.log(*winnable(3), *told(2))
    assert cli("train", "--rounds", "1").code == 0
    before = files_of(cli.home.adapters_path)
    weights = folder / "model.safetensors"
    mine = weights.read_bytes()
    make_tiny_model(folder, seed=1)
    for words in (("train",), ("eval", "--data", str(log))):
        outcome = cli(*words)
        assert outcome.code == 4
        assert f"the model {folder} is not the one this home was made for" in outcome.err
        assert "hint: put the old model back" in outcome.err
        assert [error["code"] for error in cli(*words, "--json").envelope["errors"]] == [4]
    assert files_of(cli.home.adapters_path) == before
    weights.write_bytes(mine)
    assert cli("train", "--rounds", "1").code == 0


def test_a_damaged_version_is_code_9_and_names_the_way_back(device: Cli) -> None:
    device.log(*winnable(6))
    assert device("train", "--rounds", "2").code == 0
    path = device.home.adapters_path / "local-2" / "adapter_model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged))
    outcome = device("train")
    assert outcome.code == 9
    assert "adapter local:2 is damaged" in outcome.err
    assert "spearctl adapter rollback" in outcome.err
    assert device("adapter", "rollback").code == 0
    assert data_of(device, "train", "--rounds", "1")["adapter"] == "local:3"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--feedback", "nowhere.jsonl"), 8),
        (("--feedback", "."), 8),
        (("--rounds", "0"), 2),
        (("--seed", "-1"), 2),
        (("--profile", "nowhere.toml"), 4),
    ],
)
def test_a_wrong_flag_is_one_envelope_with_its_code(device: Cli, words: tuple[str, ...], code: int) -> None:
    device.log(*winnable(1))
    outcome = device("train", *words, "--json")
    assert outcome.code == code
    assert [error["code"] for error in outcome.envelope["errors"]] == [code]
    assert outcome.envelope["errors"][0]["hint"]
    assert device("train", *words).out == ""


def test_train_without_a_home_is_code_4(cli: Cli) -> None:
    outcome = cli("train")
    assert outcome.code == 4
    assert "spearctl init" in outcome.err
