"""What only a process of its own can show: imports, the search path, pipes, terminals, locks and signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spearctl.home import Home
from tests.cli import ENTRY, ROOT, Cli, clean_environment, learn, spawn
from tests.integration.test_cli_contract import LEAVES
from training.log import read_log

LIGHT = """
import sys
from spearctl.main import main
codes = [main(line.split()) for line in {lines!r}]
heavy = {{"torch", "transformers", "peft", "numpy"}} & set(sys.modules)
print("CODES", codes, "HEAVY", sorted(heavy), file=sys.stderr)
"""
SHADOWS = ("training/__init__.py", "profiles.py", "p2p/__init__.py", "rich.py", "msgspec/__init__.py", "tomlkit.py")


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder of somebody's own, with packages that are called like ours and like those we use."""
    for name in SHADOWS:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('the wrong module was imported')\n")
    return tmp_path / "work"


def test_light_commands_load_neither_torch_nor_transformers(cli: Cli) -> None:
    learn(cli.make_home())
    cli.log(ENTRY)
    lines = [
        "--help",
        *(f"{' '.join(words)} --help" for words in LEAVES),
        "status",
        "adapter list",
        "adapter use local:1",
        "profile list",
        "profile show cpu",
        "feedback add --prompt p --check exact --expect x",
        "feedback check",
        "feedback stats",
        "feedback forget capital --yes",
        "init",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(lines=lines)],
        env=clean_environment(cli.folder),
        cwd=cli.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == f"CODES {[0] * len(lines)} HEAVY []"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another library for its threads")
