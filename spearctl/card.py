"""The model card that goes with every export: what it is, where it came from, who taught it, and how it is loaded.

It says nothing that this device does not know, names no place on it, and has no date: members who hold the same write
the same. Names of members are anything that somebody chose to call a device, so they are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import spearctl
from spearctl import sharing, swarm
from spearctl.config import Config
from spearctl.run import Run
from spearctl.text import count, printable

if TYPE_CHECKING:
    from p2p.credits import Credit
    from training.adapters import AdapterShape
    from training.history import EvaluationRecord, History
    from training.merge import MergeReport

KEY_CHARS = 16
"""Of a member's id that are shown."""

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_ORIGINALS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""What the hub calls the models of the catalogue, which are quantised copies."""

_HOW = (
    "By SPEAR (Lee et al. 2026, arXiv 2605.07977): self-play on prompts with a check, then likelihood on what was right"
    " and weighted unlikelihood on what was wrong, on the devices of its users. What they said is not in here."
)
_APART = (
    "Keep the adapter apart. `merge_and_unload()` in bfloat16 or float16 rounds much of it away;"
    " `spearctl export --merged` writes a merged model that keeps it."
)


@dataclass(frozen=True, slots=True)
class Swarm:
    """A swarm as a member sees it.

    Attributes:
        name: For people.
        genesis: Its hash.
        head_round: The round that the state is of.
        sealed_round: The last sealed one.
        state_hash: Of the state.
        unshared_wins: Of this device, on top of the state.
        credits: Who gave what.
    """

    name: str
    genesis: str
    head_round: int
    sealed_round: int
    state_hash: str
    unshared_wins: int
    credits: tuple[Credit, ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """How a version came about on this device.

    Attributes:
        start: What the first of its rounds began with: `base`, or `round:R` of a swarm.
        rounds: Since then.
        wins: Of these rounds.
        brought: Names and origins of versions on the way that were imported.
    """

    start: str
    rounds: int
    wins: int
    brought: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card tells of an adapter.

    Attributes:
        adapter: Name of the version.
        sha256: Over its tensors.
        shape: Its shape.
        config: The home's settings.
        swarm: Where it came from a swarm's state.
        lineage: How it came about on this device; none where the state of a swarm is exported.
        evaluations: What was measured of it here.
    """

    adapter: str
    sha256: str
    shape: AdapterShape
    config: Config
    swarm: Swarm | None
    lineage: Lineage | None
    evaluations: tuple[EvaluationRecord, ...] = ()

    @property
    def base(self) -> str:
        """The base model's name, without its place on this device."""
        return base_name(self.config.model)

    def short(self) -> dict[str, str]:
        """What a file says of itself by keys."""
        facts = {
            "version": spearctl.__version__,
            "adapter.name": self.adapter,
            "adapter.sha256": self.sha256,
            "base_model.name": self.base,
            "base_model.fingerprint": self.config.model_fingerprint,
        }
        if self.swarm is not None:
            facts |= {
                "swarm.name": printable(self.swarm.name),
                "swarm.genesis": self.swarm.genesis,
                "swarm.head_round": str(self.swarm.head_round),
                "swarm.state_hash": self.swarm.state_hash,
            }
        return facts


def swarm_facts(run: Run) -> Swarm:
    """What this home's ledger says of its swarm.

    Raises:
        LedgerError: It is damaged.
    """
    from p2p.credits import credits

    with swarm.view(run) as view:
        said, found = view.overview["swarm"], credits(view.context)
    return Swarm(
        name=said["name"],
        genesis=said["genesis"],
        head_round=said["head_round"],
        sealed_round=said["sealed_round"],
        state_hash=said["state_hash"],
        unshared_wins=said["pending_wins"] + sharing.waiting_wins(run, with_kept=True),
        credits=found,
    )


def lineage(history: History, name: str) -> Lineage:
    """How a version came about."""
    made = {version.name: version for version in history.versions()}
    origins, rounds, wins, brought = history.origins(), 0, 0, {}
    while (version := made.get(name)) is not None:
        if name in origins:
            brought[name] = origins[name]
        elif version.round is not None:
            rounds, wins = rounds + 1, wins + version.wins
        name = version.parent
    return Lineage(name, rounds, wins, brought)


