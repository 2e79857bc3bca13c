"""A process that dies at any point of `import`: the version is there whole or not at all, and the next import works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import Cli, clean_environment
from tests.foreign import make_loud, own_adapter, write_foreign
from tests.homes import adapter_of, assert_tidy
from training.adapters import adapter_digest
from training.history import History

DYING = """
import os, sys
import training.faults
training.faults.hook = lambda point: point == sys.argv[1] and os._exit(77)
from spearctl.main import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("point", "is_there"),
    [
        ("store.after-write", False),
        ("store.after-rename", False),
        ("history.before-commit", False),
        ("history.after-commit", True),
        ("store.after-prune", True),
    ],
)
def test_a_death_at_any_point_leaves_all_of_it_or_nothing(
    device: Cli, tiny_model: Path, point: str, is_there: bool
) -> None:
    adapter = make_loud(own_adapter(device.home, device.folder / "own"))
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    done = subprocess.run(
        [sys.executable, "-c", DYING, point, "import", str(folder), "--yes"],
        cwd=device.folder,
        env=clean_environment(device.folder),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 77
    with History(device.home.history_path) as history:
        assert [version.name for version in history.versions()] == (["local:1"] if is_there else [])
        assert history.origins().keys() == ({"local:1"} if is_there else set())
    again = device("import", str(folder), "--yes", "--json")
    assert again.code == 0
    assert again.envelope["data"]["changed"] is not is_there
    assert adapter_digest(adapter_of(device.home, "local:1")) == adapter_digest(adapter)
    assert_tidy(device.home)
