"""Self-play's bookkeeping: which answers become wins and losses, of what weight, and what is asked in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.learner import Script, entry, load_tiny, scripted
from training.checks import Choice, Exact, Judgement, Number, Verdict, YesNo
from training.checks.base import CheckBase
from training.feedback import Attempt, Entry, Message
from training.models import LanguageModel
from training.selfplay import PlayConfig, play
from training.tally import Tally
from training.traces import Trace

PARIS = Exact("Paris", format="bare")
YES = YesNo("yes", format="answer_line")


@dataclass
class Played:
    """What one call of ``play`` asked, learned and counted."""

    script: Script
    traces: list[Trace]
    tally: Tally

    @property
    def wins(self) -> list[Trace]:
        return [trace for trace in self.traces if trace.win]

    @property
    def losses(self) -> list[Trace]:
        return [trace for trace in self.traces if not trace.win]


@pytest.fixture
def run(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plays entries, or one with the given check, against scripted answers, a list a wave; all must be asked for."""

    def run(
        what: Any, *waves: Sequence[str] | str, ended: bool = True, lm: LanguageModel = tiny, **config: Any
    ) -> Played:
        entries = what if isinstance(what, list) else [what if isinstance(what, Entry) else entry(what)]
        listed = [[wave] if isinstance(wave, str) else wave for wave in waves]
        script = scripted(monkeypatch, lm, *listed, ended=ended)
        tally = Tally()
        played = Played(script, play(lm, entries, PlayConfig(**config), tally), tally)
        assert script.waves_left == 0
        return played

    return run


def spelled(lm: LanguageModel, text: str, *, ended: bool = True) -> tuple[int, ...]:
    return (*lm.encode_text(text), *([lm.eos_id] if ended else []))


def original(lm: LanguageModel, asked: Entry | None = None) -> tuple[int, ...]:
    return tuple(lm.encode_prompt((asked or entry()).conversation))


def test_a_right_first_answer_is_a_win_and_no_more(run: Any, tiny: LanguageModel) -> None:
    played = run(PARIS, "Paris")
    (win,) = played.traces
    assert (win.win, win.prompt, win.completion) == (True, original(tiny), spelled(tiny, "Paris"))
    assert (win.weight, win.kind, win.answer) == (1.0, "exact", "paris")
    tally = played.tally
    assert (tally.played, tally.right_first, tally.revised, tally.reformatted) == (1, 1, 0, 0)
    assert played.script.prompts == [[original(tiny)]]


def test_a_corrected_answer_is_a_win_for_the_original_prompt_and_the_first_a_full_loss(
    run: Any, tiny: LanguageModel
) -> None:
    played = run(PARIS, "Rome", "Paris")
    (win,), (loss,) = played.wins, played.losses
    assert (win.prompt, win.completion) == (original(tiny), spelled(tiny, "Paris"))
    assert (loss.prompt, loss.completion, loss.weight) == (original(tiny), spelled(tiny, "Rome"), 1.0)
    assert loss.answer == "rome"
    assert (played.tally.right_first, played.tally.revised, played.tally.reformatted) == (0, 1, 0)
    assert (played.tally.revisions, played.tally.revisions_changed) == (1, 1)


def test_it_may_take_two_revisions_and_the_ones_between_are_no_losses(run: Any, tiny: LanguageModel) -> None:
    played = run(PARIS, "Rome", "Oslo", "Paris")
    assert [loss.completion for loss in played.losses] == [spelled(tiny, "Rome")]
    assert played.losses[0].weight == 1.0
    assert len(played.wins) == 1


def test_an_answer_that_nothing_corrects_is_half_a_loss(run: Any, tiny: LanguageModel) -> None:
    played = run(PARIS, "Rome", "Oslo", "Rome")
    (loss,) = played.traces
    assert (loss.win, loss.completion, loss.weight) == (False, spelled(tiny, "Rome"), 0.5)
    assert (played.tally.revisions, played.tally.revisions_changed) == (2, 1)


@pytest.mark.parametrize("revisions", [0, 1, 3])
def test_as_many_revisions_are_tried_as_asked_for(run: Any, revisions: int) -> None:
    played = run(PARIS, *(["Rome"] * (1 + revisions)), revisions=revisions)
    assert [trace.weight for trace in played.traces] == [0.5]
    assert (played.tally.revisions, played.tally.revisions_changed) == (revisions, 0)


