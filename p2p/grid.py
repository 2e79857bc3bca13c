"""Whole adapters as flat vectors of integers, and the arithmetic on them that all members must agree on.

A flat vector holds all tensors of ``Genesis.tensors`` in their order, each row-major, one behind the other:
``[parameters]``. There are two grids:

    coarse  2^-g       int16  what a delta carries
    fine    2^-(g+8)   int32  the shared state; int64 what this device has not yet signed

both relative to the specified start of the adapter, so that no learning is 0. Floats come in through ``to_fine`` and go
out through ``from_fine``, on the device that learns and on the one that uses; nothing between them is a float.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from p2p import limits
from p2p.encoding import domain_separated
from p2p.errors import PayloadError
from p2p.records import Genesis, TensorSpec

Coarse = npt.NDArray[np.int16]
Fine = npt.NDArray[np.int32]
Wide = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)

FINE_BITS = 8
"""The state's grid is finer than a delta's by so many bits, so that averages keep their fractions."""
FINE_STEPS = 1 << FINE_BITS
"""Steps of the fine grid in one of the coarse."""
MOST_STEPS = 32767
"""Largest value of a delta; -32768 is not used, so that a delta can be negated."""
FURTHEST = 8.0
"""An increment beyond this is a mistake, not learning."""

_BLOCK = 1 << 18


def blocks(size: int, length: int = _BLOCK) -> Iterator[slice]:
    """Consecutive pieces of a vector: temporaries stay small, and in the cache."""
    for first in range(0, size, length):
        yield slice(first, min(first + length, size))


def rounddiv(numerator: Wide, divisor: int) -> Wide:
    """Divides and rounds to the nearest integer, halves away from zero.

    Args:
        numerator: Any shape, magnitudes below 2^62.
        divisor: From 1 to 2^62.
    """
    magnitude = np.abs(numerator)
    quotient = magnitude // divisor
    magnitude -= quotient * divisor
    quotient += magnitude * 2 >= divisor
    np.negative(quotient, out=quotient, where=numerator < 0)
    return quotient


def to_fine(increment: npt.NDArray[np.float32], genesis: Genesis) -> Wide:
    """Puts an increment ``[parameters]`` onto the fine grid, to the nearest step.

    Raises:
        PayloadError: It has another shape, is not finite, or has a value beyond 8.
    """
    if increment.shape != (genesis.parameters,):
        raise PayloadError(
            f"an increment of shape {increment.shape} where the swarm's adapter has [{genesis.parameters}]"
        )
    furthest = float(np.abs(increment).max())
    if not furthest <= FURTHEST:  # NaN is not
        raise PayloadError(
            f"an increment that goes as far as {furthest}, where {FURTHEST:g} is the limit",
            "train again with a lower learning rate",
        )
    scaled = increment.astype(np.float64)
    scaled *= 2.0 ** _fine_bits(genesis)
    return np.rint(scaled, out=scaled).astype(np.int64)


def from_fine(fine: npt.NDArray[np.signedinteger[Any]], genesis: Genesis) -> npt.NDArray[np.float32]:
    """The values of integers on the fine grid, to the nearest float32."""
    values = fine.astype(np.float32)
    values *= np.float32(2.0 ** -_fine_bits(genesis))
    return values


def furthest_state(genesis: Genesis) -> int:
    """Largest magnitude of a state's value that is no cause for alarm, in fine steps.

    It is never above 7/8 of what an int32 holds: beyond that the state wraps around.
    """
    return min(limits.ALERT_VALUE << _fine_bits(genesis), 7 << 28)


def squared_norm(values: Coarse) -> int:
    """The exact sum of squares."""
    total = 0
    for block in blocks(values.size):
        wide = values[block].astype(np.int64)
        total += int(np.dot(wide, wide))
    return total


def clip_to_norm(values: Coarse, bound: int) -> Coarse:
    """Shortens a vector whose Euclidean norm is above ``bound``, and leaves any other as it is.

    With n the square root of the sum of squares rounded up, each value v becomes sign(v) * floor(|v| * bound / n), so
    the new sum of squares is at most bound^2 * (sum of squares) / n^2, which is at most bound^2.

    Args:
        values: Flat.
        bound: From 1 to 2^40, in coarse steps.
    """
    square = squared_norm(values)
    if square <= bound * bound:
        return values
    norm = math.isqrt(square - 1) + 1
    shortened = np.empty_like(values)
    for block in blocks(values.size):
        wide = values[block].astype(np.int64)
        shortened[block] = np.sign(wide) * (np.abs(wide) * bound // norm)
    return shortened


def values_in(tensors: Sequence[TensorSpec]) -> int:
    """How many values some tensors have together."""
    return sum(tensor.size for tensor in tensors)


def slices(genesis: Genesis) -> dict[str, slice]:
    """Where each tensor lies in a flat vector of all, by name."""
    found, first = {}, 0
    for tensor in genesis.tensors:
        found[tensor.name] = slice(first, first + tensor.size)
        first += tensor.size
    return found


def select(flat: npt.NDArray[Scalar], genesis: Genesis, tensors: Sequence[TensorSpec]) -> npt.NDArray[Scalar]:
    """A copy of some tensors of a flat vector of all: flat too, in the order given."""
    where = slices(genesis)
    return np.concatenate([flat[:0], *(flat[where[tensor.name]] for tensor in tensors)])


def scatter(part: npt.NDArray[Scalar], genesis: Genesis, tensors: Sequence[TensorSpec]) -> npt.NDArray[Scalar]:
    """A flat vector of all tensors that holds ``part`` where ``select`` took it from, and zeros elsewhere."""
    whole, where, first = np.zeros(genesis.parameters, dtype=part.dtype), slices(genesis), 0
    for tensor in tensors:
        whole[where[tensor.name]] = part[first : first + tensor.size]
        first += tensor.size
    return whole


def state_hash(state: Fine, genesis: Genesis) -> bytes:
    """Names a state: the SHA-256 of these bytes, without a separator between them.

    ====================  ==========================================================================
    ``spearctl/state/1``  and a NUL byte, as in all hashes
    hash of the genesis   32 bytes
    each tensor           its name in UTF-8, a NUL byte, rows and columns as unsigned 32-bit integers
    each value            of all tensors in that order, as a signed 32-bit integer
    ====================  ==========================================================================

    Integers are little-endian. Tensors come in the order of the genesis.
    """
    shapes = (t.name.encode() + b"\0" + struct.pack("<II", t.rows, t.columns) for t in genesis.tensors)
    found = hashlib.sha256(domain_separated("state", genesis.hash + b"".join(shapes)))
    found.update(np.ascontiguousarray(state, dtype="<i4").data)  # hashed where it lies: it may be large
    return found.digest()


def _fine_bits(genesis: Genesis) -> int:
    return genesis.grid_bits + FINE_BITS
