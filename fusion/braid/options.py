"""What a call is given beside text: handed on, passed over, or refused by name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

_LOG = logging.getLogger(__name__)

# What would change the result of a call, and the value with which it does not: other
# inputs than text, more outputs than logits, texts packed into one row.
REFUSED = {
    "inputs_embeds": None,
    "encoder_hidden_states": None,
    "encoder_attention_mask": None,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_router_logits": False,
    "is_causal": True,
    "cu_seq_lens_q": None,
    "cu_seq_lens_k": None,
    "seq_idx": None,
}

# What transformers hands to any model and no braid has a use for.
PASSED_OVER = frozenset(
    ["tokenizer", "assistant_tokenizer", "num_items_in_batch"]
    + ["max_length_q", "max_length_k", "token_type_ids", "mm_encoder_outputs"]
)

# What AutoModel and pipelines pass along whatever the model.
_PASSED_ALONG = {"_from_auto", "adapter_kwargs"}


@lru_cache
def _pass_over(name: str) -> None:
    """Say once that an argument does nothing."""
    _LOG.warning("forward was given %r, which braids pass over; is it spelt so?", name)


def options_of_anchor(
    options: Mapping[str, Any], takes: Collection[str]
) -> dict[str, Any]:
    """What of the further arguments of ``forward`` the anchor ``takes``.

    Raises TypeError on those that would change what comes back.
    """
    for name, value in options.items():
        if value is None or value is REFUSED.get(name):
            continue
        if name in REFUSED:
            raise TypeError(
                f"forward received {name}, which would change what comes back and "
                "which braids do not have; leave it out"
            )
    for name in set(options) - set(takes) - set(REFUSED) - PASSED_OVER:
        _pass_over(name)
    return {name: options[name] for name in options if name in takes}


def refuse_options(method: str, options: Mapping[str, Any], known: str) -> None:
    """Raise TypeError on options that would be ignored.

    Examples
    --------
    >>> refuse_options("from_pretrained", {"adapter_kwargs": {}}, "pool")
    >>> refuse_options("from_pretrained", {"poool": 1}, "pool")
    Traceback (most recent call last):
        ...
    TypeError: from_pretrained received unknown options ['poool']; it takes pool
    """
    unknown = sorted(
        name
        for name, value in options.items()
        if name not in _PASSED_ALONG and value is not None and value is not False
    )
    if unknown:
        raise TypeError(
            f"{method} received unknown options {unknown}; it takes {known}"
        )
