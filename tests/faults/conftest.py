"""Fixtures of the fault tests: those of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import cli, device, template, tiny_model

__all__ = ["cli", "device", "template", "tiny_model"]
