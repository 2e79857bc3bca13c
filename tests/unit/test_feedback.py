"""Entries of a feedback log: what one may be, how its lines become one, who contradicts whom."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.checks import Number, YesNo
from training.errors import FeedbackError
from training.feedback import Attempt, Entry, EntryError, Message, attempt_key, contradictions, merge

TEXT = st.sampled_from(["one", "two", "three", ""])
ATTEMPTS = st.lists(
    st.builds(Attempt, TEXT, st.sampled_from(["right", "wrong", None]), st.none() | st.sampled_from(["no", "yes"])),
    max_size=4,
).map(tuple)


def entry(*attempts: Attempt, id: str = "a", prompt: str = "p", **fields: object) -> Entry:
    return Entry(v=1, id=id, prompt=prompt, attempts=attempts, **fields)  # type: ignore[arg-type]


def right(completion: str, feedback: str | None = None) -> Attempt:
    return Attempt(completion, "right", feedback)


def wrong(completion: str, feedback: str | None = None) -> Attempt:
    return Attempt(completion, "wrong", feedback)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"id": "", "prompt": "p"}, "`id`"),
        ({"id": "a"}, "neither"),
        ({"id": "a", "prompt": "p", "messages": (Message("user", "p"),)}, "both"),
        ({"id": "a", "prompt": ""}, "`prompt`"),
        ({"id": "a", "messages": ()}, "`messages`"),
    ],
)
def test_an_entry_needs_an_id_and_exactly_one_prompt(fields: dict[str, object], named: str) -> None:
    with pytest.raises(EntryError) as caught:
        Entry(v=1, **fields)  # type: ignore[arg-type]
    assert named in caught.value.message
    assert caught.value.hint


def test_a_text_and_one_message_of_the_user_are_the_same_prompt() -> None:
    as_messages = Entry(v=1, id="b", messages=(Message("user", "p"),))
    assert entry().conversation == as_messages.conversation == (Message("user", "p"),)
    assert entry().prompt_key == as_messages.prompt_key


def test_prompts_that_differ_only_in_where_a_message_ends_or_who_speaks_have_different_keys() -> None:
    conversations = [
        (Message("user", "ab"), Message("user", "c")),
        (Message("user", "a"), Message("user", "bc")),
        (Message("user", "abc"),),
        (Message("system", "abc"),),
        (Message("user", 'ab"],["user","c'),),
    ]
    assert len({Entry(v=1, id="a", messages=messages).prompt_key for messages in conversations}) == len(conversations)


def test_the_keys_that_are_stored_never_change() -> None:
    # Pinned: other keys would make every home train on everything again.
    assert (
        attempt_key("a", Attempt("c", "right", "f"))
        == "ecf1f4e507bddd73547e6862c1f8685bc7aea7f8da8c368c8a9a8bd116aff592"
    )
    assert entry().prompt_key == "b0d378b51d70bc2b569032a29d3fd0e33ddc42efa714c7b3f775cb1e51987e7a"


def test_a_corrected_verdict_is_a_new_key_and_a_new_comment_is_not() -> None:
    key = attempt_key("a", right("c"))
    assert key == attempt_key("a", right("c", "well done"))
    others = [attempt_key("a", wrong("c")), attempt_key("a", Attempt("c")), attempt_key("b", right("c"))]
    assert len({key, *others, attempt_key("a", right("d"))}) == 5


def test_a_later_line_corrects_a_known_completion_in_place_and_appends_new_ones() -> None:
    merged = merge(entry(wrong("x", "why"), Attempt("y")), entry(right("x"), wrong("z", "no")))
    assert merged.attempts == (right("x", "why"), Attempt("y"), wrong("z", "no"))


def test_a_null_in_a_later_line_takes_nothing_back() -> None:
    known = entry(wrong("x", "why"), check=YesNo(expect="yes"), hint="h", user="u", ts="t")
    assert merge(known, entry(Attempt("x"))) == known


def test_check_hint_and_user_are_the_last_given_and_the_time_is_the_first() -> None:
    first = entry(check=YesNo(expect="yes"), hint="h", user="u", ts="1")
    last = entry(check=Number(expect="3"), hint="i", user="v", ts="3")
    merged = merge(first, entry(ts="2"), last)
    assert (merged.check, merged.hint, merged.user, merged.ts) == (last.check, "i", "v", "1")


def test_an_empty_hint_given_later_replaces_the_known_one() -> None:
    assert merge(entry(hint="h"), entry(hint="")).hint == ""


def test_one_line_with_both_verdicts_stays_a_contradiction_until_a_later_line_settles_it() -> None:
    torn = entry(wrong("x", "why"), right("x"))
    assert merge(entry(), torn).attempts == torn.attempts
    settled = merge(torn, entry(right("x")))
    assert contradictions([torn])
    assert not contradictions([settled])
    assert right("x", "why") in settled.attempts


@pytest.mark.parametrize("other", [entry(prompt="q"), entry(id="b")])
def test_lines_of_another_id_or_prompt_are_not_merged(other: Entry) -> None:
    with pytest.raises(FeedbackError):
        merge(entry(), other)


@given(ATTEMPTS, ATTEMPTS)
def test_merging_a_line_twice_changes_nothing_more(first: tuple[Attempt, ...], second: tuple[Attempt, ...]) -> None:
    once = merge(entry(*first), entry(*second))
    assert merge(once, entry(*second)) == once


@given(st.lists(ATTEMPTS, min_size=1, max_size=4))
def test_merging_all_lines_at_once_is_merging_them_one_by_one_and_loses_no_completion(
    lines: list[tuple[Attempt, ...]],
) -> None:
    entries = [entry(*attempts) for attempts in lines]
    one_by_one = entries[0]
    for line in entries[1:]:
        one_by_one = merge(one_by_one, line)
    merged = merge(*entries)
    assert merged == one_by_one
    assert {a.completion for a in merged.attempts} == {a.completion for line in lines for a in line}


def test_people_contradict_each_other_across_ids_and_ways_to_write_the_prompt() -> None:
    entries = [
        entry(right("x"), wrong("y")),
        Entry(v=1, id="b", messages=(Message("user", "p"),), attempts=(wrong("x"),)),
        entry(right("y"), id="c", prompt="another"),
        entry(Attempt("y"), id="d"),
    ]
    assert contradictions(entries) == {(entry().prompt_key, "x")}


def test_nobody_contradicts_a_person_who_did_not_judge() -> None:
    assert contradictions([entry(right("x"), Attempt("x", None, "hm"))]) == set()


def test_an_entry_without_extras_is_written_without_them() -> None:
    assert msgspec.json.encode(entry(Attempt("x"))) == b'{"v":1,"id":"a","prompt":"p","attempts":[{"completion":"x"}]}'