@pytest.mark.parametrize(("said", "spins"), [({}, "4000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_that_wait_for_each_other_soon_leave_the_processor_to_others(
    cli: Cli, tiny_model: Path, said: dict[str, str], spins: str
) -> None:
    assert cli("init", "--profile", "cpu", "--model", str(tiny_model)).code == 0
    cli.log(ENTRY)
    environ = {**clean_environment(cli.folder), "OMP_DISPLAY_ENV": "verbose"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):  # tests have set them for themselves
        environ.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "spearctl", "eval", "--data", str(cli.home.feedback_path)],
        env={**environ, **said},
        cwd=cli.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize("words", [("profile", "list"), ("status",), ("feedback", "stats"), ("adapter", "list")])
@pytest.mark.parametrize("path", [str(ROOT), f".{os.pathsep}{ROOT}", f"{os.pathsep}{ROOT}"])
def test_python_m_works_in_a_folder_with_packages_of_the_same_names(
    cli: Cli, shadowed: Path, words: tuple[str, ...], path: str
) -> None:
    cli.make_home()
    outcome = spawn(*words, folder=cli.folder, cwd=shadowed, PYTHONPATH=path)
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("path", [str(ROOT), f".{os.pathsep}{ROOT}"])
def test_the_console_script_works_in_a_folder_with_packages_of_the_same_names(
    cli: Cli, shadowed: Path, path: str
) -> None:
    cli.make_home()
    script = cli.folder / "bin" / "spearctl"
    script.parent.mkdir()
    script.write_text("from spearctl.main import entry\nentry()\n")
    done = subprocess.run(
        [sys.executable, str(script), "status", "--json"],
        env={**clean_environment(cli.folder), "PYTHONPATH": path},
        cwd=shadowed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"ok": true' in done.stdout


def test_a_folder_on_the_search_path_with_packages_of_the_same_names_changes_nothing(cli: Cli, shadowed: Path) -> None:
    cli.make_home()
    for name in SHADOWS:
        if name.partition("/")[0].removesuffix(".py") not in {"training", "profiles", "p2p"}:
            (shadowed / name).unlink()
    outcome = spawn("status", folder=cli.folder, PYTHONPATH=f"{shadowed}{os.pathsep}{ROOT}")
    assert (outcome.code, outcome.err) == (0, "")


def test_a_current_folder_that_was_removed_stops_nothing(cli: Cli) -> None:
    code = (
        "import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)\n"
        "import sys; sys.argv[1:] = ['profile', 'list']\n"
        "from spearctl.main import entry; entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(cli.folder), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("--help",), ("profile", "list"), ("status", "--json"), ("bogus", "--json")])
def test_a_reader_that_went_away_is_no_error(cli: Cli, words: tuple[str, ...]) -> None:
    cli.make_home()
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "spearctl", *words],
            env=clean_environment(cli.folder),
            cwd=cli.folder,
            stdout=write_end,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write_end)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize(
    "words", [("status",), ("status", "--json"), ("status", "--watch", "--json"), ("nonsense", "--json")]
)
def test_a_result_that_cannot_be_written_is_told_on_stderr(cli: Cli, words: tuple[str, ...]) -> None:
    cli.make_home()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spearctl", *words],
            cwd=cli.folder,
            env=clean_environment(cli.folder),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    error, hint = done.stderr.splitlines()
    assert error == "error: standard output cannot be written to: No space left on device"
    assert hint.startswith("hint: look at the free space")
    assert done.returncode == 9


def test_a_converted_log_on_stdout_is_the_log_and_nothing_else(cli: Cli) -> None:
    source = cli.folder / "trl.jsonl"
    rows = '{"prompt": "p\\u2028q", "completion": "\\u00e9", "label": true}\njunk\n'
    source.write_text(rows, encoding="utf-8")
    outcome = spawn("feedback", "convert", str(source), "-", folder=cli.folder)
    assert outcome.code == 8
    (cli.folder / "out.jsonl").write_text(outcome.out, encoding="utf-8")
    log = read_log(cli.folder / "out.jsonl")
    assert [entry.prompt for entry in log.entries] == ["p\u2028q"]
    assert log.problems == ()
    assert f"{source}:2: " in outcome.err


def test_a_terminal_that_knows_only_ascii_is_no_crash(cli: Cli) -> None:
    cli.make_home(name="caf\u00e9 \u2603")
    outcome = spawn("status", folder=cli.folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert outcome.code == 0
    assert "caf\\xe9 \\u2603" in outcome.out


def on_a_terminal(cli: Cli, *words: str, typed: bytes = b"") -> tuple[int, str]:
    """Runs a command line on a pseudo-terminal and returns its code and what it showed."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    process = subprocess.Popen(
        [sys.executable, "-m", "spearctl", *words],
        env=clean_environment(cli.folder),
        cwd=cli.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # how Linux tells that the other end was closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(), shown.decode()


def test_a_terminal_gets_styles(cli: Cli) -> None:
    cli.make_home()
    code, shown = on_a_terminal(cli, "status")
    assert code == 0
    assert "\x1b[1mlab" in shown


def test_json_on_a_terminal_has_no_styles(cli: Cli) -> None:
    cli.make_home()
    _, shown = on_a_terminal(cli, "status", "--json")
    assert "\x1b" not in shown


@pytest.mark.parametrize(("typed", "code", "left"), [(b"y\n", 0, 0), (b"n\n", 2, 1), (b"\n", 2, 1), (b"\x04", 2, 1)])
def test_forget_asks_on_a_terminal(cli: Cli, typed: bytes, code: int, left: int) -> None:
    cli.make_home()
    path = cli.log(ENTRY)
    ended, shown = on_a_terminal(cli, "feedback", "forget", "capital", typed=typed)
    assert ended == code
    assert "Forget 1 entry for good? [y/N]" in shown
    assert len(read_log(path).entries) == left


HOLD = """
import sys
from pathlib import Path
from spearctl.home import Home
with Home(Path(sys.argv[1])).training_lock("train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_trainer_leaves_no_lock_behind(cli: Cli) -> None:
    home: Home = cli.make_home()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.root)],
        env=clean_environment(cli.folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        outcome = cli("adapter", "use", "base")
        assert outcome.code == 9
        assert f"process {holder.pid} (train)" in outcome.err
        holder.kill()
    assert cli("adapter", "use", "base").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_128_plus_its_number(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    cli.make_home()
    before = signal.getsignal(number)

    def stopped(home: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("spearctl.snapshot._learning", stopped)
    outcome = cli("status")
    assert outcome.code == 128 + number
    assert outcome.err == f"error: stopped by {number.name}\n"
    envelope = cli("status", "--json").envelope
    assert envelope["errors"][0]["code"] == 128 + number
    assert signal.getsignal(number) == before
