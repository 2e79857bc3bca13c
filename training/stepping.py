"""Decoding goes on by one token of each sequence at a time.

A step is more than a thousand small operations, which a GPU has done before Python has named them. So there the second
step is recorded, as a CUDA graph, and all that follow replay it: they read and write the same tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training import attention
from training.cache import AHEAD, KeyValues, Step
from training.halving import is_out_of_memory
from training.models import LanguageModel

_LOG = logging.getLogger(__name__)

Work = Callable[[], torch.Tensor]
"""Reads and writes tensors; returns one of them."""

_WORTH_LEAVING, _WORTH_RECORDING = 0.75, 0.25
"""Finished sequences leave the batch when no more than this part of it goes on: copying the cache costs something, and
recording a step anew costs three of them."""
_RECORDED_AHEAD = 128
_RECORDABLE: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
"""What is known of models that made a step."""

ASKING = frozenset({"_local_scalar_dense", "is_nonzero", "item", "lift_fresh", "nonzero"})
"""What makes a device tell something, or gives it something that Python knows."""
_COPYING = frozenset({"_to_copy", "copy_"})


class Watch(TorchDispatchMode):
    """Looks on while a step is done, for what a recording refuses.

    One that failed is not undone: PyTorch before 2.13 takes it to be under way for as long as the process lives, gives
    no memory back any more, and draws no random numbers.

    Attributes:
        refused: The first such operation.
    """

    refused: str | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if self.refused is None and (name in ASKING or (name in _COPYING and _devices((args, kwargs, made)) > 1)):
            self.refused = name
        return made


def _devices(of: Any) -> int:
    return len({leaf.device for leaf in tree_leaves(of) if isinstance(leaf, torch.Tensor)})


def cuda_graph(work: Work) -> Work:
    """Records what ``work`` has a GPU do, without doing it; what is returned does it.

    Raises:
        RuntimeError: ``work`` asks the GPU for data, or for something else that cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # A recording that fails leaves its own stream in place: the outer block puts back the one before.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return found

    return replay


RECORDERS: dict[str, Callable[[Work], Work]] = {"cuda": cuda_graph}
"""By the kind of device."""


def columns_ahead(lm: LanguageModel) -> int:
    """How many columns a cache is to make at once: others mean other tensors, and so another recording."""
    return _RECORDED_AHEAD if _is_recorded(lm) else AHEAD


def _is_recorded(lm: LanguageModel) -> bool:
    return lm.device.type in RECORDERS and _RECORDABLE.get(lm.causal, True)


class Steps:
    """Steps of one batch.

    Args:
        lm: The model.
        cache: Of its sequences, which are one token short of what is known of them.
        positions: Of that token ``[B]``. It stays at the model's last one: a sequence that is finished goes on with the
            others until it leaves, and some models have nothing there, or turn all others another way.
    """

    def __init__(self, lm: LanguageModel, cache: KeyValues, positions: torch.Tensor) -> None:
        self._lm = lm
        self._cache = cache
        self._positions = positions
        self._tokens = torch.zeros_like(positions)
        self._is_warm = False
        self._replay: Work | None = None

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Goes on by ``tokens [B]``.

        Returns:
            What the output head is given, ``[B, hidden]``; it is good until the next step.
        """
        if self._cache.open():
            self._is_warm, self._replay = False, None
        self._tokens.copy_(tokens)
        if not self._is_warm:
            self._is_warm = True
            return self._first_step()
        if self._replay is None and _is_recorded(self._lm):
            self._replay = self._record()
        return self._step() if self._replay is None else self._replay()

    def is_worth_leaving(self, going: int) -> bool:
        """Whether the sequences of which no more than ``going`` go on should be left to themselves."""
        return going <= len(self._tokens) * (_WORTH_RECORDING if _is_recorded(self._lm) else _WORTH_LEAVING)

    def select(self, rows: Sequence[int]) -> Steps:
        """Steps of some of the sequences; of these here nothing more may be asked."""
        self._replay = None
        kept = torch.tensor(rows, device=self._positions.device)
        return Steps(self._lm, self._cache.select(rows), self._positions[kept])

    def _step(self) -> torch.Tensor:
        states = attention.run(self._lm.causal, self._tokens, self._positions, Step(self._cache))
        self._positions.add_(1).clamp_(max=self._lm.max_sequence_tokens - 1)
        return states

    def _first_step(self) -> torch.Tensor:
        """Makes what all that follow need. The first of a model tells whether those can be recorded."""
        if not _is_recorded(self._lm) or self._lm.causal in _RECORDABLE:
            return self._step()
        with Watch() as watch:
            states = self._step()
        _RECORDABLE[self._lm.causal] = True
        if watch.refused is not None:
            self._give_up(f"they ask for data ({watch.refused})")
        return states

    def _record(self) -> Work | None:
        try:
            return RECORDERS[self._lm.device.type](self._step)
        except RuntimeError as error:
            first = _first(error)
            if is_out_of_memory(first):
                raise first from None
            self._give_up(first)  # nothing was done yet, and everything works without
            return None

    def _give_up(self, reason: object) -> None:
        _RECORDABLE[self._lm.causal] = False
        _LOG.warning("steps of decoding are not recorded, which makes them slow: %s", reason)


def _first(error: BaseException) -> BaseException:
    """What went wrong first: to end a recording that failed fails too, and does not say why."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error
