"""What the benchmark counts as the machine's share of a step: rows of products, bytes of memory."""

from __future__ import annotations

from tests.benchmarks import limits
from tests.learner import trace
from training.attention import ROUNDED_TO
from training.models import LanguageModel
from training.update import UpdateConfig, update


def test_a_step_of_decoding_has_to_read_every_weight_and_every_key_and_value_once(tiny: LanguageModel) -> None:
    seconds, n_bytes = limits.decoding(tiny, 2)
    config = tiny.causal.config
    columns = limits.PROMPT_TOKENS + limits.DECODED + 1
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    weights = sum(parameter.nbytes for parameter in tiny.network.parameters() if parameter.dim() == 2)
    assert n_bytes == weights + 2 * columns * a_token
    assert seconds > 0


def test_rows_are_counted_that_products_are_given_while_a_model_learns(tiny: LanguageModel) -> None:
    learned = limits.Rows(tiny)
    item = trace(prompt_tokens=180, completion_tokens=12)
    update(tiny, [item], UpdateConfig(steps=2))
    config = tiny.causal.config
    wide = (config.hidden_size, (config.intermediate_size,) * 2)
    counts = {shape[:2]: count for shape, count in learned.rows.items()}
    assert counts[wide] == 2 * (192 * (config.num_hidden_layers - 1) + ROUNDED_TO)  # the last layer: 12, filled up
    assert sum(counts.values()) == 2 * (192 * (4 * config.num_hidden_layers - 2) + 2 * ROUNDED_TO)
    tiny.network.eval()
    before = learned.rows.total()
    limits.decoding(tiny, 1)
    assert learned.rows.total() == before
