"""Lets `python -m spearctl` do what the console script does."""

from __future__ import annotations

from spearctl.main import entry

entry()
