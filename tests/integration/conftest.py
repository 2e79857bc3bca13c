"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from spearctl.home import Home
from tests.cli import Cli, clean_environment
from tests.homes import make_template, write_profile
from tests.tiny import make_parrot, make_tiny_model


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, with a home that is not made yet."""
    environment = clean_environment(tmp_path)
    for name in set(os.environ) - set(environment):
        if not name.startswith("PYTEST"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, capsys, monkeypatch)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random base model."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model that calls itself an instruct model."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-instruct", chat=True)


@pytest.fixture(scope="session")
def template(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of the tiny model, for copying."""
    return make_template(tmp_path_factory.mktemp("template"), tiny_model)


@pytest.fixture
def device(cli: Cli, template: Home) -> Cli:
    """The command line with a home that can train: `tests.homes` says how small it is."""
    shutil.copytree(template.root, cli.home.root)
    return cli


@pytest.fixture(scope="session")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose model answers a letter and a full stop, for copying."""
    folder = tmp_path_factory.mktemp("parrot")
    home = make_template(folder, make_parrot(folder / "parrot-instruct"))
    write_profile(folder / "small.toml", max_sequence=1024)
    return home
