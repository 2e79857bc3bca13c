"""Less at once, when memory runs out; and how errors of the machine are told from others."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_SAID = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # where CUDA itself, and not PyTorch's allocator, had no room
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",  # a file that could not be mapped
    "NVML_SUCCESS == r INTERNAL ASSERT",  # a Jetson, which has no NVML to ask for the figures of the usual message
)
"""How others than PyTorch's own error say that there is not enough memory."""


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
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def is_failure_of_gpu(error: BaseException) -> bool:
    """Whether a GPU failed, or cannot do what it is asked to, other than for want of memory or by our own mistake."""
    said = str(error)
    ours = "device-side assert" in said or "illegal memory access" in said
    return isinstance(error, RuntimeError) and "CUDA error" in said and not ours and not is_out_of_memory(error)
