"""Less at once, when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


def halving(what: str, size: int, work: Callable[[int], T]) -> tuple[T, int]:
    """Calls ``work(size)``; as often as memory runs out, again with half the size.

    Args:
        what: Of which there are ``size``, for the log.
        size: At least 1.
        work: Does nothing that a second call could not do again.

    Returns:
        What it returned, and the size that went well.

    Raises:
        RuntimeError: Memory ran out for a size of 1 too.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # Out here, the error and all that its frames held are gone.
        size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _LOG.warning("memory ran out: going on with %d %s at once", size, what)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of the machine's or of an accelerator's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
