"""A braid where any causal language model of transformers goes."""

import warnings
from inspect import signature

import pytest
import tiny
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, TextStreamer, pipeline
from transformers.utils.generic import TransformersKwargs

from fusion import BraidCache, BraidConfig, BraidedLLM, Pool
from fusion.braid.options import PASSED_OVER, REFUSED
from fusion.conformance import randomise
from fusion.strands.strand import CACHE

AUTO = AutoModelForCausalLM
PROMPT = "The dog"


@pytest.fixture
def model(braid):
    return braid("llama", "gemma", layers=(1, "final", "output"))


@pytest.fixture
def folder(tmp_path):
    """A braid of two saved strands, saved with its tokenizer."""
    sources = {f: str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")}
    config = BraidConfig(
        "llama", ["gemma"], [0.5, 0.5], [1], "attention", sources, fuse="prompt"
    )
    made = randomise(BraidedLLM(config, pool=Pool(sources)))
    made.save_pretrained(tmp_path / "braid")
    made.tokenizer.save_pretrained(tmp_path / "braid")
    return made, str(tmp_path / "braid")


def ids_of(model, text=PROMPT):
    return torch.tensor([model.tokenizer(text)["input_ids"]])


def test_auto_classes_load_a_saved_braid(folder):
    made, path = folder
    assert isinstance(AutoConfig.from_pretrained(path), BraidConfig)
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert isinstance(loaded, BraidedLLM)
    assert loaded.config.fuse == "prompt"
    with torch.no_grad():
        assert torch.equal(loaded(ids_of(made)).logits, made(ids_of(made)).logits)
    half = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_a_pipeline_writes_what_the_braid_writes(folder):
    made, path = folder
    wanted = made.generate(PROMPT, max_new_tokens=5, do_sample=False)
    for model in (path, made):
        writer = pipeline("text-generation", model=model, tokenizer=made.tokenizer)
        found = writer(PROMPT, max_new_tokens=5, do_sample=False)
        assert found[0]["generated_text"] == PROMPT + wanted
    prompts = [PROMPT, "A braid of strands"]
    rows = writer(prompts, batch_size=2, max_new_tokens=5, do_sample=False)
    assert rows[0][0]["generated_text"] == PROMPT + wanted


def test_writing_stops_at_a_string(model):
    options = {"max_new_tokens": 8, "do_sample": False}
    whole = model.generate(PROMPT, **options)
    stop = whole[len(whole) // 2]
    tokenizer = model.tokenizer
    out = model.generate(PROMPT, stop_strings=stop, tokenizer=tokenizer, **options)
    assert whole.startswith(out)
    assert len(out) < len(whole)
    assert stop in out


def test_how_a_braid_writes_is_saved_and_loaded(folder, tmp_path):
    made, path = folder
    made.generation_config.update(max_new_tokens=3, eos_token_id=[0, 5])
    made.save_pretrained(path)
    for kind in (BraidedLLM, AUTO):
        assert kind.from_pretrained(path).generation_config.max_new_tokens == 3
        assert kind.from_pretrained(path).generation_config.eos_token_id == [0, 5]


def test_a_streamer_gets_every_token(model):
    class Collect(TextStreamer):
        def __init__(self, tokenizer):
            super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
            self.pieces = []

        def on_finalized_text(self, text, stream_end=False):
            self.pieces.append(text)

    streamer = Collect(model.tokenizer)
    options = {"max_new_tokens": 8, "do_sample": False}
    wanted = model.generate(PROMPT, **options)
    ids = ids_of(model)
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, streamer=streamer, **options)
    assert "".join(streamer.pieces) == wanted
    assert len(streamer.pieces) > 1


def test_chat_templates(model):
    """Tokens that write nothing are the anchor's alone; donors read the words."""
    tokenizer = model.tokenizer
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who sleeps?"}],
        chat_template=template,
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    cache = BraidCache()
    with torch.no_grad():
        model(**ids, past_key_values=cache)
    [donor] = model.donors
    read = cache.rows[0].donors[donor.name].ids
    assert donor.tokens.text(read) == b"user: Who sleeps?assistant:"
    out = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert out.shape[1] <= ids["input_ids"].shape[1] + 3


def test_moves_to_half_precision_and_back():
    strands = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(("llama", "gemma"))]
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], [1, "final"], "router")
    model = randomise(BraidedLLM(config, strands))
    ids = ids_of(model)
    with torch.no_grad():
        before = model(ids).logits
        half = model.to(torch.bfloat16)(ids).logits
        after = model.float()(ids).logits
    assert half.dtype == torch.bfloat16
    gap = (half.float().softmax(-1) - before.softmax(-1)).abs().max()
    assert 0 < gap < 0.05
    assert (after - before).abs().max() < 0.5  # weights were rounded once
    assert model.generate(PROMPT, max_new_tokens=3, do_sample=False) is not None


