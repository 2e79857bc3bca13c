"""`spearctl chat` on a terminal: what it shows, and what is in the log at every moment."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from spearctl.home import Home
from tests.chatting import ASK, JUDGE, Chat, chatting
from tests.cli import Cli
from tests.homes import make_template, write_profile
from tests.swarms import homes, invite
from tests.tiny import make_parrot
from training.feedback import Attempt, Entry
from training.history import History
from training.log import read_log

ENDLESS = 30_000


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose model never stops by itself, for copying."""
    folder = tmp_path_factory.mktemp("babbler")
    home = make_template(folder, make_parrot(folder / "parrot-instruct", ends=False, sequence=2 * ENDLESS))
    write_profile(folder / "small.toml", max_sequence=2 * ENDLESS)
    return home


@pytest.fixture
def device(cli: Cli, parrot: Home) -> Cli:
    """The command line with a copy of the parrot's home."""
    shutil.copytree(parrot.root, cli.home.root)
    return cli


@pytest.fixture
def endless(cli: Cli, babbler: Home) -> Cli:
    """The command line with a copy of the babbler's home."""
    shutil.copytree(babbler.root, cli.home.root)
    return cli


def entries(device: Cli) -> tuple[Entry, ...]:
    """What the log says now, every line of which must be sound."""
    log = read_log(device.home.feedback_path)
    assert log.problems == ()
    assert not log.unfinished
    return log.entries


def ask(chat: Chat, question: str) -> str:
    """Asks, and returns the answer once a verdict is awaited."""
    chat.type(question)
    return letter(chat.wait_for(JUDGE))


def letter(shown: str) -> str:
    """The parrot's answer in what was shown."""
    (found,) = re.findall(r"^([a-z]\.)\r$", shown, re.MULTILINE)
    return str(found)


def test_three_questions_with_three_verdicts_and_one_taken_back(device: Cli) -> None:
    with chatting(device.folder) as chat:
        greeting = chat.wait_for("> ")
        assert "adapter base" in " ".join(greeting.split())
        assert "/help" in greeting

        chat.type("One?")
        first = chat.wait_for(JUDGE)
        assert "Right? +" in first
        chat.type("+")
        chat.wait_for("noted as right", ASK)
        (one,) = entries(device)
        assert (one.prompt, one.attempts) == ("One?", (Attempt(letter(first), "right"),))

        second = ask(chat, "Two?")
        chat.type("- too short")
        third = letter(chat.wait_for("noted as wrong: too short; it tries again", JUDGE))
        two = entries(device)[1]
        assert [message.role for message in two.conversation] == ["user", "assistant", "user"]
        assert two.attempts == (Attempt(second, "wrong", "too short"),)
        chat.type("+ better")
        chat.wait_for("noted as right: better", ASK)
        two = entries(device)[1]
        assert two.attempts == (Attempt(second, "wrong", "too short"), Attempt(third, "right", "better"))

        ask(chat, "Three?")
        chat.type("")
        chat.wait_for(ASK)
        assert len(entries(device)) == 2

        chat.type("/undo")
        chat.wait_for("took back: right, on “Two?”", ASK)
        assert entries(device)[1].attempts == (Attempt(second, "wrong", "too short"),)
        chat.type("/log")
        chat.wait_for("2 entries; from this chat 1 right, 1 wrong", ASK)
        chat.press("d")
        code, rest = chat.end()
    assert code == 0
    assert "1 right and 1 wrong noted in ~/home/feedback.jsonl" in rest
    assert "spearctl train" in rest


def test_a_verdict_that_was_taken_back_can_be_given_anew(device: Cli) -> None:
    with chatting(device.folder) as chat:
        chat.wait_for("> ")
        said = ask(chat, "One?")
        chat.type("+")
        chat.wait_for(ASK)
        chat.type("/undo")
        chat.wait_for("judge it anew", JUDGE)
        assert entries(device) == ()
        chat.type("/undo")
        chat.wait_for("error: no verdict of this chat is left", JUDGE)
        chat.type("- no")
        chat.wait_for(JUDGE)
        (entry,) = entries(device)
        assert entry.attempts == (Attempt(said, "wrong", "no"),)


