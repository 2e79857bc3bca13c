"""What training and self-play take of memory, what a budget leaves room for, and what they really took.

The model is small and made of the network's own shapes. Let S be the sum of the input and output widths of the adapted
layers, L the layers, h the width between them, V the vocabulary and b the bytes of a value. Then a token takes

    trained          b (S + 2 L h)           what each adapted layer is given and gives, and what each norm is given
    between          2 b L h                 with checkpointing: what is between layers
    in a layer       3 b (S / L + 2 h)       with checkpointing: one layer at a time, with gradients
    cached           3 b L kv_heads head     keys and values of a decoded sequence, and half again while rows leave
    read             b S / L                 one layer's, without gradients, of the prompts of one pass

and a row of scores V (2 b + 16): as computed, chosen from, in float32, and with two temporaries as large. With
checkpointing, scores are gone before a layer is computed again, so the larger of the two counts. Learning adds
gradients and both moments of AdamW. On top come what passes of other lengths leave behind, and what was resident before
any of it. `HEADROOM` is for what an allocator wastes. Measured with SmolLM2-135M in bfloat16, a token of a pass with
checkpointing took 0.17 MB, where this says 0.16 (headroom included), and a sequence of 128 tokens 7.5 MB, where it says
8.0. Rounds with passes of 640 tokens took 1.53 to 1.61 GB, where it says 1.55 to 1.60; with 64 long sequences at once,
1.67, where it says more than 1.7; two rounds within a budget of 1 GB took 957 to 982 MB, where it says 971.

Does not cover: the memory of an Apple GPU, of which only what counts as the process's own is seen, more than one CUDA
device, swapped pages, and what the process took before the model was loaded if that was given back since.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import resource
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch

from profiles import Profile, ProfileError
from training.feedback import Entry
from training.models import LanguageModel
from training.rollout import GREEDY, READ_TOKENS, sample
from training.update import logits_rows

TRACE_TOKENS = 128
"""What `micro_batch` counts in; see `training.update`."""

HEADROOM = 1.2
_HEADROOM_KEPT = 1.4  # of passes whose activations are kept, for the kernels of their attention's many shapes; measured
_AGAIN = 1.02  # what a model takes differs a little from run to run
_FLOAT = 4  # bytes of a master weight
_STRAY_TOKENS = 230  # what the allocator and oneDNN keep of passes of other lengths, in tokens of a pass; measured
_STRAY_TOKENS_FRUGAL = 120  # the same where the allocator was told to keep little
_COPIES = 3  # of the adapter: gradients, and two moments of AdamW
_SCAFFOLD_TOKENS = 96  # of a revision prompt around its task, answer and feedback
_LOOKED_AT = 8  # the longest texts of a log, of which the one with the most tokens counts
_STATUS = Path("/proc/self/status")


class Gauge(Protocol):
    """Measures memory, in bytes."""

    def used(self) -> int:
        """What is taken now."""

    def peak(self) -> int:
        """The most that was taken since the start or the last `restart`."""

    def restart(self) -> None:
        """Gives back what is free and, where the system can, measures the peak anew from here."""


class ProcessGauge:
    """Resident memory of this process, as the system counts it."""

    def used(self) -> int:
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def restart(self) -> None:
        trim()
        with suppress(OSError):  # no Linux: the peak stays that of the whole run
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class CudaGauge:
    """Memory of the first CUDA device that torch holds in this process."""

    def used(self) -> int:
        return int(torch.cuda.memory_reserved())

    def peak(self) -> int:
        return int(torch.cuda.max_memory_reserved())

    def restart(self) -> None:
        trim()
        torch.cuda.reset_peak_memory_stats()


def gauge(device: str) -> Gauge:
    """What measures the memory that work on a device takes."""
    return CudaGauge() if device == "cuda" else ProcessGauge()


def trim() -> None:
    """Gives free memory back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """The longest there is to work on, in tokens: a prompt as it is sampled from, and a completion."""

    prompt: int
    completion: int

    @property
    def sequence(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a model takes, in bytes; the module says how it is computed.

    Attributes:
        fixed: Resident before any work, and what earlier work leaves behind.
        optimised: What learning keeps besides its activations.
        trained: Of a token in a training pass.
        between: The same with checkpointing, while it waits.
        in_a_layer: With checkpointing, of a layer that is computed again.
        cached: Of a token of a sequence that is being decoded.
        read: Of a token of a prompt while it is read; never more than a pass of them are.
        scores: Of a token whose scores over the vocabulary are computed.
    """

    fixed: int
    optimised: int
    trained: int
    between: int
    in_a_layer: int
    cached: int
    read: int
    scores: int

    def learning(self, micro_batch: int, lengths: Lengths, *, checkpointing: bool) -> int:
        """Of one training pass, all else included. A trace longer than the pass is one of its own."""
        tokens = max(micro_batch * TRACE_TOKENS, lengths.sequence)
        scores, kept = logits_rows(micro_batch) * self.scores, self.fixed + self.optimised
        if checkpointing:
            return kept + int(HEADROOM * (tokens * self.between + max(tokens * self.in_a_layer, scores)))
        return kept + int(_HEADROOM_KEPT * tokens * self.trained + HEADROOM * scores)

    def playing(self, rollout_batch: int, lengths: Lengths) -> int:
        """Of decoding so many sequences at once, all else included."""
        one = lengths.sequence * self.cached + self.scores
        read = min(rollout_batch * lengths.prompt, max(READ_TOKENS, lengths.prompt))
        return self.fixed + int(HEADROOM * (rollout_batch * one + read * self.read))

    def of(self, profile: Profile, lengths: Lengths, *, learns: bool = True) -> int:
        """Of a round with a profile's batches."""
        learning = self.learning(profile.micro_batch, lengths, checkpointing=profile.checkpointing) if learns else 0
        return max(self.playing(profile.rollout_batch, lengths), learning)


def demand(lm: LanguageModel, used: int, *, frugal: bool = False) -> Demand:
    """What a model takes.

    Args:
        lm: The model.
        used: What is resident with it, once it has worked; see `settle`.
        frugal: Whether the allocator was told to keep little.
    """
    config = lm.causal.config.get_text_config()
    layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    shape = lm.adapter_shape
    adapter = sum(tensor.rows * tensor.columns for tensor in shape.tensors)
    widths = sum(tensor.columns if tensor.name.endswith(".lora_A") else tensor.rows for tensor in shape.tensors)
    size = lm.dtype.itemsize
    trained = size * (widths + 2 * layers * hidden)
    stray = _STRAY_TOKENS_FRUGAL if frugal else _STRAY_TOKENS
    return Demand(
        fixed=used + int(HEADROOM * stray * trained),
        optimised=_COPIES * _FLOAT * adapter,
        trained=trained,
        between=size * 2 * layers * hidden,
        in_a_layer=size * 3 * (widths // layers + 2 * hidden),
        cached=3 * size * layers * kv_heads * head,
        read=size * widths // layers,
        scores=vocabulary * (2 * size + 4 * _FLOAT),
    )


def settle(lm: LanguageModel, gauge: Gauge) -> int:
    """What is resident with a model, in bytes: every weight was read once, and what loading left is given back."""
    sample(lm, [lm.encode_text("a")], [3], GREEDY, batch=1)  # the third is of a step that was recorded
    trim()
    return gauge.used()


def recompute(lm: LanguageModel, on: bool) -> None:
    """Turns checkpointing on or off in a loaded model."""
    if on:
        lm.causal.gradient_checkpointing_enable()
    else:
        lm.causal.gradient_checkpointing_disable()


def fit(
    profile: Profile, demand: Demand, lengths: Lengths, budget: int, *, loaded: int = 0, learns: bool = True
) -> Profile:
    """The profile with the largest batches, up to its own, that fit a budget.

    Batches halve before activations are computed again: a small pass costs less time than a second one.

    Args:
        profile: Its batches are the most that is taken.
        demand: Of the model.
        lengths: Of what there is to work on.
        budget: In bytes.
        loaded: What loading the model took at most, in bytes.
        learns: Whether anything is trained.

    Raises:
        ProfileError: Not even the smallest batches fit; says what would do.
    """
    rollout = next((n for n in halves(profile.rollout_batch) if demand.playing(n, lengths) <= budget), None)
    passes = [(n, again) for again in sorted({profile.checkpointing, True}) for n in halves(profile.micro_batch)]
    fitting = [(n, a) for n, a in passes if not learns or demand.learning(n, lengths, checkpointing=a) <= budget]
    if rollout is None or not fitting or loaded > budget:
        smallest = dataclasses.replace(profile, micro_batch=1, rollout_batch=1, checkpointing=True)
        raise _too_small(budget, max(loaded, demand.of(smallest, lengths, learns=learns)))
    micro, checkpointing = fitting[0]
    return dataclasses.replace(profile, rollout_batch=rollout, micro_batch=micro, checkpointing=checkpointing)


def _too_small(budget: int, least: int) -> ProfileError:
    """The error for a budget that cannot be kept, with the least that would do, in bytes."""
    enough = f"{math.ceil(least * _AGAIN / 1e6)}MB"
    return ProfileError(
        f"a memory budget of {budget / 1e6:g}MB is too small for this model: it takes at least {enough}",
        f"give it that much, --memory-budget {enough}, or take a smaller model",
    )


def halved(profile: Profile) -> Profile:
    """The profile with half of its batches; with checkpointing too once there is nothing left to halve."""
    micro, rollout = max(1, profile.micro_batch // 2), max(1, profile.rollout_batch // 2)
    again = profile.checkpointing or (micro, rollout) == (profile.micro_batch, profile.rollout_batch)
    return dataclasses.replace(profile, micro_batch=micro, rollout_batch=rollout, checkpointing=again)


def halves(number: int) -> Iterable[int]:
    """A number, and what halving makes of it down to 1."""
    while number >= 1:
        yield number
        number //= 2


def longest(lm: LanguageModel, profile: Profile, entries: Sequence[Entry]) -> Lengths:
    """The longest that a log gives to work on, revisions and what people wrote included.

    Args:
        lm: Its tokenizer counts.
        profile: Bounds answers and sequences.
        entries: Of the log.
    """
    texts = sorted(map(_longest_text, entries), key=len)[-_LOOKED_AT:]
    tokens = max((len(lm.encode_text(text)) for text in texts), default=TRACE_TOKENS) + _SCAFFOLD_TOKENS
    completion = min(profile.new_tokens, lm.max_sequence_tokens // 2)
    return Lengths(min(tokens + completion, lm.max_sequence_tokens - completion), completion)


def _longest_text(entry: Entry) -> str:
    """The conversation of an entry, its hint, and the longest thing that was said or answered."""
    said = [text or "" for attempt in entry.attempts for text in (attempt.completion, attempt.feedback)]
    return "\n".join([*(turn.content for turn in entry.conversation), entry.hint or "", max(said, key=len, default="")])
