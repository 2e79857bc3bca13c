"""The documents as a reader types them: their command lines, and devices on which these are run.

Command lines stand in blocks marked ``sh``. Where two devices act, the word after that names the one: ``sh anna``. What
stands between single backquotes, and in lines that are indented by four, is a command line if it begins like one. A
block or a line of which it is not known how to check it is an error, so that none is passed over.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from p2p.addresses import free_port
from spearctl.home import Home
from spearctl.main import main
from tests.cli import ROOT, Outcome, clean_environment
from tests.homes import winnable, write_log
from tests.swarms import Device, agree, in_time

PROGRAMS = frozenset({"spearctl", "make", "pip", "pipx", "systemctl", "loginctl", "journalctl", "man"})
NO_COMMANDS = re.compile(r"(json|toml|vector [a-z ]+)?")
"""Marks of blocks that hold none: none at all is something that was printed or drawn."""
FENCE = re.compile(r"\s*```(.*)")
INDENTED = re.compile(rf"    ({'|'.join(PROGRAMS)}) .*")
PRINTED = re.compile(rf"\s*(\$ .*|({'|'.join(PROGRAMS)})( .*)?)")
SPAN = re.compile(r"`([^`]+)`")

LONGEST_S = 600.0
"""Only what hangs takes so long. The other processors may be busy, and a profile is tuned by measuring."""

TYPED = "What is the capital of Italy?\n- that is the largest city of the north\n\n"
"""What people type after `spearctl chat`, and what every other command finds in its stdin and does not read."""


class DocumentError(Exception):
    """Something in a document of which it is not known how to check it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command line.

    Attributes:
        place: Document and number of the line that it begins in.
        words: The program first.
        device: On which it is typed; empty where a document knows one only.
    """

    place: str
    words: tuple[str, ...]
    device: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


@dataclass
class Document:
    """What a document tells its readers to type.

    Attributes:
        name: Its path in the repository.
        lines: Of its blocks, in order: one story.
        mentions: Command lines elsewhere in it, whole or shortened.
        spans: Everything between backquotes.
    """

    name: str
    lines: list[Line] = field(default_factory=list)
    mentions: list[Line] = field(default_factory=list)
    spans: list[Line] = field(default_factory=list)


def words_of(text: str, place: str) -> tuple[str, ...]:
    """The words of one plain command line, without its comment.

    Raises:
        DocumentError: It is more than that: a pipe, a variable, two commands.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    try:
        words = tuple(lexer)
    except ValueError as error:
        raise DocumentError(f"{place}: {error}: {text}") from error
    odd = [word for word in words if not word.strip("|&;<>()") or "$" in word or "`" in word]
    if odd:
        raise DocumentError(f"{place}: it is not known how to run {odd[0]!r} in: {text}")
    return words


def read(path: Path) -> Document:
    """Takes a document apart.

    Raises:
        DocumentError: A block has an unknown mark or is left open, or a command line is more than a plain one.
    """
    document = Document(str(path.relative_to(ROOT)))
    prose, block, mark = list[str](), list[tuple[int, str]](), ""
    is_open = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence, place = FENCE.fullmatch(line), f"{document.name}:{number}"
        prose.append("" if fence or is_open else line)
        if line.lstrip().startswith("~~~"):
            raise DocumentError(f"{place}: blocks begin with three backquotes")
        if fence and is_open:
            _close(document, mark, block)
            is_open, block = False, []
        elif fence:
            is_open, mark = True, fence[1].strip()
        elif is_open:
            block.append((number, line))
        elif INDENTED.fullmatch(line):
            document.mentions.append(Line(place, words_of(line.replace("...", ""), place)))
    if is_open:
        raise DocumentError(f"{document.name}: its last block is left open")
    _spans(document, "\n".join(prose))
    return document


def _close(document: Document, mark: str, block: list[tuple[int, str]]) -> None:
    """Takes the command lines of a block."""
    language, _, device = mark.partition(" ")
    if language != "sh":
        hidden = [f"{document.name}:{number}" for number, line in block if PRINTED.fullmatch(line)]
        if not NO_COMMANDS.fullmatch(mark) or hidden:
            where = (hidden or [f"{document.name}:{block[0][0]}"])[0]
            raise DocumentError(f"{where}: it is not known how to run a block marked {mark!r}")
        return
    begun, begin = "", 0
    for number, line in block:
        begin = begin if begun else number
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        words, begun = words_of(begun + line, f"{document.name}:{begin}"), ""
        if words:
            document.lines.append(Line(f"{document.name}:{begin}", words, device))
    if begun:
        raise DocumentError(f"{document.name}:{begin}: the line goes on behind its block")