def test_train_learns_from_a_chat_and_the_chat_tells_of_it(device: Cli) -> None:
    with chatting(device.folder, "--seed", "1") as chat:
        chat.wait_for("> ")
        for question in ("One?", "Two?", "Three?"):
            ask(chat, question)
            chat.type("+")
            chat.wait_for(ASK)
        wrong = ask(chat, "Four?")
        chat.type("-")
        right = letter(chat.wait_for(JUDGE))
        assert right != wrong
        chat.type("+")
        chat.wait_for(ASK)
        report = device("train", "--rounds", "1", "--json").envelope["data"]["rounds"][0]
        assert (report["told"], report["wins"], report["losses"]) == (5, 4, 1)
        with History(device.home.history_path) as history:
            assert history.trained_count() == 5
        chat.type("/adapter")
        chat.wait_for("adapter base; local:1 is in use by now", ASK)
        chat.type("/undo")
        chat.wait_for("what was learned from it stays; to go back: spearctl adapter rollback", JUDGE)


def test_a_member_is_told_of_what_is_shared_and_of_no_version_to_go_back_to(parrot: Home, tmp_path: Path) -> None:
    with homes(tmp_path, parrot, "anna") as (anna,):
        invite(anna)
        with chatting(anna.folder, "--home", str(anna.home.root)) as chat:
            chat.wait_for("round:0.", "> ")  # behind the path of a model, which may be so long that a line ends here
            ask(chat, "One?")
            chat.type("+")
            chat.wait_for(ASK)
            chat.type("/adapter")
            assert "in use" not in chat.wait_for("adapter round:0", ASK)
            assert anna.data("train", "--rounds", "1")["rounds"][0]["wins"] == 1
            chat.type("/adapter")
            chat.wait_for("adapter round:0; more that was learned here is in use by now", ASK)
            chat.type("/undo")
            chat.wait_for("what was learned from it stays\r\n", JUDGE)
        assert anna("feedback", "add", "--prompt", "p", "--check", "exact", "--expect", "x", "--id", "e").code == 0
        assert anna("feedback", "forget", "e", "--yes").out.endswith("already stays in the adapters\n")


def test_a_log_that_was_moved_away_stops_nothing(device: Cli) -> None:
    with chatting(device.folder) as chat:
        chat.wait_for("> ")
        ask(chat, "One?")
        chat.type("+")
        chat.wait_for(ASK)
        device.home.feedback_path.rename(device.folder / "moved.jsonl")
        chat.type("/log")
        chat.wait_for("0 entries; from this chat 1 right, 0 wrong", ASK)
        chat.type("/undo")
        chat.wait_for("that verdict is not in the log any more", "judge it anew", JUDGE)
        chat.type("+")
        chat.wait_for("noted as right", ASK)
    (entry,) = entries(device)
    assert entry.prompt == "One?"


def test_orders_and_what_is_none(device: Cli) -> None:
    with chatting(device.folder, "--system", "Be brief.") as chat:
        chat.wait_for("> ")
        chat.type("/help")
        chat.wait_for("/undo", "/quit", ASK)
        chat.type("/system")
        chat.wait_for("told first: Be brief.", ASK)
        ask(chat, "One?")
        chat.type("+")
        chat.wait_for(ASK)
        chat.type('/system ""')
        chat.wait_for("told first: what the home", ASK)
        chat.type("/new")
        chat.wait_for("a new conversation", ASK)
        chat.type("+")
        chat.wait_for("error: no answer waits for a verdict", ASK)
        chat.type("/adapters")
        chat.wait_for("error: /adapters is no command", "hint: see /help", ASK)
        chat.type('"""')
        chat.wait_for("... ")
        chat.type("- a list")
        chat.wait_for("... ")
        chat.type('/quit"""')
        chat.wait_for(JUDGE)
        chat.type("+")
        chat.wait_for(ASK)
        chat.type("/quit")
        code, _ = chat.end()
    assert code == 0
    first, second = entries(device)
    assert first.messages is not None
    assert [message.content for message in first.messages] == ["Be brief.", "One?"]
    assert second.prompt == "- a list\n/quit"


def test_ctrl_c_stops_an_answer_then_leaves(endless: Cli) -> None:
    with chatting(endless.folder, "--max-new-tokens", str(ENDLESS)) as chat:
        chat.wait_for("> ")
        chat.type("One?")
        chat.wait_for("One?\r\n")
        chat.screen.expect(r"[a-z]{40}")  # it has begun
        chat.press("c")
        chat.wait_for("stopped", JUDGE)
        chat.type("+")
        chat.wait_for("error: an answer that was cut short", JUDGE)
        chat.press("c")
        code, _ = chat.end()
    assert code == 0
    assert entries(endless) == ()


def test_another_signal_in_the_middle_of_an_answer_ends_it(endless: Cli) -> None:
    with chatting(endless.folder, "--max-new-tokens", str(ENDLESS)) as chat:
        chat.wait_for("> ")
        chat.type("One?")
        chat.screen.expect(r"[a-z]{40}")
        os.kill(chat.process.pid, signal.SIGTERM)
        code, _ = chat.end()
    assert code == 128 + signal.SIGTERM


