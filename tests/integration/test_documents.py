"""README and docs: every command line in them does what it says it does, or at least is understood."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.main import get_command

from spearctl import following
from spearctl.app import build
from spearctl.config import AdapterConfig, Config, Preferences, preferences
from tests.cli import ROOT
from tests.documents import DOCUMENTS, Document, DocumentError, Line, Story, read
from tests.homes import write_profile

COMMANDS: Any = get_command(build())
GLOBAL_OPTIONS = {option for parameter in COMMANDS.params for option in parameter.opts}
(TUTORIAL,) = (document for document in DOCUMENTS if document.name == "docs/tutorial.md")
TOLD = [document for document in DOCUMENTS if any(line.words[0] == "spearctl" for line in document.lines)]
STORIES = [document for document in TOLD if document is not TUTORIAL]
MENTIONS = [line for document in DOCUMENTS for line in document.mentions]
OTHERS = [line for document in DOCUMENTS for line in document.lines if line.words[0] != "spearctl"]
OTHERS += [line for line in MENTIONS if line.words[0] != "spearctl"]

TEXT_OPTIONS = {"--prompt", "--completion", "--feedback", "--hint"}
NUMBERS = {"N": "1", "SHARE": "0.1", "SECONDS": "1"}
"""What stands for a number where a line is shortened; all other such words may be text."""
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"\$\(([A-Z]+)\)", (ROOT / "Makefile").read_text()))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
UNITS = {path.stem for path in (ROOT / "systemd").glob("*.service")}
PAGES = {path.stem for path in (ROOT / "man").glob("*.1")}
SYSTEMD = {
    ("systemctl", "--user", "enable", "--now"),
    ("systemctl", "--user", "edit"),
    ("journalctl", "--user", "-u"),
}


@pytest.mark.parametrize("document", STORIES, ids=lambda document: document.name)
def test_the_command_lines_of_a_document_work_in_their_order(
    document: Document, tiny_chat_model: Path, tmp_path: Path
) -> None:
    story = Story(tmp_path, tiny_chat_model, write_profile(tmp_path / "small.toml", max_sequence=1024))
    story.tell(document.lines)
    assert story.devices.keys() == {line.device for line in document.lines if line.words[0] == "spearctl"}
    if len(story.devices) > 1:
        assert story.agreed
        assert story.learned


def test_in_the_tutorial_both_learn_and_end_with_the_same_and_no_words_of_one_are_with_the_other(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    story = Story(tmp_path, tiny_chat_model, write_profile(tmp_path / "small.toml", max_sequence=1024))
    story.tell(TUTORIAL.lines)
    assert story.agreed
    assert story.learned == {"anna", "ben"}
    for name, other in (("anna", "ben"), ("ben", "anna")):
        texts = said_to(name, TUTORIAL.lines)
        assert len(texts) >= 2
        log = story.devices[name].home.feedback_path.read_bytes()
        assert all(text in log for text in texts)
        for path in story.devices[other].home.root.rglob("*"):
            assert not path.is_file() or not [text for text in texts if text in path.read_bytes()], path


@pytest.mark.parametrize("line", [line for line in MENTIONS if line.words[0] == "spearctl"], ids=str)
def test_a_command_line_that_is_mentioned_is_understood(line: Line) -> None:
    assert understand(line.words[1:]) in every_command(COMMANDS)


@pytest.mark.parametrize("line", OTHERS, ids=str)
def test_what_other_programs_are_told_is_there(line: Line) -> None:
    program, *words = line.words
    plain = [word for word in words if not word.startswith("-") and "=" not in word]
    if program == "make":
        assert plain
        assert set(plain) <= TARGETS
        assert {word.partition("=")[0] for word in words if word[:1] != "-" and "=" in word} <= VARIABLES
    elif program in {"pip", "pipx"}:
        assert (words[0], len(words)) == ("install", 2)
        found = re.fullmatch(r"\.|spearctl\[([a-z]+)\]", words[1])
        assert found
        assert found[1] is None or found[1] in EXTRAS
    elif program == "man":
        assert set(words) <= PAGES
    elif program == "loginctl":
        assert words == ["enable-linger"]
    else:
        assert (program, *words[:-1]) in SYSTEMD
        assert words[-1] in UNITS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_commands_options_extras_and_files_between_backquotes_are_there(document: Document) -> None:
    known = {option for command in every_command(COMMANDS) for found in command.params for option in found.opts}
    for span in document.spans:
        words = span.words[0].split()
        if words[0].startswith("--"):
            assert {word for word in words if word.startswith("--")} <= known | {"--help"}, span
        elif words[0] in COMMANDS.commands and len(words) > 1:
            if hasattr(COMMANDS.commands[words[0]], "commands") or words[1].startswith("--"):
                understand(tuple(words))
        elif re.fullmatch(r"\[[a-z]+\]", words[0]):
            assert words[0][1:-1] in EXTRAS, span
        elif re.fullmatch(r"(spearctl|p2p|training|profiles|tests|docs|man|systemd)/[\w./-]*", words[0]):
            assert (ROOT / words[0]).exists(), span


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_to_other_documents_lead_somewhere(document: Document) -> None:
    path = ROOT / document.name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_every_setting_is_in_the_table_of_settings_and_no_other_is() -> None:
    text = (ROOT / "docs" / "config.md").read_text().partition("## Your own")
    rows = [line.split("|")[1] for line in text[0].splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    fields = [field.name for field in msgspec.structs.fields(Config)]
    parts = [f"adapter.{field.name}" for field in msgspec.structs.fields(AdapterConfig)]
    assert sorted(named) == sorted([*(name for name in fields if name != "adapter"), *parts])
    own = text[2].partition("## Environment")[0]
    assert {field.name for field in msgspec.structs.fields(Preferences)} <= set(re.findall(r"`([a-z_]+)`", own))


def test_environment_variables_that_are_told_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    source = "".join(path.read_text() for path in (ROOT / "spearctl").rglob("*.py"))
    pages = [*(document.name for document in DOCUMENTS), "man/source/environment.mdoc"]
    names = {name for page in pages for name in re.findall(r"\bSPEARCTL_[A-Z_]+\b", (ROOT / page).read_text())}
    assert {"SPEARCTL_HOME", "SPEARCTL_CACHE", "SPEARCTL_PROFILE", "SPEARCTL_PASSPHRASE_FILE"} <= names
    for name in names:
        assert f'"{name}"' in source or preferences({}, {name: "7"}) != preferences({}, {}), name


def test_options_of_following_have_the_defaults_that_are_told() -> None:
    text = (ROOT / "docs" / "feedback.md").read_text()
    told = dict(re.findall(r"^\| `(--[a-z-]+) [A-Z]+` \| (\S+) \|", text, re.MULTILINE))
    options = {found.opts[0]: found for found in COMMANDS.commands["train"].params}
    assert told.keys() == {"--batch", "--every", "--held-out", "--max-drop", "--replay"}
    follow = following.settings(dict.fromkeys(("batch", "every", "held_out", "max_drop", "replay")))
    assert told.pop("--every") == f"{follow.every_s / 60:g}m"
    assert {name: float(value) for name, value in told.items()} == {
        "--batch": follow.batch,
        "--held-out": follow.held_out,
        "--max-drop": follow.most_drop,
        "--replay": follow.replay,
    }
    assert all(f"Default: {value}." in options[name].help for name, value in told.items())


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nspearctl init\n```\n",
        "```\nspearctl init\n```\n",
        "```\n$ spearctl init\n```\n",
        "```sh\nspearctl status | less\n```\n",
        "```sh\nspearctl init && spearctl train\n```\n",
        "```sh\nspearctl --home $HOME/x init\n```\n",
        "```sh\nspearctl init \\\n```\n",
        "```sh\nspearctl init\n",
        "~~~sh\nspearctl init\n~~~\n",
    ],
)
def test_a_block_of_which_it_is_not_known_how_to_run_it_is_not_passed_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.documents.ROOT", tmp_path)
    path = tmp_path / "new.md"
    path.write_text(f"# New\n\n{text}")
    with pytest.raises(DocumentError, match=r"new\.md"):
        read(path)


def test_a_program_that_is_not_known_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.documents.ROOT", tmp_path)
    path = tmp_path / "new.md"
    path.write_text("```sh\ncurl example.org\n```\n")
    (line,) = read(path).lines
    with pytest.raises(AssertionError):
        test_what_other_programs_are_told_is_there(line)


@pytest.mark.parametrize(
    "words",
    [("trian",), ("peers", "revok", "NAME"), ("train", "--folow"), ("train", "--rounds", "many"), ("down", "x")],
)
def test_a_command_line_that_is_wrong_is_not_understood(words: tuple[str, ...]) -> None:
    with pytest.raises((AssertionError, typer.TyperException)):
        understand(words)


def said_to(device: str, lines: list[Line]) -> set[bytes]:
    """Prompts, answers and comments that a device was told, if they are long enough not to be anywhere by chance."""
    added = [line.words for line in lines if line.device == device and line.words[1:3] == ("feedback", "add")]
    texts = {words[i + 1].encode() for words in added for i, word in enumerate(words) if word in TEXT_OPTIONS}
    return {text for text in texts if len(text) > 8}


def understand(words: tuple[str, ...]) -> Any:
    """Reads a command line of `spearctl` as the program would, and returns its command; arguments may be missing."""
    command, left = COMMANDS, [NUMBERS.get(word, word) for word in words]
    while hasattr(command, "commands") and left:
        word = left.pop(0)
        if word.startswith("-"):
            assert word in GLOBAL_OPTIONS | {"--help"}, words
        elif word != "COMMAND":
            assert word in command.commands, words
            command = command.commands[word]
    left = [word for word in left if word != "--help"]
    try:
        command.make_context("x", [*left])
    except typer.TyperException as error:
        if type(error).__name__ == "BadOptionUsage" and left[-1].startswith("--"):  # the option without its value
            return understand((*words, "1"))
        if type(error).__name__ != "MissingParameter":
            raise
    return command


def every_command(command: Any) -> list[Any]:
    """A command and all below it."""
    below = [every_command(found) for found in getattr(command, "commands", {}).values()]
    return [command, *(found for several in below for found in several)]
