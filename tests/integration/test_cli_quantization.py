"""A profile that packs the base weights: `spearctl train` learns under it, or says what to install."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.cli import Cli, spawn
from tests.homes import adapter_of, winnable, write_log, write_profile
from tests.quantized import INSTALLED, PACKAGES, Kind


@pytest.fixture(params=PACKAGES)
def words(request: pytest.FixtureRequest, device: Cli) -> list[str]:
    """`train` under a profile that packs, for one round."""
    log = write_log(device.folder / "log.jsonl", winnable(8))
    profile = write_profile(device.folder / "packed.toml", quantization=request.param, dtype="bfloat16")
    return ["train", "--feedback", str(log), "--profile", str(profile), "--rounds", "1"]


@pytest.mark.parametrize("words", INSTALLED, indirect=True)
def test_an_adapter_is_learned_on_packed_weights_without_a_word_of_the_libraries(device: Cli, words: list[str]) -> None:
    outcome = spawn(*words, "--json", "--quiet", folder=device.folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.envelope["data"]["adapter"] == "local:1"
    adapter = adapter_of(device.home, "local:1")
    assert all(np.isfinite(array).all() for array in adapter.values())
    assert all(array.any() for name, array in adapter.items() if "lora_B" in name)


def test_without_the_library_the_code_is_4_and_the_hint_installs_it(
    device: Cli, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchao.quantization", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = device(*words)
    assert outcome.code == 4
    assert "which is not installed" in outcome.err
    assert "hint: pip install 'spearctl[quant]'" in outcome.err
    assert device("adapter", "list", "--json").envelope["ok"]


@pytest.mark.parametrize("kind", INSTALLED)
def test_who_does_not_pack_does_not_wait_for_the_library(kind: Kind) -> None:
    code = "import sys, training.models; print(bool(sys.modules.get(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, PACKAGES[kind]], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
