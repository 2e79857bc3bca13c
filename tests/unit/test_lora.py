"""LoRA on a torch model: in and out, and what low precision leaves of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.learner import load_tiny, make_loud_model, stir
from training import lora
from training.adapters import Adapter, adapter_digest, initial_adapter
from training.errors import ModelError, StoreError
from training.lowrank import Group, LowRankLinear
from training.models import LanguageModel

IDS = torch.tensor([[5, 60, 200, 7, 99], [17, 18, 19, 20, 21]])


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return lm.causal(input_ids=IDS).logits.clone()


def test_what_is_put_in_comes_out_byte_for_byte(tiny: LanguageModel) -> None:
    rng = np.random.default_rng(1)
    adapter = {
        tensor.name: rng.standard_normal((tensor.rows, tensor.columns)).astype(np.float32)
        for tensor in tiny.adapter_shape.tensors
    }
    lora.set_adapter(tiny.network, dict(reversed(adapter.items())))
    found = lora.get_adapter(tiny.network)
    assert list(found) == [tensor.name for tensor in tiny.adapter_shape.tensors]
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in adapter.items()
    }


def test_what_comes_out_is_a_copy(tiny: LanguageModel) -> None:
    before = adapter_digest(lora.get_adapter(tiny.network))
    for array in lora.get_adapter(tiny.network).values():
        array += 1
    assert adapter_digest(lora.get_adapter(tiny.network)) == before


def test_an_adapter_that_does_not_fit_changes_nothing(tiny: LanguageModel) -> None:
    before = lora.get_adapter(tiny.network)
    wrong = {name: array + 1 for name, array in before.items()}
    last = list(wrong)[-1]
    for unfit in (wrong | {last: wrong[last].T}, wrong | {"more.lora_A": wrong[last]}, dict(list(wrong.items())[:-1])):
        with pytest.raises(StoreError, match="does not fit the model"):
            lora.set_adapter(tiny.network, unfit)
        assert adapter_digest(lora.get_adapter(tiny.network)) == adapter_digest(before)


def test_the_start_changes_nothing_that_the_model_says(tiny: LanguageModel) -> None:
    with tiny.network.disable_adapter():
        plain = logits(tiny)
    assert torch.equal(logits(tiny), plain)
    stir(tiny)
    assert not torch.equal(logits(tiny), plain)
    with tiny.network.disable_adapter():
        assert torch.equal(logits(tiny), plain)
    lora.set_adapter(tiny.network, initial_adapter(tiny.source.fingerprint, tiny.adapter_shape))
    assert torch.equal(logits(tiny), plain)


def test_only_the_adapter_is_trained_and_in_single_precision(tiny: LanguageModel) -> None:
    trained = {name: parameter for name, parameter in tiny.network.named_parameters() if parameter.requires_grad}
    assert len(trained) == len(tiny.adapter_shape.tensors)
    assert all("lora_" in name for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


def test_base_weights_go_straight_to_where_they_are_joined_and_the_rest_follows(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for a GPU, which need not hold them twice."""
    adopt, were_there = Group.adopt, []

    def look(group: Group, device: str | None = None) -> None:
        were_there.extend(member.base.weight.is_meta for member in group.members)
        adopt(group, device)

    monkeypatch.setattr(Group, "adopt", look)
    causal = AutoModelForCausalLM.from_pretrained(tiny_folder)
    network = lora.attach(causal, rank=4, alpha=8, dropout=0.0, device="meta")
    layers = [module for module in network.modules() if isinstance(module, LowRankLinear)]
    assert were_there == [False] * len(layers)
    for at in layers:
        assert at._group is not None
        assert at._group._joined is not None
        assert at.base.weight.untyped_storage()._cdata == at._group._joined.untyped_storage()._cdata
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


