"""What this machine has, which profile suits it, and that profile made concrete for it.

The limits of control groups (v1 and v2) count as the machine's own: in a container with 2 GB, 2 GB is what there is.

Does not cover: memory that other programs take later, more than one accelerator (the first one counts), limits set with
`ulimit`, and Windows job objects.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from profiles.errors import ProfileError
from profiles.profile import Device, Dtype, Profile

_LOG = logging.getLogger(__name__)
_GIB = 2**30

Accelerator = Literal["cuda", "mps"]

# Least memory for a profile, below the number in its name because cards report less than what is printed on their box.
_CUDA_LEAST_GIB = (("cuda-80g", 72), ("cuda-24g", 21), ("cuda-8g", 7))
_CPU_LEAST_GIB = 6
_PHONE_MOST_GIB = 4.5

# Architectures of phones and ARM boards, as Linux spells them. (A Mac's is "arm64", and it has more memory.)
_ARM = frozenset({"aarch64", "armv7l", "armv8l"})

# Names of the CPU features that compute in bfloat16, as Linux spells them for x86 and for ARM.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a process can use on this machine.

    Attributes:
        system: Operating system as `platform.system` calls it, such as "Linux".
        machine: Architecture as `platform.machine` calls it, such as "x86_64".
        cpu_name: The processor's (or board's) name for a person.
        cores_physical: Cores of the machine, hardware threads not counted.
        cores_usable: Logical CPUs this process may use: affinity, and the control group's quota rounded up.
        memory_bytes: Physical memory, or the control group's limit where that is lower.
        memory_available_bytes: What can be taken now without swapping.
        native_bf16: Whether the CPU computes in bfloat16.
        accelerator: The accelerator that torch can use, if any.
        accelerator_name: Its name for a person.
        accelerator_memory_bytes: Its memory; shared with the CPU on Apple chips and Jetson boards.
        accelerator_bf16: Whether it computes in bfloat16.
        board: What an ARM board calls itself, such as "Raspberry Pi 4 Model B Rev 1.4".
        is_jetson: Whether it is one of NVIDIA's Jetson boards.
    """

    system: str
    machine: str
    cpu_name: str
    cores_physical: int
    cores_usable: int
    memory_bytes: int
    memory_available_bytes: int
    native_bf16: bool
    accelerator: Accelerator | None = None
    accelerator_name: str | None = None
    accelerator_memory_bytes: int | None = None
    accelerator_bf16: bool = False
    board: str | None = None
    is_jetson: bool = False

    def room_bytes(self, device: Device) -> int:
        """What is free where a profile's device keeps its memory; an accelerator's own is all taken to be free."""
        shared = device != "cuda" or self.is_jetson or self.accelerator_memory_bytes is None
        return self.memory_available_bytes if shared else self.accelerator_memory_bytes or 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The shipped profile that suits a machine, and one sentence with the figures that decided."""

    profile: str
    reason: str


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """What this process's control groups allow; infinite where they set no limit."""

    cpus: float
    memory_bytes: float
    memory_available_bytes: float


def detect(*, accelerators: bool = True, root: Path = Path("/")) -> Hardware:
    """Look at this machine; never fails because of what it finds.

    Args:
        accelerators: Whether to ask torch for accelerators, which takes the seconds that importing torch takes.
        root: Where `etc`, `proc` and `sys` are looked for.

    Returns:
        What this process can use. A torch that is missing or broken counts as no accelerator.
    """
    total, available = _memory()
    limits = cgroup_limits(root)
    cpu_name, native_bf16 = _cpu(root)
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    hardware = Hardware(
        system=platform.system(),
        machine=platform.machine(),
        cpu_name=cpu_name,
        cores_physical=psutil.cpu_count(logical=False) or logical,
        cores_usable=max(1, math.ceil(min(allowed, limits.cpus))),
        memory_bytes=int(min(total, limits.memory_bytes)),
        memory_available_bytes=int(min(available, limits.memory_available_bytes)),
        native_bf16=native_bf16,
        **_board(root),
    )
    return _with_accelerator(hardware) if accelerators else hardware


