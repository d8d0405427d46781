import copy
import math

import pytest
import tiny
import torch
from tokenizers import AddedToken

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.judging.scoring import (
    StateCache,
    bits_per_byte,
    choose,
    multiple_choice,
    scored_tokens,
    target_log_probs,
)
from fusion.strands.strand import Strand


def by_definition(strand, logits, text, before):
    """-sum log2 p / bytes over the tokens that end after byte ``before``."""
    ids = strand.tokens.encode(text)
    ends = strand.tokens.ends(ids).tolist()
    log_p = logits.log_softmax(-1)
    total, first = 0.0, None
    for t in range(1, len(ids)):
        if ends[t] > before:
            first = t if first is None else first
            total -= float(log_p[t - 1, ids[t]])
    return total / math.log(2) / (ends[-1] - ends[first - 1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
@pytest.mark.parametrize("at", [0, 4])
def test_a_strand_by_definition(strands, family, text, at):
    strand = strands[family]
    ids = torch.tensor([strand.tokens.encode(text)])
    with torch.no_grad():
        logits = strand.model(ids).logits[0]
    got = bits_per_byte(strand, text[:at], text[at:])
    wanted = by_definition(strand, logits, text, len(text[:at].encode()))
    assert got == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("layers", [(1,), ("final", "output")], ids=str)
def test_a_braid_by_definition(braid, layers):
    model = braid("gemma", "llama", layers=layers)
    ids = torch.tensor([model.anchor.tokens.encode(tiny.CODE)])
    with torch.no_grad():
        logits = model(ids).logits[0]
    got = bits_per_byte(model, tiny.CODE[:7], tiny.CODE[7:])
    wanted = by_definition(model.anchor, logits, tiny.CODE, 7)
    assert got == pytest.approx(wanted, rel=1e-4)


def test_a_shared_state_changes_nothing(braid):
    models = [
        braid("llama", "gemma", layers=la, strategy=s)
        for la, s in (
            (("final",), "router"),
            (("final", "output"), "attention"),
            ((1,), "router"),
            ((1, "output"), "attention"),
        )
    ]
    states = StateCache()
    for model in models * 2:
        shared = bits_per_byte(model, "The ", "dog sleeps.", states)
        assert shared == bits_per_byte(model, "The ", "dog sleeps.")


def test_strands_of_one_name_do_not_share_a_state(braid):
    strands = [tiny.tiny_strand("llama", "x", seed=seed) for seed in (0, 1)]
    states = StateCache()
    alone = [bits_per_byte(s, "The ", "dog sleeps.") for s in strands]
    assert alone[0] != alone[1]
    assert [bits_per_byte(s, "The ", "dog sleeps.", states) for s in strands] == alone
    config = {"shares": [0.5, 0.5], "fusion_layers": ["output"], "strategy": "router"}
    donor = tiny.tiny_strand("gemma", "y")
    for anchor, other in ((strands[0], donor), (strands[1], donor)):
        both = [
            BraidedLLM(BraidConfig(a.name, [d.name], **config), [a, d])
            for a, d in ((anchor, other), (other, anchor))
        ]
        for model in both:
            shared = bits_per_byte(model, "The ", "dog sleeps.", states)
            assert shared == bits_per_byte(model, "The ", "dog sleeps.")


def test_a_braid_at_share_0_scores_as_its_anchor(braid, strands):
    model = braid("llama", "gemma", layers=("final", "output"), shares=[1.0, 0.0])
    got = bits_per_byte(model, "", tiny.PROSE)
    assert got == bits_per_byte(strands["llama"], "", tiny.PROSE)


def test_a_uniform_strand_pays_the_logarithm(strands):
    """All tokens alike: log2 V bits per token."""
    strand = tiny.tiny_strand("llama", "flat")
    strand.model.lm_head.weight.data.zero_()
    n = len(strand.tokens.encode(tiny.PROSE)) - 1
    first = int(strand.tokens.ends(strand.tokens.encode(tiny.PROSE))[0])
    wanted = n * math.log2(strand.vocab_size) / (len(tiny.PROSE) - first)
    assert bits_per_byte(strand, "", tiny.PROSE) == pytest.approx(wanted, rel=1e-5)


def test_nothing_to_score_is_refused(strands):
    with pytest.raises(ValueError, match="reference is empty"):
        bits_per_byte(strands["llama"], "a", "")
    with pytest.raises(ValueError, match="too short"):
        bits_per_byte(strands["llama"], "", "a")


def test_a_braid_of_the_prompt_by_definition(braid):
    """Donors read the prompt's tokens: those that end before the reference."""
    model = braid("llama", "gemma", layers=(1,), strategy="attention", fuse="prompt")
    prompt, reference = tiny.CODE[:9], tiny.CODE[9:]
    ids, start = scored_tokens(model.anchor, prompt, reference)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), prompt_length=start).logits[0]
        all_of_it = model(torch.tensor([ids])).logits[0]
    wanted = by_definition(model.anchor, logits, tiny.CODE, len(prompt))
    assert bits_per_byte(model, prompt, reference) == pytest.approx(wanted, rel=1e-5)
    other = by_definition(model.anchor, all_of_it, tiny.CODE, len(prompt))
    assert wanted != pytest.approx(other, rel=1e-4)
    states = StateCache()
    assert bits_per_byte(model, prompt, reference, states) == bits_per_byte(
        model, prompt, reference, states
    )
    with pytest.raises(ValueError, match="give prompt_length"):
        target_log_probs(model, ids, [1])