@pytest.mark.parametrize("verdict", ["+", "- no"])
def test_a_kill_right_after_a_verdict_loses_nothing(device: Cli, verdict: str) -> None:
    with chatting(device.folder) as chat:
        chat.wait_for("> ")
        said = ask(chat, "One?")
        chat.type(verdict)
        chat.wait_for("noted as ")
        chat.kill()
    (entry,) = entries(device)
    assert (entry.prompt, entry.attempts[0].completion) == ("One?", said)


def test_a_kill_in_the_middle_of_an_answer_keeps_the_verdicts_before_it(endless: Cli) -> None:
    with chatting(endless.folder, "--max-new-tokens", str(ENDLESS)) as chat:
        chat.wait_for("> ")
        chat.type("One?")
        chat.screen.expect(r"[a-z]{40}")
        chat.press("c")
        chat.wait_for(JUDGE)
        chat.type("- endless")
        chat.wait_for("it tries again")
        chat.screen.expect(r"[a-z]{40}")
        chat.kill()
    (entry,) = entries(endless)
    (attempt,) = entry.attempts
    assert (attempt.verdict, attempt.feedback) == ("wrong", "endless")


def test_two_chats_and_other_commands_write_to_one_log(device: Cli) -> None:
    with chatting(device.folder) as one, chatting(device.folder) as other:
        for chat in (one, other):
            chat.wait_for("> ")
        for number in range(4):
            for chat in (one, other):
                chat.type(f"Question {number}?")
            for chat in (one, other):
                chat.wait_for(JUDGE)
            for chat in (one, other):
                chat.type("+")
            assert device("feedback", "add", "--prompt", "p", "--check", "exact", "--expect", "x").code == 0
            for chat in (one, other):
                chat.wait_for(ASK)
        for chat in (one, other):
            chat.type("/undo")
        for chat in (one, other):
            chat.wait_for("took back: right, on “Question 3?”", JUDGE)
    found = entries(device)
    assert sorted(entry.conversation[-1].content for entry in found) == sorted(
        ["p"] * 4 + 2 * [f"Question {n}?" for n in range(3)]
    )
    assert len({entry.id for entry in found}) == 10


def test_on_a_terminal_of_80_columns_without_colours(device: Cli) -> None:
    with chatting(device.folder, columns=80, TERM="xterm-256color", NO_COLOR="1") as chat:
        chat.wait_for("> ")  # until then a spinner turns on one line
        chat.type("/help")
        shown = chat.wait_for("between them", "> ")
        chat.type("One?")
        shown += chat.wait_for("+/- > ")
        chat.type("- " + "far too long, " * 10)
        shown += chat.wait_for("noted as wrong", "+/- > ")
        chat.press("d")
        shown += chat.end()[1]
    assert re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-7]m", shown) is None
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown)
    lines = [line for line in plain.splitlines() if not line.startswith("+/- > - far too long")]
    assert any("noted as wrong: far too long" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_text_of_several_lines_that_was_pasted_is_one_question(device: Cli) -> None:
    with chatting(device.folder, TERM="xterm") as chat:
        chat.wait_for("\x1b[?2004h> ")  # asks the terminal to tell what is pasted, which it then does
        chat.screen.send("\x1b[200~Which of these?\n- one\n+ two\x1b[201~\n")
        chat.wait_for("+/- > ")
        assert entries(device) == ()
        chat.type("+")
        chat.wait_for("noted as right", "> ")
        chat.press("d")
        assert chat.end()[0] == 0
    (entry,) = entries(device)
    assert entry.prompt == "Which of these?\n- one\n+ two"


def test_the_arrow_up_brings_back_what_was_asked_and_no_file_keeps_it(device: Cli) -> None:
    before = {path.name for path in device.home.root.iterdir()}
    with chatting(device.folder, TERM="xterm") as chat:
        chat.wait_for("> ")
        chat.type("One more?")
        chat.wait_for("+/- > ")
        chat.type("+")
        chat.wait_for("noted", "> ")
        chat.screen.send("\x1b[A\n")
        chat.wait_for("One more?", "+/- > ")
        chat.type("+")
        chat.wait_for("noted", "> ")
        chat.press("d")
        assert chat.end()[0] == 0
    assert [entry.conversation[-1].content for entry in entries(device)] == ["One more?"] * 2
    assert {path.name for path in device.home.root.iterdir()} - before <= {"node.db-wal", "node.db-shm"}