def test_right_but_unformatted_is_rewritten_into_a_win_without_a_loss(run: Any, tiny: LanguageModel) -> None:
    played = run(PARIS, "I think it is Paris.", "Paris")
    (win,) = played.traces
    assert (win.win, win.prompt, win.completion) == (True, original(tiny), spelled(tiny, "Paris"))
    assert (played.tally.reformatted, played.tally.revised, played.tally.right_first) == (1, 0, 0)
    assert "wrong" not in played.script.text(1)


def test_an_answer_line_is_filled_in_behind_the_answer(run: Any, tiny: LanguageModel) -> None:
    played = run(YES, "Yes, because it is.", " yes")
    (win,) = played.traces
    assert (win.win, win.prompt) == (True, original(tiny))
    assert win.completion == spelled(tiny, "Yes, because it is.\n\nAnswer: yes")
    assert played.script.prompts[1][0] == (*original(tiny), *tiny.encode_text("Yes, because it is.\n\nAnswer:"))


@pytest.mark.parametrize("again", ["Oslo", "I do think it is Paris.", ""])
def test_right_but_never_in_the_asked_form_is_dropped_and_never_a_loss(run: Any, again: str) -> None:
    played = run(PARIS, "I think it is Paris.", again)
    assert played.traces == []
    assert played.tally.dropped == 1


def test_no_answer_at_all_is_rewritten_before_it_is_judged_for_good(run: Any, tiny: LanguageModel) -> None:
    played = run(YES, "Who knows?", " yes")
    assert [trace.completion for trace in played.wins] == [spelled(tiny, "Who knows?\n\nAnswer: yes")]
    assert [(trace.completion, trace.weight) for trace in played.losses] == [(spelled(tiny, "Who knows?"), 1.0)]


def test_a_revision_out_of_form_is_rewritten_and_wins_as_a_revision(run: Any, tiny: LanguageModel) -> None:
    played = run(PARIS, "Rome", "I think it is Paris.", "Paris")
    assert [trace.completion for trace in played.wins] == [spelled(tiny, "Paris")]
    assert [trace.weight for trace in played.losses] == [1.0]
    assert (played.tally.revised, played.tally.reformatted, played.tally.dropped) == (1, 0, 0)


def test_a_revision_whose_rewrite_fails_is_followed_by_the_next(run: Any) -> None:
    played = run(PARIS, "Rome", "I think it is Paris.", "Oslo", "Paris")
    assert [trace.win for trace in played.traces].count(True) == 1
    assert played.tally.revisions == 2


def test_what_follows_the_answer_is_cut_and_the_win_ends_there(run: Any, tiny: LanguageModel) -> None:
    played = run(YES, "So.\nAnswer: yes\nQuestion: is it cold?", ended=False)
    (win,) = played.traces
    assert (win.win, win.completion) == (True, spelled(tiny, "So.\nAnswer: yes"))
    assert played.tally.cut == 1


def test_a_bare_answer_followed_by_the_next_question_is_cut_too(run: Any, tiny: LanguageModel) -> None:
    (win,) = run(PARIS, "Paris\nQuestion: and of Italy?", ended=False).traces
    assert (win.win, win.completion) == (True, spelled(tiny, "Paris"))


