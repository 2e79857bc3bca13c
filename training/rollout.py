"""Sampling completions from the current policy, many prompts at once.

Every prompt draws from its own stream of random numbers, so what is sampled does not depend on which prompts share a
batch. Finished sequences leave the batch once they are a good part of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from training import attention
from training.cache import KeyValues, Known, Prefill, Prefixes, longest
from training.errors import ModelError
from training.halving import halving
from training.models import LanguageModel
from training.packing import common, pack
from training.stepping import Steps, columns_ahead

Notify = Callable[[str, int, int], None]
"""Called at safe points with (phase, done, total). It may raise Interrupted: the work in progress is dropped."""

Stop = Callable[[str], bool]
"""Says of a completion's text that all that was asked for is there. It must not depend on what a check expects."""

OnToken = Callable[[int, int], None]
"""Told the index of a prompt and a token of its completion, as it is chosen. What it raises ends the decoding."""

READ_TOKENS = 2048
"""Of prompts, in one pass: bounds memory, and what is computed of so many fits the cache of a CPU."""
_NUCLEUS = (64, 1024)
"""Candidates looked at for top-p; more of a row whose nucleus is larger, in the end the whole vocabulary."""
_LARGER = -1
_GREEDY_BELOW = 1e-6


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: 0 is greedy, and so is less than 1e-6, where nothing but the rounding of logits would be sampled.
        top_p: Smallest set of tokens with at least this probability is sampled from.
        seed: Of the random streams.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


SAMPLED = Sampling()
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled continuation.

    Attributes:
        tokens: Token ids without EOS.
        ended: The model ended by itself; False where the token limit cut it, or it was stopped.
        stopped: It was stopped, because all that was asked for is there.
    """

    tokens: tuple[int, ...]
    ended: bool
    stopped: bool = False


def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    *,
    batch: int,
    stops: Sequence[Stop | None] | None = None,
    streams: Sequence[int] | None = None,
    prefixes: Prefixes | None = None,
    phase: str = "sampling",
    notify: Notify = lambda phase, done, total: None,
    on_token: OnToken | None = None,
) -> list[Completion]:
    """Samples one completion a prompt.

    Args:
        lm: The model; put into evaluation mode (no dropout).
        prompts: Token ids, none empty.
        limits: Most new tokens for each prompt.
        sampling: Temperature, nucleus and seed.
        batch: Sequences decoded at once.
        stops: What says of each completion, whenever a line of it is complete, that it need not go on.
        streams: The stream of random numbers of each prompt; its index, if not given.
        prefixes: What prompts may begin with and need not be computed again; these prompts are added.
        phase: Passed on to ``notify``.
        notify: Called after every batch.
        on_token: Told every token at once; again from the first, where a batch ran out of memory and is halved.

    Returns:
        Completions in the order of the prompts.
    """
    lm.network.eval()
    named = range(len(prompts)) if streams is None else streams
    known = Prefixes(is_open=False) if prefixes is None else prefixes
    everything = _Asked(prompts, limits, [None] * len(prompts) if stops is None else stops, on_token)
    order = sorted(range(len(prompts)), key=lambda i: (limits[i], len(prompts[i])), reverse=True)
    results: dict[int, Completion] = {}

    def decode(count: int) -> dict[int, Completion]:
        # What begins alike is next to each other, to be read in the same pass.
        rows = sorted(order[len(results) : len(results) + count], key=lambda row: tuple(prompts[row]))
        width = max(limits[row] for row in rows)
        uniform = np.stack([_stream(sampling.seed, named[row], limits[row], width) for row in rows])
        with known.unless_it_fails():
            return dict(zip(rows, _decode(lm, everything.of(rows), sampling, uniform, known), strict=True))

    while len(results) < len(prompts):
        found, batch = halving("sequences", min(batch, len(prompts) - len(results)), decode)
        results |= found
        notify(phase, len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch: prompts, most new tokens, what says that a text need not go on, and who is told every token."""

    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    stops: Sequence[Stop | None]
    on_token: OnToken | None

    def of(self, rows: Sequence[int]) -> _Asked:
        """Some of the rows. Who is told every token is told its row here."""
        tell = self.on_token
        return _Asked(
            [self.prompts[row] for row in rows],
            [self.limits[row] for row in rows],
            [self.stops[row] for row in rows],
            None if tell is None else lambda at, token: tell(rows[at], token),
        )


def _stream(seed: int, number: int, count: int, width: int) -> npt.NDArray[np.float64]:
    drawn = np.zeros(width)
    drawn[:count] = np.random.Generator(np.random.Philox(key=[seed % 2**64, number])).random(count)
    return drawn