def _spans(document: Document, prose: str) -> None:
    for found in SPAN.finditer(prose):
        place = f"{document.name}:{prose.count(chr(10), 0, found.start()) + 1}"
        text = " ".join(found[1].split())
        document.spans.append(Line(place, (text,)))
        if text.split()[0] in PROGRAMS and text not in PROGRAMS:
            document.mentions.append(Line(place, words_of(text, place)))


DOCUMENTS = [read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]


@dataclass
class Story:
    """Devices on which the blocks of a document are run: each with a home of its own, all in one current folder.

    Attributes:
        folder: Around all that.
        model: Folder of the base model that `init` takes.
        profile: File of the hardware profile.
        devices: By name.
        agreed: The state hash that all of them came to, if they are several.
        learned: Names of those whose learning was in it by then.
    """

    folder: Path
    model: Path
    profile: Path
    devices: dict[str, Device] = field(default_factory=dict)
    agreed: str = ""
    learned: set[str] = field(default_factory=set)

    @property
    def scratch(self) -> Path:
        """The current folder, in which people hand each other files."""
        return self.folder / "scratch"

    def tell(self, lines: list[Line]) -> None:
        """Runs command lines one after the other; each must succeed.

        Before the first node goes down, several devices must have come to the same state.
        """
        self.scratch.mkdir()
        with ExitStack() as stack:
            stack.callback(self.end)
            for line in lines:
                if line.words[0] != "spearctl":
                    continue
                if line.words[1] == "down" and not self.agreed:
                    self.agree()
                device = self.device(line)
                self._make_files(line)
                outcome = self.run(device, *line.words[1:])
                assert outcome.code == 0, f"{line}\n{outcome.out}{outcome.err}"
                if line.words[1] == "init":
                    to_loopback(device)
            if not self.agreed:
                self.agree()

    def device(self, line: Line) -> Device:
        """Who types a line. Somebody who does not begin with `init` has a home already."""
        if line.device not in self.devices:
            folder = self.folder / (line.device or "reader")
            folder.mkdir()
            device = self.devices[line.device] = Device(line.device, Home(folder / "home"), folder)
            if line.words[1] != "init":
                assert self.run(device, "init", "--name", "anna").code == 0
                to_loopback(device)
        return self.devices[line.device]

    def run(self, device: Device, *words: str) -> Outcome:
        """Runs what somebody types, in this process; which home and which model is meant, the environment says."""
        own = clean_environment(device.folder)
        own |= {"SPEARCTL_MODEL": str(self.model), "SPEARCTL_PROFILE": str(self.profile)}
        if "--memory-budget" in words:  # what other tests left in the memory of this process does not count
            command = [sys.executable, "-m", "spearctl", *words]
            done = subprocess.run(
                command, cwd=self.scratch, env=own, input=TYPED, capture_output=True, text=True, timeout=LONGEST_S
            )
            return Outcome(done.returncode, done.stdout, done.stderr)
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err), in_time(LONGEST_S):
            for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
                patched.delenv(name)
            for name, value in own.items():
                patched.setenv(name, value)
            patched.chdir(self.scratch)
            patched.setattr(sys, "stdin", io.StringIO(TYPED))
            return Outcome(main([*words]), out.getvalue(), err.getvalue())

    def agree(self) -> None:
        """Waits until all devices, if they are several, show the same state in `status`, and nothing is on its way."""
        if len(self.devices) > 1:
            self.agreed = agree(*self.devices.values(), head=1)
            for device in self.devices.values():
                said = self.run(device, "status", "--json").envelope["data"]
                assert said["swarm"]["state_hash"] == self.agreed
                assert said["swarm"]["members"] == len(self.devices)
                rounds = said["contributions"]
                self.learned |= {author["name"] for round in rounds for author in round["authors"] if author["wins"]}

    def end(self) -> None:
        """Stops all nodes as people do; what does not end so is killed, and is an error."""
        codes = [self.run(device, "down").code for device in self.devices.values()]
        homes = {str(device.home.root) for device in self.devices.values()}
        left = [found for found in psutil.process_iter(["cmdline"]) if homes & {*(found.info["cmdline"] or ())}]
        for process in left:  # such as one that was not up yet when its test failed
            process.kill()
        assert not left, "nodes did not end by `down`"
        assert not any(codes)

    def _make_files(self, line: Line) -> None:
        """Writes the logs that a line reads and that no line before it wrote."""
        for option, word in zip(line.words, line.words[1:], strict=False):
            if option in {"--data", "--feedback"} and line.words[1] in {"eval", "train"}:
                write_log(self.scratch / word, winnable(3, name=word))


def to_loopback(device: Device) -> None:
    """Keeps the traffic of a new home on this machine."""
    device.set(listen=f"127.0.0.1:{free_port()}")