def _memory() -> tuple[float, float]:
    """How much memory there is, and how much of it is free, in bytes; 0 where the system does not say."""
    try:
        memory = psutil.virtual_memory()
    except (OSError, ValueError, KeyError, RuntimeError):  # a container without /proc
        return 0, 0
    return memory.total, memory.available


def choose(hardware: Hardware) -> Choice:
    """Pick the shipped profile for a machine, by its accelerator first and its memory second.

    Args:
        hardware: What `detect` found, accelerators included.
    """
    if hardware.accelerator == "mps":
        memory = _gib(hardware.accelerator_memory_bytes or hardware.memory_bytes)
        return Choice("apple", f"the GPU of {hardware.accelerator_name} can be used and has {memory} of shared memory")
    if hardware.accelerator == "cuda" and hardware.is_jetson:
        memory = _gib(hardware.accelerator_memory_bytes or hardware.memory_bytes)
        return Choice("jetson", f"{hardware.board} can use its GPU, which shares {memory} of memory with the CPU")
    if hardware.accelerator == "cuda":
        memory_bytes = hardware.accelerator_memory_bytes or 0
        card = f"{hardware.accelerator_name} has {_gib(memory_bytes)} of memory"
        for name, least_gib in _CUDA_LEAST_GIB:
            if memory_bytes >= least_gib * _GIB:
                return Choice(name, f"{card} and {name} needs at least {least_gib} GiB")
        smallest, least_gib = _CUDA_LEAST_GIB[-1]
        return _choose_cpu(hardware, f"{card}, too little for the {least_gib} GiB of {smallest}")
    if hardware.is_jetson:
        return _choose_cpu(hardware, f"the installed torch cannot use the GPU of {hardware.board}")
    return _choose_cpu(hardware, "no accelerator can be used")


def resolve(profile: Profile, hardware: Hardware) -> Profile:
    """Replace what a profile leaves open by what the hardware has.

    Args:
        profile: Any profile.
        hardware: What `detect` found; with accelerators unless the profile's device is the CPU.

    Returns:
        The profile with a concrete dtype (bfloat16 where it is native, else float32) and at least one thread.

    Raises:
        ProfileError: If the profile's device is not there.
    """
    if profile.device not in ("cpu", hardware.accelerator):
        found = f"only {hardware.accelerator} is" if hardware.accelerator else "no accelerator is"
        raise ProfileError(
            f"profile {profile.name!r} runs on {profile.device!r}, but {found} usable on this machine",
            hint="`spearctl profile detect` names the profile that suits this machine",
        )
    native = hardware.native_bf16 if profile.device == "cpu" else hardware.accelerator_bf16
    automatic: Dtype = "bfloat16" if native else "float32"
    return dataclasses.replace(
        profile,
        dtype=automatic if profile.dtype == "auto" else profile.dtype,
        threads=profile.threads or hardware.cores_usable,
    )


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Read the tightest limits among this process's control groups and all groups that hold them.

    Args:
        root: Where `proc/self/cgroup` and `sys/fs/cgroup` are looked for.
    """
    limits = [_folder_limits(folder) for folder in _cgroup_folders(root)]
    return CgroupLimits(
        cpus=min((limit.cpus for limit in limits), default=math.inf),
        memory_bytes=min((limit.memory_bytes for limit in limits), default=math.inf),
        memory_available_bytes=min((limit.memory_available_bytes for limit in limits), default=math.inf),
    )


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, from the innermost outwards.

    A container often shows its own group at the top of the mount while `proc` tells the path outside; that path does
    not exist then, its files read as empty, and the walk outwards ends at the folder that counts.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # v2 has one tree for all controllers; v1 one for each set of them, named after the set, one of them, or both.
        sets = {controllers, *controllers.split(",")} if controllers else {"."}
        parts = [part for part in path.split("/") if part]
        for name in sets:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(name, *parts[:depth])


def _folder_limits(folder: Path) -> CgroupLimits:
    """Read one group's limits, whichever version's files are there."""
    quota, period = _read_numbers(folder / "cpu.max", 2)
    if math.isinf(quota):
        (quota,), (period,) = (_read_numbers(folder / f"cpu.cfs_{name}_us", 1) for name in ("quota", "period"))
    # v1 writes "no limit" as -1 for the CPU and as a number larger than any memory.
    cpus = quota / period if 0 < quota < math.inf and 0 < period < math.inf else math.inf
    for limit_file, usage_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        (limit,) = _read_numbers(folder / limit_file, 1)
        (usage,) = _read_numbers(folder / usage_file, 1)
        if math.isfinite(limit):
            # Cached file pages are given back under pressure, so they count as available.
            used = usage - _read_key(folder / "memory.stat", cache_key) if math.isfinite(usage) else 0
            return CgroupLimits(cpus, limit, max(0, limit - max(0, used)))
    return CgroupLimits(cpus, math.inf, math.inf)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: a path that no system call takes
        return ""


def _read_numbers(path: Path, count: int) -> list[float]:
    """Read `count` numbers; infinite for "max" and for whatever is missing or no number."""
    words = _read(path).split()
    return [float(word) if word.isdecimal() else math.inf for word in [*words, *["max"] * count][:count]]


def _read_key(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _cpu(root: Path) -> tuple[str, bool]:
    """Return the processor's name, and whether it computes in bfloat16."""
    fallback = platform.processor() or platform.machine()
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or fallback, _sysctl("hw.optional.arm.FEAT_BF16") == "1"
    facts: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = {*facts.get("flags", "").split(), *facts.get("Features", "").split()}
    # ARM boards name themselves in "Model" and have no "model name".
    return facts.get("model name") or facts.get("Model") or fallback, not flags.isdisjoint(_BF16_FLAGS)


