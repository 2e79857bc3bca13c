"""`spearctl eval`: its figures on checks, on choices and on what people judged, and that they show what was learned."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli import Cli
from tests.homes import Entry, files_of, hopeless, told, winnable, write_log, write_profile

CHECKS = {
    "n",
    "accuracy",
    "low",
    "high",
    "format_rate",
    "accuracy_formatted",
    "contains",
    "best_constant",
    "common_answer",
    "seconds",
}


def measure(device: Cli, *entries: Entry | bytes, words: tuple[str, ...] = ()) -> dict[str, Any]:
    log = write_log(device.folder / "questions.jsonl", entries)
    outcome = device("eval", "--data", str(log), "--json", *words)
    assert outcome.code == 0, outcome.envelope["errors"]
    return dict(outcome.envelope["data"])


def choices(count: int) -> list[Entry]:
    check = {"type": "choice", "options": 3, "format": "bare"}
    return [
        {
            "v": 1,
            "id": f"choice-{i}",
            "prompt": f"Which, {i}?\nA) one\nB) two\nC) three",
            "check": check | {"expect": "AB"[i % 2]},
        }
        for i in range(count)
    ]


def test_checks_give_accuracy_with_its_interval_beside_the_best_constant(device: Cli) -> None:
    found = measure(device, *winnable(3), *hopeless(5))
    assert set(found) >= CHECKS
    assert (found["n"], found["accuracy"]) == (8, 3 / 8)
    # Wilson's interval for 3 of 8, as tabulated.
    assert found["low"] == pytest.approx(0.1368, abs=1e-4)
    assert found["high"] == pytest.approx(0.6943, abs=1e-4)
    assert (found["best_constant"], found["best_constant_answer"]) == (5 / 8, "antidisestablishmentarianism")
    assert (found["format_rate"], found["accuracy_formatted"], found["contains"]) == (1.0, 3 / 8, 3 / 8)
    assert found["seconds"] > 0
    assert (found["adapter"], found["bad_lines"]) == ("base", 0)
    assert "choice" not in found
    assert "log_likelihood" not in found


def test_the_asked_form_is_measured_apart_from_the_answer(device: Cli) -> None:
    check = {"type": "yes_no", "format": "bare", "expect": "yes"}
    found = measure(device, *(entry | {"check": check} for entry in hopeless(4)))
    assert (found["format_rate"], found["accuracy"]) == (0.0, 0.0)
    assert found["accuracy_formatted"] is None
    assert (found["best_constant"], found["best_constant_answer"]) == (1.0, "yes")


def test_choices_are_scored_by_likelihood_too(device: Cli) -> None:
    found = measure(device, *choices(4))
    assert found["n"] == 4
    # One letter is the likeliest whatever the question, and A and B are each right half of the time.
    assert found["choice"]["acc"] in {0.0, 0.5}
    assert found["choice"]["acc_norm"] == found["choice"]["acc"]  # all options are equally long
    assert found["best_constant"] == 0.5


def test_what_people_judged_is_compared_by_likelihood(device: Cli) -> None:
    found = measure(device, *told(5, losses=2))
    scores = found["log_likelihood"]
    assert (scores["right_n"], scores["wrong_n"]) == (3, 2)
    assert scores["right"] < 0 > scores["wrong"]
    assert scores["margin"] == pytest.approx(scores["right"] - scores["wrong"])
    assert (found["n"], found["accuracy"], found["low"], found["high"]) == (0, None, None, None)


def test_training_on_what_people_judged_raises_the_margin_on_other_prompts(device: Cli) -> None:
    device.log(*told(24, right="Certainly", wrong="No idea", losses=4))
    profile = write_profile(device.folder / "patient.toml", steps=10)
    outcome = device("train", "--rounds", "10", "--profile", str(profile), "--json")
    reports = outcome.envelope["data"]["rounds"]
    assert [report["told"] for report in reports] == [6] * 4  # then there is nothing left
    others = told(8, right="Certainly", wrong="No idea", losses=4)
    unseen = [entry | {"id": f"new-{i}", "prompt": f"Would you say so ({i})?"} for i, entry in enumerate(others)]
    margins = [
        measure(device, *unseen, words=("--adapter", name))["log_likelihood"]["margin"]
        for name in ("base", *(report["adapter"] for report in reports))
    ]
    assert len(set(margins)) == 5
    assert margins == sorted(margins)


def test_the_adapter_in_use_is_measured_unless_another_one_is_named(device: Cli) -> None:
    before = measure(device, *told(4, losses=2))
    device.log(*winnable(6))
    assert device("train", "--rounds", "2").code == 0
    found = {
        name: measure(device, *told(4, losses=2), words=words)
        for name, words in {
            "used": (),
            "base": ("--adapter", "base"),
            "local:1": ("--adapter", "local:1"),
            "local:2": ("--adapter", "local:2"),
        }.items()
    }
    assert [data["adapter"] for data in found.values()] == ["local:2", "base", "local:1", "local:2"]
    scores = {name: data["log_likelihood"] for name, data in found.items()}
    assert scores["used"] == scores["local:2"]
    assert scores["base"] == before["log_likelihood"]
    assert len({data["right"] for data in scores.values()}) == 3


def test_measuring_changes_nothing(device: Cli) -> None:
    device.log(*winnable(6))
    assert device("train", "--rounds", "1").code == 0
    before = files_of(device.home.adapters_path), device("status", "--json").envelope["data"]
    measure(device, *winnable(3), *told(4, losses=2))
    assert (files_of(device.home.adapters_path), device("status", "--json").envelope["data"]) == before


def test_it_works_while_something_is_trained(device: Cli) -> None:
    with device.home.training_lock("train"):
        assert measure(device, *winnable(2))["n"] == 2


def test_a_limit_takes_the_first_entries(device: Cli) -> None:
    assert measure(device, *winnable(2), *hopeless(2), words=("--limit", "2"))["accuracy"] == 1.0


def test_bad_lines_are_left_out_and_counted(device: Cli) -> None:
    found = measure(device, b"junk", *winnable(2), b"{}")
    assert (found["bad_lines"], found["n"]) == (2, 2)
    assert "! 2 bad lines left out" in device("eval", "--data", str(device.folder / "questions.jsonl")).out


def test_a_person_gets_a_table_and_every_answer_if_asked(device: Cli) -> None:
    entries = [*winnable(1), *hopeless(1), *choices(1), *told(4, losses=2)]
    log = write_log(device.folder / "questions.jsonl", entries)
    outcome = device("eval", "--data", str(log), "--answers")
    assert outcome.code == 0
    rows = {line[:22].strip(): line[22:].strip() for line in outcome.out.splitlines()}
    assert rows["questions"] == "3"
    assert rows["accuracy"].startswith("0.33 (0.06 to 0.79)")
    assert rows["by likelihood"]
    assert rows["log-likelihood"].startswith("a token of 2 right answers -")
    assert outcome.out.count("Say something, play 0.") == 1
    assert outcome.out.count("antidisestablish") >= 1


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("--data", "empty.jsonl"), 8, "nothing in it can be measured"),
        (("--data", "unjudged.jsonl"), 8, "nothing in it can be measured"),
        (("--data", "nowhere.jsonl"), 8, "nowhere.jsonl"),
        (("--data", "good.jsonl", "--adapter", "local:9"), 2, "adapter local:9 is not known"),
        (("--data", "good.jsonl", "--adapter", "nonsense"), 2, "adapter nonsense is not known"),
        (("--data", "good.jsonl", "--profile", "nowhere.toml"), 4, "nowhere.toml"),
        (("--data", "good.jsonl", "--limit", "0"), 2, "--limit"),
        ((), 2, "--data"),
    ],
)
def test_what_cannot_be_measured_is_one_envelope_with_its_code(
    device: Cli, words: tuple[str, ...], code: int, part: str
) -> None:
    (device.folder / "empty.jsonl").touch()
    unjudged = {"v": 1, "id": "bare", "prompt": "p", "attempts": [{"completion": "c"}]}
    write_log(device.folder / "unjudged.jsonl", [unjudged])
    write_log(device.folder / "good.jsonl", winnable(1))
    outcome = device("eval", *words, "--json")
    assert outcome.code == code
    (error,) = outcome.envelope["errors"]
    assert error["code"] == code
    assert part in error["message"]
    assert error["hint"]
    assert device("eval", *words).out == ""


def test_eval_without_a_home_is_code_4(cli: Cli) -> None:
    assert cli("eval", "--data", "x.jsonl").code == 4
