"""What `make bench` measures."""

from __future__ import annotations

import training  # first: it keeps PEFT from loading what a benchmark would pay for

__all__ = ["training"]
