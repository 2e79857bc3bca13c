"""A base model in memory: weights, tokenizer, prompt format and adapter, ready to sample from and to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from profiles import Profile
from training import attention, layers, lora, packed_attention, quantization, rotary
from training.adapters import AdapterShape
from training.errors import ModelError
from training.feedback import Message
from training.halving import is_failure_of_gpu, is_out_of_memory
from training.packing import Packing, pack
from training.quiet import quiet_libraries
from training.sources import ModelSource

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

PromptFormat = Literal["chat", "raw"]

_ALIKE = 0.1
"""Scores of half of the tokens that differ by less, of their length, may come from the order of sums in bfloat16."""
_TRIED = "The cat sat on the mat, and the dog lay beside it."
"""Plain words: of what a model has never seen in a row, rounding alone may change half of the scores."""
_EXACT = 16
"""How many of the likeliest tokens have logits that are not rounded: 1e-4 nats a token from having all of them."""
_BY_LENGTH = frozenset({"dynamic", "longrope", "llama_4_scaling_beta"})
"""Ways to turn positions beyond those that a model was trained for first, by how long the longest sequence of a pass is
or by where a token stands: what shares a pass must not matter, so sequences end there."""
_UNSCALED = ("logits_scaling", "logit_scale")
"""What logits are multiplied or divided by; none of it is done here."""
_UNLIKE = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model that is built in another way may raise."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Size of the adapter: ``rank`` r, ``alpha`` (products are scaled by alpha / r) and ``dropout`` while training."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A loaded base model that carries one adapter.

    Attributes:
        network: The PEFT model; its adapter is the only thing that is ever trained.
        tokenizer: The base model's.
        source: Where the base model came from.
        prompt_format: ``chat`` applies the chat template, ``raw`` joins the messages' text.
        system_prompt: Put first when a conversation has no system message of its own.
        max_sequence_tokens: Most tokens of prompt and completion together.
    """

    network: PeftModel
    tokenizer: Any
    source: ModelSource
    prompt_format: PromptFormat
    system_prompt: str | None
    max_sequence_tokens: int

    @property
    def causal(self) -> PreTrainedModel:
        """The transformers model below PEFT, adapter included."""
        return cast("PreTrainedModel", self.network.get_base_model())

    @property
    def device(self) -> torch.device:
        return self.causal.device

    @property
    def dtype(self) -> torch.dtype:
        """What the base weights and the products are computed in."""
        return self.causal.dtype

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward pass, to take less memory."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.causal.modules())

    @property
    def eos_id(self) -> int:
        """The token a completion ends with when it is trained on: the tokenizer's, or else the model's own."""
        own = self.tokenizer.eos_token_id
        return int(min(_listed(self.causal.generation_config)) if own is None else own)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends a completion."""
        return frozenset({self.eos_id, *_listed(self.causal.generation_config)})

    @property
    def pad_id(self) -> int:
        return self.eos_id if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    @property
    def adapter_shape(self) -> AdapterShape:
        return lora.adapter_shape(self.network)

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, vocabulary]`` of hidden states ``[N, hidden]``, in the model's dtype."""
        return cast(torch.Tensor, self.causal.get_output_embeddings()(states))

    def logits(self, states: torch.Tensor, named: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, of each row's likeliest tokens, and of ``named [N]``, not rounded to the model's dtype.

        In bfloat16, logits above 32 are a quarter apart. For an adapter that has learned a little, that is two fifths
        of how far predictions are from those in float32.
        """
        rounded = self.head(states)
        if rounded.dtype.itemsize >= torch.float32.itemsize:
            return rounded.float()
        exact = rounded.topk(min(_EXACT, rounded.shape[-1]), sorted=False).indices
        if named is not None:
            exact = torch.cat([exact, named[:, None]], dim=-1)
        head = self.causal.get_output_embeddings()
        logits = (head.weight[exact].float() @ states.float()[:, :, None]).squeeze(-1)
        if head.bias is not None:
            logits += head.bias[exact]
        return rounded.float().scatter_(-1, exact, logits)

    def encode_prompt(self, messages: Sequence[Message], opening: str = "") -> list[int]:
        """Token ids of a conversation up to where the model's answer begins, or goes on after an ``opening``."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        if self.system_prompt and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        if self.prompt_format == "chat":
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return self.encode_text(text + opening)
        ids = self.encode_text("\n\n".join([*(turn["content"] for turn in turns), *([opening] if opening else [])]))
        start = self.tokenizer.bos_token_id
        adds_start = start is not None and self.tokenizer("x")["input_ids"][:1] == [start]
        return [start, *ids] if adds_start else ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text by itself, without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def load(
    source: ModelSource,
    profile: Profile,
    settings: LoraSettings,
    *,
    prompt_format: PromptFormat | None = None,
    system_prompt: str | None = None,
) -> LanguageModel:
    """Loads a base model in the profile's dtype, with an adapter that changes nothing yet.

    Args:
        source: A resolved model.
        profile: With a concrete dtype (see ``profiles.resolve``). Sets the process's thread count.
        settings: The adapter's size.
        prompt_format: Instead of the source's own.
        system_prompt: See :class:`LanguageModel`.

    Raises:
        ModelError: The folder cannot be loaded, or the architecture is not supported.
        MissingPackageError: The profile packs weights, and what does that is not installed.
    """
    if profile.threads:
        torch.set_num_threads(profile.threads)
    causal, tokenizer = _read(source, profile)
    if profile.checkpointing:
        causal.gradient_checkpointing_enable()
    layers.streamline(causal)
    attention.use(causal)
    if profile.quantization != "none":
        quantization.pack(causal, profile.quantization, profile.device)
    network = lora.attach(
        causal, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout, device=profile.device
    )
    lora.let_go_of_file(causal)
    lm = LanguageModel(
        network=network,
        tokenizer=tokenizer,
        source=source,
        prompt_format=prompt_format or source.prompt_format,
        system_prompt=system_prompt,
        max_sequence_tokens=_most_tokens(causal.config, profile),
    )
    if tokenizer.eos_token_id is None and not _listed(lm.causal.generation_config):
        raise ModelError(
            f"{source.reference}: neither the tokenizer nor the model says by which token a text ends",
            "complete its generation_config.json, or choose another model",
        )
    _check(lm)
    _streamline(lm)
    return lm


def _listed(config: Any) -> list[int]:
    """The tokens that end a completion, as a model's configuration has them: one, several or none."""
    found = getattr(config, "eos_token_id", None)
    return [] if found is None else [*found] if isinstance(found, list) else [found]


def _most_tokens(config: Any, profile: Profile) -> int:
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):  # or one a kind of layer
        if one.get("rope_type") in _BY_LENGTH or one.keys() & _BY_LENGTH:
            limits.append(one.get("original_max_position_embeddings"))
    return min([profile.max_sequence, *(limit for limit in limits if limit)])


