"""Tests of packed weights run where the libraries that pack are installed, and say so where they are not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

import pytest

Kind = Literal["int8", "nf4"]
PACKAGES: dict[Kind, str] = {"int8": "torchao", "nf4": "bitsandbytes"}


def needs(kind: Kind) -> pytest.MarkDecorator:
    """Skips a test where the library that packs to ``kind`` is not installed."""
    package = PACKAGES[kind]
    try:
        missing = not distribution(package)
    except PackageNotFoundError:
        missing = True
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


INSTALLED = [pytest.param(kind, marks=needs(kind)) for kind in PACKAGES]