@torch.inference_mode()
def _decode(
    lm: LanguageModel,
    asked: _Asked,
    sampling: Sampling,
    uniform: npt.NDArray[np.float64],
    prefixes: Prefixes,
) -> list[Completion]:
    """Decodes one batch; ``uniform [B, T]`` holds one number in [0, 1) a token."""
    prompts, limits = asked.prompts, asked.limits
    draws = torch.from_numpy(uniform).to(lm.device, torch.float32)
    cache, states = _prefill(lm, prompts, max(limits), prefixes)
    steps = Steps(lm, cache, torch.tensor([len(prompt) for prompt in prompts], device=lm.device))
    out: list[list[int]] = [[] for _ in prompts]
    ended, stopped = [False] * len(prompts), [False] * len(prompts)
    active = list(range(len(prompts)))
    eos_ids, ends_line = lm.eos_ids, functools.cache(lambda token: "\n" in lm.decode([token]))
    for step in range(max(limits)):
        chosen, tokens = _pick(lm.logits(states), sampling, draws[:, step])
        going = []
        for at, (row, token) in enumerate(zip(active, tokens, strict=True)):
            if ended[row] or stopped[row] or len(out[row]) >= limits[row]:
                continue
            if token in eos_ids:
                ended[row] = True
                continue
            out[row].append(token)
            if asked.on_token is not None:
                asked.on_token(row, token)
            stop = asked.stops[row]
            if stop is not None and ends_line(token) and stop(lm.decode(out[row])):
                stopped[row] = True
            elif len(out[row]) < limits[row]:
                going.append(at)
        if not going:
            break
        if steps.is_worth_leaving(len(going)):
            steps, active = steps.select(going), [active[at] for at in going]
            kept = torch.tensor(going, device=lm.device)
            chosen, draws = chosen[kept], draws[kept]
        states = steps(chosen)
    return [Completion(tuple(out[row]), ended[row], stopped[row]) for row in range(len(prompts))]


def _prefill(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], room: int, prefixes: Prefixes
) -> tuple[KeyValues, torch.Tensor]:
    """Computes prompts; returns their cache, with room for new tokens, and the state of each last token.

    What a pass has read is known to the next; in the order of their tokens, prompts share the most with that before.
    """
    kept = [*map(prefixes.find, prompts)]
    shared = [0, *(common(before, prompt) for before, prompt in pairwise(prompts))]
    counts = [
        len(prompt) - max(length, _length(one)) for prompt, length, one in zip(prompts, shared, kept, strict=True)
    ]
    cache, last = KeyValues([*map(len, prompts)], room, is_frugal=lm.recomputes, ahead=columns_ahead(lm)), []
    for rows in _readings(counts):
        known = kept[rows]
        if (read := rows.start - 1) >= 0:
            begun = (Known.of(prompt, prompts[read], cache, read) for prompt in prompts[rows])
            known = [*map(longest, zip(known, begun, strict=True))]
        packing = pack(prompts[rows], [*map(_length, known)])
        ends = [row.last for row in packing.rows]
        ids, positions, at = (torch.tensor(of, device=lm.device) for of in (packing.tokens, packing.positions, ends))
        last.append(attention.run(lm.causal, ids, positions, Prefill(cache, rows.start, packing, known), at))
    prefixes.keep(prompts, cache)
    return cache, torch.cat(last)


def _length(known: Known | None) -> int:
    return 0 if known is None else known.length


def _readings(counts: Sequence[int]) -> Iterator[slice]:
    """Splits prompts of so many tokens, in their order, into passes of ``READ_TOKENS``, or one prompt, at most."""
    start = tokens = 0
    for at, count in enumerate(counts):
        if at > start and tokens + count > READ_TOKENS:
            yield slice(start, at)
            start, tokens = at, 0
        tokens += count
    yield slice(start, len(counts))


def _pick(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Chooses a token a row of ``logits [B, V]``: ``draws [B]``, uniform in [0, 1), invert the nucleus distribution.

    Returns:
        The tokens ``[B]``, and the same told. No more is asked of the device, unless a nucleus is larger than most are.

    Raises:
        ModelError: Logits are no numbers.
    """
    if sampling.temperature < _GREEDY_BELOW:
        highest, chosen = logits.max(-1)
        chosen.masked_fill_(highest.isnan(), _LARGER)
        return chosen, _told(chosen)
    scores = logits / sampling.temperature
    normaliser, vocabulary = scores.logsumexp(-1, keepdim=True), scores.shape[-1]
    few, *more = (*(count for count in _NUCLEUS if count < vocabulary), vocabulary)
    chosen = _among(*scores.topk(few), normaliser, sampling.top_p, draws, is_whole=few == vocabulary)
    tokens = chosen.tolist()
    for count in more:
        if larger := [row for row, token in enumerate(tokens) if token == _LARGER]:
            rows = torch.tensor(larger, device=chosen.device)
            best = scores[rows].topk(count)
            chosen[rows] = _among(*best, normaliser[rows], sampling.top_p, draws[rows], is_whole=count == vocabulary)
            tokens = chosen.tolist()
    return chosen, _told(chosen) if _LARGER in tokens else tokens


def _told(chosen: torch.Tensor) -> list[int]:
    tokens: list[int] = chosen.tolist()
    if _LARGER in tokens:
        raise ModelError(
            "what the model says of the next token is no number",
            "its adapter may be damaged (spearctl adapter rollback), or the profile's dtype too narrow for this model",
        )
    return tokens


def _among(
    top: torch.Tensor,
    index: torch.Tensor,
    normaliser: torch.Tensor,
    top_p: float,
    draws: torch.Tensor,
    *,
    is_whole: bool = False,
) -> torch.Tensor:
    """Chooses among tokens ``index [B, k]`` by their falling scores ``top``.

    ``_LARGER`` where a nucleus holds more, or scores are no numbers.
    """
    probabilities = (top - normaliser).exp()
    below = probabilities.cumsum(-1)
    # A token is in the nucleus when those before it do not reach top_p; the first always is.
    probabilities[:, 1:].masked_fill_(below[:, :-1] >= top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    position = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    last = ((probabilities > 0).sum(-1, keepdim=True) - 1).clamp_(min=0)
    chosen = index.gather(-1, position.clamp(max=last)).squeeze(-1)
    unknown = below[:, -1].isnan() if is_whole else ~(below[:, -1] >= top_p)
    return chosen.masked_fill_(unknown, _LARGER)