@torch.inference_mode()
def _check(lm: LanguageModel) -> None:
    """Makes sure that the model says the same of a packed sequence as of one by itself.

    Raises:
        ModelError: It does not: it caps or scales its scores, say, or has layers that are no attention.
    """
    lm.network.eval()
    ids, positions = _few_tokens(lm)
    pattern = _Asked(pack([ids.tolist()]))
    config = lm.causal.config
    try:
        wanted = lm.causal(input_ids=ids[None], use_cache=False).logits[0].float()
        found = lm.logits(attention.run(lm.causal, ids, positions, pattern))
        is_alike = bool(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).median() <= _ALIKE)
        is_alike &= pattern.layers == [*range(config.num_hidden_layers)]
        is_alike &= getattr(config, "final_logit_softcapping", None) is None
        is_alike &= all(getattr(config, name, None) in (None, 1) for name in _UNSCALED)
    except _UNLIKE as error:
        if is_out_of_memory(error) or is_failure_of_gpu(error):
            raise
        is_alike = False
    if not is_alike:
        raise ModelError(
            f"{lm.source.reference}: models of this architecture ({config.model_type}) are not supported",
            "choose a model that is built like Llama, Mistral, Qwen or SmolLM",
        )


@torch.inference_mode()
def _streamline(lm: LanguageModel) -> None:
    """Has attention take fewer passes, and the last layer compute only what is asked for, where they say the same."""
    lm.network.eval()
    ids, positions = _few_tokens(lm)
    # Far positions, too: some models do more there than turn.
    positions = positions * max(1, lm.max_sequence_tokens // len(ids))
    pattern, base = packed_attention.Whole(pack([ids.tolist()])), lm.causal.base_model
    for better in (rotary.streamline, layers.narrow):
        better(base, lambda: attention.run(lm.causal, ids, positions, pattern))


def _few_tokens(lm: LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and their positions."""
    ids = torch.tensor(lm.encode_text(_TRIED) or range(1, 7), device=lm.device)
    return ids, torch.arange(len(ids), device=lm.device)


class _Asked(packed_attention.Whole):
    """Notes the layers that ask it: what passes something from token to token in another way would pack wrongly."""

    def __init__(self, packing: Packing) -> None:
        super().__init__(packing)
        self.layers: list[int] = []

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.layers.append(layer)
        return super().attend(layer, query, key, value, scale)


def _read(source: ModelSource, profile: Profile) -> tuple[Any, Any]:
    """The transformers model, not yet on a GPU, and its tokenizer."""
    quiet_libraries()
    try:
        causal, found = cast("Any", AutoModelForCausalLM).from_pretrained(
            source.folder,
            dtype=getattr(torch, profile.dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{source.reference}: the model cannot be loaded: {error}", "check the folder, or choose another model"
        ) from error
    if found["missing_keys"]:
        # transformers would fill them with random numbers.
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{source.reference}: the weights lack {len(missing)} tensors, first {missing[0]}",
            "the folder is incomplete: fetch it again",
        )
    return causal, tokenizer


def shape_of(source: ModelSource, settings: LoraSettings) -> AdapterShape:
    """The adapter's shape for a base model, from its configuration alone: no weights are read."""
    quiet_libraries()
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        with torch.device("meta"):
            causal = AutoModelForCausalLM.from_config(config)
            network = lora.attach(causal, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{source.reference}: not a causal language model: {error}", "choose a model made for text generation"
        ) from error
    return lora.adapter_shape(network)
