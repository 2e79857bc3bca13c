"""Preference data in TRL's formats as a feedback log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import training.convert
import training.trl
from training.convert import convert
from training.errors import FeedbackError
from training.feedback import Attempt, Entry, Message, contradictions, merge
from training.log import Log, append, read_log

SKY = "The sky is"
UNPAIRED = {"prompt": SKY, "completion": " blue.", "label": True}
PAIRED = {"prompt": SKY, "chosen": " blue.", "rejected": " green."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(folder: Path, *rows: object) -> Log:
    """Rows through JSON Lines; through an array they have to give the same entries."""
    lines, array = folder / "rows.jsonl", folder / "rows.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    array.write_text(json.dumps(rows, indent=2))
    log = convert(lines)
    assert convert(array).entries == log.entries
    return log


def only(folder: Path, *rows: object) -> Entry:
    log = read(folder, *rows)
    assert log.problems == ()
    assert len(log.entries) == 1
    return log.entries[0]


def problem(folder: Path, row: object) -> str:
    log = read(folder, UNPAIRED, row, PAIRED)
    assert len(log.entries) == 2, "the rows around a bad one are read"
    assert [problem.line for problem in log.problems] == [2]
    assert "; " in log.problems[0].reason, "the reason says what to do"
    return log.problems[0].reason


@pytest.mark.parametrize(("label", "verdict"), [(True, "right"), (False, "wrong")])
def test_an_unpaired_row_is_one_judged_attempt(tmp_path: Path, label: bool, verdict: str) -> None:
    entry = only(tmp_path, UNPAIRED | {"label": label})
    assert (entry.prompt, entry.messages) == (SKY, None)
    assert entry.attempts == (Attempt(" blue.", verdict),)  # type: ignore[arg-type]


def test_of_a_pair_the_chosen_answer_comes_after_the_rejected_one(tmp_path: Path) -> None:
    # The order says that the model could have done better: the loss has full weight then.
    assert only(tmp_path, PAIRED).attempts == (Attempt(" green.", "wrong"), Attempt(" blue.", "right"))


def test_rows_of_messages_become_conversations(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    entry = only(tmp_path, {"prompt": [system, user("Q")], "completion": [assistant("A")], "label": False})
    assert entry.prompt is None
    assert entry.messages == (Message("system", "Be brief."), Message("user", "Q"))
    assert entry.attempts == (Attempt("A", "wrong"),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]},
        {"prompt": [user("Q")], "chosen": "A", "rejected": "B"},
        {"prompt": "Q", "chosen": [assistant("A")], "rejected": [assistant("B")]},
        {"prompt": "Q", "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        {"prompt": [user("Q")], "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        {"chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        {"prompt": None, "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
    ],
)
def test_all_ways_to_write_a_pair_give_the_same_entry(tmp_path: Path, row: dict[str, object]) -> None:
    entry = only(tmp_path, row)
    assert entry.conversation == (Message("user", "Q"),)
    assert entry.attempts == (Attempt("B", "wrong"), Attempt("A", "right"))
    assert entry.id == only(tmp_path, {"prompt": "Q", "chosen": "A", "rejected": "B"}).id


def test_an_implicit_prompt_of_messages_is_all_that_both_share_before_the_last_answer(tmp_path: Path) -> None:
    shared = [user("Q"), assistant("Which?"), user("That one")]
    entry = only(tmp_path, {"chosen": [*shared, assistant("A")], "rejected": [*shared, assistant("B")]})
    assert entry.messages == (Message("user", "Q"), Message("assistant", "Which?"), Message("user", "That one"))


def test_a_prompt_as_text_beside_the_whole_conversation_repeats_one_of_its_messages(tmp_path: Path) -> None:
    shared = [{"role": "system", "content": "Be brief."}, user("Q")]
    row = {"prompt": "Q", "chosen": [*shared, assistant("A")], "rejected": [*shared, assistant("B")]}
    assert only(tmp_path, row).messages == (Message("system", "Be brief."), Message("user", "Q"))


def test_an_answer_of_several_turns_continues_the_prompt(tmp_path: Path) -> None:
    turns = [assistant("Which?"), user("That one"), assistant("A")]
    entry = only(tmp_path, {"prompt": [user("Q")], "completion": turns, "label": True})
    assert [message.content for message in entry.conversation] == ["Q", "Which?", "That one"]
    assert entry.attempts == (Attempt("A", "right"),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        ("The sky is blue.", "The sky is black.", "The sky is", (" blue.", " black.")),
        ("Q: why?\n\nA: so", "Q: why?\n\nB: so", "Q: why?", ("\n\nA: so", "\n\nB: so")),
        ("The sky is blue", "The sky is", "The sky is", (" blue", "")),
        ("The sky", "The skyline", "The", (" sky", " skyline")),
    ],
)
def test_an_implicit_prompt_of_text_is_the_whole_words_that_both_share(
    tmp_path: Path, chosen: str, rejected: str, prompt: str, answers: tuple[str, str]
) -> None:
    entry = only(tmp_path, {"chosen": chosen, "rejected": rejected})
    assert entry.prompt == prompt
    assert entry.attempts == (Attempt(answers[1], "wrong"), Attempt(answers[0], "right"))


@given(st.text("ab \n"), st.text("ab \n"))
def test_an_implicit_prompt_and_an_answer_are_the_text_again(chosen: str, rejected: str) -> None:
    prompt, first, second = training.trl._split_texts(chosen, rejected)
    assert (prompt + first, prompt + second) == (chosen, rejected)


BAD: dict[str, tuple[object, str]] = {
    "no object": ([1], "not one object"),
    "null": (None, "not one object"),
    "other columns": ({"question": "Q", "answer": "A"}, "question, answer"),
    "no label": ({"prompt": "Q", "completion": "A"}, "`label` is missing"),
    "a number as label": (UNPAIRED | {"label": 1}, "`label`"),
    "a text as label": (UNPAIRED | {"label": "true"}, "`label` is text; it has to be true or false"),
    "no prompt": ({"completion": "A", "label": True}, "`prompt` is missing"),
    "an empty prompt": (UNPAIRED | {"prompt": ""}, "`prompt` is empty"),
    "no messages": (UNPAIRED | {"prompt": []}, "`messages` is empty"),
    "nothing chosen": ({"prompt": "Q", "rejected": "B"}, "`chosen` is missing"),
    "a tool's message": (UNPAIRED | {"prompt": [{"role": "tool", "content": "x"}]}, '"user" or "assistant"'),
    "a message in parts": (UNPAIRED | {"prompt": [{"role": "user", "content": []}]}, "`prompt[0].content` is a list"),
    "an answer of the user": (UNPAIRED | {"completion": [user("A")]}, "not the assistant's"),
    "an answer without messages": (UNPAIRED | {"completion": []}, "not the assistant's"),
    "a pair without difference": (PAIRED | {"rejected": PAIRED["chosen"]}, "the same"),
    "texts that share nothing": ({"chosen": "A", "rejected": "B"}, "no prompt"),
    "messages that share nothing": ({"chosen": [assistant("A")], "rejected": [assistant("B")]}, "no prompt"),
    "messages that part early": (
        {"chosen": [user("Q"), assistant("A")], "rejected": [user("R"), assistant("B")]},
        "same conversation",
    ),
    "a text and messages": ({"chosen": [user("Q"), assistant("A")], "rejected": "QB"}, "the same way"),
    "half a character": (UNPAIRED | {"completion": "\ud800"}, "UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_and_its_neighbours_are_read(tmp_path: Path, name: str) -> None:
    row, why = BAD[name]
    assert why in problem(tmp_path, row)


def test_other_columns_are_ignored_whatever_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps(UNPAIRED)[:-1] + ', "score": NaN, "big": ' + "9" * 5_000 + ', "half": "\\ud800"}\n'
    path.write_text(row)
    assert convert(path).problems == ()
    path.write_text(f"[{row}]")
    assert convert(path).problems == ()


def test_both_kinds_of_rows_may_stand_in_one_file(tmp_path: Path) -> None:
    assert len(read(tmp_path, UNPAIRED, PAIRED).entries) == 2


def test_the_id_follows_from_prompt_and_completions_alone(tmp_path: Path) -> None:
    entry = only(tmp_path, UNPAIRED)
    assert entry.id == only(tmp_path, UNPAIRED | {"label": False, "source": "elsewhere"}).id
    assert entry.id == "trl-4015b7bc5e41b3ff"  # pinned: what was converted before has to be met again
    others = [UNPAIRED | {"prompt": "Q"}, UNPAIRED | {"completion": "A"}, PAIRED]
    assert len({entry.id, *(only(tmp_path, other).id for other in others)}) == 4


def test_a_row_that_was_relabelled_corrects_the_entry_in_the_log(tmp_path: Path) -> None:
    before, after = only(tmp_path, UNPAIRED), only(tmp_path, UNPAIRED | {"label": False})
    append(tmp_path / "log.jsonl", [before, after])
    assert read_log(tmp_path / "log.jsonl").entries == (after,)
    swapped = only(tmp_path, {"prompt": SKY, "chosen": " green.", "rejected": " blue."})
    assert merge(only(tmp_path, PAIRED), swapped).attempts == swapped.attempts[::-1]


def test_two_labels_for_one_answer_in_one_file_are_a_contradiction_and_no_correction(tmp_path: Path) -> None:
    entry = only(tmp_path, UNPAIRED, UNPAIRED | {"label": False}, UNPAIRED)
    assert [attempt.verdict for attempt in entry.attempts] == ["right", "wrong"]
    assert len(contradictions([entry])) == 1


def test_what_comes_out_is_a_log_that_reads_back(tmp_path: Path) -> None:
    log = read(tmp_path, UNPAIRED, PAIRED, {"prompt": [user("Q")], "completion": [assistant("A")], "label": True})
    append(tmp_path / "log.jsonl", log.entries)
    assert read_log(tmp_path / "log.jsonl").entries == log.entries


def test_an_entry_that_no_log_could_hold_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([UNPAIRED | {"prompt": "x" * 2_000_000}, PAIRED]))
    log = convert(path)
    assert len(log.entries) == 1
    assert "more than the 1,048,576" in log.problems[0].reason


@pytest.mark.parametrize("ending", ["", "\n", "\r\n\r\n"])
def test_the_last_row_is_read_with_and_without_a_line_end(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((json.dumps(UNPAIRED) + "\n" + json.dumps(PAIRED) + ending).encode())
    log = convert(path)
    assert (len(log.entries), log.problems, log.unfinished) == (2, (), False)


def test_a_last_row_of_exactly_the_limit_is_read_without_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps(UNPAIRED | {"unused": "x" * 100})
    path.write_text(row)
    assert len(convert(path, max_line_bytes=len(row)).entries) == 1
    assert len(convert(path, max_line_bytes=len(row) - 1).problems) == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"prompt":"Q","compl', "cut off"),
        (b"\0\0\0", "NUL"),
        (b'{"prompt":"\xff","completion":"A","label":true}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"x" * 2_000_000, "2,000,000 bytes"),
    ],
)
def test_a_bad_line_is_named_and_its_neighbours_are_read(tmp_path: Path, bad: bytes, why: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(UNPAIRED).encode() + b"\n" + bad + b"\n" + json.dumps(PAIRED).encode() + b"\n")
    log = convert(path)
    assert len(log.entries) == 2
    assert [problem.line for problem in log.problems] == [2]
    assert why in log.problems[0].reason


def test_a_row_of_an_array_is_named_by_the_line_it_starts_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(
        b'\xef\xbb\xbf\n[\n{"prompt": "Q",\n "completion": "A",\n "label": true},\n\n'
        b'{"prompt": "\xff", "completion": "A", "label": true}, 5,\n{"prompt": 7,\n"chosen": 1}]\n'
    )
    log = convert(path)
    assert [entry.prompt for entry in log.entries] == ["Q"]
    assert [problem.line for problem in log.problems] == [7, 7, 8]
    assert "UTF-8" in log.problems[0].reason


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        (b"", 3),
        (b',\n{"prompt": "Q"', 4),
        (b",\n" + b"[" * 100_000, 4),
        (b'\n{"prompt": "Q"}]', 3),
        (b']\n{"prompt": "Q"}', 3),
        (b",\n\0]", 4),
    ],
)
def test_a_broken_array_is_read_as_far_as_it_goes_and_where_it_breaks_is_named(
    tmp_path: Path, rest: bytes, line: int
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[\n" + json.dumps(PAIRED).encode() + b",\n" + json.dumps(UNPAIRED).encode() + rest)
    log = convert(path)
    assert len(log.entries) == 2
    assert [problem.line for problem in log.problems] == [line]


def test_an_empty_file_and_an_empty_array_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for text in ("", "\n", "[]", " [ ] \n"):
        path.write_text(text)
        log = convert(path)
        assert (log.entries, log.problems) == ((), ())


@pytest.mark.parametrize("start", [b"PAR1\x15\x04", b"\x1f\x8b\x08", b"PK\x03\x04"])
def test_a_file_of_another_kind_is_refused_with_what_to_do(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(start + b"\n" * 50)
    with pytest.raises(FeedbackError) as caught:
        convert(path)
    assert caught.value.hint is not None
    assert "JSON Lines" in caught.value.hint


def test_an_array_too_large_for_memory_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[" + " " * 1_000 + "]")
    monkeypatch.setattr(training.convert, "MAX_ARRAY_BYTES", 1_000)
    with pytest.raises(FeedbackError) as caught:
        convert(path)
    assert caught.value.hint is not None
    assert "JSON Lines" in caught.value.hint


def test_a_missing_file_or_a_folder_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(FeedbackError) as caught:
            convert(path)
        assert str(path) in caught.value.message


PIECES = [json.dumps(UNPAIRED).encode(), json.dumps(PAIRED).encode(), b"[", b"]", b",", b"\n", b"{", b"\0", b"\xff"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=8)))
@example([b"[" * 2_000])
@example([b"[", b"9" * 5_000, b"]"])
def test_any_bytes_give_entries_or_problems(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "rows.json"
    data = b" " + b"".join(pieces)  # the space: a file of another kind is told by its first bytes
    path.write_bytes(data)
    log = convert(path)
    assert len(log.entries) <= 2
    lines = data.count(b"\n") + 1
    assert all(1 <= problem.line <= lines for problem in log.problems)