def _board(root: Path) -> dict[str, Any]:
    """Return the fields that tell an ARM board: its own name for itself, and whether it is a Jetson."""
    if platform.system() != "Linux":
        return {}
    model = _read(root / "proc/device-tree/model").rstrip("\0\n").strip()
    # Containers often hide the device tree, and are given this file by NVIDIA's runtime.
    is_jetson = "nvidia" in model.lower() or (root / "etc/nv_tegra_release").is_file()
    return {"board": model or ("an NVIDIA Jetson board" if is_jetson else None), "is_jetson": is_jetson}


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _with_accelerator(hardware: Hardware) -> Hardware:
    """Ask torch; anything that goes wrong there means that no accelerator can be used."""
    try:
        import torch

        if torch.cuda.is_available():
            float(torch.ones(1, device="cuda"))  # fails where torch was not built for this card
            properties = torch.cuda.get_device_properties(0)
            return dataclasses.replace(
                hardware,
                accelerator="cuda",
                accelerator_name=properties.name,
                accelerator_memory_bytes=properties.total_memory,
                accelerator_bf16=torch.cuda.get_device_capability(0) >= (8, 0),  # older cards only emulate it
            )
        if torch.backends.mps.is_available():
            return dataclasses.replace(
                hardware,
                accelerator="mps",
                accelerator_name=hardware.cpu_name,
                accelerator_memory_bytes=hardware.memory_bytes,
                accelerator_bf16=True,
            )
    except Exception as error:  # a broken install raises anything from OSError to AttributeError
        _LOG.warning("torch cannot be asked for accelerators, so the CPU is used: %s", error)
    return hardware


def _choose_cpu(hardware: Hardware, because: str) -> Choice:
    usable = f"{because}; {_gib(hardware.memory_bytes)} of memory and {_count(hardware.cores_usable, 'CPU')} are usable"
    if hardware.memory_bytes >= _CPU_LEAST_GIB * _GIB:
        return Choice("cpu", f"{usable}, and cpu needs at least {_CPU_LEAST_GIB} GiB")
    if hardware.machine in _ARM and hardware.memory_bytes < _PHONE_MOST_GIB * _GIB:
        board = hardware.board or f"this {hardware.machine} device"
        return Choice(
            "phone", f"{usable}, and phone suits ARM boards such as {board} with less than {_PHONE_MOST_GIB} GiB"
        )
    return Choice("cpu-small", f"{usable}, less than the {_CPU_LEAST_GIB} GiB that cpu needs")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / _GIB:.1f} GiB"
