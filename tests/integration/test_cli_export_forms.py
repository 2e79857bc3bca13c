"""`spearctl export` for programs that know nothing of this one: PEFT, transformers and llama.cpp's format."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gguf import GGUFReader

import profiles
from spearctl import config as settings
from spearctl import targets
from spearctl.home import Home
from tests.cli import Cli, clean_environment
from tests.foreign import make_loud, own_adapter, write_foreign
from tests.homes import files_of, winnable, write_log
from training import lora, models
from training.adapters import read_peft_folder
from training.history import History
from training.rollout import GREEDY, sample
from training.sources import resolve

PROMPTS = ("Is it so?", "Say something long.", "Answer: yes or no.", "The one word that is asked for is")
NEW_TOKENS = 12

PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, peft, merged, prompts, count = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(merged)
def said(model):
    model.eval()
    told = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model.generate(input_ids=ids, max_new_tokens=count, do_sample=False)
        told.append(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
    return told
plain = AutoModelForCausalLM.from_pretrained(base)
result = {"base": said(plain), "merged": said(AutoModelForCausalLM.from_pretrained(merged))}
result["peft"] = said(PeftModel.from_pretrained(plain, peft))
result["ours"] = sorted({name.partition(".")[0] for name in sys.modules} & {"spearctl", "training", "p2p", "profiles"})
print(json.dumps(result))
"""

KILLED = """
import os, signal, sys
from spearctl import targets
targets._flush_all = lambda path: os.kill(os.getpid(), signal.SIGKILL)
from spearctl.main import main
main(sys.argv[1:])
"""


@pytest.fixture
def loud(device: Cli, tiny_model: Path) -> Cli:
    """A home that uses an adapter with which the tiny model says something else."""
    adapter = make_loud(own_adapter(device.home, device.folder / "own"))
    folder = write_foreign(device.folder / "loud", adapter, base_model=str(tiny_model))
    assert device("import", str(folder), "--yes").code == 0
    return device


def ours(home: Home, tiny_model: Path) -> list[str]:
    """What this program's own model says greedily with the adapter in use."""
    table = settings.read_table(home.config_path)
    found = profiles.resolve(profiles.load(str(table["profile"])), profiles.detect(accelerators=False))
    lm = models.load(resolve(str(tiny_model), tiny_model), found, models.LoraSettings(), prompt_format="raw")
    lora.set_adapter(lm.network, read_peft_folder(home.adapters_path / "local-1"))
    prompts = [lm.encode_text(prompt) for prompt in PROMPTS]
    return [lm.decode(said.tokens) for said in sample(lm, prompts, [NEW_TOKENS] * len(prompts), GREEDY, batch=4)]


