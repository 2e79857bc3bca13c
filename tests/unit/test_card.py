"""Model cards: what they say, and what a name or a path cannot do to them."""

from __future__ import annotations

import re

import pytest
import yaml

from p2p.credits import Credit
from spearctl import card
from spearctl.card import Facts, Lineage, Swarm
from tests.cli import make_config
from training.adapters import AdapterShape, tensor_shapes
from training.merge import Kept, MergeReport

SHAPE = AdapterShape(2, 4, tensor_shapes([("up.lora_A", (2, 3)), ("up.lora_B", (5, 2))]))
HOSTILE = 'x](http://evil.example) | <img src=x> `a` @all\n---\nlicense: "mit"\u202e'


def facts(*, name: str = "ben", model: str = "smollm2-135m", prompt: str | None = None) -> Facts:
    credits = (Credit(b"\xab" * 32, name, 3, 2, 17), Credit(b"\xcd" * 32, "", 1, 0, 0))
    swarm = Swarm(name, "ab" * 32, 7, 4, "cd" * 32, 5, credits)
    config = make_config(model=model, system_prompt=prompt)
    return Facts("round:7", "ef" * 32, SHAPE, config, swarm, None)


REPORT = MergeReport(Kept(1.0, 0.99999, 1e-9), Kept(1.0, 0.18, 0.9), "bfloat16", 210, 210)


def cards(found: Facts) -> list[str]:
    return [card.peft_card(found), card.merged_card(found, REPORT), card.gguf_card(found)]


def test_every_card_says_where_it_came_from() -> None:
    found = facts()
    for text in cards(found):
        for said in ("ab" * 32, "cd" * 32, "ef" * 32, "rank 2, alpha 4, 1 layer, 16 values", "7 (sealed up to 4)"):
            assert said in text
        assert "| ben | abababababababab | 3 | 2 | 17 |" in text
        assert "| - | cdcdcdcdcdcdcdcd | 1 | 0 | 0 |" in text
        assert "5 wins of the device that exported it" in text
        assert "None: the device that exported it keeps no result" in text
        assert "Up to round 4 a seal keeps who signed in a round, learned or not, and no wins" in text
        assert "smollm2\\-135m, a quantised copy of HuggingFaceTB\\/SmolLM2\\-135M\\-Instruct" in text
        assert "Apache-2.0" in text
        assert "## How to load it" in text


def test_the_front_matter_is_what_the_hub_expects() -> None:
    for text, library, relation in zip(cards(facts()), ("peft", "transformers"), ("adapter", "finetune"), strict=False):
        matter = yaml.safe_load(text.split("---\n", 2)[1])
        assert matter["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert (matter["library_name"], matter["base_model_relation"]) == (library, relation)
        assert all(isinstance(tag, str) for tag in matter["tags"])


def test_a_name_stays_a_name_in_its_cell() -> None:
    for text in cards(facts(name=HOSTILE)):
        row = next(line for line in text.splitlines() if line.endswith("| 3 | 2 | 17 |"))
        assert len(re.findall(r"(?<!\\)\|", row)) == 6
        assert not re.search(r"(?<!\\)[<`@\[\]]", row)
        assert "\u202e" not in text
        assert not text.startswith("---") or yaml.safe_load(text.split("---\n", 2)[1]).keys().isdisjoint({"license"})


def test_neither_a_path_nor_a_system_prompt_gets_out() -> None:
    for text in cards(facts(model="/home/anna/secret/my model: v1", prompt="You are Anna's helper.")):
        assert "/home" not in text
        assert "secret" not in text
        assert "helper" not in text
        assert "after a system prompt that is not in here" in text


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("org/name", "org/name"),
        ("gpt2", "gpt2"),
        ("/a/b/My Model", "My-Model"),
        ("~/x.Q4.gguf", "x.Q4.gguf"),
        ("..", "model"),
        ("a/b/c", "c"),
    ],
)
def test_a_base_model_is_named_as_the_hub_takes_it(reference: str, name: str) -> None:
    assert card.base_name(reference) == name


def test_shares_of_a_delta_are_told_with_what_matters() -> None:
    assert [card.share(value) for value in (0.999998, 1.0, 0.164, None)] == ["99.9998 %", "100.0000 %", "16 %", "-"]
    line = card.merge_line(REPORT)
    assert line.startswith("99.9990 % of the adapter's delta is in the files")
    assert "210 of 210 changed matrices in float32" in line
    assert "In bfloat16 alone, as the base model has it, 18 % would be" in line
    nothing = MergeReport(Kept(), Kept(), "bfloat16", 210, 0)
    assert card.merge_line(nothing) == "The adapter changes nothing, so the weights are those of the base model."


def test_a_version_tells_how_it_came_about() -> None:
    config = make_config()
    found = Facts("local:3", "ef" * 32, SHAPE, config, None, Lineage("round:4", 2, 9, {"local:1": "a_b, a folder"}))
    text = card.peft_card(found)
    assert "local:3: 2 rounds on one device, 9 wins, begun with round:4 of a swarm." in text
    assert "local:1 was imported: a\\_b\\, a folder." in text


def test_an_imported_version_claims_no_rounds() -> None:
    found = Facts("local:1", "ef" * 32, SHAPE, make_config(), None, Lineage("base", 0, 0, {"local:1": "a folder"}))
    text = card.peft_card(found)
    assert "local:1: no round on this device, on top of the base model." in text
    assert "local:1 was imported: a folder." in text


def test_a_folder_is_no_hub_id_and_a_hub_id_is_named() -> None:
    assert 'AutoModelForCausalLM.from_pretrained("FOLDER/OF/THE/BASE/MODEL")' in card.peft_card(facts(model="/a/gpt2"))
    assert "gpt2, as its place was called; the fingerprint says which one" in card.peft_card(facts(model="/a/gpt2"))
    assert 'AutoModelForCausalLM.from_pretrained("org/name")' in card.peft_card(facts(model="org/name"))
