"""A home that is damaged, newer, in use or somebody else's; and settings that are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace as replaced
from pathlib import Path

import pytest

import profiles
from spearctl import config
from tests.cli import Cli, learn


def replace(cli: Cli, old: str, new: str) -> None:
    path = cli.home.config_path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_newer_home_is_refused(cli: Cli) -> None:
    cli.make_home()
    replace(cli, "format = 1", "format = 2\nunheard_of = true")
    outcome = cli("status")
    assert outcome.code == 9
    assert "format 2" in outcome.err
    assert outcome.err.endswith("hint: upgrade spearctl\n")


@pytest.mark.parametrize("damage", ["", "format = 0", "format = true", 'format = "1"'])
def test_a_home_without_a_format_number_is_refused_as_damaged(cli: Cli, damage: str) -> None:
    cli.make_home()
    replace(cli, "format = 1", damage)
    assert cli("status").code == 9
    assert cli("init").code == 9


@pytest.mark.parametrize("newer", [False, True])
def test_a_damaged_or_newer_history_is_refused(cli: Cli, newer: bool) -> None:
    home = cli.make_home()
    if newer:
        import sqlite3

        with sqlite3.connect(home.history_path) as database:
            database.execute("PRAGMA user_version = 99")
    else:
        home.history_path.write_bytes(b"this is no database, and longer than one page header would be" * 99)
    for words in (("status",), ("adapter", "list"), ("adapter", "use", "base")):
        outcome = cli(*words)
        assert outcome.code == 9, words
        assert "node.db" in outcome.err
        assert "hint: " in outcome.err


def test_settings_that_are_no_toml_name_the_line(cli: Cli) -> None:
    cli.make_home()
    replace(cli, 'name = "lab"', "name = lab")
    outcome = cli("status")
    assert outcome.code == 4
    assert "config.toml" in outcome.err
    assert "line 4" in outcome.err


def test_all_wrong_settings_are_named_together(cli: Cli) -> None:
    cli.make_home()
    replace(cli, 'name = "lab"', "name = 3\nprofil = 1")
    replace(cli, "rank = 16", "rank = 0\nrnk = 1")
    replace(cli, 'prompt_format = "chat"', "")
    outcome = cli("status")
    assert outcome.code == 4
    for part in ("`name`", "`profil` (did you mean `profile`?)", "`rank`", "`rnk`", "`prompt_format` is missing"):
        assert part in outcome.err


@pytest.mark.parametrize("line", [f"x = {'[' * 100_000}", f"x = {'1' * 9000}"], ids=["brackets", "digits"])
def test_settings_that_are_hostile_are_an_error_like_others(cli: Cli, line: str) -> None:
    cli.make_home()
    replace(cli, 'name = "lab"', f'name = "lab"\n{line}')
    outcome = cli("status")
    assert outcome.code == 4
    assert "config.toml: not valid TOML" in outcome.err


def test_settings_may_begin_with_the_mark_of_some_editors(cli: Cli) -> None:
    path = cli.make_home().config_path
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert cli("status").code == 0
    config.use_profile(path, "cpu-small")
    assert cli("status", "--json").envelope["data"]["profile"] == "cpu-small"


def test_a_relative_profile_is_one_beside_the_settings_that_name_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    home = cli.make_home(profile="own/board.toml")
    (cli.folder / "own").mkdir()
    (cli.folder / "own" / "board.toml").write_text("name = 'of the current folder'")
    monkeypatch.chdir(cli.folder)
    assert str(home.root / "own" / "board.toml") in cli("profile", "show").err
    (home.root / "own").mkdir()
    (home.root / "own" / "board.toml").write_text(profiles.dumps(replaced(profiles.load("cpu"), name="board")))
    assert cli("profile", "show").out.startswith("board\n")


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [("SPEARCTL_SEED", "abc", "`seed`"), ("SPEARCTL_SEED", "-1", "`seed`"), ("SPEARCTL_SEED", "1" * 5000, "`seed`")],
)
def test_a_wrong_environment_variable_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, part: str
) -> None:
    cli.make_home()
    monkeypatch.setenv(variable, value)
    outcome = cli("status")
    assert outcome.code == 4
    assert "SPEARCTL_" in outcome.err
    assert part in outcome.err


def test_a_wrong_key_in_the_users_own_settings_is_named_with_its_file(cli: Cli) -> None:
    cli.make_home()
    own = cli.prefer("modle = 'x'\n")
    outcome = cli("status")
    assert outcome.code == 4
    assert str(own) in outcome.err
    assert "`model`" in outcome.err


@pytest.mark.parametrize("words", [("adapter", "use", "base"), ("adapter", "rollback")])
def test_a_home_in_which_something_is_trained_is_in_use_and_the_holder_is_named(
    cli: Cli, words: tuple[str, ...]
) -> None:
    home = cli.make_home()
    learn(home)
    with home.training_lock("train"):
        outcome = cli(*words)
        envelope = cli(*words, "--json").envelope
    assert outcome.code == 9
    assert f"process {os.getpid()} (train) took it just now" in outcome.err
    assert f"kill {os.getpid()}" in outcome.err
    assert envelope["errors"][0]["kind"] == "HomeLockedError"
    assert cli(*words).code == 0


def test_status_works_while_something_is_trained_and_says_so(cli: Cli) -> None:
    home = cli.make_home()
    with home.training_lock("train"):
        outcome = cli("status")
        envelope = cli("status", "--json").envelope
    assert outcome.code == 0
    assert f"running in process {os.getpid()}" in outcome.out
    assert envelope["data"]["training"]["running"]["command"] == "train"
    assert cli("status", "--json").envelope["data"]["training"]["running"] is None


def test_status_of_a_new_home_names_what_comes_next(cli: Cli) -> None:
    home = cli.make_home()
    data = cli("status", "--json").envelope["data"]
    assert data["node"] == {"id": None, "name": "lab", "running": False, "address": None}
    assert (data["swarm"], data["peers"], data["health"]) == (None, [], [])
    assert data["home"] == str(home.root)
    assert data["model"]["reference"] == "smollm2-135m"
    assert data["profile"] == "cpu"
    assert data["adapter"] == {"current": "base", "versions": 0}
    assert data["training"]["rounds"] == 0
    text = cli("status").out
    assert "nothing learned yet" in text
    assert text.splitlines()[-1].startswith("  spearctl feedback add")


def test_status_shows_the_last_rounds_with_their_figures(cli: Cli) -> None:
    learn(cli.make_home(), rounds=7, report={"health": ["collapse: too many said no"]})
    data = cli("status", "--json").envelope["data"]
    assert data["training"]["rounds"] == 7
    assert [row["round"] for row in data["training"]["last"]] == [3, 4, 5, 6, 7]
    last = data["training"]["last"][-1]
    assert (last["wins"], last["adapter"], last["seconds"]) == (70, "local:7", 40.0)
    assert data["health"] == ["collapse: too many said no"]
    text = cli("status").out
    assert "7 rounds, the last one" in text
    assert "local:7 (7 versions learned)" in text
    assert "! collapse: too many said no" in text


@pytest.mark.parametrize(("make", "what"), [(Path.mkdir, "a folder"), (os.mkfifo, "a pipe or a device")])
def test_status_of_a_home_whose_log_is_none_shows_all_else(cli: Cli, make: Callable[[Path], None], what: str) -> None:
    home = cli.make_home()
    learn(home, rounds=1)
    home.feedback_path.unlink()
    make(home.feedback_path)
    home.feedback_path.chmod(0o700)
    outcome = cli("status")
    assert outcome.code == 0
    assert f"! {home.feedback_path} is {what}, not a file; nothing can be learned from it" in outcome.out
    assert "feedback  cannot be read" in outcome.out
    assert "local:1" in outcome.out
    assert "Next:" not in outcome.out


def test_status_reports_bad_lines_contradictions_and_open_permissions(cli: Cli) -> None:
    home = cli.make_home()
    attempts = [{"completion": "a", "verdict": "right"}, {"completion": "a", "verdict": "wrong"}]
    cli.log("junk", {"v": 1, "id": "x", "prompt": "p", "attempts": attempts})
    home.feedback_path.chmod(0o644)
    outcome = cli("status")
    assert outcome.code == 0
    assert "! 1 line of the feedback log cannot be read: spearctl feedback check" in outcome.out
    assert "! 1 answer was judged both right and wrong" in outcome.out
    assert "! others on this machine may read feedback.jsonl: chmod -R go-rwx" in outcome.out
    assert cli("status", "--json").envelope["data"]["feedback"]["bad_lines"] == 1


def test_status_accepts_a_home_whose_feedback_log_was_removed(cli: Cli) -> None:
    cli.make_home().feedback_path.unlink()
    outcome = cli("status")
    assert outcome.code == 0
    assert "none yet" in outcome.out


def test_adapter_list_marks_the_one_in_use(cli: Cli) -> None:
    learn(cli.make_home())
    data = cli("adapter", "list", "--json").envelope["data"]
    assert data["current"] == "local:3"
    assert [row["name"] for row in data["adapters"]] == ["base", "local:1", "local:2", "local:3"]
    assert [row["parent"] for row in data["adapters"]] == [None, "base", "local:1", "local:2"]
    starred = [line for line in cli("adapter", "list").out.splitlines() if line.lstrip().startswith("*")]
    assert len(starred) == 1
    assert "local:3" in starred[0]


def test_adapter_use_and_rollback_switch_and_delete_nothing(cli: Cli) -> None:
    learn(cli.make_home())
    assert cli("adapter", "rollback", "--json").envelope["data"] == {"current": "local:2", "before": "local:3"}
    assert cli("adapter", "rollback", "2", "--json").envelope["data"]["current"] == "base"
    assert cli("adapter", "use", "local:3").out == "Now in use: local:3 (before: base)\n"
    assert "nothing was changed" in cli("adapter", "use", "local:3").out
    assert len(cli("adapter", "list", "--json").envelope["data"]["adapters"]) == 4


@pytest.mark.parametrize("words", [("use", "local:9"), ("use", "nonsense"), ("rollback", "4"), ("rollback", "x")])
def test_an_adapter_that_is_not_there_is_a_usage_error_and_changes_nothing(cli: Cli, words: tuple[str, ...]) -> None:
    learn(cli.make_home())
    outcome = cli("adapter", *words)
    assert outcome.code == 2
    assert "hint: " in outcome.err
    assert cli("adapter", "list", "--json").envelope["data"]["current"] == "local:3"


def test_a_number_that_is_none_is_told_in_plain_words(cli: Cli) -> None:
    cli.make_home()
    assert cli("adapter", "rollback", "x").err.startswith("error: invalid value for 'N': it must be a valid integer\n")
    assert "it must be greater than or equal to 1\n" in cli("adapter", "rollback", "0").err


def test_rolling_back_the_base_model_is_a_usage_error(cli: Cli) -> None:
    cli.make_home()
    outcome = cli("adapter", "rollback")
    assert outcome.code == 2
    assert "the base model is in use" in outcome.err


def test_profile_list_and_show(cli: Cli) -> None:
    data = cli("profile", "list", "--json").envelope["data"]
    assert data["used"] is None
    assert [profile["name"] for profile in data["profiles"]][:3] == ["phone", "cpu-small", "cpu"]
    assert cli("profile", "show", "cpu-small", "--json").envelope["data"]["micro_batch"] == 2
    assert cli("profile", "show").code == 4
    cli.make_home(profile="cpu-small")
    assert cli("profile", "list", "--json").envelope["data"]["used"] == "cpu-small"
    assert cli("profile", "show", "--json").envelope["data"]["name"] == "cpu-small"
    assert "micro_batch" in cli("profile", "show").out


def test_an_unknown_profile_is_code_4_and_the_known_ones_are_named(cli: Cli) -> None:
    outcome = cli("profile", "show", "gpu")
    assert outcome.code == 4
    assert "cuda-8g" in outcome.err


def test_the_environment_wins_over_the_home_and_the_home_over_the_users_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.prefer("profile = 'apple'\nname = 'elsewhere'\nmodel = 'other'\n")
    cli.make_home()
    data = cli("status", "--json").envelope["data"]
    assert (data["profile"], data["node"]["name"], data["model"]["reference"]) == ("cpu", "lab", "smollm2-135m")
    monkeypatch.setenv("SPEARCTL_PROFILE", "cuda-8g")
    monkeypatch.setenv("SPEARCTL_MODEL", "other")
    data = cli("status", "--json").envelope["data"]
    assert (data["profile"], data["model"]["reference"]) == ("cuda-8g", "smollm2-135m")
