"""The tiny model as a GGUF file, written as llama.cpp's converter would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file

from tests.tiny import CHAT_TEMPLATE


def write_gguf(folder: Path, file: Path, *, quantised: bool) -> Path:
    """Writes a tiny Llama's folder as one GGUF file.

    Args:
        folder: As ``make_tiny_model`` writes it.
        file: Where to write.
        quantised: Matrices as Q8_0; else all in float32.

    Returns:
        The file, for chaining.
    """
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"] | special
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    ends = json.loads((folder / "tokenizer_config.json").read_text())
    heads = config["num_attention_heads"]
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[ends["bos_token"]])
    writer.add_eos_token_id(vocabulary[ends["eos_token"]])
    writer.add_pad_token_id(vocabulary[ends["pad_token"]])
    writer.add_chat_template(CHAT_TEMPLATE)
    _add_tensors(writer, folder, config, quantised=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tensors(writer: GGUFWriter, folder: Path, config: dict[str, Any], *, quantised: bool) -> None:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for name, tensor in load_file(folder / "model.safetensors").items():
        array = tensor.float().numpy()
        # llama.cpp rotates neighbouring dimensions, transformers the two halves.
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:
                array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if quantised and array.ndim == 2:
            packed = quantize(array, GGMLQuantizationType.Q8_0)
            writer.add_tensor(_gguf_name(name), packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(array))


def _gguf_name(name: str) -> str:
    renamed = {
        "model.": "",
        "layers.": "blk.",
        "embed_tokens": "token_embd",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "_proj": "",
        "mlp.": "ffn_",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for old, new in renamed.items():
        name = name.replace(old, new)
    return "output_norm.weight" if name == "norm.weight" else name
