"""Fixtures of the unit tests: one tiny model, loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from training.adapters import Adapter
    from training.models import LanguageModel


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random instruct model."""
    from tests.learner import make_loud_model

    return make_loud_model(tmp_path_factory.mktemp("models") / "tiny-instruct")


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random base model, without a chat template."""
    from tests.learner import make_loud_model

    return make_loud_model(tmp_path_factory.mktemp("models") / "tiny-base", chat=False)


@pytest.fixture(scope="session")
def _loaded(tiny_folder: Path) -> tuple[LanguageModel, Adapter]:
    from tests.learner import load_tiny
    from training import lora
    from training.adapters import initial_adapter

    lm = load_tiny(tiny_folder)
    lora.set_adapter(lm.network, initial_adapter(lm.source.fingerprint, lm.adapter_shape))
    return lm, lora.get_adapter(lm.network)


@pytest.fixture(scope="session")
def tiny_chat(_loaded: tuple[LanguageModel, Adapter]) -> LanguageModel:
    """The tiny instruct model for tests that only read: its adapter is whatever the test before left."""
    return _loaded[0]


@pytest.fixture
def tiny(_loaded: tuple[LanguageModel, Adapter]) -> Iterator[LanguageModel]:
    """The tiny instruct model in float32 without dropout, with the specified start for an adapter."""
    from training import lora

    lm, start = _loaded
    lora.set_adapter(lm.network, start)
    lm.network.eval()
    yield lm
    lm.network.zero_grad(set_to_none=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members who wait for seconds where others wait for minutes."""
    from p2p import limits

    monkeypatch.setattr(limits, "SEAL_DELAY_S", 2.0)
    monkeypatch.setattr(limits, "NULL_DELAY_S", (0.5, 1.0))
