"""The choice of a profile for hardware, and a profile made concrete."""

from __future__ import annotations

import dataclasses

import pytest

import profiles
from profiles import Hardware, ProfileError

GIB = 2**30
PLAIN = Hardware(
    system="Linux",
    machine="x86_64",
    cpu_name="Example CPU",
    cores_physical=4,
    cores_usable=8,
    memory_bytes=16 * GIB,
    memory_available_bytes=10 * GIB,
    native_bf16=False,
)


def cuda(memory_gib: float, *, bf16: bool = True) -> Hardware:
    return dataclasses.replace(
        PLAIN,
        accelerator="cuda",
        accelerator_name="Example GPU",
        accelerator_memory_bytes=int(memory_gib * GIB),
        accelerator_bf16=bf16,
    )


APPLE = dataclasses.replace(
    PLAIN,
    system="Darwin",
    machine="arm64",
    accelerator="mps",
    accelerator_name="Apple M2",
    accelerator_memory_bytes=16 * GIB,
    accelerator_bf16=True,
)


@pytest.mark.parametrize(
    ("memory_gib", "profile"),
    [(1.8, "cpu-small"), (3.7, "cpu-small"), (5.9, "cpu-small"), (6, "cpu"), (7.6, "cpu"), (64, "cpu")],
)
def test_without_an_accelerator_the_memory_decides(memory_gib: float, profile: str) -> None:
    choice = profiles.choose(dataclasses.replace(PLAIN, memory_bytes=int(memory_gib * GIB)))
    assert choice.profile == profile
    assert f"{memory_gib:.1f} GiB of memory and 8 CPUs" in choice.reason


@pytest.mark.parametrize(
    ("memory_gib", "profile"),
    [
        (3.8, "cpu"),
        (7.6, "cuda-8g"),
        (15.6, "cuda-8g"),
        (22.0, "cuda-24g"),
        (44.5, "cuda-24g"),
        (79.1, "cuda-80g"),
        (139.8, "cuda-80g"),
    ],
)
def test_with_cuda_the_cards_memory_decides(memory_gib: float, profile: str) -> None:
    choice = profiles.choose(cuda(memory_gib))
    assert choice.profile == profile
    assert f"Example GPU has {memory_gib:.1f} GiB" in choice.reason


def test_an_apple_gpu_gets_its_own_profile() -> None:
    choice = profiles.choose(APPLE)
    assert choice.profile == "apple"
    assert "Apple M2" in choice.reason
    assert "16.0 GiB" in choice.reason


JETSON = dataclasses.replace(cuda(7.4), machine="aarch64", board="NVIDIA Jetson Orin Nano", is_jetson=True)
PHONE = dataclasses.replace(PLAIN, machine="aarch64", memory_bytes=2 * GIB)


@pytest.mark.parametrize("hardware", [PLAIN, PHONE, APPLE, JETSON, cuda(0), cuda(8), cuda(24), cuda(80), cuda(141)])
def test_a_chosen_profile_exists_and_suits_the_machine(hardware: Hardware) -> None:
    profile = profiles.resolve(profiles.load(profiles.choose(hardware).profile), hardware)
    assert profile.dtype != "auto"
    assert profile.threads > 0


# resolve


@pytest.mark.parametrize(
    ("name", "hardware", "dtype"),
    [
        ("cpu", PLAIN, "float32"),
        ("cpu", dataclasses.replace(PLAIN, native_bf16=True), "bfloat16"),
        ("cpu", cuda(80), "float32"),
        ("cuda-8g", cuda(8), "bfloat16"),
        ("cuda-8g", dataclasses.replace(cuda(8, bf16=False), native_bf16=True), "float32"),
        ("apple", APPLE, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_exactly_where_the_profiles_device_has_it(name: str, hardware: Hardware, dtype: str) -> None:
    assert profiles.resolve(profiles.load(name), hardware).dtype == dtype


def test_what_a_profile_says_itself_is_kept() -> None:
    said = dataclasses.replace(profiles.load("cpu"), dtype="float16", threads=3)
    assert profiles.resolve(said, dataclasses.replace(PLAIN, native_bf16=True)) == said


def test_zero_threads_become_all_that_are_usable_and_nothing_else_changes() -> None:
    profile = profiles.load("cpu")
    assert profiles.resolve(profile, PLAIN) == dataclasses.replace(profile, dtype="float32", threads=8)


@pytest.mark.parametrize(("name", "hardware"), [("cuda-24g", PLAIN), ("cuda-24g", APPLE), ("apple", cuda(24))])
def test_a_profile_for_a_device_that_is_not_there_is_refused(name: str, hardware: Hardware) -> None:
    with pytest.raises(ProfileError, match=f"profile '{name}' runs on") as caught:
        profiles.resolve(profiles.load(name), hardware)
    assert caught.value.hint is not None
    assert "spearctl profile detect" in caught.value.hint
