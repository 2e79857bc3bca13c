"""A tiny random language model, so that tests need no download and take milliseconds.

Two Llama layers of width 32 over a byte-level vocabulary: it knows nothing, but loads, generates and trains like
the real thing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
VOCABULARY = 300
# Enough text for the few merges that bring the vocabulary from bytes to VOCABULARY.
CORPUS = ("Answer: yes. Answer: no. The answer is the one word that is asked for. " * 4,)


def make_tiny_model(folder: Path, *, seed: int = 0, chat: bool = False) -> Path:
    """Writes a tiny random Llama and its tokenizer as a Hugging Face folder.

    Args:
        folder: Where to write; made if missing.
        seed: Seed of the random weights; the same seed gives the same bytes.
        chat: Whether the tokenizer carries a chat template, as an instruct model's does.

    Returns:
        The folder, for chaining.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(chat=chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # a fixture must not reseed the test that asks for it
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_parrot(folder: Path, *, ends: bool = True, sequence: int = 1024) -> Path:
    """Writes a tiny instruct model that says a random letter and a full stop; or letters without end.

    What comes next depends on the last token alone: all layers add nothing, so the embedding meets the output head.
    """
    import torch
    from safetensors.torch import load_file, save_file

    make_tiny_model(folder, chat=True)
    config = json.loads((folder / "config.json").read_text())
    changed = {"tie_word_embeddings": False, "max_position_embeddings": sequence}
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    width = 32
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    letters = [words[letter] for letter in "abcdefghijklmnopqrstuvwxyz"]
    weights = load_file(folder / "model.safetensors")
    silent = {name: tensor if "norm" in name else torch.zeros_like(tensor) for name, tensor in weights.items()}
    embeddings, head = torch.zeros(len(words), width), torch.zeros(len(words), width)
    embeddings[:, 0] = 1.0  # behind the prompt: any letter
    head[letters, 0] = 4.0
    if ends:
        embeddings[letters] = torch.eye(width)[1]
        head[words["."], 1] = 4.0
        embeddings[words["."]] = torch.eye(width)[2]
        head[words["<|im_end|>"], 2] = 4.0
    tensors = {**silent, "model.embed_tokens.weight": embeddings, "lm_head.weight": head}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE if chat else None,
    )
