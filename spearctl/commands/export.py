"""`spearctl export`: takes the adapter elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from spearctl import sharing
from spearctl.command import command, group
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import tilde

commands = group()


@dataclass(frozen=True, slots=True)
class ExportResult(Result):
    """An adapter that was written."""

    folder: Path
    adapter: str
    sha256: str

    def data(self) -> Mapping[str, Any]:
        return {"peft": self.folder, "adapter": self.adapter, "sha256": self.sha256}

    def render(self, console: Page) -> None:
        console.print(f"{tilde(self.folder)}: adapter {self.adapter}, as peft.PeftModel.from_pretrained reads it")


@command(commands, "export")
def export(
    run: Run,
    peft: Annotated[Path, typer.Option("--peft", metavar="DIR", help="Write a PEFT adapter folder.")],
    adapter: Annotated[str | None, typer.Option(metavar="NAME", help="A version, instead of what is in use.")] = None,
) -> ExportResult:
    """Writes the adapter in use for other programs.

    In a swarm that is what all members share, with what this device has learned on top.
    """
    from training.adapters import adapter_digest, write_peft_folder
    from training.history import History

    config = run.config()
    if peft.exists():
        raise UsageError(f"{peft} exists", "choose a new folder")
    shape = sharing.shape(run, config)
    with History(run.home.history_path) as history:
        found = sharing.shared(run, config) if adapter is None else None
        name = adapter or (f"round:{found.head_round}" if found else history.current)
        tensors = found.adapter if found else sharing.open_store(run, config, history, shape).load(name)
    target = Path(os.path.abspath(peft))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".export."))
    try:
        write_peft_folder(scratch, tensors, shape, base_model=config.model, dropout=config.adapter.dropout)
        scratch.chmod(0o755)
        os.rename(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return ExportResult(target, name, adapter_digest(tensors))
