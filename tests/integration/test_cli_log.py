"""`spearctl log`: the history of a device as a table, as lines, as a picture and as data."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spearctl.home import Home
from spearctl.sparkline import BLOCKS, LETTERS
from tests.cli import Cli, clean_environment, learn, spawn
from tests.homes import hopeless, told, winnable, write_log
from tests.swarms import Device, agree, swarm, until
from training.history import History


def evaluate(home: Home, *figures: tuple[str, int], questions: str = "cd" * 32) -> None:
    with History(home.history_path) as history:
        for adapter, right in figures:
            history.add_evaluation(adapter=adapter, log_sha256=questions, n=10, right=right, formatted=9)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_device_that_has_learned_nothing_is_told_how_to(cli: Cli) -> None:
    cli.make_home()
    outcome = cli("log")
    assert outcome.code == 0
    assert outcome.out == "nothing was learned yet\nNext:\n  spearctl train\n"
    assert cli("log", "--json").envelope["data"] == {"rounds": [], "evaluations": [], "seals": [], "plot": None}


def test_every_round_is_a_row_with_its_accuracy_where_it_was_measured(cli: Cli) -> None:
    home = cli.make_home()
    learn(home, rounds=4, report={"loss_win": 1.25})
    evaluate(home, ("local:1", 2), ("local:3", 7))
    found = lines(cli("log").out)
    assert found[0] == "lab: 4 rounds"
    assert found[1] == "ROUND WHEN PLAYED WINS LOSSES LOSS ACCURACY TIME ADAPTER"
    assert [row.split()[-6:] for row in found[2:6]] == [
        ["7", "1.250", "0.20", "40", "s", "local:1"],
        ["20", "7", "1.250", "40", "s", "local:2"],
        ["7", "1.250", "0.70", "40", "s", "local:3"],
        ["40", "7", "1.250", "40", "s", "local:4"],
    ]
    assert f"loss {BLOCKS[4] * 4} 1.250 to 1.250" in found
    assert any(row.startswith("wins ▁▃▆█ 10 to 40") for row in found)
    assert "accuracy ▁ █ 0.20 to 0.70, on questions cdcdcdcd" in found
    assert [row.split()[-5:] for row in found if "cdcdcdcd" in row][1:] == [
        ["local:1", "0.20", "0.90", "10", "cdcdcdcd"],
        ["local:3", "0.70", "0.90", "10", "cdcdcdcd"],
    ]


def test_a_round_that_was_discarded_says_so_and_why(cli: Cli) -> None:
    home = cli.make_home()
    learn(home, rounds=1)
    judged = {"wins": 3, "losses": 0, "replayed": 1, "held_out": 9, "drop": 0.25, "discarded": "scores fell by 0.25"}
    with History(home.history_path) as history:
        history.commit(number=2, seconds=1.0, report=judged, version=None)
        history.commit(number=3, seconds=1.0, report={"wins": 0}, version=None)
    found = lines(cli("log").out)
    assert [row.split()[-1] for row in found[2:4]] == ["local:1", "discarded"]
    assert found[4].endswith("no change")
    assert found[5] == "round 2 was discarded: scores fell by 0.25"
    (*_, row, _) = cli("log", "--json").envelope["data"]["rounds"]
    assert {name: row[name] for name in judged} == judged
    assert row["adapter"] is None


def test_accuracies_on_other_questions_are_not_set_beside_each_other(cli: Cli) -> None:
    home = cli.make_home()
    learn(home, rounds=3)
    evaluate(home, ("local:1", 9), questions="ab" * 32)
    evaluate(home, ("local:2", 4), ("local:2", 5), ("base", 1))
    data = cli("log", "--json").envelope["data"]
    assert [row["accuracy"] for row in data["rounds"]] == [None, 0.5, None]
    assert [row["right"] for row in data["evaluations"]] == [9, 4, 5, 1]
    assert {row["questions_sha256"] for row in data["evaluations"]} == {"ab" * 32, "cd" * 32}


def test_the_table_shows_the_last_rounds_and_data_shows_all_unless_fewer_are_asked_for(cli: Cli) -> None:
    learn(cli.make_home(), rounds=30)
    found = lines(cli("log").out)
    assert [row.split()[0] for row in found if row.endswith(tuple(f"local:{n}" for n in range(1, 31)))] == [
        str(number) for number in range(11, 31)
    ]
    assert "and 10 earlier rounds: -n 30" in found
    assert len(cli("log", "--json").envelope["data"]["rounds"]) == 30
    assert [row["round"] for row in cli("log", "-n", "2", "--json").envelope["data"]["rounds"]] == [29, 30]
    assert found[0] == "lab: 30 rounds"
    assert lines(cli("log", "-n", "2").out)[0] == "lab: the last 2 rounds"
    assert "earlier" not in cli("log", "-n", "2").out
    assert cli("log", "-n", "0").code == 2


def test_a_terminal_without_blocks_gets_letters(cli: Cli) -> None:
    learn(cli.make_home(), rounds=8)
    outcome = spawn("log", folder=cli.folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert outcome.code == 0
    assert f"wins  {LETTERS}  10 to 80" in outcome.out
    assert outcome.out.isascii()
    assert BLOCKS in spawn("log", folder=cli.folder, PYTHONIOENCODING="utf-8").out


# What eval leaves.


def test_eval_leaves_its_figures_by_adapter_and_questions(device: Cli) -> None:
    log = write_log(device.folder / "questions.jsonl", [*winnable(2), *hopeless(3), *told(1)])
    again = write_log(device.folder / "again.jsonl", [*winnable(2), b"junk", *hopeless(3)])
    other = write_log(device.folder / "other.jsonl", winnable(2))
    for path in (log, again, other):
        assert device("eval", "--data", str(path)).code == 0
    first, second, third = device("log", "--json").envelope["data"]["evaluations"]
    assert (first["adapter"], first["n"], first["right"], first["formatted"]) == ("base", 5, 2, 5)
    assert first["accuracy"] == 0.4
    assert second["questions_sha256"] == first["questions_sha256"]  # a bad line and what people said do not count
    assert (third["n"], third["right"]) == (2, 2)
    assert third["questions_sha256"] != first["questions_sha256"]


def test_eval_of_what_people_judged_alone_has_no_accuracy_to_keep(device: Cli) -> None:
    log = write_log(device.folder / "told.jsonl", told(4, losses=2))
    assert device("eval", "--data", str(log)).code == 0
    assert device("log", "--json").envelope["data"]["evaluations"] == []


def test_eval_tells_its_figures_even_where_they_cannot_be_kept(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(device.folder / "questions.jsonl", winnable(2))
    full = sqlite3.connect(device.home.history_path)
    full.execute("CREATE TRIGGER refuse BEFORE INSERT ON evaluation BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    full.commit()
    full.close()
    outcome = device("eval", "--data", str(log))
    assert outcome.code == 0
    assert "accuracy" in outcome.out
    assert "`log` will not show these figures: " in outcome.err
    assert "disk is full" in outcome.err


# The picture.


def size_of(path: Path) -> tuple[int, int]:
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", raw[16:24])
    return width, height


def test_a_picture_is_drawn_whole_and_no_file_is_lost(cli: Cli) -> None:
    home = cli.make_home(name="lab $x_1$")
    learn(home, rounds=3, report={"loss_win": 1.0, "loss_lose": None})
    path = cli.folder / "history.png"
    outcome = cli("log", "--plot", str(path))
    assert (outcome.code, outcome.err) == (0, "")
    assert "~/history.png: the same as a picture" in outcome.out
    small = size_of(path)
    before = path.read_bytes()
    refused = cli("log", "--plot", str(path))
    assert refused.code == 2
    assert "exists already" in refused.err
    assert "--force" in refused.err
    assert path.read_bytes() == before
    evaluate(home, ("local:1", 4), ("local:3", 6))
    data = cli("log", "--plot", str(path), "--force", "--json").envelope["data"]
    assert data["plot"] == str(path)
    assert size_of(path)[1] > small[1]  # with a panel more
    assert [found.name for found in cli.folder.iterdir() if "plot" in found.name] == []


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("b.PDF", b"%PDF"), ("c.png", b"\x89PNG")])
def test_the_ending_says_what_kind_of_picture(cli: Cli, name: str, begins: bytes) -> None:
    learn(cli.make_home(), rounds=1)
    assert cli("log", "--plot", name).code == 0
    assert (cli.folder / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--plot", "history.txt"), "a plot is a file of .png, .svg, .pdf"),
        (("--plot", "history"), "a plot is a file of"),
        (("--plot", "nowhere/history.png"), "there is no such folder"),
        (("--plot", "folder.png", "--force"), "folder.png is a folder"),
        (("--force",), "--force goes with --plot"),
    ],
)
def test_what_cannot_be_drawn_is_a_usage_error(cli: Cli, words: tuple[str, ...], part: str) -> None:
    learn(cli.make_home(), rounds=1)
    (cli.folder / "folder.png").mkdir()
    outcome = cli("log", *words)
    assert outcome.code == 2
    assert part in outcome.err
    assert "hint: " in outcome.err


def test_nothing_can_be_drawn_before_anything_was_learned(cli: Cli) -> None:
    cli.make_home()
    assert "nothing to draw" in cli("log", "--plot", "history.png").err
    assert not (cli.folder / "history.png").exists()


def test_without_matplotlib_it_is_code_4_with_the_command_that_gets_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(cli.make_home(), rounds=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli("log", "--plot", "history.png")
    assert outcome.code == 4
    assert outcome.err == (
        "error: --plot needs the package matplotlib, which is not installed\nhint: pip install 'spearctl[plot]'\n"
    )
    assert cli("log").code == 0


def test_log_without_a_picture_loads_neither_matplotlib_nor_torch(cli: Cli) -> None:
    learn(cli.make_home(), rounds=2)
    code = (
        "import sys\nfrom spearctl.main import main\nassert main(['log']) == 0\n"
        "print(sorted({'matplotlib', 'torch', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(cli.folder), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# In a swarm.

SOON = """
import p2p.limits
p2p.limits.SEAL_DELAY_S = 0.1
"""


def test_a_member_sees_what_was_sealed_and_when(
    template: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Device.process.__kwdefaults__, "code", SOON + Device.process.__kwdefaults__["code"])
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        for number in range(6):
            learner = (anna, ben)[number % 2]
            learner.train(winnable(6, name=f"play-{number}"))
            agree(anna, ben, head=number + 1)
        until(lambda: anna.status()["swarm"]["sealed_round"] and ben.status()["swarm"]["sealed_round"])
        for device in (anna, ben):
            sealed = seals(device)
            assert [seal["height"] for seal in sealed] == list(range(1, len(sealed) + 1))
            assert sealed[0]["from_round"] == 1
            assert set(sealed[-1]["authors"]) <= {"anna", "ben"}
            assert all(seal["at"].endswith("+00:00") for seal in sealed)
            assert "SEALED" in device("log").out
        assert anna("down").code == 0
        assert seals(anna)


def seals(device: Device) -> list[dict[str, Any]]:
    return list(device.data("log")["seals"])
