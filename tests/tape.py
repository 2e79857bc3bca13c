"""Recording and replaying what tensors are asked to do, on a CPU and by the rules of CUDA graphs.

What is recorded is not done. A replay does the same with the same tensors, whatever Python has come to think since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.stepping import ASKING


class Tape(TorchDispatchMode):
    """Records what is done within it, and undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket.__name__ in ASKING:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._before += [(tensor, tensor.clone()) for tensor in _written(function, args, kwargs)]
        made = function(*args, **kwargs)
        self._done.append((function, args, kwargs, made))
        return made

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for tensor, value in reversed(self._before):
            tensor.copy_(value)

    def replay(self) -> None:
        for function, args, kwargs, made in self._done:
            given = {_memory(tensor) for tensor in _tensors((*args, *kwargs.values()))}
            for tensor, value in zip(_tensors(made), _tensors(function(*args, **kwargs)), strict=True):
                if _memory(tensor) not in given:
                    tensor.copy_(value)


def _tensors(of: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(of) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    for at, parameter in enumerate(function._schema.arguments):
        given = args[at] if at < len(args) else kwargs.get(parameter.name)
        if isinstance(given, torch.Tensor) and parameter.alias_info is not None and parameter.alias_info.is_write:
            yield given


def record(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Takes the place of ``training.stepping.cuda_graph``."""
    with Tape() as tape:
        found = work()

    def replay() -> torch.Tensor:
        tape.replay()
        return found

    return replay
