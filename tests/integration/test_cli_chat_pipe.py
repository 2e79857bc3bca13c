"""`spearctl chat` where nobody sits in front of it: lines in a pipe, and JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from spearctl.home import Home
from tests.cli import Cli, clean_environment
from tests.homes import write_profile
from training.feedback import Attempt, Entry
from training.log import read_log


@pytest.fixture
def device(cli: Cli, parrot: Home) -> Cli:
    """The command line with a copy of the parrot's home."""
    shutil.copytree(parrot.root, cli.home.root)
    return cli


def entries(device: Cli) -> tuple[Entry, ...]:
    """What the log says, every line of which must be sound."""
    log = read_log(device.home.feedback_path)
    assert log.problems == ()
    return log.entries


def test_what_the_model_says_cannot_steer_the_terminal(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.models.LanguageModel.decode", lambda self, tokens: "\x1b[2J\r" * len(tokens))
    outcome = device("chat", stdin="One?\n")
    assert outcome.code == 0
    assert outcome.out == "\\x1b[2J\\x0d" * 2 + "\n"


def test_in_a_pipe_lines_are_questions_and_verdicts(device: Cli) -> None:
    lines = ["One?", "- no", "+", "", "Two\\", "lines?", "+ fine", '"""', "+", '"""']
    outcome = device("chat", "--seed", "1", stdin="\n".join(lines))
    assert outcome.code == 0
    assert re.fullmatch(r"([a-z]\.\n\n){3}[a-z]\.\n", outcome.out)
    assert outcome.err.splitlines() == [
        "noted as wrong: no; it tries again",
        "noted as right",
        "noted as right: fine",
    ]
    said = outcome.out.split("\n\n")
    one, two = entries(device)
    assert one.attempts == (Attempt(said[0], "wrong", "no"), Attempt(said[1], "right"))
    assert two.conversation[-1].content == "Two\nlines?"
    assert device("chat", "--seed", "1", "--quiet", stdin="\n".join(lines)).err == ""


def test_in_a_pipe_a_mistake_is_told_and_the_code_is_2_but_the_rest_is_done(device: Cli) -> None:
    outcome = device("chat", stdin="+\n/nothing\nOne?\n+\n+\n")
    assert outcome.code == 2
    assert re.fullmatch(r"[a-z]\.\n", outcome.out)
    said = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: no answer waits for a verdict",
        "error: /nothing is no command",
        "error: that answer was judged right already",
        "error: 3 lines of the input could not be done",
    ]
    assert len(entries(device)) == 1


def test_in_a_pipe_a_verdict_that_cannot_be_noted_ends_it(device: Cli) -> None:
    device.home.feedback_path.unlink()
    device.home.feedback_path.mkdir()
    outcome = device("chat", stdin="One?\n+\nTwo?\n")
    assert outcome.code == 8
    assert re.fullmatch(r"[a-z]\.\n", outcome.out)


def test_bytes_that_are_no_text_stop_nothing(device: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spearctl", "chat", "--json"],
        env=clean_environment(device.folder),
        input=b"caf\xe9?\r\n+\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (entry,) = entries(device)
    assert entry.prompt == "caf\ufffd?"


def events(device: Cli, *words: str, stdin: str) -> list[dict[str, Any]]:
    outcome = device("chat", "--json", *words, stdin=stdin)
    assert outcome.err == ""
    envelopes = [json.loads(line) for line in outcome.out.splitlines()]
    assert {(envelope["spearctl"], envelope["command"]) for envelope in envelopes} == {(1, "chat")}
    return [envelope["data"] | {"errors": envelope["errors"]} for envelope in envelopes]


def test_json_is_an_object_a_line(device: Cli) -> None:
    found = events(device, stdin="One?\n- no\n/undo\n/log\n/bogus\n")
    names = [event.get("event") for event in found]
    answer = ["text", "text", "answer"]
    assert names == ["ready", *answer, "verdict", *answer, "undo", "note", "note", None, "end"]
    first, verdict = found[3], found[4]
    assert first["text"] == found[1]["text"] + found[2]["text"]
    assert (first["ended"], first["tokens"], first["revision"], found[7]["revision"]) == (True, 2, 0, 1)
    assert first["seconds"] >= first["first_s"] > 0
    assert first["id"] == verdict["id"] == found[8]["id"]
    assert (verdict["verdict"], verdict["feedback"], verdict["tries_again"]) == ("wrong", "no", True)
    assert found[8]["judge_anew"] is True
    assert found[11]["errors"][0]["kind"] == "UsageError"
    assert (found[-1]["answers"], found[-1]["right"], found[-1]["wrong"]) == (2, 0, 0)
    assert found[-1]["errors"][0]["code"] == 2
    assert entries(device) == ()


def test_a_seed_repeats_a_chat_and_a_temperature_of_zero_needs_none(device: Cli) -> None:
    def said(*words: str) -> list[str]:
        return device("chat", *words, stdin="One?\nTwo?\nThree?\nFour?\n").out.split()

    assert said("--seed", "7") == said("--seed", "7") != said("--seed", "8")
    assert len({*said("--temperature", "0"), *said("--temperature", "0")}) == 1


def test_a_long_conversation_is_cut_at_its_front_and_never_fails(device: Cli) -> None:
    narrow = ("--profile", str(write_profile(device.folder / "narrow.toml", max_sequence=160)), "--max-new-tokens", "8")
    found = events(device, *narrow, stdin="".join(f"Is it so, number {n}?\n" for n in range(8)))
    assert found[-1]["answers"] == 8
    assert any(event.get("event") == "cut" for event in found)
    assert max(event["prompt_tokens"] for event in found if event.get("event") == "answer") <= 160 - 8 - 1
    found = events(device, *narrow, stdin=f"{'long ' * 100}\nA question of some length, so to say?\n- {'long ' * 20}\n")
    assert "longer than the model can read" in found[1]["errors"][0]["message"]
    assert found[-1]["answers"] == 1
    assert found[-2]["tries_again"] is False


def test_more_tokens_than_the_model_reads_are_a_usage_error(device: Cli) -> None:
    outcome = device("chat", "--max-new-tokens", "1000")
    assert outcome.code == 2
    assert "at most 960" in outcome.err


def test_an_adapter_can_be_named(device: Cli) -> None:
    assert events(device, "--adapter", "base", stdin="")[0]["adapter"] == "base"
    assert device("chat", "--adapter", "local:9").code == 2
