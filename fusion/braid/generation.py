"""How a braid writes by default: as its anchor's model does."""

from __future__ import annotations

import copy

from transformers import GenerationConfig

from ..strands.strand import Strand


def generation_config(anchor: Strand) -> GenerationConfig:
    """How the anchor's model writes, but for its cache: braids keep their own."""
    found = copy.deepcopy(anchor.generation_config)
    found.cache_implementation = found.cache_config = None
    found.output_attentions = found.output_hidden_states = None  # they show none
    tokenizer = anchor.tokenizer
    if found.bos_token_id is None:
        found.bos_token_id = tokenizer.bos_token_id
    if found.eos_token_id is None:
        found.eos_token_id = tokenizer.eos_token_id
    if found.pad_token_id is None:
        found.pad_token_id = tokenizer.pad_token_id
    if found.pad_token_id is None:
        found.pad_token_id = tokenizer.eos_token_id
    return found
