"""`spearctl export`: takes the adapter elsewhere, alone or within a model, with a card that says what it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import card, sharing
from spearctl.card import Facts
from spearctl.command import command, group
from spearctl.errors import UsageError
from spearctl.learner import Phases, find_model
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.targets import refuse_conflicts, written
from spearctl.text import size, tilde

if TYPE_CHECKING:
    from spearctl.config import Config
    from training.adapters import Adapter
    from training.merge import MergeReport
    from training.sources import ModelSource

commands = group()

TRIES = 8
CARD_FILE = "README.md"
READ_AS = {
    "peft": "as peft.PeftModel.from_pretrained reads it",
    "merged": "a whole model, as transformers.AutoModelForCausalLM.from_pretrained reads it",
    "gguf_lora": "as llama.cpp reads it beside the base model: --lora FILE",
}


@dataclass(frozen=True, slots=True)
class Written:
    """One target.

    Attributes:
        kind: `peft`, `merged` or `gguf_lora`.
        path: Where it is.
        bytes: Of all its files.
        seconds: That writing and checking took.
    """

    kind: str
    path: Path
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ExportResult(Result):
    """An adapter that was written, in one or more forms."""

    adapter: str
    sha256: str
    written: tuple[Written, ...]
    merge: MergeReport | None

    def data(self) -> Mapping[str, Any]:
        paths = dict.fromkeys(READ_AS) | {target.kind: target.path for target in self.written}
        return {
            **paths,
            "adapter": self.adapter,
            "sha256": self.sha256,
            "written": self.written,
            "merge": self._merge_data(),
        }

    def render(self, console: Page) -> None:
        for target in self.written:
            what = f"{tilde(target.path)}: adapter {self.adapter}, {READ_AS[target.kind]} ({size(target.bytes)})"
            console.print(what)
        if self.merge is not None:
            console.print(card.merge_line(self.merge))

    def _merge_data(self) -> Mapping[str, Any] | None:
        if self.merge is None:
            return None
        report = self.merge
        return {
            "delta_kept": report.kept.share,
            "delta_lost": report.kept.lost,
            "base_dtype": report.base_dtype,
            "base_dtype_would_keep": report.base_kept.share,
            "matrices": report.matrices,
            "float32_matrices": report.widened,
        }


@command(commands, "export")
def export(
    run: Run,
    peft: Annotated[Path | None, typer.Option("--peft", metavar="DIR", help="Write a PEFT adapter folder.")] = None,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", metavar="DIR", help="Write a whole model, with the adapter in its weights."),
    ] = None,
    gguf_lora: Annotated[
        Path | None, typer.Option("--gguf-lora", metavar="FILE", help="Write a LoRA file for llama.cpp.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(metavar="NAME", help="A version, instead of what is in use.")] = None,
) -> ExportResult:
    """Writes the adapter in use for other programs, in one form or several.

    In a swarm that is what all members share, with what this device has learned on top. With it comes a model card,
    in a GGUF file as its description: the base model, hashes, the swarm, and who taught it.
    """
    named = {"peft": peft, "merged": merged, "gguf_lora": gguf_lora}
    targets = {kind: Path(os.path.abspath(path)) for kind, path in named.items() if path is not None}
    if not targets:
        raise UsageError(
            "nothing says what to write", "name one or more of --peft DIR, --merged DIR and --gguf-lora FILE"
        )
    refuse_conflicts([*targets.values()])
    facts, tensors = _gather(run, adapter)
    source = find_model(run, facts.config) if targets.keys() - {"peft"} else None
    done, report = [], None
    with written([*targets.values()]) as scratch:
        for (kind, target), path in zip(targets.items(), scratch, strict=True):
            started = time.monotonic()
            report = _write(run, kind, path, facts, tensors, source) or report
            done.append(Written(kind, target, _bytes(path), time.monotonic() - started))
    return ExportResult(facts.adapter, facts.sha256, tuple(done), report)


def _gather(run: Run, name: str | None) -> tuple[Facts, Adapter]:
    """What is exported, and all that a card says of it."""
    from training.adapters import adapter_digest
    from training.history import History

    config = run.config()
    shape = sharing.shape(run, config)
    with History(run.home.history_path) as history:
        together = _shared(run, config) if name is None else None
        if together is not None:
            found, said = together
            name, tensors, lineage = f"round:{found.head_round}", found.adapter, None
        else:
            name, said = name or history.current, None
            tensors = sharing.open_store(run, config, history, shape).load(name)
            lineage = card.lineage(history, name)
        measured = tuple(result for result in history.evaluations() if result.adapter == name)
        return Facts(name, adapter_digest(tensors), shape, config, said, lineage, measured), tensors


def _shared(run: Run, config: Config) -> tuple[sharing.Shared, card.Swarm] | None:
    """What a member uses, with what its ledger says at that moment: a node beside this may go on meanwhile."""
    if not sharing.takes_part(run, config):
        return None
    said, found, tries = card.swarm_facts(run), None, TRIES
    while tries:
        found, before, tries = sharing.shared(run, config), said, tries - 1
        said = card.swarm_facts(run)
        if said == before:
            break
    return None if found is None else (found, said)


def _write(
    run: Run, kind: str, path: Path, facts: Facts, tensors: Adapter, source: ModelSource | None
) -> MergeReport | None:
    if kind == "peft":
        from training.adapters import write_peft_folder
        from training.incoming import FACTS_FILE

        path.mkdir()
        config = facts.config
        write_peft_folder(
            path,
            tensors,
            facts.shape,
            base_model=facts.base,
            dropout=config.adapter.dropout,
        )
        (path / FACTS_FILE).write_text(json.dumps(facts.short(), indent=2) + "\n", encoding="utf-8")
        (path / CARD_FILE).write_text(card.peft_card(facts), encoding="utf-8")
        return None
    assert source is not None
    if kind == "gguf_lora":
        from training.gguf_lora import write_gguf_lora

        write_gguf_lora(
            path,
            tensors,
            facts.shape,
            source.folder,
            base_model=facts.base,
            description=card.gguf_card(facts),
            facts=facts.short(),
        )
        return None
    return _write_merged(run, path, facts, tensors, source)


def _write_merged(run: Run, path: Path, facts: Facts, tensors: Adapter, source: ModelSource) -> MergeReport:
    from training.merge import write_merged

    path.mkdir()
    with Phases(run) as phases:
        phases.begin("merging")
        report = write_merged(
            source.folder, path, tensors, facts.shape, notify=lambda done, total: phases.show("tensors", done, total)
        )
    (path / CARD_FILE).write_text(card.merged_card(facts, report), encoding="utf-8")
    return report


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
