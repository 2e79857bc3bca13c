"""`spearctl doctor`: each thing is broken for real, its line is looked for, and the command in that line mends it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file as torch_save

import profiles
from spearctl import checkup
from spearctl.commands.doctor import LOOKS
from spearctl.home import Home
from tests.checkups import Line, examined, line, mend, states
from tests.cli import clean_environment, spawn
from tests.homes import adapter_of, files_of, make_template, winnable, write_profile
from tests.swarms import Device, homes
from tests.tiny import make_tiny_model
from tests.tiny_gguf import write_gguf
from training.adapters import adapter_digest

ROOTS = "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"
ORDINARY = ["setpriv", *ROOTS] if os.geteuid() == 0 else []
"""Runs a command so that permissions count, for root too."""


@pytest.fixture
def anna(tmp_path: Path, template: Home) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


def test_a_healthy_home_is_all_ok_and_nothing_is_changed(anna: Device) -> None:
    anna.train(winnable(6))
    before = files_of(anna.home.root), anna.home.root.stat().st_mtime_ns
    outcome = anna("doctor")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.endswith("nothing needs a hand\n")
    assert (files_of(anna.home.root), anna.home.root.stat().st_mtime_ns) == before
    assert {check["state"] for check in examined(anna)} == {"ok"}
    assert {name for name, _ in LOOKS} - {"training", "ledger", "node"} <= {check["name"] for check in examined(anna)}


def test_without_a_home_it_says_how_to_make_one(tmp_path: Path, template: Home, tiny_model: Path) -> None:
    device = Device("new", Home(tmp_path / "new"), tmp_path)
    checks = examined(device, 4)
    assert line(checks, "home")["code"] == 4
    own = {"SPEARCTL_MODEL": str(tiny_model), "SPEARCTL_PROFILE": str(template.root.parent / "small.toml")}
    mend(device, line(checks, "home"), **own)
    assert states(examined(device)) == {}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("nonsense = = 1\n", 4, "not valid TOML"),
        ("format = 99\n", 9, "has format 99"),
        ("name = 'x'\n", 9, "no format number"),
        ("format = 1\n", 4, "is missing"),
    ],
)
def test_damaged_settings_are_told_beside_everything_else(anna: Device, text: str, code: int, words: str) -> None:
    kept = anna.home.config_path.read_bytes()
    anna.home.config_path.write_text(text)
    checks = examined(anna, code)
    assert states(checks) == {"home": "fail"}
    assert words in line(checks, "home")["message"]
    assert line(checks, "home")["mend"]
    assert {"libraries", "disk", "clock", "feedback", "history", "keys"} <= {check["name"] for check in checks}
    anna.home.config_path.write_bytes(kept)
    assert states(examined(anna)) == {}


def test_a_home_that_others_can_read(anna: Device) -> None:
    anna.home.root.chmod(0o755)
    checks = examined(anna)
    assert states(checks) == {"permissions": "warn"}
    mend(anna, line(checks, "permissions"))
    assert states(examined(anna)) == {}


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    device = Device("own", make_template(tmp_path, model), tmp_path)
    assert states(examined(device)) == {}
    model.rename(tmp_path / "elsewhere")
    checks = examined(device, 7)
    assert states(checks) == {"model": "fail"}
    assert f"{model}: no such model folder" in line(checks, "model")["message"]
    (tmp_path / "elsewhere").rename(model)
    assert states(examined(device)) == {}


def test_a_model_that_is_another(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    device = Device("own", make_template(tmp_path, model), tmp_path)
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    checks = examined(device, 4)
    assert states(checks) == {"model": "fail"}
    assert "is not the model that this home was made for (fingerprint " in line(checks, "model")["message"]


def test_a_model_in_the_cache_is_looked_at_and_never_made(tmp_path: Path, tiny_model: Path) -> None:
    device = Device(
        "own", make_template(tmp_path, write_gguf(tiny_model, tmp_path / "tiny.gguf", quantised=False)), tmp_path
    )
    assert states(examined(device)) == {}
    shutil.rmtree(tmp_path / "cache")
    checks = examined(device)
    assert states(checks) == {"model": "warn"}
    assert not (tmp_path / "cache").exists()
    device.home.feedback_path.write_text("".join(json.dumps(entry) + "\n" for entry in winnable(2)))
    mend(device, line(checks, "model"))
    assert states(examined(device)) == {}


def test_a_model_of_the_catalogue_is_not_fetched(tmp_path: Path, anna: Device) -> None:
    anna.set(model="smollm2-135m")
    checks = examined(anna, 7)
    assert line(checks, "model")["message"] == "smollm2-135m: not in the model cache yet"
    assert not (tmp_path / "cache" / "gguf").exists()


def test_a_line_of_the_log_that_cannot_be_read(anna: Device) -> None:
    anna.home.feedback_path.write_text("no JSON\n")
    checks = examined(anna)
    assert states(checks) == {"feedback": "warn"}
    assert line(checks, "feedback")["mend"] == f"spearctl --home {anna.home.root} feedback check"


@pytest.mark.parametrize(
    ("name", "mode"), [("node.db", 0), ("node.db", 0o400), ("adapters", 0o500), ("train.lock", 0), (".", 0o500)]
)
def test_what_this_user_cannot_read_or_write_is_not_called_damaged(anna: Device, name: str, mode: int) -> None:
    anna.train(winnable(6))
    path = anna.home.root / name
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        found = subprocess.run(
            [*ORDINARY, sys.executable, "-m", "spearctl", "doctor", "--json", "--home", str(anna.home.root)],
            env=clean_environment(anna.folder),
            cwd=anna.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 9
        checks = json.loads(found.stdout)["data"]["checks"]
        assert "history" not in states(checks)
        assert "cannot be read and written by you" in line(checks, "home")["message"]
        mend(anna, line(checks, "home"))
    finally:
        path.chmod(before)
    assert states(examined(anna)) == {}


def test_a_damaged_history_is_put_aside_with_its_versions_which_import_takes_back(anna: Device) -> None:
    used = [anna.train(winnable(6, name=name))["adapter"] for name in ("one", "two")][-1]
    kept, path = adapter_of(anna.home, used), anna.home.history_path
    path.with_name("node.db-wal").write_bytes(b"of the old one")
    path.write_bytes(path.read_bytes()[:4096] + b"nonsense" * 512)
    checks = examined(anna, 9)
    assert states(checks) == {"history": "fail"}
    mend(anna, line(checks, "history"))
    assert states(examined(anna)) == {}
    assert not path.with_name("node.db-wal").exists()
    anna.train(winnable(6, name="three"))
    assert anna("import", str(anna.home.root / ".damaged" / "adapters" / "local-2"), "--yes").code == 0
    assert adapter_digest(adapter_of(anna.home, "local:2")) == adapter_digest(kept)
    path.write_bytes(b"nonsense" * 512)
    assert line(examined(anna, 9), "history")["mend"].endswith(f"{anna.home.root}/.damaged-2")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 99", "written by a newer spearctl (schema 99)"),
        ("DELETE FROM current", "nothing says which version is in use"),
        ("DROP TABLE version", "no such table: version"),
    ],
)
def test_a_history_that_commands_refuse(anna: Device, statement: str, said: str) -> None:
    with closing(sqlite3.connect(anna.home.history_path)) as db:
        db.execute(statement)
        db.commit()
    checks = examined(anna, 9)
    assert states(checks) == {"history": "fail"}
    assert said in line(checks, "history")["message"]
    assert anna("adapter", "use", "base").code == 9


def test_a_history_that_was_only_begun_is_ok(anna: Device) -> None:
    anna.home.history_path.unlink()
    with closing(sqlite3.connect(anna.home.history_path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    anna.home.history_path.chmod(0o600)
    assert states(examined(anna)) == {}


def test_a_damaged_adapter_version(anna: Device) -> None:
    first, second = (anna.train(winnable(6, name=name))["adapter"] for name in ("one", "two"))
    path = anna.home.adapters_path / second.replace(":", "-") / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    checks = examined(anna, 9)
    assert states(checks) == {"adapters": "fail"}
    assert line(checks, "adapters")["mend"].endswith(f"adapter use {first}")
    mend(anna, line(checks, "adapters"))
    assert states(examined(anna)) == {"adapters": "warn"}


def test_a_version_of_a_type_that_cannot_be_read(anna: Device) -> None:
    version = anna.train(winnable(6))["adapter"]
    path = anna.home.adapters_path / version.replace(":", "-") / "adapter_model.safetensors"
    torch_save({"odd": torch.zeros(2, dtype=torch.bfloat16)}, path)
    assert states(examined(anna, 9)) == {"adapters": "fail"}
    assert "not a readable adapter" in anna("export", "--peft", str(anna.folder / "out")).err


def test_a_clock_that_runs_behind(anna: Device) -> None:
    later = time.time() + 86_400
    os.utime(anna.home.feedback_path, (later, later))
    checks = examined(anna)
    assert states(checks) == {"clock": "warn"}
    assert "feedback.jsonl was written later than now" in line(checks, "clock")["message"]
    mend(anna, line(checks, "clock"))
    assert states(examined(anna)) == {}


def test_a_disk_that_is_full(anna: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "LOW_BYTES", 2**62)
    assert states(examined(anna)) == {"disk": "warn", "model cache": "warn"}
    monkeypatch.setattr(checkup, "EMPTY_BYTES", 2**62)
    checks = examined(anna, 9)
    assert states(checks) == {"disk": "fail", "model cache": "fail"}
    mend(anna, line(checks, "disk"))


def examined_with(site: Path, device: Device, **environ: str) -> list[Line]:
    """What is found where packages in a folder come before those that are installed, which is to be code 4."""
    path = os.pathsep.join([str(site), str(Path(__file__).parents[2])])
    outcome = spawn(
        "doctor", "--json", "--home", str(device.home.root), folder=device.folder, PYTHONPATH=path, **environ
    )
    assert outcome.code == 4
    return list(outcome.envelope["data"]["checks"])


@pytest.mark.parametrize("is_broken", [False, True])
def test_libraries_that_are_missing_or_too_old(anna: Device, tmp_path: Path, is_broken: bool) -> None:
    told = tmp_path / "site" / "spearctl-0.1.0.dist-info" / "METADATA"
    told.parent.mkdir(parents=True)
    wanted = ["numpy>=99", "no-such-package>=1", "rich>=1", 'zeroconf>=99; extra == "lan"']
    told.write_text(
        "Metadata-Version: 2.1\nName: spearctl\nVersion: 0.1.0\n"
        + "".join(f"Requires-Dist: {line}\n" for line in wanted)
    )
    if is_broken:  # as what is too old may be
        (tmp_path / "site" / "peft").mkdir()
        (tmp_path / "site" / "peft" / "__init__.py").write_text("raise ImportError(name='numpy')")
    found = line(examined_with(tmp_path / "site", anna), "libraries")
    assert found["message"].startswith("numpy is ")
    assert found["message"].endswith("no-such-package is not installed")
    assert found["mend"] == "pip install 'numpy>=99' 'no-such-package>=1'"


@pytest.mark.parametrize(
    ("package", "text", "mend"),
    [
        ("torch", "raise OSError('libx.so: cannot open shared object file')", "pip install --force-reinstall torch"),
        ("torch", "raise RuntimeError('libx.so')", "pip install --force-reinstall torch transformers peft"),
        ("transformers", "raise ImportError('libx.so', name='hub')", "pip install --force-reinstall hub"),
        ("peft", "libx.so =", "pip install --force-reinstall torch transformers peft"),
    ],
)
def test_a_library_that_is_installed_and_broken(
    anna: Device, tmp_path: Path, package: str, text: str, mend: str
) -> None:
    broken = tmp_path / "site" / package / "__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text(text)
    found = line(examined_with(tmp_path / "site", anna), "libraries")
    assert "cannot be imported" in found["message"]
    assert found["mend"].endswith(mend)


def test_a_profile_whose_device_is_not_there(anna: Device) -> None:
    profile = write_profile(anna.home.root.parent / "gpu.toml", device="cuda")
    checks = examined(anna, 4, SPEARCTL_PROFILE=str(profile))
    assert states(checks) == {"profile": "fail"}
    assert "runs on 'cuda'" in line(checks, "profile")["message"]
    assert line(checks, "profile")["mend"]


def test_a_profile_whose_device_is_there(anna: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    detect = profiles.detect

    def with_gpu(*, accelerators: bool = True) -> profiles.Hardware:
        found = detect(accelerators=False)
        return dataclasses.replace(found, accelerator="cuda", accelerator_bf16=True) if accelerators else found

    monkeypatch.setattr(profiles, "detect", with_gpu)
    profile = write_profile(anna.home.root.parent / "gpu.toml", device="cuda")
    checks = examined(anna, 0, SPEARCTL_PROFILE=str(profile))
    assert line(checks, "profile")["message"] == "gpu: float32 on cuda"


@pytest.mark.parametrize("error", ["ModuleNotFoundError(name=__name__)", "RuntimeError('no CUDA')"])
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_profile_whose_weights_nothing_here_packs(anna: Device, tmp_path: Path, kind: str, error: str) -> None:
    for package in ("torchao", "bitsandbytes"):
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").write_text(f"raise {error}\n")
    profile = write_profile(tmp_path / "packed.toml", quantization=kind)
    checks = examined_with(tmp_path / "site", anna, SPEARCTL_PROFILE=str(profile))
    assert states(checks) == {"profile": "fail"}
    assert line(checks, "profile")["mend"] == "pip install 'spearctl[quant]'"
