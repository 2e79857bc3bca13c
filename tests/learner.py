"""The learner as tests use it: a tiny model whose choices are not all alike, scripted answers, and traces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import profiles
from tests.tiny import make_tiny_model
from training import lora, models, sources
from training.feedback import Entry, Message
from training.models import LanguageModel, LoraSettings
from training.rollout import Completion, Stop
from training.traces import Trace

RANK, ALPHA = 4, 8


def make_loud_model(folder: Path, *, chat: bool = True, weights: float = 16.0, embeddings: float = 20.0) -> Path:
    """A tiny model with larger weights, which are whole in bfloat16 too.

    As made, all tokens are about equally likely and greedy says one word forever.
    """
    make_tiny_model(folder, chat=chat)
    file = folder / "model.safetensors"
    louder = {}
    for name, tensor in load_file(file).items():
        factor = embeddings if "embed" in name else weights if tensor.dim() == 2 else 1.0
        louder[name] = (tensor * factor).bfloat16().float()
    save_file(louder, file, metadata={"format": "pt"})
    return folder


def load_tiny(
    folder: Path,
    *,
    dtype: str = "float32",
    dropout: float = 0.0,
    max_sequence: int = 512,
    checkpointing: bool = False,
    system_prompt: str | None = None,
) -> LanguageModel:
    """Loads a model folder with a small adapter that changes nothing yet."""
    profile = dataclasses.replace(
        profiles.load("cpu"), dtype=dtype, threads=1, max_sequence=max_sequence, checkpointing=checkpointing
    )
    source = sources.resolve(str(folder), folder.parent / "cache")
    settings = LoraSettings(rank=RANK, alpha=ALPHA, dropout=dropout)
    with torch.random.fork_rng(devices=[]):  # PEFT begins with a random A
        torch.manual_seed(0)
        return models.load(source, profile, settings, system_prompt=system_prompt)


def stir(lm: LanguageModel, *, seed: int = 0, scale: float = 0.05) -> None:
    """Gives the adapter random values, so that it changes what the model says."""
    rng = np.random.default_rng(seed)
    adapter = lora.get_adapter(lm.network)
    noisy = {name: array + scale * rng.standard_normal(array.shape) for name, array in adapter.items()}
    lora.set_adapter(lm.network, {name: array.astype(np.float32) for name, array in noisy.items()})


def trace(
    seed: int = 0, *, win: bool = True, prompt_tokens: int = 12, completion_tokens: int = 6, **details: Any
) -> Trace:
    """A trace of random byte tokens."""
    tokens = np.random.default_rng(seed).integers(4, 250, prompt_tokens + completion_tokens).tolist()
    return Trace(prompt=tuple(tokens[:prompt_tokens]), completion=tuple(tokens[prompt_tokens:]), win=win, **details)


def entry(check: Any = None, *, id: str = "q", prompt: str = "Which one is it?", **fields: Any) -> Entry:
    """An entry of a feedback log."""
    return Entry(v=1, id=id, prompt=prompt, check=check, **fields)


def log_probability(lm: LanguageModel, item: Trace) -> float:
    """Of a trace's completion given its prompt, in nats, without dropout."""
    lm.network.eval()
    ids = torch.tensor([item.prompt + item.completion])
    with torch.inference_mode():
        scores = lm.causal(input_ids=ids).logits[0].double().log_softmax(-1)
    start = len(item.prompt)
    return float(sum(scores[start + at - 1, token] for at, token in enumerate(item.completion)))


class Script:
    """Stands in for sampling: gives the scripted answers, a list a wave, stopped where sampling would stop.

    It remembers what it was asked.

    Attributes:
        prompts: Token ids of every prompt, by wave.
        limits: Most new tokens of every prompt, by wave.
    """

    def __init__(self, lm: LanguageModel, *waves: Sequence[str], ended: bool = True) -> None:
        self._lm = lm
        self._waves = list(waves)
        self._ended = ended
        self.prompts: list[list[tuple[int, ...]]] = []
        self.limits: list[list[int]] = []

    def __call__(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], limits: Sequence[int], *args: Any, **kwargs: Any
    ) -> list[Completion]:
        said = self._waves[len(self.prompts)]
        self.prompts.append([tuple(prompt) for prompt in prompts])
        self.limits.append(list(limits))
        assert len(said) == len(prompts), f"wave {len(self.prompts) - 1} asks {len(prompts)} prompts"
        stops = kwargs.get("stops") or [None] * len(said)
        return [self._completion(text, stop) for text, stop in zip(said, stops, strict=True)]

    def _completion(self, text: str, stop: Stop | None) -> Completion:
        for line_end in (at + 1 for at, character in enumerate(text) if character == "\n"):
            if stop is not None and stop(text[:line_end]):
                return Completion(tuple(self._lm.encode_text(text[:line_end])), ended=False, stopped=True)
        return Completion(tuple(self._lm.encode_text(text)), self._ended)

    def text(self, wave: int, at: int = 0) -> str:
        """A prompt as text, special tokens left out."""
        return self._lm.decode(self.prompts[wave][at])

    @property
    def waves_left(self) -> int:
        return len(self._waves) - len(self.prompts)


def scripted(monkeypatch: pytest.MonkeyPatch, lm: LanguageModel, *waves: Sequence[str], ended: bool = True) -> Script:
    """Puts a :class:`Script` in sampling's place in self-play."""
    script = Script(lm, *waves, ended=ended)
    monkeypatch.setattr("training.selfplay.sample", script)
    return script


def on_head(lm: LanguageModel, look: Callable[[torch.Tensor], None]) -> Any:
    """Shows ``look`` the logits of every forward pass; ``remove()`` what is returned."""
    head = lm.causal.get_output_embeddings()
    return head.register_forward_hook(lambda _module, _args, logits: look(logits))


def user(text: str) -> Message:
    """A message of the user."""
    return Message(role="user", content=text)


def mlp_rows(lm: LanguageModel) -> list[list[int]]:
    """How many rows each layer's MLP is given from now on, a list a layer."""
    rows: list[list[int]] = [[] for _ in lm.causal.base_model.layers]
    for of, layer in zip(rows, lm.causal.base_model.layers, strict=True):
        layer.mlp.register_forward_pre_hook(lambda _, args, of=of: of.append(args[0].shape[:-1].numel()))
    return rows
