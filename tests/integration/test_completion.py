"""The completion files, in the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from typer import Context
from typer.main import get_command

from spearctl import completion
from spearctl.app import build
from spearctl.completion import Level
from tests.cli import ROOT, clean_environment

FILES = ROOT / "completions"
LIMIT_S = 60.0

LEVELS = [*completion.levels(Context(get_command(build()), info_name="spearctl"))]

LINES = [
    ("tr", ["train"]),
    ("peers re", ["revoke"]),
    ("train --ro", ["--rounds"]),
    ("train --rounds 3 --dr", ["--dry-run"]),
    ("--home peers peers re", ["revoke"]),
    ("-q --home=/x peers re", ["revoke"]),
    ("feedback add --verdict w", ["wrong"]),
    ("import fi", ["file one", "file two"]),
    ("train --feedback fi", ["file one", "file two"]),
    ("export --peft fo", ["folder"]),
    ("export --adapter fo", []),
    ("train --rounds ", []),
]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """One in which `spearctl` is something that must not be run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "spearctl").write_text(f'#!/bin/sh\ntouch "{tmp_path}/was-run"\n')
    (folder / "spearctl").chmod(0o755)
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    for name in ("file one", "file two", "foe"):
        (here / name).write_text("")
    own = clean_environment(tmp_path)
    yield {**own, "PATH": f"{folder}:{own['PATH']}", "XDG_DATA_DIRS": str(tmp_path / "share")}
    assert not (tmp_path / "was-run").exists(), "a Tab started a process"


def said(environment: dict[str, str], folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout


@contextmanager
def typing(environment: dict[str, str], folder: Path, *command: str) -> Iterator[pexpect.spawn[str]]:
    """A shell on a terminal."""
    shell = pexpect.spawn(
        command[0],
        [*command[1:]],
        env={**environment, "TERM": "dumb", "ZDOTDIR": str(folder.parent)},
        cwd=folder,
        timeout=LIMIT_S,
        encoding="utf-8",
        dimensions=(24, 200),
    )
    try:
        yield shell
    finally:
        shell.close(force=True)


def by_bash(environment: dict[str, str], folder: Path, *lines: str) -> list[list[str]]:
    """What bash offers for the last word of each line."""
    script = [f'source "{FILES / "spearctl"}"', '[[ "$(complete -p spearctl)" == "complete -F _spearctl spearctl" ]]']
    for line in lines:
        words = ["spearctl", *line.replace("=", " = ").split()] + ([""] if line.endswith(" ") or not line else [])
        script += [
            f"COMP_WORDS=({' '.join(f'{word!r}' for word in words)})",
            f"COMP_CWORD={len(words) - 1}",
            '_spearctl; printf "%s\\n" "${COMPREPLY[@]}" ==',
        ]
    return parts(said(environment, folder, "bash", "--norc", "-ec", "\n".join(script)))


def by_fish(environment: dict[str, str], folder: Path, *lines: str) -> list[list[str]]:
    """What fish offers, from where packages put the file."""
    place = folder.parent / "share" / "fish" / "vendor_completions.d"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(FILES / "spearctl.fish", place)
    asked = "; ".join(f'complete -C "spearctl {line}"; echo ==' for line in lines)
    return parts(said(environment, folder, "fish", "--no-config", "-c", f"set fish_complete_path {place}; {asked}"))


def parts(told: str) -> list[list[str]]:
    """The words before each line of two equals signs, without what fish says of them."""
    found: list[list[str]] = [[]]
    for row in told.splitlines():
        if row == "==":
            found.append([])
        elif row:
            found[-1].append(row.split("\t")[0].rstrip("/"))
    return found[:-1]


def beginnings() -> list[tuple[Level, str]]:
    return [(level, f"{level.path} ".lstrip()) for level in LEVELS]


@needs("bash")
def test_bash_completes(environment: dict[str, str], tmp_path: Path) -> None:
    found = by_bash(environment, tmp_path / "here", *(line for line, _ in LINES))
    assert dict(zip((line for line, _ in LINES), map(sorted, found), strict=True)) == dict(LINES)


@needs("fish")
def test_fish_completes(environment: dict[str, str], tmp_path: Path) -> None:
    lines = {line: answers for line, answers in LINES if answers}
    found = by_fish(environment, tmp_path / "here", *lines)
    assert dict(zip(lines, map(sorted, found), strict=True)) == lines


@needs("bash")
def test_bash_knows_every_command_and_option(environment: dict[str, str], tmp_path: Path) -> None:
    lines = [begin + end for _, begin in beginnings() for end in ("", "-")]
    found = iter(by_bash(environment, tmp_path / "here", *lines))
    for level, _ in beginnings():
        commands, options = next(found), next(found)
        if level.commands:
            assert commands == [name for name, _ in level.commands]
        assert options == [name for option in level.options for name in option.names]


@needs("fish")
def test_fish_knows_every_command_and_option(environment: dict[str, str], tmp_path: Path) -> None:
    lines = [begin + end for _, begin in beginnings() for end in ("", "--")]
    found = iter(by_fish(environment, tmp_path / "here", *lines))
    for level, _ in beginnings():
        commands, options = next(found), next(found)
        if level.commands:
            assert {*commands} == {name for name, _ in level.commands}
        assert {*options} == {name for option in level.options for name in option.names if name.startswith("--")}


@needs("bash")
def test_bash_completes_files_with_spaces_on_a_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    with typing(environment, tmp_path / "here", "bash", "--norc", "--noprofile", "-i") as shell:
        shell.sendline('bind "set enable-bracketed-paste off"; bind "set bell-style none"; PS1=')
        shell.sendline(f'source "{FILES / "spearctl"}"; echo re""ady')
        shell.expect_exact("ready")
        shell.send("spearctl import file\t")
        assert shell.expect_exact([r"file\ "]) == 0
        shell.send("o\t")
        assert shell.expect_exact([r"one "]) == 0


@needs("zsh")
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("spearctl tr\t", "train "),
        ("spearctl peers re\t", "revoke "),
        ("spearctl --home peers train --rou\t", "--rounds "),
        ("spearctl feedback add --verdict w\t", "wrong "),
        ("spearctl import foe\t", "foe "),
        ("spearctl export --peft fo\t", "folder/"),
    ],
)
def test_zsh_completes_at_the_first_tab_from_where_packages_put_it(
    environment: dict[str, str], tmp_path: Path, line: str, shown: str
) -> None:
    folder = tmp_path / "site-functions"
    folder.mkdir()
    shutil.copy(FILES / "_spearctl", folder)
    with typing(environment, tmp_path / "here", "zsh", "-f", "-i") as shell:
        shell.sendline(f"PS1=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print re''ady")
        shell.expect_exact("ready\r\n")
        shell.send(line)
        assert shell.expect_exact([shown]) == 0
