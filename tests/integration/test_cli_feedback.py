"""`spearctl feedback`: what it writes, what it refuses, and with which code."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest

from tests.cli import ENTRY, Cli
from training.log import read_log

PAIRED = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def test_a_judged_answer_is_added_as_typed(cli: Cli) -> None:
    home = cli.make_home()
    words = ["--prompt", " Why?\n", "--completion", "Because.", "--verdict", "wrong", "--feedback", "say more"]
    envelope = cli("feedback", "add", *words, "--user", "ann", "--json").envelope
    (entry,) = read_log(home.feedback_path).entries
    assert envelope["data"] == {"log": str(home.feedback_path), "id": entry.id, "new": True}
    assert (entry.prompt, entry.user, entry.check) == (" Why?\n", "ann", None)
    assert [(a.completion, a.verdict, a.feedback) for a in entry.attempts] == [("Because.", "wrong", "say more")]
    assert entry.ts is not None


def test_entries_get_ids_of_their_own(cli: Cli) -> None:
    home = cli.make_home()
    for _ in range(3):
        assert cli("feedback", "add", "--prompt", "p", "--check", "exact", "--expect", "x").code == 0
    assert len(read_log(home.feedback_path).entries) == 3


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--check", "exact", "--expect", "Paris"), {"type": "exact", "expect": "Paris"}),
        (("--check", "exact", "--expect", "Paris", "--words", "1"), {"type": "exact", "expect": "Paris", "words": 1}),
        (
            ("--check", "choice", "--expect", "B", "--options", "3", "--format", "bare"),
            {"type": "choice", "expect": "B", "options": 3, "format": "bare"},
        ),
        (
            ("--check", "number", "--expect", "3.5", "--tolerance", "0.1", "--unit", "km"),
            {"type": "number", "expect": "3.5", "tolerance": 0.1, "unit": "km"},
        ),
        (
            ("--check", "yes_no", "--expect", "no", "--format", "answer_line"),
            {"type": "yes_no", "expect": "no", "format": "answer_line"},
        ),
        (("--check", "regex", "--expect", "a+"), {"type": "regex", "expect": "a+"}),
        (("--check", "json", "--expect", '{"a": 1}'), {"type": "json", "expect": '{"a": 1}'}),
    ],
)
def test_every_kind_of_check_can_be_added(cli: Cli, flags: tuple[str, ...], expected: dict[str, Any]) -> None:
    home = cli.make_home()
    assert cli("feedback", "add", "--prompt", "p", *flags).code == 0
    written = json.loads(home.feedback_path.read_text())
    assert expected.items() <= written["check"].items()
    assert len(read_log(home.feedback_path).entries) == 1


def test_the_prompt_is_read_from_stdin_for_a_dash(cli: Cli) -> None:
    home = cli.make_home()
    words = ("--prompt", "-", "--check", "exact", "--expect", "x")
    assert cli("feedback", "add", *words, stdin="two\nlines\n").code == 0
    assert read_log(home.feedback_path).entries[0].prompt == "two\nlines"


def test_a_known_entry_is_extended_without_repeating_its_prompt(cli: Cli) -> None:
    home = cli.make_home()
    conversation = [{"role": "user", "content": "hi"}]
    cli.log(ENTRY, {"v": 1, "id": "talk", "messages": conversation})
    assert (
        cli("feedback", "add", "--id", "capital", "--hint", "on the Seine", "--json").envelope["data"]["new"] is False
    )
    outcome = cli("feedback", "add", "--id", "talk", "--completion", "hello", "--verdict", "right")
    assert outcome.out.startswith("Extended talk in ")
    log = read_log(home.feedback_path)
    assert log.problems == ()
    capital, talk = log.entries
    assert (capital.hint, capital.prompt) == ("on the Seine", "Capital of France?")
    assert talk.attempts[0].verdict == "right"


def test_the_same_id_with_another_prompt_is_code_8_and_nothing_is_written(cli: Cli) -> None:
    cli.make_home()
    path = cli.log(ENTRY)
    before = path.read_bytes()
    outcome = cli("feedback", "add", "--id", "capital", "--prompt", "Another?", "--hint", "h")
    assert outcome.code == 8
    assert "'capital' already has another prompt" in outcome.err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ((), "the prompt is missing"),
        (("--id", "new"), "there is no entry 'new'"),
        (("--prompt", "p"), "nothing can be learned"),
        (("--prompt", "p", "--completion", "c"), "nothing can be learned"),
        (("--prompt", "p", "--verdict", "right"), "--verdict judges an answer"),
        (("--prompt", "p", "--feedback", "f"), "--feedback judges an answer"),
        (("--prompt", "p", "--expect", "x"), "--expect says something of a check"),
        (("--prompt", "p", "--options", "3"), "--options says something of a check"),
        (("--prompt", "p", "--check", "exact"), "a check needs the right answer"),
        (("--prompt", "p", "--check", "choice", "--expect", "Z"), "--check choice:"),
        (("--prompt", "p", "--check", "exact", "--expect", "x", "--options", "3"), "exact has no --options\n"),
        (("--prompt", "p", "--check", "json", "--expect", "1", "--unit", "m", "--words", "1"), "no --unit, --words\n"),
        (("--prompt", "p", "--check", "sums", "--expect", "x"), "'sums'"),
        (("--prompt", "p", "--completion", "c", "--verdict", "good"), "'good'"),
        (("--prompt",), "--prompt"),
    ],
)
def test_flags_that_do_not_fit_are_usage_errors_and_nothing_is_written(
    cli: Cli, flags: tuple[str, ...], part: str
) -> None:
    home = cli.make_home()
    outcome = cli("feedback", "add", *flags)
    assert outcome.code == 2
    assert part in outcome.err
    assert "\nhint: " in outcome.err
    assert home.feedback_path.read_bytes() == b""


def test_check_names_each_bad_line_and_ends_with_8(cli: Cli) -> None:
    cli.make_home()
    path = cli.log(ENTRY, "junk", '{"v":2,"id":"x","prompt":"p"}')
    outcome = cli("feedback", "check")
    assert outcome.code == 8
    first, second, total = outcome.out.splitlines()
    assert first.startswith(f"{path}:2: ")
    assert second.startswith(f"{path}:3: ")
    assert total == "3 lines, 1 entry"
    assert outcome.err.startswith("error: 2 lines cannot be used\nhint: ")


def test_check_as_json_holds_the_result_and_the_error(cli: Cli) -> None:
    cli.make_home()
    cli.log(ENTRY, "junk")
    outcome = cli("feedback", "check", "--json")
    envelope = outcome.envelope
    assert (outcome.code, outcome.err, envelope["ok"]) == (8, "", False)
    assert [problem["line"] for problem in envelope["data"]["problems"]] == [2]
    assert (envelope["data"]["entries"], envelope["data"]["lines"]) == (1, 2)
    assert envelope["errors"][0]["code"] == 8


def test_check_of_a_good_log_is_code_0_and_needs_no_home(cli: Cli) -> None:
    path = cli.folder / "log.jsonl"
    path.write_text(json.dumps(ENTRY) + '\n{"v":1')
    outcome = cli("feedback", "check", str(path))
    assert outcome.code == 0
    assert outcome.out.startswith("1 line, 1 entry\n")
    assert "no newline yet" in outcome.out


@pytest.mark.parametrize("command", ["check", "stats"])
@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_log_that_cannot_be_read_is_code_8(cli: Cli, command: str, what: str) -> None:
    path = cli.folder / "nowhere.jsonl" if what == "missing" else cli.folder
    outcome = cli("feedback", command, str(path))
    assert outcome.code == 8
    assert str(path) in outcome.err
    assert "\nhint: " in outcome.err


def test_stats_count_what_the_log_holds(cli: Cli) -> None:
    cli.make_home()
    attempts = [{"completion": "a", "verdict": "right"}, {"completion": "b", "verdict": "wrong", "feedback": "no"}]
    cli.log(ENTRY, {"v": 1, "id": "x", "prompt": "p", "attempts": attempts, "user": "ann"}, "junk")
    data = cli("feedback", "stats", "--json").envelope["data"]
    assert (data["entries"], data["checks"], data["bad_lines"]) == (2, {"exact": 1}, 1)
    assert (data["attempts_right"], data["attempts_wrong"], data["with_feedback"], data["users"]) == (1, 1, 1, 1)
    assert "with a check   1 exact" in cli("feedback", "stats").out


@pytest.mark.parametrize("command", ["check", "stats", "add", "forget"])
def test_the_homes_log_needs_a_home(cli: Cli, command: str) -> None:
    extra = {"add": ("--prompt", "p", "--check", "exact", "--expect", "x"), "forget": ("x", "--yes")}.get(command, ())
    outcome = cli("feedback", command, *extra)
    assert outcome.code == 4
    assert "spearctl init" in outcome.err


def test_convert_writes_a_log_for_its_owner_alone(cli: Cli) -> None:
    source, target = cli.folder / "trl.jsonl", cli.folder / "log.jsonl"
    source.write_text(json.dumps(PAIRED) + "\n")
    outcome = cli("feedback", "convert", str(source), str(target))
    assert outcome.code == 0
    assert outcome.out == "Wrote 1 entry to ~/log.jsonl\n"
    (entry,) = read_log(target).entries
    assert {attempt.completion: attempt.verdict for attempt in entry.attempts} == {"good": "right", "bad": "wrong"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_convert_reports_bad_rows_and_still_writes_the_good_ones(cli: Cli) -> None:
    source, target = cli.folder / "trl.jsonl", cli.folder / "log.jsonl"
    source.write_text(json.dumps(PAIRED) + "\njunk\n")
    outcome = cli("feedback", "convert", str(source), str(target))
    assert outcome.code == 8
    assert f"{source}:2: " in outcome.out
    assert "error: 1 row cannot be used" in outcome.err
    assert len(read_log(target).entries) == 1


def test_convert_overwrites_nothing(cli: Cli) -> None:
    source, target = cli.folder / "trl.jsonl", cli.folder / "log.jsonl"
    source.write_text(json.dumps(PAIRED) + "\n")
    target.write_text(json.dumps(ENTRY) + "\n")
    outcome = cli("feedback", "convert", str(source), str(target))
    assert outcome.code == 2
    assert "--append" in outcome.err
    assert len(read_log(target).entries) == 1
    assert cli("feedback", "convert", str(source), str(target), "--append").code == 0
    assert len(read_log(target).entries) == 2
    assert cli("feedback", "convert", str(source), str(source), "--append").code == 2


def test_convert_of_nothing_readable_is_code_8(cli: Cli) -> None:
    (cli.folder / "empty").write_text("\n")
    for name in ("none", "empty"):
        outcome = cli("feedback", "convert", str(cli.folder / name), str(cli.folder / "out"))
        assert outcome.code == 8
        assert name in outcome.err
    assert not (cli.folder / "out").exists()


def test_convert_to_stdout_and_json_exclude_each_other(cli: Cli) -> None:
    outcome = cli("feedback", "convert", "in", "-", "--json")
    assert outcome.code == 2
    assert "both want stdout" in outcome.envelope["errors"][0]["message"]


def test_forget_removes_every_line_of_an_entry(cli: Cli) -> None:
    cli.make_home()
    path = cli.log(ENTRY, "junk", {**ENTRY, "hint": "h"}, {**ENTRY, "id": "other"})
    data = cli("feedback", "forget", "capital", "--yes", "--json").envelope["data"]
    assert data == {"log": str(path), "ids": ["capital"], "lines": 2}
    assert [line[:4] for line in path.read_text().splitlines()] == ["junk", '{"v"']


def test_forget_without_a_terminal_or_yes_is_a_usage_error_and_removes_nothing(cli: Cli) -> None:
    cli.make_home()
    path = cli.log(ENTRY)
    outcome = cli("feedback", "forget", "capital", stdin="y\n")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert len(read_log(path).entries) == 1


def test_forget_of_an_unknown_entry_is_a_usage_error_and_removes_nothing(cli: Cli) -> None:
    cli.make_home()
    path = cli.log(ENTRY)
    outcome = cli("feedback", "forget", "capital", "nobody", "--yes")
    assert outcome.code == 2
    assert "'nobody'" in outcome.err
    assert len(read_log(path).entries) == 1
