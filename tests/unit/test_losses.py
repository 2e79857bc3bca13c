"""The two losses against a plain float64 reference, and where they must stay finite."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.losses import likelihood_loss, likelihood_sum, unlikelihood_loss, unlikelihood_mask, unlikelihood_sum

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    logits: Floats
    labels: Ints
    weights: Floats
    margin: float
    tail_tokens: int
    eos_id: int | None
    ignore_ids: frozenset[int]

    @property
    def options(self) -> dict[str, object]:
        return {
            "margin": self.margin,
            "tail_tokens": self.tail_tokens,
            "eos_id": self.eos_id,
            "ignore_ids": self.ignore_ids,
        }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    traces, positions, vocabulary = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, vocabulary, (traces, positions))
    labels[rng.random((traces, positions)) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -100
    return Case(
        logits=rng.normal(0, draw(st.sampled_from([0.1, 1.0, 4.0])), (traces, positions, vocabulary)),
        labels=labels,
        weights=rng.choice([0.0, 0.5, 1.0, 2.5], traces),
        margin=draw(st.sampled_from([0.0, 0.1, 0.3, 0.7])),
        tail_tokens=draw(st.integers(0, 9)),
        eos_id=draw(st.none() | st.integers(0, vocabulary - 1)),
        ignore_ids=draw(st.frozensets(st.integers(0, vocabulary - 1), max_size=2)),
    )


def probability(case: Case, trace: int, position: int) -> float:
    scores = case.logits[trace, position]
    exponentials = np.exp(scores - scores.max())
    return float(exponentials[case.labels[trace, position]] / exponentials.sum())


def reference_likelihood(case: Case) -> float:
    places = np.argwhere(case.labels != -100)
    return sum(-np.log(probability(case, *place)) for place in places) / max(1, len(places))


def reference_unlikelihood(case: Case) -> float:
    total, count = 0.0, 0
    for trace, labels in enumerate(case.labels):
        kept = [at for at, label in enumerate(labels) if label not in (-100, case.eos_id)]
        kept = kept[-case.tail_tokens :] if case.tail_tokens else kept
        for at in kept:
            if labels[at] in case.ignore_ids:
                continue
            count += 1
            believed = probability(case, trace, at)
            if believed > case.margin:
                total += case.weights[trace] * -np.log1p(-believed)
    return total / max(1, count)


def unlikelihood(case: Case, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    weights = torch.tensor(case.weights)
    return unlikelihood_loss(torch.tensor(case.logits, dtype=dtype), torch.tensor(case.labels), weights, **case.options)


@given(cases())
def test_likelihood_is_the_mean_cross_entropy_of_unmasked_labels(case: Case) -> None:
    labels = torch.tensor(case.labels)
    expected = pytest.approx(reference_likelihood(case), rel=1e-10, abs=1e-12)
    assert float(likelihood_loss(torch.tensor(case.logits), labels)) == expected
    single = likelihood_loss(torch.tensor(case.logits, dtype=torch.float32), labels)
    assert float(single) == pytest.approx(reference_likelihood(case), rel=1e-4, abs=1e-5)


@given(cases())
def test_unlikelihood_is_the_published_formula(case: Case) -> None:
    assert float(unlikelihood(case)) == pytest.approx(reference_unlikelihood(case), rel=1e-9, abs=1e-12)


@given(cases())
def test_unlikelihood_in_single_precision_is_close_to_the_formula(case: Case) -> None:
    places = np.argwhere(case.labels != -100)
    if all(abs(probability(case, *place) - case.margin) > 1e-5 for place in places):
        found = float(unlikelihood(case, torch.float32))
        assert found == pytest.approx(reference_unlikelihood(case), rel=1e-3, abs=1e-5)


@given(cases(), st.data())
def test_a_window_a_trace_is_the_same_as_a_window_for_all(case: Case, data: st.DataObject) -> None:
    labels = torch.tensor(case.labels)
    windows = data.draw(st.lists(st.integers(0, 9), min_size=len(labels), max_size=len(labels)))
    options = {"eos_id": case.eos_id, "ignore_ids": case.ignore_ids}
    together = unlikelihood_mask(labels, tail_tokens=torch.tensor(windows), **options)
    apart = [unlikelihood_mask(labels[i : i + 1], tail_tokens=window, **options) for i, window in enumerate(windows)]
    assert together.tolist() == torch.cat(apart).tolist()


@given(cases())
def test_sums_over_parts_add_up_to_the_whole(case: Case) -> None:
    logits, labels, weights = torch.tensor(case.logits), torch.tensor(case.labels), torch.tensor(case.weights)
    mask = unlikelihood_mask(labels, tail_tokens=case.tail_tokens, eos_id=case.eos_id, ignore_ids=case.ignore_ids)
    parts = [slice(i, i + 1) for i in range(len(labels))]
    wins = [likelihood_sum(logits[part], labels[part]) for part in parts]
    losses = [
        unlikelihood_sum(logits[part], labels[part], weights[part], mask[part], margin=case.margin) for part in parts
    ]
    for sums, whole in ((wins, likelihood_loss(logits, labels)), (losses, unlikelihood(case))):
        total, count = sum(float(part[0]) for part in sums), sum(int(part[1]) for part in sums)
        assert total / max(1, count) == pytest.approx(float(whole), rel=1e-10, abs=1e-12)


def test_weights_count_a_trace_so_many_times_in_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    logits, labels = torch.tensor(rng.normal(size=(2, 3, 5))), torch.tensor([[0, 1, 2], [3, -100, 4]])
    total, count = likelihood_sum(logits, labels, torch.tensor([1.0, 3.0]))
    repeated = [0, 1, 1, 1]
    expected, tokens = likelihood_sum(logits[repeated], labels[repeated])
    assert float(total) == pytest.approx(float(expected))
    assert count == tokens == 9


@pytest.mark.parametrize(
    ("tail_tokens", "eos_id", "ignore_ids", "kept"),
    [
        (0, None, set(), [0, 1, 2, 3, 4]),
        (0, 9, set(), [0, 1, 2, 3]),
        (2, None, set(), [3, 4]),
        (2, 9, set(), [2, 3]),  # the window is taken of what is left without EOS
        (2, 9, {7}, [2]),  # and a protected token takes a place in the window
        (0, 9, {5, 6, 7, 8}, []),
        (99, 9, set(), [0, 1, 2, 3]),
    ],
)
def test_eos_is_dropped_before_the_window_and_protected_tokens_after_it(
    tail_tokens: int, eos_id: int | None, ignore_ids: AbstractSet[int], kept: list[int]
) -> None:
    labels = torch.tensor([[5, 6, 8, 7, 9, -100]])
    mask = unlikelihood_mask(labels, tail_tokens=tail_tokens, eos_id=eos_id, ignore_ids=ignore_ids)
    assert mask[0].nonzero().flatten().tolist() == kept


def test_a_token_believed_in_no_more_than_the_margin_is_left_alone() -> None:
    believed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = believed.log().expand(1, 3, 3).clone().requires_grad_()
    loss = unlikelihood_loss(logits, torch.tensor([[0, 1, 2]]), torch.ones(1), margin=0.4)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(
        -np.log(0.5) / 3
    )  # tokens that are left alone still count below the line
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().min() > 0
    assert not logits.grad[0, 1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [40.0, 200.0, 1e4])
def test_losses_and_gradients_are_finite_where_the_model_is_certain(size: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 2, 4, dtype=dtype)
    logits[0, :, 1], logits[1, :, 2] = size, -size
    logits.requires_grad_()
    labels = torch.tensor([[1, 2], [1, 2]])
    lose = unlikelihood_loss(logits, labels, torch.ones(2))
    assert torch.isfinite(lose)
    assert float(lose.detach()) > size / 8
    (lose + likelihood_loss(logits, labels)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_certain_token_is_pushed_down_as_hard_as_can_be() -> None:
    """Where p rounds to 1, log(1 - p) is infinite and its gradient is not a number in the textbook form."""
    logits = torch.tensor([[[1e4, 0.0, 0.0]]], requires_grad=True)
    unlikelihood_loss(logits, torch.tensor([[0]]), torch.ones(1)).backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([1.0, -0.5, -0.5])


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 2, (2, 4, 5)), requires_grad=True)
    labels, weights = torch.tensor(rng.integers(0, 5, (2, 4))), torch.tensor([0.5, 1.0])
    labels[0, 0] = -100
    believed = logits.softmax(-1).gather(-1, labels.clamp(min=0)[..., None])
    assert (believed - 0.3).abs().min() > 1e-3, "too close to the margin for finite differences: choose another seed"
    assert torch.autograd.gradcheck(lambda x: likelihood_loss(x, labels), (logits,))
    assert torch.autograd.gradcheck(lambda x: unlikelihood_loss(x, labels, weights, tail_tokens=3), (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_single(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels, weights = torch.tensor([[1, 2, 3], [4, 5, -100]]), torch.ones(2)
    for loss, wide in (
        (likelihood_loss(logits, labels), likelihood_loss(logits.double(), labels)),
        (
            unlikelihood_loss(logits, labels, weights, margin=0.1),
            unlikelihood_loss(logits.double(), labels, weights, margin=0.1),
        ),
    ):
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(wide), rel=1e-5)


def test_nothing_to_learn_gives_zero_and_a_zero_gradient() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)
    masked = torch.full((2, 3), -100)
    loss = likelihood_loss(logits, masked) + unlikelihood_loss(logits, masked, torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
