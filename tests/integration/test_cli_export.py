"""`spearctl export`: the adapter in use, for any program that reads safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spearctl.home import Home
from tests.homes import adapter_of, winnable
from tests.swarms import Device, agree, homes, swarm


@pytest.fixture
def device(template: Home, tmp_path: Path) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


def test_two_members_export_the_same_bytes_which_plain_programs_read(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        anna.train(winnable(6))
        agree(anna, ben, head=1)
        ben.train(winnable(6, name="more"))
        agree(anna, ben, head=2)
        folders = [device.folder / f"from-{device.name}" for device in (anna, ben)]
        for device, folder in zip((anna, ben), folders, strict=True):
            data = device.data("export", "--peft", str(folder))
            assert (data["peft"], data["adapter"]) == (str(folder), "round:2")
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    tensors = load_file(folders[0] / "adapter_model.safetensors")
    config = json.loads((folders[0] / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 16)
    changed = [name for name, values in tensors.items() if "lora_B" in name and np.abs(values).max() > 0]
    assert len(changed) == len(tensors) / 2
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in tensors.values())


def test_a_device_alone_exports_what_it_uses_or_a_version(device: Device) -> None:
    device.train(winnable(6))
    device.train(winnable(6, name="more"))
    for words, version in (((), "local:2"), (("--adapter", "local:1"), "local:1")):
        folder = device.folder / version
        outcome = device("export", "--peft", str(folder), *words)
        assert outcome.code == 0
        assert f"adapter {version}, as peft.PeftModel.from_pretrained reads it" in outcome.out
        exported = load_file(folder / "adapter_model.safetensors")
        kept = adapter_of(device.home, version)
        assert {name.removeprefix("base_model.model.").removesuffix(".weight") for name in exported} == kept.keys()
        assert all((exported[f"base_model.model.{name}.weight"] == kept[name]).all() for name in kept)


def test_a_folder_that_exists_is_code_2_and_left_alone(device: Device) -> None:
    folder = device.folder / "there"
    folder.mkdir()
    outcome = device("export", "--peft", str(folder))
    assert outcome.code == 2
    assert f"{folder} exists" in outcome.err
    assert list(folder.iterdir()) == []


def test_an_adapter_that_is_not_known_is_code_2_and_leaves_nothing(device: Device) -> None:
    outcome = device("export", "--peft", str(device.folder / "new"), "--adapter", "local:7")
    assert outcome.code == 2
    assert "adapter local:7 is not known" in outcome.err
    assert not (device.folder / "new").exists()


def test_a_folder_that_cannot_be_made_is_code_9_and_leaves_nothing(device: Device) -> None:
    (device.folder / "file").write_text("in the way")
    outcome = device("export", "--peft", str(device.folder / "file" / "below"))
    assert outcome.code == 9
    assert not list(device.folder.glob(".spearctl-export.*"))
