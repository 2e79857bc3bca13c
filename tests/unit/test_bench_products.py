"""What the benchmark counts as matrix products of a step."""

from __future__ import annotations

from collections import Counter

import torch

from tests.benchmarks.products import Products, alone_s, linear
from tests.learner import trace
from training.attention import ROUNDED_TO
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


def test_a_step_counts_its_layers_its_head_and_its_attention(tiny: LanguageModel) -> None:
    item = trace(prompt_tokens=180, completion_tokens=12)
    with Products() as products:
        update(tiny, [item], UpdateConfig(steps=1))
    config, done = tiny.causal.config, products.done
    of_layers = linear(done, config.vocab_size)
    wide = 2 * config.intermediate_size
    rows = Counter()
    for (one, other), times in of_layers.items():
        if other[0][1] == wide and one[0][1] > config.hidden_size:  # gate and up, forward
            rows[one[0][0]] += times
    assert rows == {192: config.num_hidden_layers - 1, ROUNDED_TO: 1}  # the last layer: 12, filled up
    head = [times for (one, other), times in done.items() if config.vocab_size in (*one[0], *other[0])]
    assert sum(head) == 2  # forward, and the gradient of its states
    scores = [times for (one, _), times in done.items() if len(one[0]) == 3]
    assert sum(scores) == config.num_hidden_layers * (2 + 5)  # the scores are computed again
    assert sum(of_layers.values()) + sum(head) + sum(scores) == sum(done.values())
