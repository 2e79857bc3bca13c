"""What a swarm is: read as it was written, named by its hash, and refused where it contradicts itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import limits
from p2p.encoding import digest, encode
from p2p.errors import WireError
from p2p.records import Genesis, TensorSpec, read_genesis
from tests.strategies import geneses

GENESIS = Genesis(
    version=1,
    name="home",
    fingerprint=bytes([1] * 32),
    prompt_format="chat",
    system_prompt="",
    rank=4,
    alpha=8,
    tensors=(TensorSpec("a.lora_A", 4, 8), TensorSpec("a.lora_B", 8, 4), TensorSpec("b.lora_A", 4, 16)),
    grid_bits=20,
    rule="fedavg",
    share="both",
    weight_cap=32,
    norm_bound=1 << 16,
    quorum=1,
    seal_lag=8,
    sealer=bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"),
    recovery=bytes([2] * 32),
    nonce=bytes(16),
)
A, B = GENESIS.tensors[:2]


def changed(**changes: Any) -> Genesis:
    return msgspec.structs.replace(GENESIS, **changes)


@given(geneses())
def test_a_genesis_is_read_as_it_was_written(genesis: Genesis) -> None:
    again = read_genesis(encode(genesis))
    assert again == genesis
    assert again.hash == genesis.hash == digest("genesis", encode(genesis))
    assert all(again.travelling(round) for round in (1, 2, 3, 2**62))


@given(geneses(), geneses(), st.sampled_from(Genesis.__struct_fields__))
def test_swarms_that_differ_in_any_field_differ_in_their_hash(one: Genesis, other: Genesis, field: str) -> None:
    other = msgspec.structs.replace(one, **{field: getattr(other, field)})
    assert (one.hash == other.hash) == (one == other)


def test_the_hash_is_pinned() -> None:
    """A second implementation gets the same."""
    assert GENESIS.hash.hex() == "9d4930ff0520e922125f3b6181dca3c753dde576f16ba62232a8962ade883f2e"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tensors": GENESIS.tensors[::-1]}, "not sorted"),
        ({"tensors": GENESIS.tensors[:1] * 2}, "not different"),
        ({"tensors": (TensorSpec("a", 1, 1),)}, "neither a lora_A nor a lora_B"),
        ({"tensors": (TensorSpec("a.lora_A.x", 1, 1),)}, "neither a lora_A nor a lora_B"),
        ({"tensors": (TensorSpec("a.lora_A", 1 << 28, 2),)}, "536,870,912 parameters"),
        ({"tensors": tuple(TensorSpec(f"{n}.lora_A", 1 << 14, 1 << 14) for n in range(2))}, "536,870,912 parameters"),
        ({"norm_bound": 1 << 40}, "bounds nothing"),
        ({"tensors": (TensorSpec("a.lora_A", 2, 2),), "norm_bound": 32767 * 3 + 1}, "bounds nothing"),
        ({"tensors": ()}, "length >= 1"),
        ({"tensors": tuple(TensorSpec(f"{n:04}.lora_A", 1, 1) for n in range(4097))}, "length <= 4096"),
        ({"tensors": (TensorSpec("a.lora_A", 0, 1),)}, ">= 1"),
        ({"tensors": (TensorSpec("a" * 250 + ".lora_A", 1, 1),)}, "length <= 256"),
        ({"version": 2}, "Invalid"),
        ({"prompt_format": "html"}, "Invalid"),
        ({"rule": "krum"}, "Invalid"),
        ({"share": "a"}, "Invalid"),
        ({"grid_bits": 7}, ">= 8"),
        ({"grid_bits": 21}, "<= 20"),
        ({"weight_cap": 0}, ">= 1"),
        ({"weight_cap": (1 << 16) + 1}, "<= 65536"),
        ({"norm_bound": 0}, ">= 1"),
        ({"quorum": 0}, ">= 1"),
        ({"quorum": 17}, "<= 16"),
        ({"seal_lag": 0}, ">= 1"),
        ({"seal_lag": 65}, "<= 64"),
        ({"rank": 0}, ">= 1"),
        ({"rank": 1025}, "<= 1024"),
        ({"alpha": 0}, ">= 1"),
        ({"nonce": bytes(15)}, "length >= 16"),
        ({"sealer": b""}, "length >= 32"),
        ({"name": ""}, "length >= 1"),
        ({"name": "n" * 65}, "length <= 64"),
        ({"system_prompt": "s" * 16385}, "length <= 16384"),
    ],
)
def test_a_genesis_that_contradicts_itself_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(WireError, match=match):
        read_genesis(encode(changed(**changes)))


@pytest.mark.parametrize(("share", "tensors"), [("b", (A,)), ("alternate", (A,)), ("alternate", (B,))])
def test_a_genesis_by_which_nothing_would_travel_in_some_round_is_refused(
    share: str, tensors: tuple[TensorSpec, ...]
) -> None:
    with pytest.raises(WireError, match="nothing would travel"):
        read_genesis(encode(changed(share=share, tensors=tensors)))


@pytest.mark.parametrize(
    ("share", "tensors"), [("both", (A,)), ("both", (B,)), ("b", (B,)), ("b", (A, B)), ("alternate", (A, B))]
)
def test_a_genesis_by_which_something_travels_in_every_round_is_read(
    share: str, tensors: tuple[TensorSpec, ...]
) -> None:
    genesis = changed(share=share, tensors=tensors)
    assert read_genesis(encode(genesis)) == genesis


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "tab\t", "\x7f", "\x9b", "\u202egnp", "\u2028", "a\0"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="cannot be shown") as caught:
        read_genesis(encode(changed(name=name)))
    assert name not in caught.value.message


@pytest.mark.parametrize("name", ["Küche und Büro", "家", "a'b\"c\\d", "🧸" * 64])
def test_names_may_be_in_any_language(name: str) -> None:
    assert read_genesis(encode(changed(name=name))).name == name


def test_a_genesis_at_its_bounds_is_accepted() -> None:
    assert GENESIS.parameters == 4 * 8 + 8 * 4 + 4 * 16
    largest = changed(norm_bound=32767 * 11 + 32767)  # 11 is the integer root of 128
    assert read_genesis(encode(largest)) == largest
    many = changed(tensors=tuple(TensorSpec(f"{n:04}{'x' * 20}.lora_A", 256, 256) for n in range(4096)))
    assert many.parameters == limits.MAX_PARAMETERS
    assert read_genesis(encode(many)) == many


def test_a_genesis_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(WireError, match=f"at most {limits.MAX_GENESIS_BYTES:,}"):
        read_genesis(bytes(limits.MAX_GENESIS_BYTES + 1))


@pytest.mark.parametrize(
    ("share", "odd", "even"),
    [
        ("both", ["a.lora_A", "a.lora_B", "b.lora_A"], ["a.lora_A", "a.lora_B", "b.lora_A"]),
        ("b", ["a.lora_B"], ["a.lora_B"]),
        ("alternate", ["a.lora_B"], ["a.lora_A", "b.lora_A"]),
    ],
)
def test_what_travels_follows_from_the_genesis_and_the_round(share: str, odd: list[str], even: list[str]) -> None:
    genesis = changed(share=share)
    for round, expected in ((1, odd), (2, even), (3, odd), (2**62, even)):
        assert [tensor.name for tensor in genesis.travelling(round)] == expected