def base_name(reference: str) -> str:
    """A base model's name as the hub takes it: a hub id, or the last part of a path."""
    if reference in _ORIGINALS:
        return _ORIGINALS[reference]
    if _HUB_ID.fullmatch(reference):  # a home names a folder by its whole path
        return reference
    return re.sub(r"[^\w.-]+", "-", Path(reference).name, flags=re.ASCII).strip("-.") or "model"


def markdown(text: str) -> str:
    """Escapes a text, so that Markdown shows it as it is, on one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(printable(text).split()))


def _yaml(values: Mapping[str, object]) -> str:
    """Front matter; JSON strings and lists are YAML."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def peft_card(facts: Facts) -> str:
    """The card of a PEFT folder."""
    matter = {
        "base_model": facts.base,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [f"base_model:adapter:{facts.base}", "lora", "peft", "spearctl", "transformers"],
    }
    load = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        *_load_base(facts),
        'model = PeftModel.from_pretrained(base, "PATH/OF/THIS/FOLDER")',
    ]
    return f"---\n{_yaml(matter)}---\n\n{_body(facts, 'a LoRA adapter in the form of PEFT', load, [_APART])}"


def merged_card(facts: Facts, report: MergeReport) -> str:
    """The card of a whole model."""
    matter = {
        "base_model": facts.base,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merged-lora", "safetensors", "spearctl"],
    }
    load = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("PATH/OF/THIS/FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("PATH/OF/THIS/FOLDER")',
    ]
    notes = [merge_line(report)]
    if report.widened:
        notes.append(
            "`config.json` has it loaded in float32. Loaded in bfloat16 or float16 it is rounded, and much of what was"
            " learned is lost."
        )
    return f"---\n{_yaml(matter)}---\n\n{_body(facts, 'a whole model with the adapter added to it', load, notes)}"


def gguf_card(facts: Facts) -> str:
    """What a GGUF file says of itself, in words."""
    load = ["llama-cli -m BASE.gguf --lora THIS_FILE.gguf"]
    notes = ["The base model goes with it as a GGUF file of its own, quantised or not. Tensors are float32."]
    return _body(facts, "a LoRA adapter for llama.cpp", load, notes, language="sh")


def merge_line(report: MergeReport) -> str:
    """How much of an adapter a merged model holds."""
    if report.kept.share is None:
        return "The adapter changes nothing, so the weights are those of the base model."
    wide = f"{report.widened} of {count(report.matrices, 'changed matrix', 'changed matrices')} in float32"
    return (
        f"{share(report.kept.share)} of the adapter's delta is in the files, as measured on them; they hold {wide}."
        f" In {report.base_dtype} alone, as the base model has it, {share(report.base_kept.share)} would be."
    )


def share(value: float | None) -> str:
    """A share of a delta: "99.9998 %", "16 %"."""
    if value is None:
        return "-"
    return f"{value:.4%}".replace("%", " %") if abs(1 - value) < 0.01 else f"{value:.0%}".replace("%", " %")


def _load_base(facts: Facts) -> list[str]:
    model = facts.config.model
    if model in _ORIGINALS or model.lower().endswith(".gguf"):
        file = _gguf_file(model)
        return [
            f"where = {{'gguf_file': {json.dumps(file)}}}  # the copy that it was trained on",
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER/OF/THE/GGUF", **where)',
            'base = AutoModelForCausalLM.from_pretrained("FOLDER/OF/THE/GGUF", **where)',
        ]
    name = json.dumps(facts.base if model == facts.base else "FOLDER/OF/THE/BASE/MODEL")
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({name})",
        f"base = AutoModelForCausalLM.from_pretrained({name})",
    ]


def _base_cell(facts: Facts) -> str:
    model, name = facts.config.model, markdown(facts.base)
    if model in _ORIGINALS:
        return f"{markdown(model)}, a quantised copy of {name}"
    return name if model == facts.base else f"{name}, as its place was called; the fingerprint says which one that is"


def _gguf_file(model: str) -> str:
    from training.catalogue import CATALOGUE

    return Path(CATALOGUE[model].member if model in CATALOGUE else model).name


