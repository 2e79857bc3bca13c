"""`train --follow`: learns when there is enough, tells each round, keeps nothing that loses, and locks nobody out."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spearctl.budget import Watch
from spearctl.following import Feed, Follow, Follower
from spearctl.learner import Phases
from spearctl.options import GlobalOptions
from spearctl.rounds import Rounds
from spearctl.run import Run
from spearctl.signals import Stop
from tests.cli import Cli
from tests.faults.trainer import training
from tests.homes import Entry, assert_sound, assert_tidy, told, winnable, write_profile
from training.history import History
from training.holdout import is_held_out
from training.parsing import parse_entry

SHARE = 0.5


def split(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Those that are learned from, and those held out."""
    held = [is_held_out(parse_entry(json.dumps(entry)), SHARE) for entry in entries]
    return (
        [entry for entry, out in zip(entries, held, strict=True) if not out],
        [entry for entry, out in zip(entries, held, strict=True) if out],
    )


def rounds_of(device: Cli) -> list[dict[str, Any]]:
    with History(device.home.history_path) as history:
        return [record.report for record in history.rounds()]


def test_it_learns_when_enough_is_new_and_tells_every_round(device: Cli) -> None:
    device.log(*told(5))
    with training(device.home, "--follow", "--batch", "3", "--held-out", "0", "--rounds", "2", "--json") as trainer:
        trainer.wait_for_line("round 1: 5 judged by people")
        trainer.wait_for_line("learns when 3 are new, or 5 minutes after the first")
        device.log(*told(8)[5:])
        assert trainer.end() == 0
        lines = [json.loads(line) for line in (device.folder / "out").read_text().splitlines()]
    assert [line["data"]["round"]["round"] for line in lines[:2]] == [1, 2]
    assert lines[1]["data"]["round"]["told"] == 3
    assert lines[1]["data"]["round"]["replayed"] == 1
    assert [report["round"] for report in lines[2]["data"]["rounds"]] == [1, 2]
    assert lines[2]["data"]["supply"]["already_trained"] == 8
    assert_sound(device.home)
    assert_tidy(device.home)


def test_a_few_wait_for_the_time_and_ctrl_c_ends_the_wait(device: Cli) -> None:
    device.log(*told(2))
    with training(device.home, "--follow", "--batch", "50", "--every", "1s", "--held-out", "0") as trainer:
        trainer.wait_for_line("learns when 50 are new, or 1 second after the first")
        trainer.wait_for_line("round 1: 2 judged by people")
        trainer.signal(signal.SIGINT)
        code = trainer.end()
        assert (code, "1 round kept" in trainer.errors) == (130, True), trainer.errors


def test_other_commands_have_the_home_between_rounds(device: Cli) -> None:
    device.log(*told(3))
    with training(device.home, "--follow", "--batch", "3", "--held-out", "0") as trainer:
        trainer.wait_for_line("round 1:")
        trainer.wait_for_line("following")
        assert device("adapter", "use", "base").code == 0
        device.log(*told(6)[3:])
        trainer.wait_for_line("round 2:")
        trainer.wait_for_line("following")
    with History(device.home.history_path) as history:
        assert [version.parent for version in history.versions()] == ["base", "base"]


