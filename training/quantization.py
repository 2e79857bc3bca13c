"""Base weights packed to eight or four bits, each layer's unpacked while it is used.

``int8``: in every row, multiples of 1 / 127.5 of its largest value, by torchao. 8 bits a weight, 32 a row.
``nf4``: in every 64 weights of a row, 16 quantiles of a normal distribution times their largest value (Dettmers et al.,
arXiv 2305.14314), by bitsandbytes. 4 bits a weight, 32 a block.

The two libraries only pack, and unpack nf4. Products are computed from the unpacked weight in the model's own dtype, so
that ``training/lowrank.py`` adds a small low-rank part as it does to a dense layer.

It does not cover models that are published quantised, a change of dtype after packing, and linear layers that share
their weight with each other.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch

from training.errors import MissingPackageError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NF4_BLOCK = 64
# Rows that are packed at once: the libraries need several times the memory of what they are given.
_ROWS = 256


class PackedLinear(torch.nn.Linear):
    """A frozen linear layer whose weight is dense only while it is used.

    A linear layer like any other to those who ask for its ``weight``, such as PEFT, but each time it is a new tensor.

    Attributes:
        library: The module that packs.
        dtype: Of the weight when unpacked.
        codes: The packed weight.
        scales: What its codes are multiplied by, float32.
    """

    library: ClassVar[str]
    codes: torch.Tensor
    scales: torch.Tensor

    def __init__(self, dense: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)  # that of Linear makes a dense weight
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.dtype = dense.weight.dtype
        self.register_parameter("bias", dense.bias)
        parts = [self.quantise(rows) for rows in dense.weight.detach().split(_ROWS)]
        for name, tensors in zip(("codes", "scales"), zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.cat(tensors))

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """Unpacks the weight ``[out, in]``."""
        raise NotImplementedError

    @staticmethod
    def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Packs some rows of a weight ``[rows, in]`` into codes and scales."""
        raise NotImplementedError


class Int8Linear(PackedLinear):
    """Holds codes ``[out, in]`` in int8 and scales ``[out, 1]``."""

    library = "torchao.quantization"

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        # Bit by bit what torchao's own tensor unpacks to, which takes a CPU several times as long.
        return self.codes.float().mul_(self.scales).to(self.dtype)

    @staticmethod
    def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from torchao.quantization import Int8Tensor, PerRow

        packed = Int8Tensor.from_hp(rows.float(), PerRow())  # it rounds in the dtype that it is given
        return packed.qdata, packed.scale


class Nf4Linear(PackedLinear):
    """Holds codes ``[out * padded / 2, 1]``, two a byte, and scales ``[out * padded / 64]``.

    Rows are padded to whole blocks: a block that goes on in the next row is unpacked wrongly, and silently, by
    bitsandbytes 0.50 on CPUs with AVX-512.
    """

    library = "bitsandbytes.functional"

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        from bitsandbytes.functional import QuantState, dequantize_4bit

        shape = torch.Size((self.out_features, self.in_features + -self.in_features % _NF4_BLOCK))
        state = QuantState(self.scales, shape, blocksize=_NF4_BLOCK, quant_type="nf4", dtype=self.dtype)
        return dequantize_4bit(self.codes, state)[:, : self.in_features]

    @staticmethod
    def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from bitsandbytes.functional import quantize_4bit

        # Their scales are not packed once more: that would save 0.4 bits a weight, and unpack more slowly.
        padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % _NF4_BLOCK))
        codes, state = quantize_4bit(padded, blocksize=_NF4_BLOCK, quant_type="nf4")
        return codes, state.absmax


_KINDS: dict[str, type[PackedLinear]] = {"int8": Int8Linear, "nf4": Nf4Linear}


def pack(causal: PreTrainedModel, kind: Literal["int8", "nf4"], device: str = "cpu") -> None:
    """Packs the weights of all linear layers but the output head, in place; embeddings stay as they are.

    Layer by layer: at any time at most one weight is there both dense and packed, so a GPU need not have room for a
    dense model.

    Args:
        causal: A model without an adapter, in the dtype it will compute in.
        kind: How to pack.
        device: Where the model goes; each layer is packed there.

    Raises:
        MissingPackageError: The library that packs is not installed.
        ModelError: It is, but does not work on the model's device.
    """
    packed = _KINDS[kind]
    require(kind)
    head = causal.get_output_embeddings()
    names = [
        name
        for name, layer in causal.named_modules()
        if isinstance(layer, torch.nn.Linear) and not isinstance(layer, PackedLinear) and layer is not head
    ]
    try:
        for name in names:  # a list of the layers themselves would keep their dense weights
            causal.set_submodule(name, packed(cast(torch.nn.Linear, causal.get_submodule(name).to(device))))
        cast(torch.nn.Module, causal).to(device)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the weights cannot be packed to {kind} on {device}: {reason}",
            'choose another profile, or set quantization = "none" in it',
        ) from error


def weights_bytes(causal: PreTrainedModel) -> int:
    """Bytes that the base weights take in memory: packed ones as packed, tied ones once, adapters not counted."""
    dense = [tensor for name, tensor in causal.named_parameters() if ".lora_" not in name]
    packed = [
        tensor
        for layer in causal.modules()
        if isinstance(layer, PackedLinear)
        for tensor in (layer.codes, layer.scales)
    ]
    return sum(tensor.nbytes for tensor in (*dense, *packed))


def require(kind: Literal["int8", "nf4"]) -> None:
    """Imports the library that packs so.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported.
    """
    library = _KINDS[kind].library
    package = library.partition(".")[0]
    if sys.modules.get(package, package) is None:  # hidden from others, see training/__init__.py
        del sys.modules[package]
    try:
        with _quiet():
            importlib.import_module(library)
    except Exception as error:  # a broken library may raise anything
        missing = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == package
        found = "is not installed" if missing else f"cannot be imported: {error}"
        raise MissingPackageError(
            f"{kind} weights need the package {package}, which {found}", "pip install 'spearctl[quant]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off stderr what the libraries say about parts of them that we do not use.

    Where the package ``kernels`` is installed, bitsandbytes would fetch code from the network while it is imported.
    """
    disabled, kernels = logging.root.manager.disable, sys.modules.pop("kernels", None)
    logging.disable(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
