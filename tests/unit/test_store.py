"""Adapter versions on disk: immutable, checked when they are read, tidied after a crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tests.disk import full
from training import faults
from training.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    AdapterShape,
    TensorShape,
    adapter_digest,
    initial_adapter,
)
from training.errors import StoreError, UnknownAdapterError
from training.history import History
from training.store import KEPT_VERSIONS, AdapterStore, rollback

FINGERPRINT = "ab" * 32
SHAPE = AdapterShape(2, 4, (TensorShape("x.lora_A", 2, 7), TensorShape("x.lora_B", 3, 2)))


class House:
    """A home's versions, and a way to make more of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "adapters"
        self.history = History(folder / "node.db")
        self.store = AdapterStore(
            self.folder, self.history, base_model="tiny", fingerprint=FINGERPRINT, shape=SHAPE, dropout=0.1
        )

    def train(self, value: float = 1.0) -> str:
        version = self.store.write(adapter(value), parent=self.history.current, wins=3)
        self.history.commit(
            number=self.history.next_round(), seconds=1.0, report={}, version=version, trained=(), played=()
        )
        return self.history.current

    def folders(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def adapter(value: float) -> Adapter:
    start = initial_adapter(FINGERPRINT, SHAPE)
    return {name: array + np.float32(value) for name, array in start.items()}


def test_the_base_is_the_specified_start(house: House) -> None:
    assert adapter_digest(house.store.load("base")) == adapter_digest(initial_adapter(FINGERPRINT, SHAPE))
    with pytest.raises(UnknownAdapterError):
        house.store.path("base")


def test_a_version_gives_back_its_bytes(house: House) -> None:
    assert house.train(0.25) == "local:1"
    assert adapter_digest(house.store.load("local:1")) == adapter_digest(adapter(0.25))
    assert house.store.path("local:1").is_dir()
    (version,) = house.history.versions()
    assert version.bytes == sum(path.stat().st_size for path in house.store.path("local:1").iterdir())


def test_later_versions_leave_earlier_ones_alone(house: House) -> None:
    house.train(1)
    path = house.store.path("local:1")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    house.train(2)
    rollback(house.history)
    house.train(3)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [version.parent for version in house.history.versions()] == ["base", "local:1", "local:1"]
    for value in (1, 2, 3):
        assert adapter_digest(house.store.load(f"local:{value}")) == adapter_digest(adapter(value))


def test_a_version_that_is_not_recorded_does_not_exist(house: House) -> None:
    house.store.write(adapter(1), parent="base", wins=3)
    assert house.folders() == {"local-1"}
    with pytest.raises(UnknownAdapterError):
        house.store.load("local:1")
    assert house.train(2) == "local:1"
    assert adapter_digest(house.store.load("local:1")) == adapter_digest(adapter(2))


@pytest.mark.parametrize("point", ["store.after-write", "store.after-rename"])
def test_what_a_crash_left_is_tidied_and_in_nobodys_way(
    house: House, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def die(reached: str) -> None:
        if reached == point:
            raise KeyboardInterrupt

    house.train(1)
    monkeypatch.setattr(faults, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        house.train(2)
    monkeypatch.setattr(faults, "hook", None)
    assert len(house.folders()) == 2
    assert house.history.current == "local:1"
    house.store.tidy()
    assert house.folders() == {"local-1"}
    assert house.train(3) == "local:2"
    assert adapter_digest(house.store.load("local:2")) == adapter_digest(adapter(3))


def test_a_crash_while_pruning_loses_no_version_that_is_wanted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in range(KEPT_VERSIONS + 2):
        house.train(value)

    def die(reached: str) -> None:
        if reached == "store.after-prune":
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        house.store.tidy()
    monkeypatch.setattr(faults, "hook", None)
    present = [version.name for version in house.history.versions() if version.present]
    assert len(present) == KEPT_VERSIONS
    for name in present:
        house.store.load(name)
    house.store.tidy()
    assert house.folders() == {name.replace(":", "-") for name in present}


def test_old_versions_go_but_never_the_current_one(house: House) -> None:
    for value in range(KEPT_VERSIONS + 5):
        house.train(value)
    house.history.use("local:2")
    house.store.tidy()
    kept = {"local-2"} | {f"local-{number}" for number in range(6, KEPT_VERSIONS + 6)}
    assert house.folders() == kept
    assert adapter_digest(house.store.load("local:2")) == adapter_digest(adapter(1))
    with pytest.raises(UnknownAdapterError, match="deleted to save space"):
        house.store.load("local:3")
    house.store.tidy()
    assert house.folders() == kept
    assert house.train() == f"local:{KEPT_VERSIONS + 6}"


def test_tidying_nothing_is_fine(house: House) -> None:
    house.store.tidy()
    assert house.folders() == set()


@pytest.mark.parametrize("at", [-1, 200, 8])
def test_damaged_bytes_are_noticed(house: House, at: int) -> None:
    house.train(1)
    path = house.store.path("local:1") / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        house.store.load("local:1")
    assert caught.value.hint is not None
    assert "adapter" in caught.value.hint


def test_a_missing_file_is_noticed(house: House) -> None:
    house.train(1)
    (house.store.path("local:1") / "adapter_model.safetensors").unlink()
    with pytest.raises(StoreError, match="not a readable adapter"):
        house.store.load("local:1")


def test_an_adapter_of_another_model_is_refused_not_loaded(house: House) -> None:
    house.train(1)
    other = AdapterShape(2, 4, (TensorShape("y.lora_A", 2, 7), TensorShape("y.lora_B", 3, 2)))
    elsewhere = AdapterStore(
        house.folder, house.history, base_model="other", fingerprint=FINGERPRINT, shape=other, dropout=0.1
    )
    with pytest.raises(StoreError, match="does not fit the model"):
        elsewhere.load("local:1")
    with pytest.raises(StoreError, match="does not fit the model"):
        elsewhere.write(adapter(1), parent="base", wins=1)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_full_disk_is_said_and_leaves_nothing(house: House, name: str) -> None:
    house.train(1)
    size_bytes = (house.store.path("local:1") / name).stat().st_size
    with full(size_bytes - 1), pytest.raises(StoreError, match=os.strerror(errno.EFBIG)) as caught:
        house.train(2)
    assert caught.value.hint is not None
    assert "disk space" in caught.value.hint
    assert house.folders() == {"local-1"}
    assert house.history.current == "local:1"


def test_going_back_follows_the_parents(house: House) -> None:
    for value in range(3):
        house.train(value)
    assert rollback(house.history) == "local:2"
    assert house.train() == "local:4"
    assert rollback(house.history, 2) == "local:1"
    assert house.history.current == "local:1"
    assert rollback(house.history) == "base"


def test_going_back_too_far_changes_nothing(house: House) -> None:
    house.train()
    with pytest.raises(StoreError, match="cannot go back 2 versions: 1 lead to the base model"):
        rollback(house.history, 2)
    assert house.history.current == "local:1"


def test_going_back_to_a_deleted_version_changes_nothing(house: House) -> None:
    for _ in range(3):
        house.train()
    house.history.mark_deleted(["local:1"])
    with pytest.raises(UnknownAdapterError, match="local:1"):
        rollback(house.history, 2)
    assert house.history.current == "local:3"
