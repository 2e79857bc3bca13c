"""Which entries a round uses."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.learner import entry
from training.checks import Choice, Exact, YesNo
from training.feedback import Attempt, Entry, attempt_key
from training.pool import Draw, Pool


def playable(count: int) -> list[Entry]:
    return [entry(YesNo("yes" if at % 4 else "no"), id=f"p{at}", prompt=f"Is it {at}?") for at in range(count)]


def judged(count: int) -> list[Entry]:
    return [entry(id=f"t{at}", prompt=f"What is {at}?", attempts=(Attempt(f"{at}", "right"),)) for at in range(count)]


def pool(*entries: Entry, trained: frozenset[str] = frozenset(), played: dict[str, int] | None = None) -> Pool:
    return Pool(entries, trained=trained, played=played or {})


def ids(draw: Draw) -> list[str]:
    return [item.entry.id for item in draw.told] + [one.id for one in draw.plays]


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9), st.integers(0, 2**32))
def test_new_verdicts_take_up_to_half_and_whatever_prompts_leave(told: int, prompts: int, size: int, seed: int) -> None:
    drawn = pool(*playable(prompts), *judged(told)).draw(size, seed)
    assert len(drawn.told) == min(told, max(size - prompts, (size + 1) // 2))
    assert len(drawn.plays) == min(prompts, size - len(drawn.told))
    assert len(set(ids(drawn))) == len(ids(drawn))


def test_a_verdict_is_used_once_and_prompts_again_and_again_in_turn() -> None:
    drawer = pool(*playable(4), *judged(2))
    rounds = []
    for seed in range(4):
        drawn = drawer.draw(4, seed)
        drawer.use(drawn)
        rounds.append(drawn)
    assert [len(drawn.told) for drawn in rounds] == [2, 0, 0, 0]
    times = Counter(one.id for drawn in rounds for one in drawn.plays)
    assert max(times.values()) - min(times.values()) <= 1
    assert set(times) == {"p0", "p1", "p2", "p3"}
    assert (drawer.waiting, drawer.playable) == (0, 4)


def test_drawing_alone_uses_nothing_up() -> None:
    drawer = pool(*playable(4), *judged(2))
    assert ids(drawer.draw(4, 0)) == ids(drawer.draw(4, 0))
    assert drawer.waiting == 2


def test_only_the_seed_decides_the_order() -> None:
    entries = (*playable(12), *judged(12))
    assert ids(pool(*entries).draw(16, 1)) == ids(pool(*entries).draw(16, 1))
    assert ids(pool(*entries).draw(16, 1)) != ids(pool(*entries).draw(16, 2))


def test_the_least_played_prompts_come_first_as_the_history_knows_them() -> None:
    entries = playable(6)
    played = {one.prompt_key: 3 for one in entries[:3]} | {entries[3].prompt_key: 1}
    assert {one.id for one in pool(*entries, played=played).draw(3, 0).plays} == {"p3", "p4", "p5"}


def test_what_was_trained_on_is_not_used_again_unless_its_verdict_changed() -> None:
    (first, second), other = judged(2), Attempt("0", "wrong")
    trained = frozenset({attempt_key("t0", Attempt("0", "right")), "unknown"})
    drawer = pool(first, second, trained=trained)
    assert (drawer.waiting, drawer.already_trained) == (1, 1)
    assert ids(drawer.draw(9, 0)) == ["t1"]
    corrected = entry(id="t0", prompt="What is 0?", attempts=(other,))
    assert ids(pool(corrected, second, trained=trained).draw(9, 0)).count("t0") == 1


def test_contradictions_are_dropped_and_counted() -> None:
    one = entry(id="one", attempts=(Attempt("Paris", "right"), Attempt("Rome", "wrong")))
    two = entry(id="two", attempts=(Attempt("Paris", "wrong"),))
    drawer = pool(one, two)
    assert (drawer.contradictory, drawer.waiting, drawer.already_trained) == (2, 1, 0)
    assert [item.attempt.completion for item in drawer.draw(9, 0).told] == ["Rome"]


def test_entries_that_teach_nothing_are_no_part_of_it() -> None:
    drawer = pool(entry(), entry(attempts=(Attempt("Paris"),)))
    assert (drawer.playable, drawer.waiting) == (0, 0)
    assert ids(drawer.draw(9, 0)) == []


def test_how_often_each_answer_is_right_is_known_by_kind() -> None:
    moods = [entry(Exact(mood), prompt=f"{mood} {n}?") for n, mood in enumerate(["Good", "good", "bad", "good"] * 2)]
    assert pool(*playable(8), *moods).answer_rates() == {
        "yes_no": {"yes": 0.75, "no": 0.25},
        "exact": {"good": 0.75, "bad": 0.25},
    }


def test_of_many_possible_answers_it_is_not_known_how_often_each_is_right() -> None:
    words = [entry(Exact(word), prompt=word) for word in ("Paris", "paris", "Rome", "Oslo")]
    few = [entry(Choice(letter), prompt=letter) for letter in "AB"]
    assert pool(*words, *few).answer_rates() == {"choice": {"a": 0.5, "b": 0.5}}


def test_earlier_right_answers_come_again_beside_what_is_new_and_are_not_used_up() -> None:
    right = judged(6)
    wrong = [entry(id=f"w{at}", prompt=f"Why {at}?", attempts=(Attempt("so", "wrong"),)) for at in range(6)]
    trained = frozenset(attempt_key(one.id, one.attempts[0]) for one in [*right[:4], *wrong])
    again = Pool([*right, *wrong], trained=trained, played={}, replay=0.5)
    drawn = again.draw(8, seed=1)
    assert {item.entry.id for item in drawn.told} == {"t4", "t5"}
    assert {item.entry.id for item in drawn.replays} == {"t0", "t1", "t2", "t3"}
    assert len(again.draw(4, seed=1).replays) == 2
    assert pool(*right, *wrong, trained=trained).draw(8, seed=1).replays == ()
    again.use(drawn)
    assert again.unseen == again.waiting == 0
    assert len(again.draw(8, seed=1).replays) == 4


def test_a_prompt_is_new_until_it_was_played_and_a_verdict_until_it_was_used() -> None:
    prompts = playable(4)
    fresh = pool(*prompts, prompts[0], *judged(3), played={prompts[3].prompt_key: 2})
    assert fresh.unseen == 3 + 3
    fresh.use(fresh.draw(6, seed=0))
    assert fresh.unseen == 0