def test_gradients_for_trainer(model):
    """A Trainer asks for labels and a loss, and divides steps by itself."""
    assert not model.accepts_loss_kwargs
    assert "labels" in signature(model.forward).parameters
    ids = ids_of(model)
    assert model(input_ids=ids, labels=ids).loss.requires_grad


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (
            lambda m, path: m(ids_of(m), output_attentions=True),
            "output_attentions",
        ),
        (lambda m, path: m(ids_of(m), inputs_embeds=torch.zeros(1)), "inputs_embeds"),
        (lambda m, path: m.save_pretrained(path, push_to_hub=True), "push_to_hub"),
        (lambda m, path: m.from_pretrained(path, poool=1), "poool"),
        (lambda m, path: m.from_pretrained(path, device_map="auto"), "device_map"),
        (
            lambda m, path: m.from_pretrained(path, trust_remote_code=True),
            "trust_remote_code",
        ),
        (
            lambda m, path: AUTO.from_pretrained(path, shaers=[1]),
            "shaers",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(folder, call, name, tmp_path):
    made, path = folder
    with pytest.raises(TypeError, match=name):
        call(made, path)


def test_a_mistyped_option_of_generate_is_refused(model):
    with pytest.raises(ValueError, match="max_new_tokenz"):
        model.generate(PROMPT, max_new_tokenz=3)


def test_a_cache_has_both_names(model):
    """transformers calls it "cache" from 5.24 on, "past_key_values" before."""
    ids = ids_of(model)
    by_new, by_old = (
        model(ids[:, -1:], **{name: model(ids[:, :-1], use_cache=True).cache}).logits
        for name in ("cache", "past_key_values")
    )
    assert torch.equal(by_new, by_old)
    cache = BraidCache()
    out = model(ids, cache=cache)
    assert out.cache is cache
    assert out.past_key_values is cache
    assert out[CACHE] is cache
    for read in (model, model.generate):
        with pytest.raises(ValueError, match="both cache and past_key_values"):
            read(ids, cache=cache, past_key_values=cache)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_generate_goes_on_from_a_cache_by_either_name(model, name):
    ids, cache = ids_of(model), BraidCache()
    wanted = model.generate(ids, max_new_tokens=4, do_sample=False)
    first = model.generate(ids, max_new_tokens=2, do_sample=False, **{name: cache})
    assert cache.get_seq_length() >= ids.shape[1]
    mask = torch.ones_like(first)
    options = {"attention_mask": mask, "max_new_tokens": 2, "do_sample": False}
    assert torch.equal(model.generate(first, **options, **{name: cache}), wanted)


def test_strands_are_called_without_warnings(model):
    """An older name is accepted by transformers with a FutureWarning, for a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(ids_of(model), max_new_tokens=2, do_sample=False)
        model.generate(PROMPT, max_new_tokens=2, num_beams=2)


# The classes that most open models are of.
COMMON = [
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "OPTForCausalLM",
    "FalconForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
]


@pytest.mark.parametrize("name", COMMON)
def test_what_models_of_transformers_take_is_known(name):
    """A new argument needs a decision: take it, pass it over, or refuse it."""
    theirs = set(signature(getattr(transformers, name).forward).parameters)
    ours = set(signature(BraidedLLM.forward).parameters) | {"kwargs"}
    # Part of what one model computes, which goes to an anchor of this kind.
    of_the_anchor = {"token_type_ids", "per_layer_inputs"}
    unknown = theirs - ours - set(REFUSED) - of_the_anchor
    assert not unknown, f"decide what a braid does with {sorted(unknown)}"


def test_what_transformers_hands_to_any_model_is_known():
    keys = set(TransformersKwargs.__annotations__)
    ours = set(signature(BraidedLLM.forward).parameters)
    unknown = keys - ours - set(REFUSED) - PASSED_OVER
    assert not unknown, f"decide what a braid does with {sorted(unknown)}"


def test_an_argument_that_generate_hands_over_one_day_is_passed_over(
    model, monkeypatch, caplog
):
    wanted = model.generate(ids_of(model), max_new_tokens=3, do_sample=False)
    prepare = model.prepare_inputs_for_generation

    def later(*args, **kwargs):
        return {**prepare(*args, **kwargs), "of_a_later_release": 1}

    monkeypatch.setattr(model, "prepare_inputs_for_generation", later)
    got = model.generate(ids_of(model), max_new_tokens=3, do_sample=False)
    assert torch.equal(got, wanted)
    assert caplog.text.count("of_a_later_release") == 1


@pytest.mark.parametrize("by_user", [True, False])
def test_an_argument_that_the_anchor_takes_reaches_it(model, monkeypatch, by_user):
    body, seen = model.anchor.body, []
    forward = body.forward

    def takes(input_ids, *, volume=None, **kwargs):
        seen.append(volume)
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(body, "forward", takes)
    if by_user:
        model.generate(ids_of(model), max_new_tokens=2, do_sample=False, volume=3)
        assert seen == [3, 3]
    else:
        model(ids_of(model))
        assert seen == [None]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_change_a_result_is_refused_by_name(model, name):
    neutral = REFUSED[name]
    cache = BraidCache()
    with pytest.raises(TypeError, match=name):
        model(ids_of(model), cache=cache, **{name: neutral is None or not neutral})
    assert not cache.rows
    model(ids_of(model), **{name: neutral})
    model(ids_of(model), **{name: None})
