"""SIGKILL while a ledger is written: what was acknowledged is there, and nothing is there by halves.

Run as a program, this is the process that is killed: ``FOLDER STEPS [POINT TIMES]``. What step N writes depends on N
alone, so a storage in memory that takes the same steps says what must be there.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import p2p.faults
from p2p.encoding import encode
from p2p.faults import FAULT_POINTS
from p2p.ledger import Ledger
from p2p.records import Invite, Record, Signed, record_id
from p2p.storage import Storage
from tests.memory import MemoryStorage

LIMIT_S = 60
STEPS = 6
ROOT = Path(__file__).parents[2]


def record(number: int) -> Record:
    key = hashlib.sha256(b"%d" % number).digest()
    body = Invite(genesis=key, issuer=key, join_key=key, join_transport=key, expires_s=0)
    raw = encode(body)
    return Record(id=record_id(raw), body=body, signed=Signed(raw, key + key))


def blob(number: int) -> tuple[bytes, bytes]:
    raw = random.Random(number).randbytes(1 + number * 7919 % 60_000)
    return hashlib.sha256(raw).digest(), raw


def write_step(storage: Storage, number: int) -> None:
    """Writes and commits a step, from 1: each adds, changes and removes something of everything there is."""
    storage.put("step", str(number).encode())
    storage.put(f"value/{number % 7}", random.Random(number).randbytes(number * 997 % 9000))
    storage.delete(f"value/{(number + 3) % 7}")
    storage.add_record(record(number))
    storage.remove_record(record(number - 3).id)
    name, raw = blob(number)
    third = len(raw) // 3
    for start in (0, third, 2 * third):
        storage.write_partial(name, start, raw[start : start + third])
    storage.write_blob(name, raw)
    storage.remove_blob(blob(number - 2)[0])
    if number % 2 and storage.has_blob(blob(number - 1)[0]):
        storage.remove_blob(blob(number - 1)[0])
        storage.write_blob(*blob(number - 1))
    storage.commit()


def last_step(storage: Storage) -> int:
    return int(storage.get("step") or b"0")


def contents(storage: Storage) -> tuple[dict[str, bytes | None], list[Signed]]:
    return {key: storage.get(key) for key in storage.keys("")}, list(storage.records())


def main(folder: str, steps: str, point: str = "", times: str = "0") -> None:
    """Takes steps and says the number of each once it is durable."""
    p2p.faults.hook = dying_at(point, int(times))
    with Ledger(Path(folder)) as ledger:
        first = last_step(ledger) + 1
        for number in range(first, first + int(steps)):
            write_step(ledger, number)
            os.write(1, b"%d\n" % number)


def dying_at(point: str, times: int) -> Callable[[str], None]:
    left = times

    def hook(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Writer:
    """The process that is killed, over and over, and what must be in its ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged = 0
        self._memory = MemoryStorage()

    def start(self, steps: int, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__, str(self.folder), str(steps), *map(str, arguments)]
        # Unbuffered: what `readline` would read ahead, `communicate` would not see.
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for the process to end, and notes what it acknowledged; its exit code."""
        said, _ = process.communicate(timeout=LIMIT_S)
        self.acknowledged = max([self.acknowledged, *map(int, said.split())])
        return process.returncode

    def run(self, steps: int, *arguments: object) -> int:
        return self.end(self.start(steps, *arguments))

    def assert_kept(self) -> None:
        """Asserts that what was acknowledged is there, at most one step more, and nothing by halves."""
        with Ledger(self.folder) as ledger:
            found = last_step(ledger)
            assert found - self.acknowledged in (0, 1)
            self.acknowledged = found
            for number in range(last_step(self._memory) + 1, found + 1):
                write_step(self._memory, number)
            assert contents(ledger) == contents(self._memory)
            assert not ledger.is_suspect
            assert ledger.check(lambda name: True) == []
            assert set(ledger.blobs()) >= set(self._memory.blobs())
            name, raw = blob(found + 1)
            assert raw.startswith(ledger.read_partial(name))
            ledger.tidy({*self._memory.blobs(), name})
            ledger.commit()
            assert set(ledger.blobs()) - {name} == set(self._memory.blobs())
            assert all(ledger.read_blob(name) == self._memory.read_blob(name) for name in self._memory.blobs())
            assert len(list(self.folder.glob("place.*"))) == 1


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_kills_at_any_point_lose_nothing_that_was_acknowledged(tmp_path: Path, point: str) -> None:
    writer = Writer(tmp_path / "ledger")
    for times in (1, 2, 3):  # each in what the one before left
        never = point.startswith("place.") and times == 3  # it is reached at opening and at closing only
        assert writer.run(STEPS, point, times) == (0 if never else -signal.SIGKILL)
        writer.assert_kept()
    assert writer.run(1) == 0
    writer.assert_kept()


def assert_kills_lose_nothing(folder: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # shown when the test fails
    rng = random.Random(seed)
    writer = Writer(folder)
    for _ in range(kills):
        process = writer.start(1_000_000)
        assert process.stdout is not None
        for _ in range(rng.randrange(4)):
            writer.acknowledged = int(process.stdout.readline())
        try:
            process.wait(rng.uniform(0, 0.02))
        except subprocess.TimeoutExpired:
            process.kill()
        assert writer.end(process) == -signal.SIGKILL
        writer.assert_kept()
    assert writer.acknowledged > kills / 4


def test_kills_at_random_times_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert_kills_lose_nothing(tmp_path / "ledger", 25)


@pytest.mark.soak
def test_many_kills_at_random_times_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert_kills_lose_nothing(tmp_path / "ledger", 200)


def laid_over(backup: Path, folder: Path) -> None:
    """Over what is there, as `cp` does it: the links are made anew."""
    subprocess.run(["cp", "-a", f"{backup}/.", folder], check=True)


def put_in_place(backup: Path, folder: Path) -> None:
    """As `rsync` does it: what differs is written beside the old and renamed, and the links do not differ."""
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy2(backup / name, folder / "new")
        (folder / "new").rename(folder / name)
    (folder / "ledger.db-shm").unlink()


@pytest.mark.parametrize("restore", [laid_over, put_in_place])
def test_a_backup_restored_into_a_killed_ledger_of_the_same_opening_is_suspect(
    tmp_path: Path, restore: Callable[[Path, Path], None]
) -> None:
    """The place has the same name in both; only its marks can tell."""
    writer = Writer(tmp_path / "ledger")
    process = writer.start(1_000_000)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    subprocess.run(["cp", "-a", writer.folder, tmp_path / "backup"], check=True)
    process.send_signal(signal.SIGCONT)
    process.stdout.readline()
    process.kill()
    assert writer.end(process) == -signal.SIGKILL
    restore(tmp_path / "backup", writer.folder)
    with Ledger(writer.folder) as ledger:
        assert ledger.is_suspect
        assert last_step(ledger) > 0


if __name__ == "__main__":
    main(*sys.argv[1:])
