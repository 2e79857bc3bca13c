"""Self-play on checkable prompts: answer, be told what was wrong, try again (SPEAR, arXiv 2605.07977).

    y0 right                        -> a win
    y0 right, not in the asked form -> one rewrite without feedback: a win if it succeeds, else dropped, never a loss
    y0 wrong                        -> up to ``revisions`` more tries, each told what was wrong with the one before;
                                       a right one is a win for the original prompt, and y0 a loss of weight 1.0,
                                       or of weight 0.5 if no try was right

A try that is right but out of form, or gives no answer at all, is rewritten before it is judged for good.

As many games as are decoded at once advance together, one wave of sampling after another. What was computed of their
prompts is kept until they end, since most tries begin with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from training.cache import Prefixes
from training.checks import Check, Judgement, Verdict
from training.echo import echoes
from training.feedback import Attempt, Entry
from training.models import LanguageModel
from training.prompts import Retry, Task, revision, rewrite
from training.rollout import SAMPLED, Completion, Notify, Sampling, sample
from training.tally import Tally
from training.traces import CORRECTED, UNCORRECTED, Trace, fit

_ANSWERING, _REVISING = "answering", "revising"
_LINE_TOKENS = 16
"""The most tokens that fill in an answer line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayConfig:
    """How to play.

    Attributes:
        revisions: Most tries after a wrong first answer.
        rollout_batch: Games played together, and sequences decoded at once.
        sampling: Temperature, nucleus and seed.
        most_new_tokens: Caps what a check allows for an answer.
    """

    revisions: int = 2
    rollout_batch: int = 32
    sampling: Sampling = SAMPLED
    most_new_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """A judged completion.

    Attributes:
        tokens: As trained on: cut behind the declared answer, EOS included where it ended or was cut there.
        text: The same, without EOS.
        judgement: Of that text.
        cut: Something followed the declared answer and was left out.
    """

    tokens: tuple[int, ...]
    text: str
    judgement: Judgement
    cut: bool


@dataclass(slots=True)
class _Game:
    number: int
    entry: Entry
    check: Check
    task: Task
    prompt: tuple[int, ...]
    limit: int
    first: Answer | None = None
    last: Answer | None = None
    revisions: int = 0
    revisions_left: int = 0
    rewriting: bool = False
    rewritten: bool = False
    over: bool = False
    traces: list[Trace] = field(default_factory=list)

    @property
    def completes_line(self) -> bool:
        """The next try fills in an answer line that was begun for it."""
        return self.rewriting and self.task.answer_line

    def settle(self, *traces: Trace) -> None:
        self.over = True
        self.traces.extend(traces)


def play(
    lm: LanguageModel,
    entries: Sequence[Entry],
    config: PlayConfig,
    tally: Tally,
    *,
    notify: Notify = lambda phase, done, total: None,
) -> list[Trace]:
    """Plays every entry once.

    Args:
        lm: The current policy.
        entries: Each with a check.
        config: Tries and sampling.
        tally: Counts what happens.
        notify: Called with ("answering" or "revising", done, total) at safe points.

    Returns:
        Wins and losses, in the order of the entries.
    """
    games = [_start(lm, number, entry, config, tally) for number, entry in enumerate(entries)]
    order = sorted(games, key=lambda game: len(game.prompt)) if len(games) > config.rollout_batch else games
    for start in range(0, len(games), config.rollout_batch):

        def tell(phase: str, done: int, total: int, start: int = start) -> None:
            notify(phase, *((done, total) if phase == _REVISING else (start + done, len(games))))

        _play(lm, order[start : start + config.rollout_batch], config, tally, tell)
    return [trace for game in games for trace in game.traces]