def layer(*, inputs: int = 24, dropout: float = 0.0, ours: bool) -> Any:
    """One adapted linear layer with B set, ours or PEFT's own, the same weights each time."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(inputs, 40))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * inputs**-0.5)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["0"])
    if ours:
        config._register_custom_module({torch.nn.Linear: lora.LowRankLinear})
    adapted = get_peft_model(network, config).get_base_model()[0]
    with torch.no_grad():
        for part in (adapted.lora_A.default, adapted.lora_B.default):
            part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.3)
    assert isinstance(adapted, lora.LowRankLinear) is ours
    return adapted


@pytest.mark.parametrize("leading", [(), (1,), (2, 5)])
def test_a_layer_gives_what_peft_gives(leading: tuple[int, ...]) -> None:
    x = torch.randn((*leading, 3, 24), generator=torch.Generator().manual_seed(1))
    ours, theirs = layer(ours=True).eval(), layer(ours=False).eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert ours(x).shape == (*leading, 3, 40)


def test_gradients_are_those_of_peft() -> None:
    x = torch.randn((5, 24), generator=torch.Generator().manual_seed(1))
    grads = []
    for ours in (True, False):
        adapted = layer(ours=ours).train()
        adapted(x).square().sum().backward()
        grads.append([adapted.lora_A.default.weight.grad, adapted.lora_B.default.weight.grad])
    torch.testing.assert_close(grads[0], grads[1])
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads[0])


def test_dropout_follows_the_seed_and_is_off_outside_of_training() -> None:
    adapted = layer(dropout=0.25, ours=True).train()
    x = torch.ones(3, 24)
    torch.manual_seed(3)
    first, second = adapted(x), adapted(x)
    torch.manual_seed(3)
    assert torch.equal(adapted(x), first)
    assert not torch.equal(second, first)
    assert torch.equal(adapted.eval()(x), layer(ours=True).eval()(x))


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    adapted = layer(inputs=1, dropout=0.25, ours=True).train()
    x = torch.ones(1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        base, plain = adapted.base_layer(x), layer(inputs=1, ours=True).eval()(x)
        low = torch.cat([adapted(x) - base for _ in range(2000)])
    dropped = low.abs().amax(1) < 1e-7
    assert dropped.double().mean() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(low[~dropped], ((plain - base) / 0.75).expand_as(low[~dropped]))


def test_a_model_without_linear_layers_is_refused(tiny: LanguageModel) -> None:
    class Empty(torch.nn.Module):
        config = tiny.causal.config

    with pytest.raises(ModelError, match="takes no LoRA adapter"):
        lora.attach(Empty(), rank=2, alpha=4, dropout=0.0)  # type: ignore[arg-type]


def kept_share(changed: torch.Tensor, plain: torch.Tensor, expected: torch.Tensor) -> float:
    """How much of an expected change is in the change that was found: the slope of the one over the other."""
    found = changed.double() - plain.double()
    return float((found * expected).sum() / expected.square().sum())


def test_a_layer_in_bfloat16_keeps_a_small_adapter_that_a_merge_would_lose() -> None:
    """At |B| = 2.5e-4, which five steps give, the low-rank part is smaller than what bfloat16 rounds away."""
    size, rank, scaling = 256, 16, 2.0
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(size, size, bias=False)).to(torch.bfloat16)
    config = LoraConfig(r=rank, lora_alpha=int(scaling * rank), lora_dropout=0.1, target_modules=["0"])
    config._register_custom_module({torch.nn.Linear: lora.LowRankLinear})
    adapted = get_peft_model(network, config).get_base_model()[0].eval()
    down, up = adapted.lora_A.default.weight, adapted.lora_B.default.weight
    x = torch.randn(256, size, generator=generator).bfloat16()
    with torch.inference_mode():
        adapted.base_layer.weight.copy_(torch.randn(size, size, generator=generator) * size**-0.5)
        down.copy_((torch.rand(rank, size, generator=generator) * 2 - 1) * size**-0.5)
        up.copy_(torch.randn(size, rank, generator=generator) * 2.5e-4)
        plain = torch.nn.functional.linear(x, adapted.base_layer.weight)
        expected = scaling * (x.double() @ down.double().t() @ up.double().t())
        assert expected.abs().mean() < plain.abs().double().mean() * 2**-9
        assert kept_share(adapted(x), plain, expected) == pytest.approx(1.0, abs=0.05)
        merged = (adapted.base_layer.weight.float() + scaling * up @ down).bfloat16()
        assert kept_share(torch.nn.functional.linear(x, merged), plain, expected) < 0.8


def test_a_model_in_bfloat16_changes_as_it_does_in_single_precision(tmp_path: Path) -> None:
    """What a step of learning does to log-probabilities, it does in the dtype that rollouts use."""
    folder = make_loud_model(tmp_path / "instruct", weights=4.0, embeddings=5.0)
    models = [load_tiny(folder, dtype=dtype) for dtype in ("float32", "bfloat16")]
    start = initial_adapter("ab" * 32, models[0].adapter_shape)
    ids = torch.randint(4, 250, (16, 32), generator=torch.Generator().manual_seed(0))

    def scores(lm: LanguageModel, adapter: Adapter) -> torch.Tensor:
        lora.set_adapter(lm.network, adapter)
        return lm.causal(input_ids=ids).logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None])

    scores(models[0], start).mean().backward()
    step = {
        name.split(".default")[0].removeprefix("base_model.model."): 2.5e-4 * np.sign(parameter.grad.numpy())
        for name, parameter in models[0].network.named_parameters()
        if parameter.grad is not None
    }
    after = {name: (array + step[name]).astype(np.float32) for name, array in start.items()}
    with torch.inference_mode():
        single, half = ([scores(lm, adapter) for adapter in (start, after)] for lm in models)
    assert kept_share(half[1], half[0], single[1] - single[0]) == pytest.approx(1.0, abs=0.12)
