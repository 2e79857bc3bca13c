"""Deltas of 5 million parameters on one core, each figure beside a plain copy of the same 10 MB in the same run.

python -m tests.benchmarks.p2p
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from p2p.codec import decode_payload, encode_payload
from p2p.fold import Part, fold_round
from p2p.records import TensorSpec
from tests.vectors import small_genesis

RANK, WIDTH, MODULES = 8, 3125, 100
REPEATS = 5
MEMBERS = 5
BOUND = 2**40


def main() -> None:
    tensors = tuple(
        tensor
        for module in range(MODULES)
        for tensor in (
            TensorSpec(f"layers.{module:03}.lora_A", RANK, WIDTH),
            TensorSpec(f"layers.{module:03}.lora_B", WIDTH, RANK),
        )
    )
    parameters = sum(tensor.size for tensor in tensors)
    rng = np.random.default_rng(0)
    values = np.rint(rng.normal(0, 300, parameters)).astype(np.int16)
    raw = encode_payload(values, tensors)
    print(f"{parameters:,} parameters, {values.nbytes:,} bytes, {len(raw):,} as they travel; medians of {REPEATS}")
    row("encode", values, lambda: encode_payload(values, tensors))
    row("decode", values, lambda: decode_payload(raw, tensors, BOUND))
    for rule in ("fedavg", "trimmed_mean", "median"):
        genesis = small_genesis(tensors=tensors, rule=rule, norm_bound=BOUND)
        parts = [Part(bytes([n]), bytes([n]), n, lambda: values) for n in range(1, MEMBERS + 1)]
        row(f"fold {MEMBERS}, {rule}", values, lambda genesis=genesis, parts=parts: fold_round(genesis, 1, parts))  # type: ignore[misc]


def row(name: str, values: np.ndarray, run: Callable[[], object]) -> None:
    """Prints the median time of something, that of a copy, and their median ratio, measured in turn."""
    target, pairs = np.empty_like(values), []
    for _ in range(REPEATS + 1):
        pairs.append((seconds(run), seconds(lambda: np.copyto(target, values))))
    ours, copies = zip(*pairs[1:], strict=True)
    ratio = statistics.median(one / other for one, other in pairs[1:])
    print(
        f"{name + ':':22} {statistics.median(ours) * 1e3:7.1f} ms   copy: {statistics.median(copies) * 1e3:5.2f} ms   "
        f"ratio: {ratio:5.0f}"
    )


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