def test_a_cut_inside_a_token_is_spelled_anew(run: Any, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    text, kept = "yes Answer", "yes An"
    tokens = tiny.encode_text(text)
    assert kept not in [tiny.decode(tokens[:at]) for at in range(len(tokens))]
    monkeypatch.setattr(CheckBase, "judge", lambda check, said: Judgement(Verdict.RIGHT, True, "yes", len(kept)))
    (win,) = run(YES, text, ended=False).traces
    assert win.completion == spelled(tiny, kept)


@pytest.mark.parametrize("ended", [True, False])
def test_the_end_is_learned_only_where_the_model_ended(run: Any, tiny: LanguageModel, ended: bool) -> None:
    played = run(PARIS, "Rome", "Paris", ended=ended)
    assert [trace.completion for trace in played.wins] == [spelled(tiny, "Paris", ended=ended)]
    assert [trace.completion for trace in played.losses] == [spelled(tiny, "Rome", ended=ended)]
    assert played.tally.cut == 0


SAID = "An elephant never forgets where the wide river was, and neither should you."


def told(check: Any, completion: str) -> Entry:
    return entry(check, attempts=(Attempt(completion, "wrong", SAID),))


def test_a_revision_that_copies_the_feedback_is_no_win_and_counted(run: Any, tiny: LanguageModel) -> None:
    played = run(told(YES, "Answer: no"), "Answer: no", f"{SAID}\nAnswer: yes", "Answer: yes")
    assert played.tally.echoes == 1
    assert [trace.completion for trace in played.wins] == [spelled(tiny, "Answer: yes")]


@pytest.mark.parametrize("behind", [" So be it.", "\nAnswer: yes", "\nAnswer: maybe"])
def test_what_was_copied_is_not_rewritten_into_a_win(run: Any, tiny: LanguageModel, behind: str) -> None:
    (loss,) = run(told(YES, "Answer: no"), "Answer: no", SAID + behind, revisions=1).traces
    assert (loss.win, loss.weight, loss.completion) == (False, 0.5, spelled(tiny, "Answer: no"))


def test_a_rewrite_that_copies_its_examples_is_no_win(run: Any) -> None:
    check = Exact("Shakespeare", format="bare")
    copied = "Who wrote Hamlet? Hamlet was written by William Shakespeare."
    examples = run(check, "Shakespeare, I think.", "Milton").script.text(1)
    line = next(line for line in examples.splitlines() if "written by" in line)
    assert line.endswith(copied.split("? ")[1])
    played = run(check, "Shakespeare, I think.", line)
    assert (played.traces, played.tally.echoes, played.tally.dropped) == ([], 1, 1)


def test_what_the_prompt_says_itself_may_be_repeated(run: Any) -> None:
    asked = entry(YES, prompt=f"{SAID}\nIs this so?", attempts=(Attempt("Answer: no", "wrong", SAID),))
    played = run(asked, "Answer: no", f"{SAID}\nAnswer: yes")
    assert (played.tally.echoes, len(played.wins)) == (0, 1)


def test_feedback_on_the_same_answer_reaches_the_revision_as_typed(run: Any) -> None:
    attempts = (
        Attempt("Oslo", "wrong", "That is further north."),
        Attempt("Rome.", "wrong", SAID),
        Attempt("Rome", "right", "Quite so."),
    )
    played = run(entry(PARIS, attempts=attempts, hint="It has a tower."), "rome", "Oslo", "Paris")
    first, second = played.script.text(1), played.script.text(2)
    assert SAID in first
    assert "rome" in first
    assert "That is further north." not in first
    assert "That is further north." in second
    assert "Oslo" in second
    assert "Quite so." not in first + second
    assert first.count("It has a tower.") == second.count("It has a tower.") == 1
    assert "It has a tower." not in played.script.text(0)


def test_without_feedback_on_it_an_answer_is_only_called_wrong(run: Any) -> None:
    played = run(told(PARIS, "Oslo"), "Rome", "Paris")
    assert SAID not in played.script.text(1)
    assert "wrong" in played.script.text(1)


def test_games_advance_together_and_traces_keep_the_order_of_entries(run: Any, tiny: LanguageModel) -> None:
    checks = (PARIS, Exact("Oslo", format="bare"), Number(4, format="bare"), PARIS)
    entries = [entry(check, id=str(at), prompt=f"Question {at}?") for at, check in enumerate(checks)]
    played = run(entries, ["Rome", "Oslo", "It is 4, surely.", "Rome"], ["Rome", "4", "Paris"], ["Rome"])
    prompts = [original(tiny, asked) for asked in entries]
    assert [(trace.prompt, trace.win, trace.weight) for trace in played.traces] == [
        (prompts[0], False, 0.5),
        (prompts[1], True, 1.0),
        (prompts[2], True, 1.0),
        (prompts[3], True, 1.0),
        (prompts[3], False, 1.0),
    ]
    assert [len(wave) for wave in played.script.prompts] == [4, 3, 1]
    tally = played.tally
    assert (tally.played, tally.right_first, tally.reformatted, tally.revised) == (4, 1, 1, 1)


def test_a_loss_knows_which_of_its_tokens_are_not_to_blame(run: Any, tiny: LanguageModel) -> None:
    (loss,) = run(YES, "So.\nAnswer: no", revisions=0).traces
    assert (loss.kind, loss.answer, loss.tail_tokens) == ("yes_no", "no", YES.tail_tokens)
    assert loss.protected == {*tiny.encode_text("Answer:"), *tiny.encode_text(" Answer:")}
    assert not loss.end_counts
    (bare,) = run(PARIS, "Rome", revisions=0).traces
    assert (bare.tail_tokens, bare.protected) == (0, frozenset())


def test_of_a_bare_answer_that_might_have_gone_on_the_models_own_end_is_to_blame(run: Any, tiny: LanguageModel) -> None:
    number, choice = Number(57, format="bare"), Choice("B", format="bare")
    (short,) = run(number, "5", revisions=0).traces
    assert (short.completion[-1], short.end_counts) == (tiny.eos_id, True)
    (sentence,) = run(number, "It is 5, surely.", revisions=0).traces
    assert (sentence.completion[-1], sentence.end_counts) == (tiny.eos_id, False)
    (cut,) = run(number, "5\nBecause it is.", revisions=0).traces
    assert (cut.completion[-1], cut.end_counts) == (tiny.eos_id, False)
    (letter,) = run(choice, "A", revisions=0).traces
    assert not letter.end_counts


@pytest.mark.parametrize("check", [YES, PARIS, Choice("B", format="bare")])
def test_of_an_answer_that_says_nothing_the_end_is_to_blame(run: Any, tiny: LanguageModel, check: CheckBase) -> None:
    (silent,) = run(check, "", "", revisions=0).traces
    assert (silent.completion, silent.end_counts) == ((tiny.eos_id,), True)


def test_first_answers_and_revisions_are_counted_by_answer(run: Any) -> None:
    entries = [entry(YES, id=str(at), prompt=f"Is it {at}?") for at in range(3)]
    played = run(entries, ["Answer: no", "Answer: yes", "Hm.\nAnswer: no"], ["Answer: no", "Answer: yes"], revisions=1)
    assert played.tally.answers == {"yes_no": {"no": 2, "yes": 1}}
    assert (played.tally.revisions, played.tally.revisions_changed) == (2, 1)


def test_room_for_an_answer_follows_from_check_config_and_sequence(
    run: Any, tiny: LanguageModel, tiny_folder: Path
) -> None:
    assert run(YES, "Answer: yes").script.limits == [[YES.new_tokens]]
    assert run(YES, "Answer: yes", most_new_tokens=20).script.limits == [[20]]
    assert run(PARIS, "Paris", most_new_tokens=200).script.limits == [[PARIS.new_tokens]]
    small = load_tiny(tiny_folder, max_sequence=64)
    assert run(YES, "Answer: yes", lm=small).script.limits == [[32]]


def test_prompts_that_do_not_fit_lose_their_front_and_are_counted(run: Any, tiny_folder: Path) -> None:
    small = load_tiny(tiny_folder, max_sequence=64)
    asked = entry(PARIS, prompt="x" * 200 + " Which one is it?")
    played = run(asked, "Rome", "Oslo", "Paris", lm=small)
    whole = small.encode_prompt(asked.conversation)
    for (prompt,), (limit,) in zip(played.script.prompts, played.script.limits, strict=True):
        assert len(prompt) + limit == 64
    assert played.script.prompts[0][0] == tuple(whole[-48:])
    assert all(trace.length <= 64 for trace in played.traces)
    assert played.tally.prompts_cut == 3


def test_every_wave_samples_anew(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    script = scripted(monkeypatch, tiny, ["Rome"], ["Rome"], ["Rome"])

    def spy(lm: LanguageModel, prompts: Any, limits: Any, sampling: Any, **kwargs: Any) -> Any:
        seeds.append(sampling.seed)
        return script(lm, prompts, limits)

    monkeypatch.setattr("training.selfplay.sample", spy)
    play(tiny, [entry(PARIS)], PlayConfig(), Tally())
    assert len(set(seeds)) == 3


def test_a_conversation_and_a_system_prompt_stay_in_every_prompt(run: Any, tiny_folder: Path) -> None:
    lm = load_tiny(tiny_folder, system_prompt="Be brief.")
    turns = (Message("user", "Hello."), Message("assistant", "Hi!"), Message("user", "Which one is it?"))
    asked = Entry(v=1, id="q", messages=turns, check=PARIS)
    played = run(asked, "Rome", "I think it is Paris.", "Paris", lm=lm)
    for wave in range(3):
        for said in ("Be brief.", "Hello.", "Hi!", "Which one is it?"):
            assert said in played.script.text(wave)
    assert played.wins[0].prompt == tuple(lm.encode_prompt(turns))


def test_an_entry_without_a_check_cannot_be_played(tiny: LanguageModel) -> None:
    with pytest.raises(ValueError, match="has no check"):
        play(tiny, [entry()], PlayConfig(), Tally())


def test_playing_nothing_gives_nothing(tiny: LanguageModel) -> None:
    assert play(tiny, [], PlayConfig(), Tally()) == []
