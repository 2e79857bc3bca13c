"""What holds for every command, those included that nobody thought of when this was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from spearctl.app import build
from tests.cli import ENTRY, Cli, learn

GLOBALS = ("--home", "--json", "--debug", "--quiet", "--verbose")


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words
    for name, child in (children or {}).items():
        yield from leaves(child, (*words, name))


LEAVES = tuple(leaves(get_command(build())))


def joined(words: object) -> str:
    return " ".join(words) if isinstance(words, tuple) else str(words)


def test_the_commands_of_this_version_are_there() -> None:
    expected = {
        ("init",),
        ("status",),
        ("log",),
        ("adapter", "list"),
        ("adapter", "use"),
        ("adapter", "rollback"),
        ("feedback", "add"),
        ("feedback", "check"),
        ("feedback", "convert"),
        ("feedback", "stats"),
        ("feedback", "forget"),
        ("profile", "list"),
        ("profile", "show"),
        ("profile", "detect"),
    }
    assert expected <= set(LEAVES)


@pytest.mark.parametrize("words", LEAVES, ids=joined)
def test_help_names_the_command_and_every_global_option(cli: Cli, words: tuple[str, ...]) -> None:
    outcome = cli(*words, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: spearctl {joined(words)} ")
    assert outcome.err == ""
    for option in GLOBALS:
        assert option in outcome.out


@pytest.mark.parametrize("words", LEAVES, ids=joined)
def test_help_names_arguments_as_manuals_do(cli: Cli, words: tuple[str, ...]) -> None:
    usage, _, rest = cli(*words, "--help").out.partition("\n\n")
    assert not set("{}") & set(usage)
    assert "[[" not in usage
    assert "<" not in rest.partition("Options:")[0]


@pytest.mark.parametrize(
    "words", sorted({words[:depth] for words in LEAVES for depth in range(len(words))}), ids=joined
)
def test_the_list_of_commands_cuts_no_sentence(cli: Cli, words: tuple[str, ...]) -> None:
    assert "..." not in cli(*words, "--help").out.partition("Commands:")[2].partition("Options:")[0]


@pytest.mark.parametrize("words", LEAVES, ids=joined)
def test_help_fits_a_terminal_of_80_columns(cli: Cli, words: tuple[str, ...]) -> None:
    assert max(map(len, cli(*words, "--help").out.splitlines())) <= 80


@pytest.mark.parametrize("words", LEAVES, ids=joined)
def test_an_unknown_option_is_a_usage_error_in_an_envelope(cli: Cli, words: tuple[str, ...]) -> None:
    outcome = cli(*words, "--no-such-option", "--json")
    assert outcome.code == 2
    assert outcome.err == ""
    envelope = outcome.envelope
    assert set(envelope) == {"spearctl", "command", "ok", "data", "errors"}
    assert (envelope["spearctl"], envelope["command"], envelope["ok"]) == (1, joined(words), False)
    (error,) = envelope["errors"]
    assert (error["code"], error["kind"]) == (2, "UsageError")
    assert "--no-such-option" in error["message"]
    assert f"spearctl {joined(words)} --help" in error["hint"]


@pytest.mark.parametrize("words", LEAVES, ids=joined)
def test_an_unknown_option_tells_a_person_what_is_wrong_and_where_help_is(cli: Cli, words: tuple[str, ...]) -> None:
    outcome = cli(*words, "--no-such-option")
    assert outcome.code == 2
    assert outcome.out == ""
    what, hint = outcome.err.splitlines()
    assert what.startswith("error: no such option: --no-such-option")
    assert hint == f"hint: see how it is used: spearctl {joined(words)} --help"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("--json",), ""),
        (("bogus", "--json"), ""),
        (("--json", "bogus"), ""),
        (("adapter", "--json"), "adapter"),
        (("--json", "adapter"), "adapter"),
        (("adapter", "bogus", "--json"), "adapter"),
        (("adapter", "use", "--json"), "adapter use"),
        (("status", "extra", "--json"), "status"),
        (("--bogus", "--json"), ""),
        (("adapter", "rollback", "0", "--json"), "adapter rollback"),
    ],
    ids=joined,
)
def test_every_way_to_mistype_gives_one_envelope_and_code_2(cli: Cli, arguments: tuple[str, ...], command: str) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err == ""
    assert outcome.envelope["ok"] is False
    assert outcome.envelope["command"] == command
    assert outcome.envelope["errors"][0]["code"] == 2


def test_a_group_without_a_command_shows_its_help_on_stderr(cli: Cli) -> None:
    outcome = cli("adapter")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "rollback" in outcome.err


def test_the_program_without_a_command_shows_its_help_on_stderr(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Commands:" in outcome.err


def test_a_near_miss_names_the_command_that_was_meant(cli: Cli) -> None:
    assert "'status'" in cli("statu").err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "adapter", "list"),
        ("adapter", "--json", "list"),
        ("adapter", "list", "--json"),
        ("--json", "adapter", "--json", "list", "--json"),
    ],
    ids=joined,
)
def test_json_is_understood_at_every_place(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.make_home()
    outcome = cli(*arguments)
    assert outcome.code == 0
    assert outcome.envelope["command"] == "adapter list"
    assert outcome.envelope["ok"] is True


@pytest.mark.parametrize("place", range(3))
def test_home_is_understood_at_every_place_and_wins_over_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    home = cli.make_home()
    monkeypatch.setenv("SPEARCTL_HOME", str(cli.folder / "elsewhere"))
    words = ["adapter", "list"]
    words[place:place] = ["--home", str(home.root)]
    assert cli(*words).code == 0


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("flag", ["-q", "--quiet", "-v", "--verbose"])
def test_quiet_and_verbose_are_understood_at_every_place(cli: Cli, flag: str, place: int) -> None:
    words = ["profile", "list"]
    words.insert(place, flag)
    assert cli(*words).code == 0


@pytest.mark.parametrize("place", range(3))
def test_debug_is_understood_at_every_place_and_shows_a_traceback(cli: Cli, place: int) -> None:
    words = ["adapter", "list"]
    words.insert(place, "--debug")
    outcome = cli(*words)
    assert outcome.code == 4
    assert "Traceback (most recent call last)" in outcome.err


def test_the_home_that_is_named_last_counts(cli: Cli) -> None:
    home = cli.make_home()
    assert cli("--home", str(cli.folder / "nowhere"), "status", "--home", str(home.root)).code == 0


def test_a_value_that_looks_like_a_global_option_is_a_value(cli: Cli) -> None:
    cli.make_home()
    outcome = cli("feedback", "add", "--prompt=--json", "--check", "exact", "--expect", "x")
    assert outcome.code == 0
    assert outcome.out.startswith("Added ")


def test_the_version_is_told_as_text_and_as_json(cli: Cli) -> None:
    text, envelope = cli("--version").out, cli("--version", "--json").envelope
    assert text == f"spearctl {envelope['data']['version']}\n"


EVERYTHING = [
    ("status",),
    ("log",),
    ("adapter", "list"),
    ("adapter", "use", "local:1"),
    ("adapter", "rollback"),
    ("feedback", "add", "--prompt", "p", "--check", "exact", "--expect", "x"),
    ("feedback", "check"),
    ("feedback", "stats"),
    ("feedback", "forget", "capital", "--yes"),
    ("profile", "list"),
    ("profile", "show"),
]


@pytest.mark.parametrize("words", EVERYTHING, ids=joined)
def test_success_is_one_envelope_with_nothing_on_stderr(cli: Cli, words: tuple[str, ...]) -> None:
    learn(cli.make_home())
    cli.log(ENTRY)
    outcome = cli(*words, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.envelope["ok"] is True
    assert outcome.envelope["errors"] == []
    assert outcome.envelope["command"] == " ".join(words[: len(outcome.envelope["command"].split())])
    assert outcome.envelope["data"]


@pytest.mark.parametrize("words", EVERYTHING, ids=joined)
def test_piped_text_is_plain_and_has_no_trailing_spaces(cli: Cli, words: tuple[str, ...]) -> None:
    learn(cli.make_home(), report={"health": ["a line that is far longer than eighty columns, " * 4]})
    cli.log(ENTRY)
    outcome = cli(*words)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "\x1b" not in outcome.out
    assert outcome.out.endswith("\n")
    assert [line for line in outcome.out.splitlines() if line != line.rstrip()] == []


def test_piped_text_is_not_wrapped(cli: Cli) -> None:
    long = "word " * 60
    learn(cli.make_home(), report={"health": [long]})
    assert long.strip() in cli("status").out


@pytest.mark.parametrize("words", [w for w in LEAVES if w[0] in {"status", "log", "adapter"}], ids=joined)
def test_without_a_home_a_command_says_how_to_make_one(cli: Cli, words: tuple[str, ...]) -> None:
    extra = ("base",) if words == ("adapter", "use") else ()
    outcome = cli(*words, *extra)
    assert outcome.code == 4
    assert outcome.out == ""
    assert outcome.err.endswith("hint: make one: spearctl init\n")


def test_the_hint_repeats_the_home_that_was_named(cli: Cli) -> None:
    outcome = cli("status", "--home", str(cli.folder / "an other"))
    assert f"spearctl --home '{cli.folder / 'an other'}' init" in outcome.err


def test_a_bug_is_code_1_and_asks_for_a_report(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.make_home()

    def broken(home: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("spearctl.snapshot._learning", broken)
    outcome = cli("status")
    assert outcome.code == 1
    assert outcome.err.startswith("error: unexpected KeyError: 'surprise'\nhint: ")
    assert "Traceback" not in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" in cli("status", "--debug").err
    assert cli("status", "--json").envelope["errors"][0]["kind"] == "KeyError"


def test_a_failing_disk_is_not_called_a_bug(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.make_home()

    def full(home: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("spearctl.snapshot._learning", full)
    outcome = cli("status")
    assert outcome.code == 9
    assert outcome.err.startswith("error: /somewhere: No space left on device\n")


def test_control_characters_in_a_message_do_not_reach_the_terminal(cli: Cli) -> None:
    outcome = cli("profile", "show", "a\x1b[31mb")
    assert outcome.code == 4
    assert "\x1b" not in outcome.err
