"""What the benchmark counts as the machine's share of a step of decoding: bytes of memory."""

from __future__ import annotations

from tests.benchmarks import limits
from training.models import LanguageModel


def test_a_step_of_decoding_has_to_read_every_weight_and_every_key_and_value_once(tiny: LanguageModel) -> None:
    seconds, n_bytes = limits.decoding(tiny, 2)
    config = tiny.causal.config
    columns = limits.PROMPT_TOKENS + limits.DECODED + 1
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    weights = sum(parameter.nbytes for parameter in tiny.network.parameters() if parameter.dim() == 2)
    assert n_bytes == weights + 2 * columns * a_token
    assert seconds > 0
