"""Detection of hardware: what this machine has, and what limits it."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import profiles
from profiles.detect import cgroup_limits

# The package exports a function of the module's name, so the module itself has to be asked for by name.
module = importlib.import_module("profiles.detect")

GIB = 2**30


def tree(root: Path, contents: Mapping[str, str]) -> Path:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine of 16 logical and 8 physical cores with 64 GiB, of which 40 are available."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=40 * GIB))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module.platform, "processor", lambda: "")


# Control groups


def test_no_control_groups_mean_no_limits(tmp_path: Path) -> None:
    limits = cgroup_limits(tmp_path)
    assert (limits.cpus, limits.memory_bytes, limits.memory_available_bytes) == (math.inf, math.inf, math.inf)


def test_v2_limits_of_the_own_group_are_read(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user/job"
    files = {
        "proc/self/cgroup": "0::/user/job\n",
        f"{group}/cpu.max": "150000 100000\n",
        f"{group}/memory.max": "4000\n",
        f"{group}/memory.current": "3000\n",
        f"{group}/memory.stat": "anon 1000\ninactive_file 500\nfile 2000\n",
    }
    limits = cgroup_limits(tree(tmp_path, files))
    assert (limits.cpus, limits.memory_bytes, limits.memory_available_bytes) == (1.5, 4000, 1500)


def test_v2_the_tightest_of_all_holding_groups_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b/c\n",
        "sys/fs/cgroup/a/cpu.max": "200000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        "sys/fs/cgroup/a/b/c/cpu.max": "max 100000",
        "sys/fs/cgroup/a/memory.max": "9000",
        "sys/fs/cgroup/a/memory.current": "8000",
        "sys/fs/cgroup/a/b/memory.max": "5000",
        "sys/fs/cgroup/a/b/memory.current": "1000",
        "sys/fs/cgroup/a/b/c/memory.max": "max",
    }
    limits = cgroup_limits(tree(tmp_path, files))
    assert (limits.cpus, limits.memory_bytes, limits.memory_available_bytes) == (2.0, 5000, 1000)


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../outside"])
def test_v2_a_container_that_sees_its_group_at_the_top_is_limited(tmp_path: Path, path: str) -> None:
    files = {"proc/self/cgroup": f"0::{path}\n", "sys/fs/cgroup/memory.max": "4000"}
    assert cgroup_limits(tree(tmp_path, files)).memory_bytes == 4000


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_v1_limits_are_read(tmp_path: Path, folder: str) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n",
        f"sys/fs/cgroup/{folder}/job/cpu.cfs_quota_us": "250000\n",
        f"sys/fs/cgroup/{folder}/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "4000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "3000\n",
        "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 600\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    limits = cgroup_limits(tree(tmp_path, files))
    assert (limits.cpus, limits.memory_bytes, limits.memory_available_bytes) == (2.5, 4000, 1600)


def test_v1_minus_one_is_no_cpu_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert cgroup_limits(tree(tmp_path, files)).cpus == math.inf


def test_a_group_that_is_over_its_limit_has_nothing_available(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000",
        "sys/fs/cgroup/memory.current": "1200",
    }
    assert cgroup_limits(tree(tmp_path, files)).memory_available_bytes == 0


@given(text=st.text(st.sampled_from("0123456789-max.: /,cpumemory\n\x00é")))
@example(text=":\0")
def test_strange_control_group_files_never_raise(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("strange")
    files = {"proc/self/cgroup": f"0::/\n{text}"}
    names = ("cpu.max", "memory.max", "memory.current", "memory.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    files |= {f"sys/fs/cgroup/{name}": text for name in names}
    limits = cgroup_limits(tree(root, files))
    assert limits.cpus > 0
    assert limits.memory_available_bytes >= 0


# detect


def test_a_system_that_does_not_tell_its_memory_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", missing)
    found = profiles.detect(accelerators=False, root=tmp_path)
    assert (found.memory_bytes, found.memory_available_bytes) == (0, 0)
    assert profiles.choose(found).profile in {"phone", "cpu-small"}


def test_v2_a_negative_limit_is_none(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("-1")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/")
    assert math.isinf(cgroup_limits(tmp_path).memory_bytes)


@pytest.mark.usefixtures("machine")
def test_without_limits_the_whole_machine_is_usable(tmp_path: Path) -> None:
    found = profiles.detect(accelerators=False, root=tmp_path)
    assert (found.cores_physical, found.cores_usable) == (8, 16)
    assert (found.memory_bytes, found.memory_available_bytes) == (64 * GIB, 40 * GIB)
    assert (found.system, found.machine, found.accelerator) == ("Linux", "x86_64", None)


@pytest.mark.usefixtures("machine")
def test_the_control_groups_limits_count_as_the_machines(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "250000 100000",
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(GIB // 2),
    }
    found = profiles.detect(accelerators=False, root=tree(tmp_path, files))
    assert found.cores_usable == 3
    assert (found.memory_bytes, found.memory_available_bytes) == (2 * GIB, 3 * GIB // 2)


@pytest.mark.usefixtures("machine")
def test_limits_above_the_machine_change_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "9900000 100000",
        "sys/fs/cgroup/memory.max": str(2**62),
        "sys/fs/cgroup/memory.current": "0",
    }
    found = profiles.detect(accelerators=False, root=tree(tmp_path, files))
    assert (found.cores_usable, found.memory_bytes, found.memory_available_bytes) == (16, 64 * GIB, 40 * GIB)


@pytest.mark.usefixtures("machine")
def test_the_affinity_bounds_the_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert profiles.detect(accelerators=False, root=tmp_path).cores_usable == 1


@pytest.mark.usefixtures("machine")
def test_a_tiny_quota_still_leaves_one_core(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000"}
    assert profiles.detect(accelerators=False, root=tree(tmp_path, files)).cores_usable == 1


@pytest.mark.usefixtures("machine")
def test_boards_that_do_not_tell_their_physical_cores_count_the_logical_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else None)
    assert profiles.detect(accelerators=False, root=tmp_path).cores_physical == 16


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("cpuinfo", "name", "native"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx512f avx512_bf16\n", "AMD EPYC", True),
        ("model name\t: Intel Xeon\nflags\t\t: fpu amx_bf16 amx_int8\n", "Intel Xeon", True),
        ("model name\t: Old: one\nflags\t\t: fpu avx2\n", "Old: one", False),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n\nModel\t\t: Some Board\n", "Some Board", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5", False),
        ("", "x86_64", False),
    ],
)
def test_the_cpus_name_and_bfloat16_come_from_cpuinfo(tmp_path: Path, cpuinfo: str, name: str, native: bool) -> None:
    found = profiles.detect(accelerators=False, root=tree(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert (found.cpu_name, found.native_bf16) == (name, native)


@pytest.mark.usefixtures("machine")
def test_on_a_mac_the_cpu_is_asked_for_with_sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M2\n", "hw.optional.arm.FEAT_BF16": "1\n"}
    monkeypatch.setattr(module.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(
        module.subprocess, "run", lambda command, **rest: SimpleNamespace(stdout=answers[command[-1]], returncode=0)
    )
    found = profiles.detect(accelerators=False, root=tmp_path)
    assert (found.cpu_name, found.native_bf16) == ("Apple M2", True)


def fake_torch(*, cuda: bool = False, mps: bool = False, capability: tuple[int, int] = (9, 0)) -> SimpleNamespace:
    return SimpleNamespace(
        ones=lambda size, device: float(size),
        cuda=SimpleNamespace(
            is_available=lambda: cuda,
            get_device_properties=lambda index: SimpleNamespace(name="Example GPU", total_memory=24 * GIB),
            get_device_capability=lambda index: capability,
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("capability", "native"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
def test_cuda_is_found_through_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=True, capability=capability))
    found = profiles.detect(root=tmp_path)
    assert (found.accelerator, found.accelerator_name) == ("cuda", "Example GPU")
    assert (found.accelerator_memory_bytes, found.accelerator_bf16) == (24 * GIB, native)


@pytest.mark.usefixtures("machine")
def test_a_card_that_torch_was_not_built_for_is_no_accelerator_and_the_reason_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch = fake_torch(cuda=True, capability=(6, 1))

    def ones(size: int, device: str) -> float:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    torch.ones = ones
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert profiles.choose(profiles.detect(root=tmp_path)).profile == "cpu"
    assert "no kernel image" in caplog.text


@pytest.mark.usefixtures("machine")
def test_an_apple_gpu_shares_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(mps=True))
    found = profiles.detect(root=tmp_path)
    assert (found.accelerator, found.accelerator_memory_bytes, found.accelerator_bf16) == ("mps", 64 * GIB, True)


JETSON_TREE = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0"}
JETSON_RELEASE = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n"}
RASPBERRY = {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0"}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "board", "is_jetson"),
    [
        ({}, None, False),
        (JETSON_TREE, "NVIDIA Jetson Orin Nano Developer Kit", True),
        (JETSON_RELEASE, "an NVIDIA Jetson board", True),
        (RASPBERRY, "Raspberry Pi 4 Model B Rev 1.4", False),
    ],
)
def test_a_board_tells_its_name_and_whether_it_is_a_jetson(
    tmp_path: Path, files: Mapping[str, str], board: str | None, is_jetson: bool
) -> None:
    found = profiles.detect(accelerators=False, root=tree(tmp_path, files))
    assert (found.board, found.is_jetson) == (board, is_jetson)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("files", [JETSON_TREE, JETSON_RELEASE])
def test_a_jetson_whose_gpu_can_be_used_gets_its_own_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=True, capability=(8, 7)))
    choice = profiles.choose(profiles.detect(root=tree(tmp_path, files)))
    assert choice.profile == "jetson"
    assert "Jetson" in choice.reason
    assert "shares 24.0 GiB of memory with the CPU" in choice.reason


@pytest.mark.usefixtures("machine")
def test_a_jetson_whose_gpu_cannot_be_used_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    choice = profiles.choose(profiles.detect(root=tree(tmp_path, JETSON_TREE)))
    assert choice.profile == "cpu"
    assert "torch cannot use the GPU of NVIDIA Jetson Orin Nano" in choice.reason


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine_name", "memory_gib", "profile"),
    [
        ("aarch64", 1.8, "phone"),
        ("aarch64", 3.7, "phone"),
        ("armv7l", 0.9, "phone"),
        ("aarch64", 5, "cpu-small"),
        ("aarch64", 7.6, "cpu"),
        ("x86_64", 3.7, "cpu-small"),
    ],
)
def test_an_arm_board_with_little_memory_is_phone_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine_name: str, memory_gib: float, profile: str
) -> None:
    memory = int(memory_gib * GIB)
    monkeypatch.setattr(module.platform, "machine", lambda: machine_name)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=memory, available=memory // 2))
    choice = profiles.choose(profiles.detect(accelerators=False, root=tree(tmp_path, RASPBERRY)))
    assert choice.profile == profile
    assert f"{memory_gib:.1f} GiB" in choice.reason
    assert ("Raspberry Pi 4" in choice.reason) == (profile == "phone")


@pytest.mark.usefixtures("machine")
def test_torch_is_not_asked_when_accelerators_are_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=True))
    assert profiles.detect(accelerators=False, root=tmp_path).accelerator is None


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("broken", [None, SimpleNamespace()], ids=["missing", "broken"])
def test_a_missing_or_broken_torch_is_no_accelerator_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: object
) -> None:
    monkeypatch.setitem(sys.modules, "torch", broken)
    with caplog.at_level(logging.WARNING):
        found = profiles.detect(root=tmp_path)
    assert found == profiles.detect(accelerators=False, root=tmp_path)
    assert "torch cannot be asked" in caplog.text


def test_this_machine_is_detected_and_given_a_profile() -> None:
    found = profiles.detect(accelerators=False)
    assert 1 <= found.cores_usable <= (os.cpu_count() or 1)
    assert 0 < found.memory_available_bytes <= found.memory_bytes
    assert profiles.choose(found).profile in ("phone", "cpu-small", "cpu")


# choose