def test_a_home_that_is_locked_is_told_once(device: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    device.log(*told(3))
    run = Run("train", GlobalOptions(home=device.home.root))
    rounds = Rounds(run, run.config(), Watch(run, None), keep=False)
    with closing(Feed(device.home.feedback_path)) as feed, device.home.training_lock("eval"), Phases(run) as phases:
        feed.look()
        follower = Follower(run, feed, Follow(held_out=0.0), rounds, None)
        record = json.loads(device.home.lock_path.read_text())
        for day in range(1, 4):  # so that it is said otherwise each time for how long
            device.home.lock_path.write_text(json.dumps({**record, "since": f"2026-01-0{day}T10:00:00+00:00"}))
            assert not follower._learn(Stop(), phases)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is in use: process {os.getpid()} (eval) took it" in line
    assert line.endswith("; waiting for it to end")


def test_a_profile_that_is_changed_meanwhile_is_for_the_next_run(device: Cli, tmp_path: Path) -> None:
    device.log(*told(3))
    profile = write_profile(tmp_path / "mine.toml")
    words = ("--follow", "--batch", "3", "--held-out", "0", "--rounds", "2", "--profile", str(profile))
    with training(device.home, *words) as trainer:
        trainer.wait_for_line("following")
        profile.write_text("half of a pro")
        device.log(*told(6)[3:])
        trainer.wait_for_line("round 2: 3 judged by people")
        assert trainer.end() == 0
    assert device("train", "--profile", str(profile), "--again").code == 4


def test_what_comes_next_is_not_foretold(device: Cli) -> None:
    device.log(*told(3))
    words = ("--follow", "--batch", "3", "--held-out", "0", "--rounds", "2")
    with training(device.home, *words, point="round.after-play", times=2) as trainer:
        trainer.wait_for_line("following")
        device.log(*told(6)[3:])
        trainer.wait_for("round.after-play")
        progress = device("status", "--json").envelope["data"]["training"]["progress"]
    assert (progress["round"], progress["left_s"]) == (2, None)


def test_an_update_that_makes_held_out_answers_worse_is_discarded(device: Cli) -> None:
    learned, held = split([{**entry, "id": f"e{at}"} for at, entry in enumerate(told(60))])
    for entry in held:  # the slice says the opposite of what is learned
        entry["attempts"][0]["verdict"] = "wrong"
    device.log(*learned, *held)
    words = ("--follow", "--held-out", str(SHARE), "--max-drop", "0", "--rounds", "1", "--json")
    with training(device.home, *words) as trainer:
        assert trainer.end() == 0
        last = json.loads((device.folder / "out").read_text().splitlines()[-1])["data"]
    (report,) = rounds_of(device)
    assert report["held_out"] == min(48, len(held))
    assert report["discarded"] is not None
    assert report["drop"] > 0
    assert last["adapter"] == "base"
    assert last["supply"]["held_out"] == len(held)
    assert any("round 1 was discarded: scores on" in line for line in last["advice"])
    assert_sound(device.home)
    with History(device.home.history_path) as history:
        assert (history.current, history.versions(), history.trained_count()) == ("base", (), report["told"])


def test_the_same_update_is_kept_where_the_slice_agrees(device: Cli) -> None:
    device.log(*told(60))
    words = ("--follow", "--held-out", str(SHARE), "--max-drop", "0", "--rounds", "1")
    with training(device.home, *words) as trainer:
        assert trainer.end() == 0
    (report,) = rounds_of(device)
    assert (report["discarded"], report["adapter"]) == (None, "local:1")
    assert report["drop"] < 0


def test_without_a_win_it_waits_for_more_and_does_not_spin(device: Cli) -> None:
    device.log(*told(4, losses=4))
    with training(device.home, "--follow", "--batch", "2", "--held-out", "0", "--rounds", "2") as trainer:
        trainer.wait_for_line("round 1: 4 judged by people; 0 wins")
        trainer.wait_for_line("following")
        device.log(*winnable(2))
        trainer.wait_for_line("round 2:")
        assert trainer.end() == 0
    assert [report["steps"] > 0 for report in rounds_of(device)] == [False, True]
    with History(device.home.history_path) as history:
        assert history.trained_count() == 4


def test_bad_lines_are_told_once_and_a_log_may_come_later(device: Cli, tmp_path: Path) -> None:
    late = tmp_path / "late.jsonl"
    with training(device.home, "--follow", "--feedback", str(late), "--batch", "1", "--rounds", "2") as trainer:
        trainer.wait_for_line("is not there yet; waiting for it")
        late.write_text("nonsense\n" + "".join(json.dumps(entry) + "\n" for entry in told(3)))
        trainer.wait_for_line(f"{late}:1: ")
        trainer.wait_for_line("round 1:")
        with late.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in told(9)[3:])
        trainer.wait_for_line("round 2:")
        assert trainer.end() == 0
        assert f"{late}:1: " not in trainer.errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--batch", "3"), "--batch says how to follow a log"),
        (("--max-drop", "0.1"), "--max-drop says how to follow a log"),
        (("--follow", "--again"), "--follow and --again exclude each other"),
        (("--follow", "--dry-run"), "--follow and --dry-run exclude each other"),
        (("--follow", "--share-kept"), "--follow and --share-kept exclude each other"),
        (("--follow", "--every", "soon"), "--every 'soon' is no time"),
        (("--follow", "--held-out", "0.9"), "--held-out"),
    ],
)
def test_flags_that_do_not_fit_are_usage_errors(device: Cli, words: tuple[str, ...], says: str) -> None:
    outcome = device("train", *words)
    assert outcome.code == 2
    assert says in outcome.err