def _play(lm: LanguageModel, games: Sequence[_Game], config: PlayConfig, tally: Tally, notify: Notify) -> None:
    """Plays games to their ends."""
    prefixes = Prefixes()
    prompts = [game.prompt for game in games]
    for game, completion in zip(games, _wave(lm, games, prompts, config, 0, prefixes, notify), strict=True):
        answer = _judge(lm, game.check, completion, tally)
        game.first = game.last = answer
        tally.first(game.check.kind, answer.judgement)
        _advance(lm, game, answer, tally)
    prefixes.is_open = False  # later tries begin with these prompts, and not with each other
    wave = 0
    while running := [game for game in games if not game.over]:
        wave += 1
        retries = [_retry(game) for game in running]
        prompts = [_fitted(lm, retry, game, tally) for retry, game in zip(retries, running, strict=True)]
        completions = _wave(lm, running, prompts, config, wave, prefixes, notify)
        for game, retry, completion in zip(running, retries, completions, strict=True):
            _take(lm, game, retry, completion, tally)


def _start(lm: LanguageModel, number: int, entry: Entry, config: PlayConfig, tally: Tally) -> _Game:
    check = entry.check
    if check is None:
        raise ValueError(f"entry {entry.id} has no check and cannot be played")
    limit = min(check.new_tokens, config.most_new_tokens, lm.max_sequence_tokens // 2)
    whole = lm.encode_prompt(entry.conversation)
    prompt = tuple(whole[max(0, len(whole) + limit - lm.max_sequence_tokens) :])
    tally.prompts_cut += len(prompt) < len(whole)
    task = Task(entry.conversation, check.kind, check.form, check.format == "answer_line", entry.hint)
    return _Game(number, entry, check, task, prompt, limit, revisions=config.revisions, revisions_left=config.revisions)


def _wave(
    lm: LanguageModel,
    games: Sequence[_Game],
    prompts: Sequence[Sequence[int]],
    config: PlayConfig,
    wave: int,
    prefixes: Prefixes,
    notify: Notify,
) -> list[Completion]:
    sampling = config.sampling
    seeded = Sampling(sampling.temperature, sampling.top_p, sampling.seed * 31 + wave)
    phase = _REVISING if wave else _ANSWERING
    limits = [min(game.limit, _LINE_TOKENS) if game.completes_line else game.limit for game in games]
    return sample(
        lm,
        prompts,
        limits,
        seeded,
        batch=config.rollout_batch,
        stops=[None if game.completes_line else partial(_has_answered, game.check) for game in games],
        streams=[game.number for game in games],
        prefixes=prefixes,
        phase=phase,
        notify=notify,
    )


def _has_answered(check: Check, text: str) -> bool:
    """Whether a line of the text that is complete holds an answer in the asked form."""
    end = check.judge(text).end
    return end is not None and "\n" in text[end:]


def _retry(game: _Game) -> Retry:
    answer = game.last
    assert answer is not None
    if game.rewriting:
        return rewrite(game.task, answer.text)
    return revision(game.task, answer.text, _said_of(answer, game))


def _said_of(answer: Answer, game: _Game) -> str | None:
    """What a person said of the same answer, if somebody did."""
    for attempt in game.entry.attempts:
        if attempt.verdict == "wrong" and attempt.feedback and _same(attempt, answer, game.check):
            return attempt.feedback
    return None


def _same(attempt: Attempt, answer: Answer, check: Check) -> bool:
    if attempt.completion.strip() == answer.text.strip():
        return True
    said = check.judge(attempt.completion).answer
    return said is not None and said == answer.judgement.answer


def _fitted(lm: LanguageModel, retry: Retry, game: _Game, tally: Tally) -> tuple[int, ...]:
    whole = lm.encode_prompt(retry.messages, retry.opening)
    prompt = tuple(whole[max(0, len(whole) + game.limit - lm.max_sequence_tokens) :])
    tally.prompts_cut += len(prompt) < len(whole)
    return prompt


def _take(lm: LanguageModel, game: _Game, retry: Retry, completion: Completion, tally: Tally) -> None:
    """Judges another try and says how the game goes on."""
    answer = _judge(lm, game.check, _whole(lm, retry, completion), tally)
    first = game.first
    assert first is not None
    if not game.rewriting:
        game.revisions_left -= 1
        tally.revision(changed=answer.judgement.answer != first.judgement.answer)
    if echoes(completion.tokens, lm.encode_text(retry.scaffold), lm.encode_text(_text(game.task))):
        tally.echoes += 1
        game.rewritten = True  # a rewrite would keep what was copied
        answer = Answer(answer.tokens, answer.text, Judgement(Verdict.WRONG, True, None, None), answer.cut)
    game.last = answer
    _advance(lm, game, answer, tally)


def _whole(lm: LanguageModel, retry: Retry, completion: Completion) -> Completion:
    """The completion with what it began with; without the blank that parts it from an opening that is not its own."""
    if not retry.opening:
        return completion
    text = retry.kept + lm.decode(completion.tokens)
    tokens = tuple(lm.encode_text(text if retry.kept else text.lstrip()))
    return Completion(tokens, completion.ended, completion.stopped)


def _advance(lm: LanguageModel, game: _Game, answer: Answer, tally: Tally) -> None:
    first = game.first
    assert first is not None
    judgement, was_wrong = answer.judgement, first.judgement.verdict is Verdict.WRONG
    if judgement.verdict is Verdict.RIGHT:
        revised = game.revisions_left < game.revisions
        tally.won(first=answer is first, revised=revised)
        losses = [_trace(lm, game, first, win=False, weight=CORRECTED)] if was_wrong else []
        game.settle(_trace(lm, game, answer, win=True), *losses)
    elif not game.rewritten and (judgement.verdict is Verdict.UNFORMATTED or judgement.answer is None):
        game.rewriting = game.rewritten = True
    elif not was_wrong:
        tally.dropped += 1
        game.settle()
    elif game.revisions_left:
        game.rewriting = game.rewritten = False
    else:
        game.settle(_trace(lm, game, first, win=False, weight=UNCORRECTED))


def _judge(lm: LanguageModel, check: Check, completion: Completion, tally: Tally) -> Answer:
    """Judges a completion, cut behind its declared answer where the check can tell where that ends."""
    text = lm.decode(completion.tokens)
    judgement = check.judge(text)
    end = judgement.end
    rest = "" if end is None else text[end:].strip()
    rejudged = check.judge(text[:end]) if rest else judgement
    if not (rest or completion.stopped) or not (judgement.formatted or rejudged.verdict is Verdict.RIGHT):
        eos = (lm.eos_id,) if completion.ended else ()
        return Answer(completion.tokens + eos, text, judgement, False)
    tally.cut += 1
    kept = text[:end]
    return Answer((*_prefix(lm, completion.tokens, kept), lm.eos_id), kept, rejudged, True)


def _prefix(lm: LanguageModel, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
    """The tokens that spell ``text``, a prefix of what ``tokens`` spell; encoded anew where no token ends there."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(lm.decode(tokens[:middle])) < len(text) else (low, middle)
    return tokens[:low] if lm.decode(tokens[:low]) == text else tuple(lm.encode_text(text))


def _trace(lm: LanguageModel, game: _Game, answer: Answer, *, win: bool, weight: float = 1.0) -> Trace:
    prompt, completion = fit(game.prompt, answer.tokens, lm.max_sequence_tokens)
    return Trace(
        prompt=prompt,
        completion=completion,
        win=win,
        weight=weight,
        kind=game.check.kind,
        answer=answer.judgement.answer,
        tail_tokens=game.check.tail_tokens,
        protected=frozenset(token for mark in game.check.protected for token in _spellings(lm, mark)),
        end_counts=_end_counts(game.check, answer),
    )


def _end_counts(check: Check, answer: Answer) -> bool:
    """Whether the model's own end may be what is wrong: nothing stands before it, or a bare answer that could go on."""
    if answer.cut:
        return False
    return not answer.text.strip() or (check.end_counts and answer.judgement.formatted)


def _spellings(lm: LanguageModel, mark: str) -> list[int]:
    """Token ids of a marker at the start of a line and after a space."""
    return lm.encode_text(mark) + lm.encode_text(f" {mark}")


def _text(task: Task) -> str:
    return "\n".join(message.content for message in task.conversation)
