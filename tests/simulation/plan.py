"""What a seed draws: the swarm, its members, and what will go wrong."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from p2p.records import Genesis, TensorSpec
from tests.simulation.people import person

FAULTS = (
    "loss", "duplication", "reordering", "cut", "partition", "crash", "power-cut", "restore", "copy", "join", "leave",
    "revoke", "skew",
)  # fmt: skip
HOSTILE = (
    "equivocator", "late-equivocator", "same-prev", "withholder", "bad-payload", "minter", "backdater", "liar",
    "flooder", "wrong-chunks",
)  # fmt: skip
ALL = (*FAULTS, *HOSTILE)


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        seed: Decides everything.
        genesis: The swarm's.
        first: Honest devices that are members from the beginning, the founder included.
        joining: Honest devices that join with tickets.
        hostile: Kinds of hostile members, one each.
        faults: Kinds of faults that may happen.
        loss: Share of messages that get lost.
        duplication: Share that comes twice.
        reordering: Share that is overtaken.
        latency_s: From, to.
        reach: Furthest value of an increment.
        chunk_bytes: Of blobs on their way.
        at_a_time: Records in a message; of ids, twice as many.
        seal_delay_s: Between the time a round is ripe and its seal.
        most_dialled: Links that a device dials.
        trouble_s: How long faults happen.
        calm_s: How long the swarm then has to settle.
        pause_s: Mean time between two increments of a device.
    """

    seed: int
    genesis: Genesis
    first: int
    joining: int
    hostile: tuple[str, ...]
    faults: frozenset[str]
    loss: float
    duplication: float
    reordering: float
    latency_s: tuple[float, float]
    reach: float
    chunk_bytes: int
    at_a_time: int
    seal_delay_s: float
    most_dialled: int
    trouble_s: float
    calm_s: float
    pause_s: float


def draw(seed: int, *, nodes: int | None = None, faults: Collection[str] | None = None) -> Plan:
    """Draws the plan of a seed.

    Args:
        seed: Any integer.
        nodes: How many devices; drawn by default.
        faults: Faults and hostile members that always take part, and no others; drawn by default.
    """
    rng = random.Random(f"plan {seed}")
    count = nodes or rng.choice((3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 8, 9, 10, 12))
    kinds = frozenset(fault for fault in FAULTS if rng.random() < 0.4)
    hostile = rng.sample(HOSTILE, rng.choice((0, 1, 1, 2, 3)))
    if faults is not None:
        kinds = frozenset(FAULTS) & frozenset(faults)
        hostile = [kind for kind in HOSTILE if kind in faults]
    hostile = hostile[: max(0, (count - 1) // 3)]
    honest = count - len(hostile)
    joining = rng.randint(1, max(1, honest // 3)) if "join" in kinds and honest > 2 else 0
    low = rng.choice((0.005, 0.05))
    return Plan(
        seed=seed,
        genesis=_genesis(rng, honest),
        first=honest - joining,
        joining=joining,
        hostile=tuple(hostile),
        faults=kinds,
        loss=rng.choice((0.01, 0.05, 0.1)) if "loss" in kinds else 0.0,
        duplication=rng.choice((0.02, 0.1)) if "duplication" in kinds else 0.0,
        reordering=rng.choice((0.02, 0.1)) if "reordering" in kinds else 0.0,
        latency_s=(low, low + rng.choice((0.02, 0.2, 0.6))),
        reach=rng.choice((0.0002, 0.002, 0.02, 1.0)),
        chunk_bytes=rng.choice((64, 64, 100, 1000)),
        at_a_time=rng.choice((2, 5, 64)),
        seal_delay_s=rng.choice((1.0, 3.0, 12.0)),
        most_dialled=rng.choice((2, 3, 8)),
        trouble_s=rng.uniform(15.0, 30.0),
        calm_s=90.0,
        pause_s=rng.choice((3.0, 6.0)),
    )


def _genesis(rng: random.Random, honest: int) -> Genesis:
    """A swarm of a few parameters, for all rules alike."""
    tensors = [TensorSpec("a.lora_A", 2, rng.randint(1, 6)), TensorSpec("a.lora_B", rng.randint(1, 5), 2)]
    if rng.random() < 0.3:
        tensors.append(TensorSpec("b.lora_B", 3, 2))
    parameters = sum(tensor.size for tensor in tensors)
    return Genesis(
        version=1,
        name="simulated",
        fingerprint=bytes(32),
        prompt_format="chat",
        system_prompt="",
        rank=2,
        alpha=4,
        tensors=tuple(tensors),
        grid_bits=20,
        rule=rng.choice(("fedavg", "fedavg", "trimmed_mean", "median")),
        share=rng.choice(("both", "both", "b", "alternate")),
        weight_cap=rng.choice((1, 8, 32, 1 << 16)),
        norm_bound=rng.choice((500, 1 << 14, 32767 * parameters // 2)),
        quorum=rng.randint(1, min(3, max(1, honest - 1))),
        seal_lag=rng.randint(1, 4),
        sealer=person(0).node_id,
        recovery=bytes([1]) * 32,
        nonce=rng.randbytes(16),
    )