@pytest.mark.parametrize("positions", [[0], [3], [-1], [1, 9]])
def test_positions_that_nothing_predicts_are_refused(strands, positions):
    with pytest.raises(ValueError, match="positions from 1 to 2"):
        target_log_probs(strands["llama"], [5, 6, 7], positions)


def test_the_likeliest_choice_per_byte(strands):
    strand = strands["llama"]
    choices = [" a dog", " the other strand sleeps", " 42"]
    bits = [bits_per_byte(strand, "It is", c) for c in choices]
    best = bits.index(min(bits))
    assert choose(strand, "It is", choices) == best
    assert choose(strand, "It is", choices[::-1]) == 2 - best
    scores = [multiple_choice(strand, "It is", choices, i) for i in range(3)]
    assert sum(scores) == scores[best] == 1.0


def test_equal_choices_go_to_the_first(strands):
    assert choose(strands["llama"], "It is", [" so", " so"]) == 0


@pytest.mark.parametrize("choices", [[], [" a"], "ab", {" a", " b"}])
def test_one_choice_is_none(strands, choices):
    with pytest.raises(ValueError, match="at least two"):
        choose(strands["llama"], "It is", choices)


@pytest.mark.parametrize("answer", [2, -1, True])
def test_an_answer_is_one_of_the_choices(strands, answer):
    with pytest.raises(ValueError, match="from 0 to 1"):
        multiple_choice(strands["llama"], "It is", [" a", " b"], answer)


def test_special_tokens_are_scored_as_they_are_read(strands):
    """A chat template's text: one start token, and an end that is one token."""
    strand = strands["gemma"]
    bos, eos = strand.tokenizer.bos_token_id, strand.tokenizer.eos_token_id
    rain, stays = (strand.tokens.encode(t)[1:] for t in ("The rain", " stays"))
    ids = [bos, *rain, eos, *stays]
    with torch.no_grad():
        log_p = strand.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    first = len(ids) - len(stays)
    total = sum(float(log_p[t - 1, ids[t]]) for t in range(first, len(ids)))
    for prompt in ("<bos>The rain<eos>", "The rain<eos>"):
        got = bits_per_byte(strand, prompt, " stays")
        assert got == pytest.approx(-total / math.log(2) / 6, rel=1e-4)
    # In a reference it is a token to be predicted, worth the bytes of its name.
    total += float(log_p[len(rain), eos])
    got = bits_per_byte(strand, "<bos>The rain", "<eos> stays")
    assert got == pytest.approx(-total / math.log(2) / 11, rel=1e-4)


@pytest.mark.parametrize("names", [("gemma", "llama"), ("neox", "gemma")], ids="+".join)
@pytest.mark.parametrize("fuse", ["always", "prompt"])
def test_a_prompt_is_scored_as_it_is_written_from(braid, names, fuse):
    options = {"layers": (1,), "strategy": "attention", "fuse": fuse}
    model, read = braid(*names, **options), []
    chat = "<bos>The rain<eos> stays in "
    handle = model.anchor.body.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    try:
        model.generate(chat, max_new_tokens=1, do_sample=False)
        bits_per_byte(model, chat, "Spain")
        choose(model, chat, ["Spain", "the plain"])
    finally:
        handle.remove()
    written, *scored = read
    eos = model.tokenizer.eos_token_id
    upto = written.index(eos) + 1  # behind it a token may reach into the reference
    assert written.count(eos) == 1
    assert {tuple(ids[:upto]) for ids in scored} == {tuple(written[:upto])}


def test_a_special_token_that_swallows_a_space_is_still_the_prompts():
    """As Phi-3's <|assistant|>: the space behind it is the reference's all the same."""
    tokenizer = copy.deepcopy(tiny.tiny_tokenizer("llama"))
    turn = AddedToken("<|pad|>", special=True, rstrip=True)
    tokenizer.add_tokens([turn], special_tokens=True)
    strand = Strand("llama", tiny.tiny_model("llama"), tokenizer)
    ids = strand.tokens.read("The rain<|pad|>")
    stays = strand.tokens.encode("stays")
    with torch.no_grad():
        log_p = strand.model(torch.tensor([ids + stays])).logits[0].log_softmax(-1)
    rows = enumerate(stays, len(ids))
    total = sum(float(log_p[t - 1, token]) for t, token in rows)
    for reference in (" stays", "stays"):
        got = bits_per_byte(strand, "The rain<|pad|>", reference)
        assert got == pytest.approx(-total / math.log(2) / len(reference), rel=1e-4)
