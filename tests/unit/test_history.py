"""The history of a home: all of a round or nothing, and damage that is noticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disk import full
from training import faults
from training.errors import StoreError, UnknownAdapterError
from training.history import History, NewVersion


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "node.db")


def commit(history: History, *, wins: int | None = 3, report: dict[str, Any] | None = None, **used: Any) -> str:
    """Records a round, with a new version unless ``wins`` is None; returns what is current then."""
    version = None
    if wins is not None:
        version = NewVersion(history.next_version(), history.current, wins, "ab" * 32, 100)
    history.commit(number=history.next_round(), seconds=1.5, report=report or {}, version=version, **used)
    return history.current


def everything(history: History) -> tuple[object, ...]:
    return (
        history.current,
        history.versions(),
        history.rounds(),
        history.trained(),
        history.plays(),
        history.next_round(),
        history.next_version(),
    )


def test_a_new_history_knows_only_the_base_model(history: History) -> None:
    assert everything(history) == ("base", (), (), frozenset(), {}, 1, 1)
    assert history.trained_count() == 0


def test_a_round_is_recorded_with_its_version_and_what_it_used(history: History) -> None:
    assert commit(history, wins=7, report={"wins": 7}, trained=["a", "b"], played=["p"]) == "local:1"
    (version,) = history.versions()
    assert (version.name, version.number, version.parent, version.round, version.wins) == ("local:1", 1, "base", 1, 7)
    assert (version.sha256, version.bytes, version.present) == ("ab" * 32, 100, True)
    assert history.version("local:1") == version
    (record,) = history.rounds()
    assert (record.number, record.seconds, record.version, record.report) == (1, 1.5, "local:1", {"wins": 7})
    assert record.started_at <= version.created_at
    assert (history.trained(), history.trained_count(), history.plays()) == ({"a", "b"}, 2, {"p": 1})


def test_what_was_recorded_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with History(tmp_path / "node.db") as history:
        commit(history, trained=["a"], played=["p", "q"])
        before = everything(history)
    with History(tmp_path / "node.db") as history:
        assert everything(history) == before


def test_a_round_without_a_version_leaves_the_current_one(history: History) -> None:
    commit(history)
    assert commit(history, wins=None, report={"wins": 0}) == "local:1"
    assert [record.version for record in history.rounds()] == ["local:1", None]
    assert history.next_version() == 2


def test_plays_are_counted_and_attempts_are_not_trained_twice(history: History) -> None:
    commit(history, trained=["a"], played=["p", "q"])
    commit(history, trained=["a", "b"], played=["p"])
    assert history.plays() == {"p": 2, "q": 1}
    assert history.trained_count() == 2


def test_the_last_rounds_come_oldest_first(history: History) -> None:
    for _ in range(5):
        commit(history)
    assert [record.number for record in history.rounds(2)] == [4, 5]
    assert [record.number for record in history.rounds()] == [1, 2, 3, 4, 5]
    assert history.rounds(0) == ()


@pytest.mark.parametrize("point", ["history.before-commit", "history.after-commit"])
def test_a_round_is_recorded_all_or_nothing(history: History, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    commit(history, trained=["a"], played=["p"])
    before = everything(history)

    def die(reached: str) -> None:
        if reached == point:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        commit(history, trained=["b"], played=["p", "q"])
    monkeypatch.setattr(faults, "hook", None)
    if point == "history.before-commit":
        assert everything(history) == before
    else:
        assert (history.current, history.plays()) == ("local:2", {"p": 2, "q": 1})
    commit(history)
    assert history.rounds()[-1].version == history.current


def test_a_round_that_cannot_be_recorded_leaves_nothing_behind(history: History) -> None:
    commit(history)
    before = everything(history)
    taken = NewVersion(1, "base", 3, "cd" * 32, 100)
    with pytest.raises(StoreError):
        history.commit(number=2, seconds=1.0, report={}, version=taken, trained=["b"])
    with pytest.raises(TypeError):
        history.commit(number=2, seconds=1.0, report={"odd": object()}, version=None, trained=["b"])
    assert everything(history) == before


def test_any_version_can_be_used_again_and_the_base_always(history: History) -> None:
    for _ in range(3):
        commit(history)
    for name in ("local:1", "base", "local:3"):
        history.use(name)
        assert history.current == name


@pytest.mark.parametrize("name", ["local:9", "local:", "Base", "", "round:1"])
def test_an_unknown_version_is_refused(history: History, name: str) -> None:
    commit(history)
    for ask in (history.use, history.version):
        with pytest.raises(UnknownAdapterError, match="is not known") as caught:
            ask(name)
        assert caught.value.hint is not None
        assert "adapter list" in caught.value.hint
    assert history.current == "local:1"


def test_a_deleted_version_is_remembered_but_cannot_be_used(history: History) -> None:
    commit(history)
    commit(history)
    history.mark_deleted(["local:1"])
    assert [version.present for version in history.versions()] == [False, True]
    assert history.next_version() == 3
    with pytest.raises(UnknownAdapterError, match="deleted to save space"):
        history.use("local:1")


def test_a_reader_never_waits_for_a_writer(tmp_path: Path) -> None:
    with History(tmp_path / "node.db") as history:
        commit(history)
        writer = sqlite3.connect(tmp_path / "node.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE current SET version = NULL")
        assert history.current == "local:1"
        writer.execute("COMMIT")
        writer.close()
        assert history.current == "base"


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    History(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 3")
    newer.close()
    with pytest.raises(StoreError, match="newer spearctl") as caught:
        History(path)
    assert caught.value.hint == "upgrade spearctl"
    after = sqlite3.connect(path)
    assert after.execute("PRAGMA user_version").fetchone() == (3,)
    after.close()


def make_old(path: Path) -> tuple[object, ...]:
    """Makes a database as the first version of spearctl left it; what it holds."""
    with History(path) as history:
        commit(history, report={"wins": 3}, trained=["a"], played=["p"])
        commit(history, wins=None)
        before = everything(history)
    old = sqlite3.connect(path)
    old.executescript("DROP TABLE evaluation; DROP TABLE origin; PRAGMA user_version = 1")
    old.close()
    return before


def schema_of(path: Path) -> tuple[int, set[str]]:
    found = sqlite3.connect(path)
    tables = {name for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    (version,) = found.execute("PRAGMA user_version").fetchone()
    found.close()
    return version, tables


def test_an_older_database_is_brought_up_to_date_and_a_copy_of_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    before = make_old(path)
    for _ in range(2):
        with History(path) as history:
            assert everything(history) == before
            assert history.evaluations() == ()
    copy = tmp_path / "node.db.schema-1"
    assert schema_of(path) == (2, {"version", "round", "trained", "played", "current", "evaluation", "origin"})
    assert schema_of(copy) == (1, {"version", "round", "trained", "played", "current"})
    assert oct(copy.stat().st_mode & 0o777) == "0o600"
    with History(copy) as history:  # it is whole
        assert everything(history) == before


def test_a_database_that_cannot_be_copied_first_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    make_old(path)
    (tmp_path / "node.db.schema-1").mkdir()
    with pytest.raises(StoreError, match="cannot be copied") as caught:
        History(path)
    assert caught.value.hint is not None
    assert schema_of(path)[0] == 1


def test_what_fails_on_the_way_to_a_newer_schema_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.db"
    before = make_old(path)
    with monkeypatch.context() as patched:
        patched.setattr("training.history._SINCE_1", "CREATE TABLE evaluation (n); nonsense; PRAGMA user_version = 2")
        with pytest.raises(StoreError):
            History(path)
    assert schema_of(path) == (1, {"version", "round", "trained", "played", "current"})
    with History(path) as history:
        assert everything(history) == before


def test_two_that_open_an_older_database_at_once_copy_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    make_old(path)
    with ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(lambda: History(path).close()) for _ in range(8)]:
            found.result()
    assert (schema_of(path)[0], schema_of(tmp_path / "node.db.schema-1")[0]) == (2, 1)


def test_evaluations_are_kept_in_order(history: History) -> None:
    for number in range(4):
        history.add_evaluation(adapter=f"local:{number}", log_sha256="cd" * 32, n=10, right=number, formatted=9)
    assert [found.right for found in history.evaluations()] == [0, 1, 2, 3]
    (last,) = history.evaluations(1)
    assert (last.adapter, last.log_sha256, last.n, last.right, last.formatted) == ("local:3", "cd" * 32, 10, 3, 9)
    assert last.at.endswith("+00:00")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda content: b"this is no database, but it is long enough to look like one " * 200,
    "a cut header": lambda content: content[:50],
    "a cut half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: content[:100] + bytes(len(content) - 100),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_database_is_a_store_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "node.db"
    with History(path) as history:
        commit(history, trained=["a"], played=["p"])
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(StoreError) as caught, History(path) as history:
        everything(history)
    assert str(path) in caught.value.message
    assert caught.value.hint is not None
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("flips", [3, 30, 300])
@pytest.mark.parametrize("seed", range(10))
def test_bytes_that_flipped_anywhere_raise_nothing_else(tmp_path: Path, seed: int, flips: int) -> None:
    path = tmp_path / "node.db"
    with History(path) as history:
        for number in range(4):
            report = {"round": number, "health": ["collapse"] * 100}
            commit(history, report=report, trained=[f"a{number}"], played=["p"])
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng([seed, flips])
    for at in rng.integers(0, len(content), flips):
        content[at] = rng.integers(0, 256)
    path.write_bytes(content)
    try:
        with History(path) as history:
            everything(history)
            commit(history)
    except StoreError as error:
        assert str(path) in error.message


def test_a_folder_in_its_place_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        History(tmp_path)


def test_a_disk_that_takes_no_more_is_not_called_damage(history: History) -> None:
    commit(history)
    before = everything(history)
    with full(history.path.stat().st_size + 1000), pytest.raises(StoreError, match="disk I/O error") as caught:
        commit(history, report={"health": ["x" * 100_000]})
    assert caught.value.hint is not None
    assert "is it full" in caught.value.hint
    assert "backup" not in caught.value.hint
    assert everything(history) == before
    assert commit(history) == "local:2"


def test_what_another_process_writes_to_is_not_called_damage(history: History) -> None:
    other = sqlite3.connect(history.path)
    other.execute("BEGIN IMMEDIATE")
    history._db.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StoreError, match="locked") as caught:
        commit(history)
    assert caught.value.hint == "another process is writing to it; try again"
    other.close()
    assert commit(history) == "local:1"