def test_plain_peft_and_transformers_say_what_this_program_says(loud: Cli, tiny_model: Path) -> None:
    peft, merged = (loud.folder / name for name in ("peft", "merged"))
    outcome = loud("export", "--peft", str(peft), "--merged", str(merged))
    assert outcome.code == 0, outcome.err
    assert "of the adapter's delta is in the files" in outcome.out
    given = json.dumps([str(tiny_model), str(peft), str(merged), PROMPTS, NEW_TOKENS])
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, given],
        cwd=loud.folder,
        env=clean_environment(loud.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    wanted = ours(loud.home, tiny_model)
    assert told["ours"] == []
    assert told["base"] != wanted
    assert told["peft"] == wanted
    assert told["merged"] == wanted


def test_the_gguf_holds_the_tensors_of_the_peft_folder(loud: Cli) -> None:
    peft, file = loud.folder / "peft", loud.folder / "lora.gguf"
    assert loud("export", "--peft", str(peft), "--gguf-lora", str(file)).code == 0
    adapter, reader = read_peft_folder(peft), GGUFReader(file)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(found) == len(adapter)
    names = {"self_attn.": "attn_", "attn_o_proj": "attn_output", "mlp.": "ffn_", "_proj": "", "model.layers.": "blk."}
    for name, values in adapter.items():
        path, _, part = name.rpartition(".")
        for ours, theirs in names.items():
            path = path.replace(ours, theirs)
        stored = found[f"{path}.weight.{part.lower()}"]
        heads = {"attn_q": 4, "attn_k": 2}.get(path.rpartition(".")[2])
        if heads and part == "lora_B":
            stored = stored.reshape(heads, -1, 2, stored.shape[1]).swapaxes(1, 2).reshape(stored.shape)
        assert (stored.astype(np.float16) == values.astype(np.float16)).all()
        assert (stored == values).all()
    said = {name: field.contents() for name, field in reader.fields.items()}
    facts = json.loads((peft / "spearctl.json").read_text())
    assert all(said[f"spearctl.{key}"] == value for key, value in facts.items())
    assert facts["adapter.sha256"] in said["general.description"]


def test_every_form_comes_with_a_card(loud: Cli, tiny_model: Path) -> None:
    log = write_log(loud.folder / "log.jsonl", winnable(6))
    assert loud("train", "--feedback", str(log), "--rounds", "1").code == 0
    peft, merged, file = (loud.folder / name for name in ("peft", "merged", "lora.gguf"))
    outcome = loud("export", "--peft", str(peft), "--merged", str(merged), "--gguf-lora", str(file), "--json")
    data = outcome.envelope["data"]
    assert [data[kind] for kind in ("peft", "merged", "gguf_lora")] == [str(peft), str(merged), str(file)]
    assert [target["kind"] for target in data["written"]] == ["peft", "merged", "gguf_lora"]
    assert data["merge"]["delta_kept"] == pytest.approx(1.0, abs=1e-4)
    fingerprint = settings.read_table(loud.home.config_path)["model_fingerprint"]
    for folder, library in ((peft, "peft"), (merged, "transformers")):
        text = (folder / "README.md").read_text()
        _, matter, body = text.split("---\n", 2)
        assert yaml.safe_load(matter)["base_model"] == "tiny"
        assert yaml.safe_load(matter)["library_name"] == library
        for said in (fingerprint, data["sha256"], "rank 16, alpha 32", "1 round on one device"):
            assert said in body
        assert "local:1 was imported: loud" in body
        assert "None: the device that exported it keeps no result" in body
        assert str(loud.folder) not in text
        assert tiny_model.parent.name not in text
    assert json.loads((peft / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_a_card_tells_what_was_measured_of_the_adapter(device: Cli) -> None:
    log = write_log(device.folder / "log.jsonl", winnable(6))
    assert device("train", "--feedback", str(log), "--rounds", "1").code == 0
    for words in ((), ("--adapter", "base")):
        assert device("eval", "--data", str(log), *words).code == 0
    assert device("export", "--peft", "out").code == 0
    text = (device.folder / "out" / "README.md").read_text()
    with History(device.home.history_path) as history:
        found = {result.adapter: result for result in history.evaluations()}["local:1"]
    row = f"| {found.log_sha256[:16]} | 6 | {found.right} | {found.formatted} |"
    assert text.count(f"| {found.log_sha256[:16]} |") == 1
    assert row in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing says what to write"),
        (("--peft", "new", "--merged", "new"), "two targets have the same name"),
        (("--peft", "new", "--merged", "taken"), "taken exists"),
        (("--gguf-lora", "taken"), "taken exists"),
        (("--peft", "new/inner", "--merged", "new"), "new/inner lies within"),
        (("--peft", "new", "--gguf-lora", "new/file"), "new/file lies within"),
    ],
)
def test_targets_that_cannot_be_are_code_2_and_nothing_is_written(
    device: Cli, words: tuple[str, ...], said: str
) -> None:
    (device.folder / "taken").write_text("mine")
    before = files_of(device.folder)
    outcome = device("export", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert files_of(device.folder) == before
    assert not (device.folder / "new").exists()


def scratch_of(device: Cli) -> list[Path]:
    return list(device.folder.glob(f"{targets.PREFIX}*"))


@pytest.mark.parametrize("form", ["--peft", "--merged", "--gguf-lora"])
def test_what_a_killed_export_left_is_removed_by_the_next_one(device: Cli, form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "export", form, "out"],
        cwd=device.folder,
        env=clean_environment(device.folder),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (device.folder / "out").exists()
    assert len(scratch_of(device)) == 1
    assert device("export", form, "out").code == 0
    assert scratch_of(device) == []


def test_what_another_export_writes_at_the_moment_stays(device: Cli) -> None:
    with targets.written([device.folder / "slow"]) as (path,):
        path.write_text("half")
        assert device("export", "--peft", "quick").code == 0
        assert path.read_text() == "half"
    assert (device.folder / "slow").read_text() == "half"


def test_what_only_looks_like_scratch_stays(device: Cli) -> None:
    mine = device.folder / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    for name in ("link", "file"):
        place = device.folder / f"{targets.PREFIX}{name}"
        place.symlink_to(mine) if name == "link" else place.write_text("mine")
    assert device("export", "--peft", "out").code == 0
    assert (mine / "file").read_text() == "mine"
    assert len(scratch_of(device)) == 2


def test_who_may_read_an_export_is_what_the_umask_says(device: Cli) -> None:
    before = os.umask(0o027)
    try:
        assert device("export", "--peft", "peft", "--gguf-lora", "file").code == 0
    finally:
        os.umask(before)
    paths = [device.folder / "file", *(device.folder / "peft").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o640}
    assert stat.S_IMODE((device.folder / "peft").stat().st_mode) == 0o750


def test_a_base_model_that_cannot_be_read_is_no_fault_of_the_target(device: Cli) -> None:
    beside = device.folder / "model.safetensors"
    beside.mkdir()
    with pytest.raises(IsADirectoryError), targets.written([device.folder / "out"]):
        beside.read_bytes()


def test_a_disk_that_is_full_is_code_9_and_leaves_nothing(device: Cli) -> None:
    """No file may grow beyond a limit here, which fails a write as a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    for words in (("--merged", "out"), ("--peft", "first", "--gguf-lora", "out"), ("--peft", "out")):
        done = subprocess.run(
            [sys.executable, "-m", "spearctl", "export", *words],
            cwd=device.folder,
            env=clean_environment(device.folder),
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 9, done.stderr
        assert "cannot be written" in done.stderr
        assert "hint: free some disk space" in done.stderr
        assert not {"out", "first"} & set(os.listdir(device.folder))
        assert not scratch_of(device)