def _body(facts: Facts, what: str, load: Sequence[str], notes: Sequence[str], *, language: str = "python") -> str:
    shape, config = facts.shape, facts.config
    parameters = sum(tensor.rows * tensor.columns for tensor in shape.tensors)
    layers = count(len(shape.targets), "layer")
    rows = [
        ("base model", _base_cell(facts)),
        ("its fingerprint", config.model_fingerprint),
        ("prompts", _prompts(config)),
        ("adapter", f"{facts.adapter}: rank {shape.rank}, alpha {shape.alpha}, {layers}, {parameters:,} values"),
        ("shape digest", shape.digest().hex()),
        ("SHA-256 of the adapter", facts.sha256),
    ]
    parts = [
        f"# {markdown(facts.base)}, taught by feedback",
        f"This is {what}, exported by spearctl {spearctl.__version__}.",
        _table(("", ""), rows),
        "## Where it came from",
        *_origin(facts),
        "## Evaluation",
        _evaluation(facts.evaluations),
        "## How it was made",
        _HOW,
        *notes,
        "## How to load it",
        f"```{language}\n" + "\n".join(load) + "\n```",
        "## Licence",
        _licence(config.model),
    ]
    return "\n\n".join(parts) + "\n"


def _evaluation(found: Sequence[EvaluationRecord]) -> str:
    """The last result on each set of questions."""
    if not found:
        return "None: the device that exported it keeps no result of `spearctl eval` for it."
    last = {result.log_sha256: result for result in found}.values()
    rows = [(result.log_sha256[:KEY_CHARS], *map(str, (result.n, result.right, result.formatted))) for result in last]
    names = ("SHA-256 of the questions", "how many", "right, in the asked form", "in the asked form")
    whose = "By `spearctl eval` on the device that exported it, whose own questions these are; they are not in here."
    return f"{_table(names, rows)}\n\n{whose}"


def _prompts(config: Config) -> str:
    how = "by the model's chat template" if config.prompt_format == "chat" else "as plain text"
    return how + (", after a system prompt that is not in here" if config.system_prompt else "")


def _origin(facts: Facts) -> list[str]:
    found = facts.lineage
    parts = _swarm(facts.swarm) if facts.swarm is not None else []
    if found is not None:
        start = "the base model" if found.start == "base" else f"{found.start} of a swarm"
        rounds = f"{count(found.rounds, 'round')} on one device, {count(found.wins, 'win')}, begun with {start}"
        parts.append(f"{facts.adapter}: {rounds if found.rounds else f'no round on this device, on top of {start}'}.")
        parts += [f"{name} was imported: {markdown(origin)}." for name, origin in found.brought.items()]
    return parts


def _swarm(found: Swarm) -> list[str]:
    rows = [
        ("swarm", markdown(found.name)),
        ("genesis", found.genesis),
        ("head round", f"{found.head_round} (sealed up to {found.sealed_round})"),
        ("state hash", found.state_hash),
    ]
    if found.unshared_wins:
        rows.append(("on top of the state", f"{count(found.unshared_wins, 'win')} of the device that exported it"))
    who = [
        (
            markdown(credit.name) or "-",
            credit.member.hex()[:KEY_CHARS],
            *map(str, (credit.sealed, credit.rounds, credit.wins)),
        )
        for credit in found.credits
    ]
    parts = [_table(("", ""), rows)]
    if who:
        names = ("member", "key", "sealed rounds signed", "later rounds", "wins in these")
        told = (
            f"Members choose their names. Up to round {found.sealed_round} a seal keeps who signed in a round, learned"
            " or not, and no wins; so wins are only those of later rounds, not of all that a member ever gave."
        )
        parts += [_table(names, who), told]
    else:
        parts.append("No member has shared anything yet.")
    return parts


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _licence(model: str) -> str:
    from training.catalogue import CATALOGUE

    theirs = f": {CATALOGUE[model].licence}" if model in CATALOGUE else ", which it says itself"
    return (
        f"The base model's licence goes on to hold for what is made of it{theirs}. spearctl states none for what was"
        " learned: that is for those who publish it to say."
    )
