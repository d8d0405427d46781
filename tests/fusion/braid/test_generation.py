"""A braid writes as its anchor's model does, with a cache of its own."""

import tiny

from fusion.braid.generation import generation_config
from fusion.strands.strand import Strand


def strand(**settings):
    model = tiny.tiny_model("llama")
    model.generation_config.update(**settings)
    return Strand("llama", model, tiny.tiny_tokenizer("llama"))


def test_what_the_anchor_asks_for_is_kept_but_for_its_cache():
    asked = {"temperature": 0.3, "do_sample": True, "cache_implementation": "static"}
    anchor = strand(**asked)
    found = generation_config(anchor)
    assert (found.temperature, found.do_sample) == (0.3, True)
    assert found.cache_implementation is None
    # A copy: the anchor's own stays what it was.
    assert anchor.model.generation_config.cache_implementation == "static"


def test_ends_that_the_model_does_not_name_are_the_tokenizers():
    anchor = strand(eos_token_id=None, pad_token_id=None)
    found = generation_config(anchor)
    assert found.eos_token_id == anchor.tokenizer.eos_token_id
    assert found.pad_token_id == anchor.tokenizer.pad_token_id


def test_an_end_of_the_model_comes_before_the_tokenizers():
    assert generation_config(strand(eos_token_id=[7, 9])).eos_token_id == [7, 9]
