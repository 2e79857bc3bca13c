"""Manual pages and completion files: what is committed is what the commands are now."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.main import get_command

from spearctl import completion, errors, manual, mdoc
from spearctl.app import build
from spearctl.command import told
from tests.cli import ROOT

SOURCE = ROOT / "man" / "source"
PAGES = sorted(path.name for path in (ROOT / "man").glob("*.1"))
COMMANDS: dict[str, Any] = get_command(build()).commands  # type: ignore[attr-defined]
EXAMPLES = tomllib.loads((SOURCE / "examples.toml").read_text(encoding="utf-8"))
LINES = [
    line.strip()
    for examples in EXAMPLES.values()
    for example in examples
    for piece in example["lines"].splitlines()
    for line in piece.split(" | ")
    if line.strip().startswith("spearctl")
]


def committed(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}


def test_the_committed_pages_are_those_of_the_commands_as_they_are() -> None:
    assert committed(ROOT / "man") == manual.pages(SOURCE), "run `make man`"


def test_the_committed_completion_files_are_those_of_the_commands_as_they_are() -> None:
    assert committed(ROOT / "completions") == completion.files(get_command(build())), "run `make man`"


def test_making_them_writes_all_and_removes_pages_of_commands_that_are_no_more(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "man" / "source")
    (tmp_path / "completions").mkdir()
    (tmp_path / "man" / "spearctl-gone.1").write_text("old")
    (tmp_path / "man" / "spearctl.1").write_text("old")
    manual.main(tmp_path)
    assert committed(tmp_path / "man") == committed(ROOT / "man")
    assert committed(tmp_path / "completions") == committed(ROOT / "completions")


def test_every_command_has_a_page_and_the_program_names_them_all() -> None:
    names = {f"spearctl-{name}" for name, command in COMMANDS.items() if not command.hidden}
    assert {*PAGES} == {"spearctl.1", *(f"{name}.1" for name in names)}
    overview = (ROOT / "man" / "spearctl.1").read_text()
    for name in names:
        assert overview.count(f".Xr {name} 1") + overview.count(f".It Xr {name} 1\n") >= 2


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_the_sections_that_manuals_have(page: str) -> None:
    text = (ROOT / "man" / page).read_text()
    found = [line.removeprefix(".Sh ") for line in text.splitlines() if line.startswith(".Sh ")]
    wanted = "NAME SYNOPSIS DESCRIPTION OPTIONS ENVIRONMENT FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"
    expected = [*wanted[0].split(), *wanted[1:]]
    if "EXAMPLES" not in found:
        expected.remove("EXAMPLES")
    assert found == expected


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_pages_are_clean_for_mandoc(page: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", ROOT / "man" / page], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("words", [("train",), ("peers", "revoke"), ("feedback", "add")])
def test_a_page_shows_every_option_of_its_command_and_what_help_says_of_it(words: tuple[str, ...]) -> None:
    command: Any = COMMANDS[words[0]]
    for word in words[1:]:
        command = command.commands[word]
    done = subprocess.run(
        ["mandoc", "-T", "ascii", ROOT / "man" / f"spearctl-{words[0]}.1"], capture_output=True, text=True, check=True
    )
    shown = re.sub(".\b", "", done.stdout)  # bold and underlined as on a printer
    flat = " ".join(shown.replace("`", "").replace("'", "").split())
    own = [found for found in command.params if not found.name.startswith("global_")]
    assert own
    for parameter in own:
        assert parameter.param_type_name == "argument" or parameter.opts[0] in flat
        assert " ".join(parameter.help.replace("`", "").replace("'", "").split()).rstrip(".")[:40] in flat


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        ("chat", "temperature", "0 always takes the likeliest word. Default: 0.8; from 0 to 10."),
        ("train", "rounds", "Rounds to run: 8; with --follow, no end. From 1 to 10000."),
        ("train", "seed", "Seed, instead of the home's. At least 0."),
        ("join", "timeout", "How long to try. Default: 60; at least 1."),
        ("invite", "expires", "How long it is good for: 30m, 24h, 7d. Default: 24h."),
        ("eval", "data", "Log with checks, or with answers that people judged. Must be given."),
        ("import", "path", "A PEFT adapter folder."),
    ],
)
def test_what_typer_knows_of_an_option_is_told_in_words(command: str, name: str, said: str) -> None:
    (found,) = (parameter for parameter in COMMANDS[command].params if parameter.name == name)
    assert told(found, Context(COMMANDS[command])) == said


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_no_code(page: str) -> None:
    options = (ROOT / "man" / page).read_text().partition(".Sh OPTIONS")[2].partition(".Sh ENVIRONMENT")[0]
    assert not re.search(r"<=|>=|\[[a-z]", options)


@pytest.mark.parametrize("line", LINES)
def test_examples_are_command_lines_that_would_be_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = get_command(build())
    while hasattr(command, "commands"):
        assert words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    context = command.make_context("x", words, resilient_parsing=False, obj=None)
    assert context.command is command


def test_examples_are_for_commands_that_there_are() -> None:
    assert {*EXAMPLES} <= {"spearctl", *COMMANDS}
    for path in SOURCE.glob("*.mdoc"):
        common = {"spearctl", "spearctl-about", "environment", "files", "exit-status"}
        assert path.stem in {*common, "command-environment", "command-files", *COMMANDS}


def test_every_exit_code_is_told() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    text = (SOURCE / "exit-status.mdoc").read_text()
    assert {int(line.split()[1]) for line in text.splitlines() if line.startswith(".It ") and "N" not in line} == codes


@pytest.mark.parametrize(
    ("plain", "lines"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("See `spearctl up`, then go.", ["See", '.Ql "spearctl up" ,', "then go."]),
        ("Without --profile this machine decides.", ["Without", ".Fl -profile", "this machine decides."]),
        ("a path (--home)", ["a path", ".Fl ( -home )"]),
        (".dot", ["\\&.dot"]),
        ("a\\b", ["a\\eb"]),
        ("`Fl`", [".Ql \\&Fl"]),
    ],
)
def test_plain_text_becomes_mdoc(plain: str, lines: list[str]) -> None:
    assert list(mdoc.text(plain)) == lines
