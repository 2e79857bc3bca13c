"""Several tiny homes on this machine, with nodes as real processes on loopback, which are ended one by one in the end.

Nodes that a test starts by :meth:`Device.up` are as impatient as their protocol allows: what takes them seconds of
politeness elsewhere (null deltas, redials) takes them a tenth of that here. Nodes of ``up --detach`` are as they are.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import tomlkit
from safetensors.numpy import load_file

from p2p import control
from p2p.addresses import free_port
from p2p.errors import P2PError
from p2p.founding import genesis_of
from p2p.identity import FILE_NAME, generate, save
from p2p.ledger import Ledger
from p2p.outbox import Outbox
from p2p.places import Places
from p2p.storage import Storage
from spearctl.home import Home
from spearctl.main import main
from tests.cli import Outcome, clean_environment
from tests.homes import Entry, write_log

LIMIT_S = 60.0
"""Only what hangs takes so long."""
POLL_S = 0.05

IMPATIENT = """
import p2p.limits, p2p.node
p2p.limits.NULL_DELAY_S = (0.05, 0.3)
p2p.limits.REDIAL_S = (0.1, 0.5)
p2p.node.TICK_S = 0.1
from spearctl.main import entry
entry()
"""

T = TypeVar("T")
Tensors = dict[str, npt.NDArray[np.float32]]

GRID = 2.0**-20
"""A step of what deltas carry."""


def until(found: Callable[[], T], what: str = "nothing came of it") -> T:
    """Waits for something that is true, and returns it."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)
    return value


