"""`train --follow` while a log grows: whatever is killed, each attempt is trained on once, and none is lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli import Cli
from tests.faults.trainer import LIMIT_S, training
from tests.homes import assert_sound, assert_tidy, told, write_profile
from training.history import History
from training.holdout import is_held_out
from training.log import append, read_log
from training.parsing import parse_entry
from training.told import told_attempts

ENTRIES = 1000
HELD_OUT = 0.1
KILLED_AT = [
    ("round.after-play", 1),
    ("history.after-commit", 2),
    ("store.after-rename", 1),
    ("history.before-commit", 1),
    ("round.after-update", 2),
]


def eventually(happened: Callable[[], bool]) -> None:
    """Waits for what another process does."""
    give_up = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.05)


def test_a_growing_log_is_learned_from_once_through_five_kills(device: Cli, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "wide.toml", rollouts=200, steps=1)
    options = ("--follow", "--batch", "40", "--every", "1s", "--held-out", str(HELD_OUT), "--profile", str(profile))
    made = [parse_entry(json.dumps(entry)) for entry in told(ENTRIES, losses=ENTRIES // 4)]

    def write() -> None:
        for entry in made:
            append(device.home.feedback_path, [entry])

    def trained() -> frozenset[str]:
        with History(device.home.history_path) as history:
            return history.trained()

    wanted = {told.key for entry in made if not is_held_out(entry, HELD_OUT) for told in told_attempts(entry, ())}
    assert 0.8 * ENTRIES < len(wanted) < ENTRIES
    writer = threading.Thread(target=write)
    writer.start()
    for point, times in KILLED_AT:
        with training(device.home, *options, point=point, times=times) as trainer:
            trainer.wait_for(point)
            assert trainer.kill() == -signal.SIGKILL
        assert_sound(device.home)
    with training(device.home, *options, "--json") as trainer:
        eventually(lambda: len(trained()) == len(wanted))
        trainer.signal(signal.SIGINT)
        assert trainer.end() == 130
        *_, last = (device.folder / "out").read_text().splitlines()
    writer.join()
    assert_sound(device.home)
    assert_tidy(device.home)
    assert trained() == wanted
    assert f'"held_out": {ENTRIES - len(wanted)}' in last
    assert len(read_log(device.home.feedback_path).entries) == ENTRIES
