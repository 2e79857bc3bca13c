"""What the benchmark counts as matrix products of a step."""

from __future__ import annotations

import torch

from tests.benchmarks.products import Products, alone_s
from tests.learner import trace
from training.models import LanguageModel
from training.update import UpdateConfig, update


def test_every_product_counts_whoever_asks_for_it() -> None:
    x, w, b = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True), torch.randn(2, 3, 4)
    with Products() as products:
        torch.nn.functional.linear(x, w).sum().backward()  # one each way: x takes no gradient
        torch.zeros(3, 5).addmm_(x, w.detach().t())
        torch.bmm(b, b.transpose(1, 2), out=torch.empty(2, 3, 3))
        x + 1
    shapes = sorted((one[0], other[0]) for one, other in products.done.elements())
    assert shapes == [((2, 3, 4), (2, 4, 3)), ((3, 4), (4, 5)), ((3, 4), (4, 5)), ((5, 3), (3, 4))]
    assert alone_s(products.done, torch.device("cpu")) > 0


def test_a_step_counts_its_head_and_its_attention(tiny: LanguageModel) -> None:
    item = trace(prompt_tokens=40, completion_tokens=3)
    with Products() as products:
        update(tiny, [item], UpdateConfig(steps=1))
    config = tiny.causal.config
    done = products.done
    head = [n for (one, other), n in done.items() if {*one[0], *other[0]} == {3, config.hidden_size, config.vocab_size}]
    assert sum(head) == 2  # forward, and the gradient of its states
    scores = [n for (one, other), n in done.items() if len(one[0]) == 3]
    assert sum(scores) == config.num_hidden_layers * (2 + 5)  # the scores are computed again
