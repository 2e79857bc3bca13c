"""Packed base weights: how close they are, what they cost, and that adapters learn on them as on dense ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from spearctl.errors import CONFIG, explain
from tests.quantized import INSTALLED, Kind, needs
from training import lora, quantization
from training.errors import MissingPackageError, ModelError
from training.quantization import PackedLinear, pack, weights_bytes

IDS = torch.tensor([[5, 60, 200, 7, 99], [17, 18, 19, 20, 21]])
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.16093020),
    *(0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)


@pytest.fixture(params=INSTALLED)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


def read(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def linears(causal: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {
        name: layer
        for name, layer in causal.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head" and "lora_" not in name
    }


def packed_layer(kind: Kind, dense: torch.nn.Linear) -> torch.nn.Linear:
    """One layer packed, in a model that has a head besides."""

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = dense, torch.nn.Linear(2, 2)

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

    model = Model()
    pack(model, kind)  # type: ignore[arg-type]
    assert type(model.head) is torch.nn.Linear
    return model.layer


def steps(kind: Kind, weight: torch.Tensor) -> torch.Tensor:
    """All values that each weight ``[out, in]`` may be packed to, ``[out, in, values]``."""
    if kind == "int8":
        # Symmetric, so that one half of a step is cut off at the positive end.
        return weight.abs().amax(1)[:, None, None] / 127.5 * torch.arange(-128, 128)
    blocks = functional.pad(weight, (0, -weight.shape[1] % 64)).unflatten(1, (-1, 64))
    largest = blocks.abs().amax(2, keepdim=True).expand_as(blocks).flatten(1)[:, : weight.shape[1], None]
    return largest * torch.tensor(NF4, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(300, 128), (7, 48), (64, 32), (3, 5), (1, 1)])
def test_a_weight_becomes_the_nearest_one_that_its_kind_knows(
    kind: Kind, dtype: torch.dtype, rows: int, columns: int
) -> None:
    dense = torch.nn.Linear(columns, rows, bias=False, dtype=dtype).requires_grad_(False)
    dense.weight.copy_(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)))
    exact = dense.weight.double()
    found = packed_layer(kind, dense).weight.double()
    nearest = (exact[:, :, None] - steps(kind, exact)).abs().amin(2)
    rounding = found.abs() * torch.finfo(dtype).eps / 2
    assert found.shape == exact.shape
    assert ((found - exact).abs() <= nearest + rounding + 1e-5 * exact.abs().max()).all()


@needs("int8")
def test_int8_is_what_torchao_unpacks() -> None:
    dense = torch.nn.Linear(96, 300, dtype=torch.bfloat16)
    found = packed_layer("int8", dense).weight
    from torchao.quantization import Int8Tensor, PerRow

    theirs = Int8Tensor.from_hp(dense.weight.detach().float(), PerRow()).dequantize(torch.bfloat16)
    assert torch.equal(found, theirs)


def test_a_row_of_zeros_stays_one(kind: Kind) -> None:
    dense = torch.nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        dense.weight[1] = 0
    found = packed_layer(kind, dense).weight
    assert torch.equal(found[1], torch.zeros(64))
    assert found.isfinite().all()


def test_a_layer_computes_with_its_unpacked_weight_and_its_bias(kind: Kind) -> None:
    dense = torch.nn.Linear(64, 40, dtype=torch.bfloat16)
    layer = packed_layer(kind, dense)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    assert layer.bias is dense.bias
    assert torch.equal(layer(x), functional.linear(x, layer.weight, dense.bias))
    assert layer.weight.dtype == torch.bfloat16
    assert "in_features=64, out_features=40" in repr(layer)


def test_all_linear_layers_but_the_head_are_packed_and_nothing_else(kind: Kind, tiny_folder: Path) -> None:
    dense, causal = read(tiny_folder), read(tiny_folder)
    pack(causal, kind)
    assert set(linears(causal)) == set(linears(dense))
    assert len(linears(causal)) == 14
    assert all(isinstance(layer, PackedLinear) for layer in linears(causal).values())
    assert type(causal.lm_head) is torch.nn.Linear
    assert causal.lm_head.weight is causal.get_input_embeddings().weight
    assert torch.equal(causal.lm_head.weight, dense.lm_head.weight)
    before = dict(linears(causal))
    pack(causal, kind)
    assert linears(causal) == before


def test_a_packed_model_says_what_a_dense_one_with_the_same_weights_says(kind: Kind, tiny_folder: Path) -> None:
    dense, causal = read(tiny_folder), read(tiny_folder)
    pack(causal, kind)
    with torch.inference_mode():
        exact = dense(IDS).logits
        for name, layer in linears(dense).items():
            layer.weight.copy_(linears(causal)[name].weight)
        found = causal(IDS).logits
        assert torch.equal(found, dense(IDS).logits)
    error = (found - exact).square().mean() / exact.square().mean()
    assert 0 < error < {"int8": 0.001, "nf4": 0.2}[kind]


@pytest.fixture
def adapted(kind: Kind, tiny_folder: Path) -> tuple[Any, Any]:
    """A packed model and a dense one of the same weights, both with the same adapter."""
    causal, dense = read(tiny_folder), read(tiny_folder)
    pack(causal, kind)
    with torch.no_grad():
        for name, layer in linears(dense).items():
            layer.weight.copy_(linears(causal)[name].weight)
    networks = [lora.attach(model, rank=4, alpha=8, dropout=0.0) for model in (causal, dense)]
    rng = torch.Generator().manual_seed(0)
    adapter = {
        name: (torch.randn(array.shape, generator=rng) * 0.05).numpy()
        for name, array in lora.get_adapter(networks[0]).items()
    }
    for network in networks:
        lora.set_adapter(network, adapter)
    return networks[0], networks[1]


def test_an_adapter_sits_on_packed_layers_as_on_dense_ones(adapted: tuple[Any, Any]) -> None:
    packed, dense = adapted
    assert lora.adapter_shape(packed) == lora.adapter_shape(dense)
    wrapped = [layer for layer in packed.modules() if isinstance(layer, lora.LowRankLinear)]
    assert len(wrapped) == 14
    assert all(isinstance(layer.base_layer, PackedLinear) for layer in wrapped)
    trained = [parameter for parameter in packed.parameters() if parameter.requires_grad]
    assert len(trained) == 28
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    with torch.inference_mode():
        torch.testing.assert_close(packed(IDS).logits, dense(IDS).logits)


def test_every_part_of_the_adapter_gets_the_gradient_it_gets_on_dense_weights(adapted: tuple[Any, Any]) -> None:
    grads = []
    for network in adapted:
        network.train()
        network(IDS, labels=IDS).loss.backward()
        grads.append({name: p.grad for name, p in network.named_parameters() if p.requires_grad})
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads[0].values())
    assert len(grads[0]) == 28
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-6)


def test_a_packed_model_moves_to_another_device_whole(kind: Kind, tiny_folder: Path) -> None:
    causal = read(tiny_folder)
    pack(causal, kind)
    moved = causal.to("meta")
    assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
    assert {(layer.codes.device.type, layer.scales.device.type) for layer in linears(moved).values()} == {
        ("meta", "meta")
    }


def default_shaped(layers: int) -> Any:
    """A model with the default one's shapes, less deep, of random weights."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def test_memory_on_the_shapes_of_the_default_model(kind: Kind) -> None:
    layers = 30
    with torch.device("meta"):
        dense = weights_bytes(default_shaped(layers))
    assert dense == 2 * 134_515_008
    causal = default_shaped(1)
    one = weights_bytes(causal)
    pack(causal, kind)
    with torch.device("meta"):
        bare = weights_bytes(default_shaped(0))
    packed = bare + layers * (weights_bytes(causal) - bare)
    assert bare + layers * (one - bare) == dense
    assert packed / dense <= {"int8": 0.61, "nf4": 0.435}[kind]
    lora.attach(causal, rank=4, alpha=8, dropout=0.0)
    assert bare + layers * (weights_bytes(causal) - bare) == packed


