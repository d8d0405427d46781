"""Tiny models of `tiny` written as GGUF files, for strands that llama.cpp runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gguf
import tiny
import torch

FAMILIES = ("llama", "gemma", "qwen2")
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "gemma": gguf.MODEL_ARCH.GEMMA3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
}


def _paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a llama's query or key as llama.cpp turns them: pairs side by side."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return halves.transpose(1, 2).reshape(weight.shape)


def write(file: Path, family: str, seed: int = 0, kind: str = "F32") -> Path:
    """Write `tiny.tiny_model` without its tokenizer; norms are never quantised."""
    model, arch = tiny.tiny_model(family, seed), _ARCHITECTURES[family]
    config: Any = model.config
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    size = getattr(config, "head_dim", None)
    size = size or config.hidden_size // config.num_attention_heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    if family == "gemma":
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(2)
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    state = dict(model.state_dict())
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name, weight in state.items():
        told = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert told is not None, name
        weight = weight.float()
        if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            queries = name.endswith("q_proj.weight")
            weight = _paired(
                weight,
                config.num_attention_heads if queries else config.num_key_value_heads,
            )
        if family == "gemma" and name.endswith("norm.weight"):
            weight = weight + 1
        data, to = weight.numpy(), gguf.GGMLQuantizationType[kind]
        if weight.dim() == 2 and kind != "F32" and weight.shape[1] % 32 == 0:
            writer.add_tensor(told, gguf.quantize(data, to), raw_dtype=to)
        else:
            writer.add_tensor(told, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@cache
def native_strand(folder: Path, family: str, name: str, seed: int = 0) -> Any:
    """A strand around such a file with the family's tokenizer."""
    from fusion.strands.native_strand import NativeStrand

    file = write(folder / f"{family}-{seed}.gguf", family, seed)
    return NativeStrand(name, file, tiny.tiny_tokenizer(family))


def ids_of(family: str, text: str = tiny.PROSE) -> torch.Tensor:
    """The family's tokens of a text (1, n)."""
    return torch.tensor([tiny.tiny_tokenizer(family).encode(text)])
