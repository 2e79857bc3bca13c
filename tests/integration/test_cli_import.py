"""`spearctl import`: an adapter from elsewhere becomes a version, or is refused with what differs first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spearctl.home import Home
from tests.cli import Cli
from tests.foreign import make_loud, own_adapter, write_foreign
from tests.homes import adapter_of, assert_tidy, files_of, winnable
from tests.swarms import GRID, agree, furthest, swarm
from training.adapters import Adapter, adapter_digest
from training.history import History

LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture
def adapter(device: Cli) -> Adapter:
    """An adapter of the right shape that is not known here."""
    return make_loud(own_adapter(device.home, device.folder / "own"), size=0.01)


def test_it_becomes_the_version_in_use_with_its_origin(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    outcome = device("import", str(folder), "--yes")
    assert outcome.code == 0, outcome.err
    assert "Now in use: local:1, imported (before: base)" in outcome.out
    with History(device.home.history_path) as history:
        (version,) = history.versions()
        assert (history.current, version.parent, version.wins) == ("local:1", "base", 1)
        assert history.origins()["local:1"].startswith("theirs, a PEFT folder for")
    assert adapter_digest(adapter_of(device.home, "local:1")) == adapter_digest(adapter)
    base, imported = device("adapter", "list", "--json").envelope["data"]["adapters"]
    assert (base["origin"], imported["origin"][:25]) == (None, "theirs, a PEFT folder for")
    assert "\nlocal:1 was imported: theirs, a PEFT folder for" in device("adapter", "list").out
    assert_tidy(device.home)
    assert "Now in use: base" in device("adapter", "rollback").out


def test_the_same_twice_changes_nothing_and_says_so(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    assert device("import", str(folder), "--yes").code == 0
    adapters = files_of(device.home.adapters_path)
    again = device("import", str(folder))  # nothing is asked, as nothing is done
    assert again.code == 0
    assert "this adapter is local:1 here already; nothing was changed" in again.out
    assert files_of(device.home.adapters_path) == adapters
    device("adapter", "use", "base")
    other = device("import", str(folder))
    assert "adapter use local:1" in other.out
    with History(device.home.history_path) as history:
        assert (len(history.versions()), history.current) == (1, "base")


def test_an_own_export_comes_back_whatever_its_model_is_called(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    device("import", str(folder), "--yes")
    exported = device.folder / "exported"
    assert device("export", "--peft", str(exported)).code == 0
    config = exported / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "renamed"}))
    assert "is local:1 here already" in device("import", str(exported)).out
    facts = exported / "spearctl.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "base_model.fingerprint": "ef" * 32}))
    outcome = device("import", str(exported), "--yes", "--same-base")
    assert outcome.code == 2
    assert "is for another base model: its fingerprint is efefefefefe" in outcome.err


def test_what_peft_itself_saves_is_taken(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    from peft import LoraConfig

    model = str(tiny_model)
    settings = LoraConfig(r=16, lora_alpha=32, base_model_name_or_path=model).to_dict()
    folder = write_foreign(device.folder / "theirs", adapter, base_model=model, **{**settings, "peft_type": "LORA"})
    outcome = device("import", str(folder), "--yes")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("said", [0, "", [], {}, 7])
def test_a_fingerprint_that_is_none_is_another_one(device: Cli, adapter: Adapter, tiny_model: Path, said: Any) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    (folder / "spearctl.json").write_text(json.dumps({"base_model.fingerprint": said}))
    outcome = device("import", str(folder), "--yes")
    assert outcome.code == 2
    assert "is for another base model: its fingerprint is" in outcome.err


def test_an_origin_is_one_line_and_names_no_place(device: Cli, adapter: Adapter) -> None:
    folder = write_foreign(device.folder / "the\nirs\x1b[31m", adapter, base_model="/home/anna/secret/tiny")
    assert device("import", str(folder), "--yes", "--same-base").code == 0
    with History(device.home.history_path) as history:
        assert history.origins() == {"local:1": "the irs\\x1b[31m, a PEFT folder for tiny"}


def test_it_asks_and_without_an_answer_changes_nothing(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    outcome = device("import", str(folder))
    assert outcome.code == 2
    assert "is put to use instead of base, which is kept. Import it?" in outcome.err
    with History(device.home.history_path) as history:
        assert history.versions() == ()


def test_another_base_model_is_refused_unless_it_is_the_same(device: Cli, adapter: Adapter) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model="org/\x1b[31mother")
    outcome = device("import", str(folder), "--yes")
    assert outcome.code == 2
    assert "is for the base model org/\\x1b[31mother, and this home's is" in outcome.err
    assert "--same-base" in outcome.err
    assert device("import", str(folder), "--yes", "--same-base").code == 0


def without(name: str) -> Callable[[Adapter], Adapter]:
    return lambda adapter: {key: value for key, value in adapter.items() if key != name}


def changed(name: str, value: Any) -> Callable[[Adapter], Adapter]:
    return lambda adapter: {**adapter, name: value(adapter[name])}


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (without(f"{LAYER}.lora_A"), {}, f"base_model.model.{LAYER}.lora_A.weight is missing"),
        (changed(f"{LAYER}.lora_A", lambda a: a[:, 1:]), {}, "is [16, 63], and [16, 64] here"),
        (changed(f"{LAYER}.lora_B", lambda b: b.astype(np.float64)), {}, "is of type F64"),
        (changed(f"{LAYER}.lora_B", lambda b: b * np.nan), {}, "has values that are no numbers"),
        (changed(f"{LAYER}.lora_B", lambda b: b * np.inf), {}, "has values that are no numbers"),
        (changed(f"{LAYER}.lora_B", lambda b: b + 100), {}, "has values as far from 0 as 100"),
        (lambda a: {**a, "lm_head.lora_A": a[f"{LAYER}.lora_A"]}, {}, "is there, and in no adapter of this home"),
        (lambda a: a, {"r": 8}, "r is 8, and 16 here"),
        (lambda a: a, {"lora_alpha": 16}, "lora_alpha is 16, and 32 here"),
        (lambda a: a, {"peft_type": "LOHA"}, 'peft_type is "LOHA", and "LORA" here'),
        (lambda a: a, {"use_dora": True}, "use_dora is true, and not used here"),
        (lambda a: a, {"rank_pattern": {"q_proj": 4}}, "rank_pattern is"),
        (lambda a: a, {"use_what_comes_later": True}, "use_what_comes_later is true, and not used here"),
        (lambda a: a, {"bias": "all"}, 'bias is "all", and "none" here'),
        (lambda a: a, {"init_lora_weights": "pissa"}, "may have changed the base weights"),
    ],
)
def test_another_shape_is_code_7_and_names_what_differs_first(
    device: Cli,
    adapter: Adapter,
    tiny_model: Path,
    change: Callable[[Adapter], Adapter],
    config: dict[str, Any],
    said: str,
) -> None:
    folder = write_foreign(device.folder / "theirs", change(adapter), base_model=str(tiny_model), **config)
    outcome = device("import", str(folder), "--yes")
    assert outcome.code == 7
    assert said in outcome.err
    assert "hint: " in outcome.err
    with History(device.home.history_path) as history:
        assert history.versions() == ()


def test_only_safetensors_of_a_sensible_size_are_read(device: Cli, adapter: Adapter, tiny_model: Path) -> None:
    folder = write_foreign(device.folder / "theirs", adapter, base_model=str(tiny_model))
    weights = folder / "adapter_model.safetensors"
    config = folder / "adapter_config.json"
    kept, settings = weights.read_bytes(), config.read_text()

    def refused(said: str) -> None:
        outcome = device("import", str(folder), "--yes")
        assert outcome.code == 7
        assert said in outcome.err

    weights.write_bytes(kept[:-1])
    refused("not readable as safetensors")
    with weights.open("wb") as file:
        file.truncate(1 << 33)  # sparse; read whole, it would fill the memory
    refused("and an adapter of this home's shape at most")
    weights.unlink()
    refused("adapter_model.safetensors is missing")
    (folder / "adapter_model.bin").write_bytes(kept)
    refused("holds only pickled weights (adapter_model.bin)")
    for text in ("{", "[]", "[" * 100_000, '{"r": 16}' + " " * (1 << 20)):
        config.write_text(text)
        refused("adapter_config.json")
    config.write_text(settings)
    config.rename(folder / "elsewhere")
    refused("adapter_config.json is missing")


def test_in_a_swarm_the_difference_is_shared_once(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        anna.train(winnable(6))
        agree(anna, ben, head=1)
        used = _bare(anna.export())
        wanted = {name: array + np.float32(64 * GRID) * name.endswith("lora_B") for name, array in used.items()}
        model = str(anna.settings["model"])
        folder = write_foreign(tmp_path / "theirs", wanted, base_model=model)
        asked = anna("import", str(folder))
        assert asked.code == 2
        assert "goes to all members, weighing one win" in asked.err
        assert anna.data("import", str(folder), "--yes")["changed"]
        head = agree(anna, ben, head=2)
        for device in (anna, ben):
            assert furthest(_bare(device.export()), wanted) <= 2 * GRID
        again = anna.data("import", str(folder), "--yes")
        assert not again["changed"]
        assert agree(anna, ben) == head
        assert anna.wins()[0] == 0
        card = tmp_path / "card"
        anna.data("export", "--peft", str(card))
        text = (card / "README.md").read_text()
        swarm_said = anna.status()["swarm"]
        for said in (swarm_said["genesis"], swarm_said["state_hash"], "| anna | ", "head round"):
            assert said in text


def _bare(tensors: Adapter) -> Adapter:
    return {name.removeprefix("base_model.model.").removesuffix(".weight"): array for name, array in tensors.items()}