def test_dense_weights_are_freed_one_by_one(kind: Kind, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causal = read(tiny_folder)
    held = [weights_bytes(causal)]
    original = causal.set_submodule

    def set_submodule(name: str, layer: torch.nn.Module) -> None:
        original(name, layer)
        held.append(weights_bytes(causal))

    monkeypatch.setattr(causal, "set_submodule", set_submodule)
    pack(causal, kind)
    assert len(held) == 15
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize(
    ("kind", "module", "found"),
    [
        ("int8", "torchao.quantization", "torchao, which is not installed"),
        ("nf4", "bitsandbytes.functional", "bitsandbytes, which is not installed"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    kind: Kind, module: str, found: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = read(tiny_folder)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=f"{kind} weights need the package {found}$") as caught:
        pack(causal, kind)
    failure = explain(caught.value)
    assert (failure.code, failure.hint) == (CONFIG, "pip install 'spearctl[quant]'")
    assert not any(isinstance(layer, PackedLinear) for layer in causal.modules())


def test_a_package_that_cannot_be_imported_says_why(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libstdc++.so.6: no such file")

    monkeypatch.setattr(quantization.importlib, "import_module", fail)
    with pytest.raises(MissingPackageError, match=r"torchao, which cannot be imported: libstdc\+\+"):
        pack(read(tiny_folder), "int8")


def test_a_library_that_does_not_work_on_the_device_is_no_bug_of_ours(
    kind: Kind, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: torch.Tensor) -> None:
        raise RuntimeError("\nCUDA SETUP ERROR\nmore")

    monkeypatch.setattr(quantization._KINDS[kind], "quantise", staticmethod(fail))
    with pytest.raises(ModelError, match=r"to (int8|nf4) on cpu: CUDA SETUP ERROR$"):
        pack(read(tiny_folder), kind)


QUIET = """
import sys, types
sys.modules["kernels"] = kernels = types.ModuleType("kernels")
kernels.get_kernel = lambda *args, **kwargs: sys.exit("fetched code")
from training.quantization import PackedLinear, pack
import torch
class Model(torch.nn.Sequential):
    get_output_embeddings = lambda self: None
model = Model(torch.nn.Linear(64, 8))
pack(model, sys.argv[1])
assert type(model[0]) is not torch.nn.Linear and model[0].weight.shape == (8, 64)
assert sys.modules["kernels"] is kernels
"""


def test_the_libraries_say_nothing_and_fetch_nothing(kind: Kind) -> None:
    command = [sys.executable, "-W", "always", "-c", QUIET, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_device_never_holds_more_of_a_dense_model_than_the_layer_that_is_packed(
    tiny_folder: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for a GPU."""
    causal, there = read(tiny_folder), []
    packed = quantization._KINDS[kind]
    quantise = packed.quantise

    def look(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert rows.is_meta
        there.append(sum(type(at) is torch.nn.Linear and at.weight.is_meta for at in causal.modules()))
        return quantise(rows)

    monkeypatch.setattr(packed, "quantise", staticmethod(look))
    pack(causal, kind, "meta")
    assert set(there) == {1}
    assert len(there) >= len(linears(causal)) > 2
    assert all(tensor.is_meta for tensor in (*causal.parameters(), *causal.buffers()))
