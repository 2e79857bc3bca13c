"""Between the tensors of an adapter and the flat vectors of a swarm: order, shapes, and whether the two fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spearctl.config import Config

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from p2p.records import Genesis
    from training.adapters import Adapter, AdapterShape

    Flat = npt.NDArray[np.float32]


def flat(adapter: Mapping[str, Flat]) -> Flat:
    """All tensors in order of their names, row by row."""
    import numpy as np

    return np.concatenate([adapter[name].ravel() for name in sorted(adapter)])


def shaped(values: Flat, shape: AdapterShape) -> Adapter:
    """The opposite of `flat`."""
    import numpy as np

    sizes = [tensor.rows * tensor.columns for tensor in shape.tensors]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return {
        tensor.name: part.reshape(tensor.rows, tensor.columns).astype(np.float32)
        for tensor, part in zip(shape.tensors, parts, strict=True)
    }


def shape_of(genesis: Genesis) -> AdapterShape:
    """The shape of a swarm's adapters."""
    from training.adapters import AdapterShape, tensor_shapes

    tensors = tensor_shapes((spec.name, (spec.rows, spec.columns)) for spec in genesis.tensors)
    return AdapterShape(genesis.rank, genesis.alpha, tensors)


def fits(genesis: Genesis, config: Config) -> bool:
    """Whether this home's adapters are the swarm's."""
    same_model = genesis.fingerprint.hex() == config.model_fingerprint
    return same_model and shape_of(genesis).digest().hex() == config.adapter.shape