@contextmanager
def in_time(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Fails what would go on for ever, such as a node in the foreground that should not have started."""

    def hangs(number: int, frame: object) -> None:
        pytest.fail("it does not end")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(int(limit_s))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def first_result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process says in JSON, as soon as it says something."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.readline()
    if not said:
        pytest.fail(process.stderr.read())
    envelope = json.loads(said)
    assert envelope["ok"], envelope["errors"]
    return dict(envelope["data"])


@dataclass
class Device:
    """A home of its own and the commands on it.

    Attributes:
        name: What it calls itself.
        home: Where it is.
        folder: Around it.
    """

    name: str
    home: Home
    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)

    def __call__(self, *words: str, stdin: str = "", **environ: str) -> Outcome:
        """Runs a command line on this home, in this process but away from the person's own files."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err), in_time():
            for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
                patched.delenv(name)
            for name, value in {**clean_environment(self.folder), **environ}.items():
                patched.setenv(name, value)
            patched.setattr(sys, "stdin", io.StringIO(stdin))
            code = main([*words, "--home", str(self.home.root)])
        return Outcome(code, out.getvalue(), err.getvalue())

    def data(self, *words: str, stdin: str = "") -> dict[str, Any]:
        """What a command line that succeeds gives as JSON."""
        outcome = self(*words, "--json", stdin=stdin)
        assert outcome.code == 0, outcome.out + outcome.err
        return dict(outcome.envelope["data"])

    def train(self, entries: Sequence[Entry], *words: str) -> dict[str, Any]:
        """Learns a round from a log of its own."""
        log = write_log(self.folder / f"{self.name}.jsonl", entries)
        return self.data("train", "--feedback", str(log), "--rounds", "1", *words)

    @property
    def places(self) -> Places:
        return Places(self.home.root)

    @property
    def control(self) -> Path:
        """Where its node listens to commands, which run in an environment of their own."""
        with pytest.MonkeyPatch.context() as patched:
            patched.delenv("XDG_RUNTIME_DIR", raising=False)
            return self.places.control

    @property
    def port(self) -> int:
        return int(str(self.settings["listen"]).rpartition(":")[2])

    @property
    def settings(self) -> Mapping[str, Any]:
        return tomlkit.parse(self.home.config_path.read_text())

    def set(self, **changes: Any) -> None:
        """Changes settings of the home."""
        document = tomlkit.parse(self.home.config_path.read_text())
        document.update(changes)
        self.home.config_path.write_text(tomlkit.dumps(document))

    # Its node.

    @property
    def is_running(self) -> bool:
        return control.is_running(self.control)

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    def status(self) -> dict[str, Any]:
        """What its node says; nothing while none answers."""
        with suppress(P2PError):
            return control.ask(self.control, "status", {}, LIMIT_S)
        return {}

    def status_of_stopped(self) -> dict[str, Any]:
        """What its status is as JSON while its node does not run."""
        outcome = self("status", "--json")
        assert outcome.code == 3
        return dict(outcome.envelope["data"])

    def process(self, *words: str, code: str = IMPATIENT, **environ: str) -> subprocess.Popen[str]:
        """Starts a command line as a process of its own, which ends with the test at the latest."""
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words, "--home", str(self.home.root)],
            cwd=self.folder,
            env={**clean_environment(self.folder), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def up(self, *words: str) -> subprocess.Popen[str]:
        """Runs its node as a process, and waits until it can be reached."""
        process = self.process("up", "--json", *words)
        assert first_result(process)["running"]
        return process

    def end(self) -> None:
        """Ends whatever still runs for this home."""
        pid = self.status().get("pid")
        self._stack.close()
        if pid is not None and psutil.pid_exists(pid):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process = psutil.Process(pid)
                os.kill(pid, signal.SIGKILL)
                process.wait(LIMIT_S)

    # What it shares.

    def holds(self, **wanted: Any) -> bool:
        """Whether its node says so of the swarm."""
        swarm = self.status().get("swarm", {})
        return all(swarm.get(name) == value for name, value in wanted.items())

    def peer(self, other: str) -> dict[str, Any]:
        """Another member as its node sees it; one that was revoked only if there is no other of that name."""
        named = [peer for peer in self.status().get("peers", ()) if peer["name"] == other]
        return next((peer for peer in named if peer["state"] != "revoked"), named[0] if named else {})

    def wins(self) -> tuple[int, int]:
        """Of what it learned: those that are pending, and those in deltas that no seal counts yet."""
        with Ledger.open_readonly(self.places.ledger) as reader:
            storage = cast("Storage", reader)
            outbox = Outbox(genesis_of(storage), storage)
            return outbox.pending.wins, sum(own.wins for own in outbox.unsealed().values())

    def export(self) -> Tensors:
        """What it uses, as other programs would read it."""
        folder = self.folder / f"export-{self.name}-{len(list(self.folder.glob('export-*')))}"
        self.data("export", "--peft", str(folder))
        return dict(load_file(folder / "adapter_model.safetensors"))


def agree(*devices: Device, head: int = 0) -> str:
    """Waits until all nodes hold the same state, at a round or later, and nothing is pending; returns its hash."""

    def found() -> str:
        swarms = [device.status().get("swarm") for device in devices]
        if not all(swarms):
            return ""
        said = [(swarm["state_hash"], swarm["head_round"], swarm["pending_wins"]) for swarm in swarms if swarm]
        state, round, pending = said[0]
        return state if len(set(said)) == 1 and round >= head and not pending else ""

    return until(found, "they never agreed")


@contextmanager
def homes(folder: Path, template: Home, *names: str) -> Iterator[list[Device]]:
    """Copies of a home with keys and ports of their own, on loopback. Their nodes end with the block."""
    with ExitStack() as stack:
        made = []
        for name in names:
            device = Device(name, Home(folder / name), folder)
            shutil.copytree(template.root, device.home.root)
            (device.home.root / FILE_NAME).unlink()
            save(device.home.root, generate())
            device.set(name=name, listen=f"127.0.0.1:{free_port()}")
            stack.callback(device.end)
            made.append(device)
        yield made


def furthest(one: Tensors, other: Tensors) -> float:
    """How far two adapters are from each other, where they are farthest."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name].astype(np.float64) - other[name]).max()) for name in one)


def invite(founder: Device, *words: str) -> str:
    """A ticket from a device, which founds a swarm if it belongs to none."""
    return str(founder.data("invite", *words)["ticket"])


def let_in(founder: Device, *others: Device) -> None:
    """Makes others members; the founder's node runs, theirs run afterwards, and all know each other."""
    for other in others:
        assert first_result(other.process("join", invite(founder), "--json", "--yes"))["joined"]
    everybody = [founder, *others]
    for device in everybody:
        for other in everybody:
            if other is not device:
                until(lambda device=device, other=other: device.peer(other.name).get("state") == "linked")


@contextmanager
def swarm(folder: Path, template: Home, *names: str) -> Iterator[list[Device]]:
    """Devices in one swarm, their nodes running; the first founded it."""
    with homes(folder, template, *names) as made:
        invite(made[0])
        made[0].up()
        let_in(made[0], *made[1:])
        yield made
