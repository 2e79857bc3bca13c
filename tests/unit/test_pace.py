"""How far a training run is: what is told, when it counts, and how long it will take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spearctl import pace
from spearctl.home import Holder, Home
from spearctl.pace import Pace, PaceWriter, left_s, read


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def me() -> Holder:
    return Holder(os.getpid(), "train", "")


def test_a_trainer_tells_its_round_its_phase_and_what_rounds_took(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WRITE_S", 0.0)
    writer = PaceWriter(home, 3)
    assert read(home, me()) is None
    writer.begin()
    writer.show("playing", 4, 10)
    found = read(home, me())
    assert found is not None
    assert (found.round, found.rounds, found.phase, found.done, found.total) == (1, 3, "playing", 4, 10)
    assert (found.pid, found.seconds) == (os.getpid(), ())
    for _ in range(7):
        writer.begin()
    found = read(home, me())
    assert found is not None
    assert (found.round, found.phase, found.done) == (8, "", 0)
    assert len(found.seconds) == pace.MEANT_ROUNDS
    assert oct(home.progress_path.stat().st_mode & 0o777) == "0o600"
    writer.close()
    writer.close()
    assert read(home, me()) is None
    assert list(home.root.iterdir()) == []


def test_it_is_not_written_for_every_step(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WRITE_S", 1e9)
    writer = PaceWriter(home, 3)
    writer.begin()
    before = home.progress_path.stat().st_ino
    for done in range(100):
        writer.show("playing", done, 100)
    assert home.progress_path.stat().st_ino == before


def test_a_home_that_cannot_be_written_to_stops_no_training(home: Home) -> None:
    gone = Home(home.root / "gone")
    writer = PaceWriter(gone, 3)
    writer.begin()
    writer.show("playing", 1, 2)
    writer.close()
    assert not gone.root.exists()


def test_what_a_killed_trainer_left_is_not_taken_for_one_that_runs(home: Home) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom spearctl.home import Home\nfrom spearctl.pace import *\n"
        "home = Home(Path(sys.argv[1]))\n"
        "with home.training_lock('train'):\n"
        "    PaceWriter(home, 3).begin()\n    print('up', flush=True)\n    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code, str(home.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            holder = home.holder()
            found = read(home, holder)
            assert found is not None
            assert (found.pid, found.round) == (process.pid, 1)
        finally:
            process.send_signal(signal.SIGKILL)
    assert home.progress_path.exists()
    assert read(home, home.holder()) is None
    assert read(home, me()) is None


def test_another_process_with_the_same_number_is_not_the_trainer(home: Home) -> None:
    with home.training_lock("train"):
        PaceWriter(home, 2).begin()
        holder = home.holder()
        found = read(home, holder)
    assert holder is not None
    assert found is not None
    assert (found.pid, found.since) == (os.getpid(), holder.since)
    assert read(home, Holder(os.getppid(), "train", holder.since)) is None
    assert read(home, Holder(os.getpid(), "profile tune", "2026-11-23T10:00:00+00:00")) is None


def test_a_clock_that_is_set_meanwhile_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with home.training_lock("train"):
        PaceWriter(home, 2).begin()
        boot_s = psutil.boot_time()
        monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot_s + 86_400)  # it counts back from the clock
        assert read(home, home.holder()) is not None


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"pid":"x"}', b"\xff\xfe", b'{"pid":-1}'])
def test_a_file_that_cannot_be_read_says_nothing(home: Home, junk: bytes) -> None:
    home.progress_path.write_bytes(junk)
    assert read(home, me()) is None


def at(round: int, rounds: int | None, *seconds: float) -> Pace:
    return Pace(pid=1, round=round, rounds=rounds, began_s=100.0, seconds=seconds)


def test_what_is_left_is_the_rest_of_this_round_and_the_rounds_after_it() -> None:
    assert left_s(at(3, 8, 40.0, 60.0, 50.0), (), now=110.0) == 40.0 + 5 * 50.0
    assert left_s(at(8, 8, 50.0), (), now=110.0) == 40.0


def test_in_the_first_round_those_of_earlier_runs_count() -> None:
    assert left_s(at(1, 2), (30.0, 30.0), now=110.0) == 50.0
    assert left_s(at(1, 2), (), now=110.0) is None
    assert left_s(at(2, 3, 10.0), (99.0,), now=100.0) == 20.0


def test_one_odd_round_does_not_carry_the_estimate_away() -> None:
    assert left_s(at(6, 6, 10.0, 10.0, 1000.0, 10.0, 10.0), (), now=100.0) == 10.0


def test_a_round_that_takes_longer_is_about_to_end() -> None:
    assert left_s(at(2, 2, 10.0), (), now=500.0) == 0.0


def test_a_run_without_an_end_has_no_estimate() -> None:
    assert left_s(at(2, None, 10.0), (), now=100.0) is None


@given(
    round=st.integers(1, 100),
    rounds=st.integers(1, 100),
    seconds=st.lists(st.floats(0, 1e6), max_size=8),
    now=st.floats(-1e9, 1e9),
)
def test_an_estimate_is_never_negative_whatever_the_clock_says(
    round: int, rounds: int, seconds: list[float], now: float
) -> None:
    found = left_s(at(round, rounds, *seconds), (), now=now)
    assert found is None or found >= 0
    if now <= 100.0 and any(second > 0 for second in seconds[-pace.MEANT_ROUNDS :]):
        assert found is not None
        assert found <= max(1, rounds - round + 1) * max(seconds) * (1 + 1e-9)  # rounded here and there
