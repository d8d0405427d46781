import math

import pytest
import tiny
import torch

from fusion.braid.configuration import BraidConfig
from fusion.judging.scoring import bits_per_byte
from fusion.report.controls import (
    BY_PROMPT,
    PLACES,
    STRATEGIES,
    PromptWeighted,
    Shuffled,
    layers_at,
    plans,
)


def test_every_pair_has_its_controls():
    found = list(plans({"a": 18, "b": 30}))
    assert [p.control for p in found[:4]] == [False, False, True, True]
    pairs = found[4:]
    assert len(pairs) == 2 * (1 + 2 + 3 + 3 + 3)
    shuffled = [p for p in pairs if p.control]
    assert {tuple(p.config.fusion_layers) for p in shuffled} == {
        ("output",),
        ("final",),
        ("final", "output"),
    }
    fewer = list(plans({"a": 18, "b": 30}, ["router"], ["sparse"]))
    assert {p.strategy for p in fewer[4:]} == {"router", "prompt_perplexity"}
    # round(0.7 * 18) - 1 and so on: the layers that the catalogue calls sparse.
    assert [p.config.fusion_layers for p in fewer[4:7]] == [
        ["output"],
        [12, 14, 16],
        [12, 14, 16],
    ]


def test_a_shuffled_donor_has_the_same_states_elsewhere(strands):
    llama = strands["llama"]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    found = Shuffled(llama).run(ids, taps=["final", 1])
    wanted = llama.run(ids, taps=["final", 1])
    for tap in ("final", 1):
        assert not torch.equal(found[tap], wanted[tap])
        rows = [sorted(map(tuple, x[0].tolist())) for x in (found[tap], wanted[tap])]
        assert rows[0] == rows[1]


def test_the_prompt_weighs_the_strands(strands):
    plan = next(
        p for p in plans({"gemma": 2, "llama": 3}) if p.strategy and p.config.donors
    )
    braid = plan.build([strands["gemma"], strands["llama"]])
    assert isinstance(braid, PromptWeighted)
    braid.read_prompt(tiny.PROSE)
    first, second = (
        bits_per_byte(strands[name], "", tiny.PROSE) * math.log(2)
        for name in ("gemma", "llama")
    )
    tokens = strands["gemma"].tokens.encode(tiny.PROSE)
    per_token = len(tiny.PROSE.encode()) / len(tokens)
    odds = braid.config.shares[0] / braid.config.shares[1]
    assert odds == pytest.approx(math.exp(per_token * (second - first)), rel=1e-6)
    assert sum(braid.config.shares) == pytest.approx(1.0)


@pytest.mark.parametrize("prompt", ["", "a"])
def test_a_prompt_that_nothing_predicts_weighs_all_strands_alike(strands, prompt):
    """gemma has a token in front of "a", llama does not: no odds to compare."""
    config = BraidConfig("gemma", ["llama"], [0.7, 0.3], ["output"], "learned_weighted")
    braid = PromptWeighted(config, [strands["gemma"], strands["llama"]])
    braid.read_prompt(prompt)
    assert braid.config.shares == [0.5, 0.5]


def test_the_prompts_words_weigh_the_strands_not_its_special_tokens(strands):
    config = BraidConfig("gemma", ["llama"], [0.7, 0.3], ["output"], "learned_weighted")
    found = []
    for prompt in ("<bos>The rain in Spain", "The rain<eos> in Spain"):
        braid = PromptWeighted(config, [strands["gemma"], strands["llama"]])
        braid.read_prompt(prompt)
        found.append(braid.config.shares)
    assert found[0] == found[1] != [0.5, 0.5]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 18, 30, 100])
def test_every_place_is_in_an_anchor_of_any_depth(place, depth):
    layers = layers_at(place, depth)
    assert len(set(layers)) == len(layers) > 0
    numbers = [layer for layer in layers if isinstance(layer, int)]
    assert numbers == sorted(numbers)
    assert all(0 <= layer < depth for layer in numbers)
    assert {x for x in layers if isinstance(x, str)} <= {"final", "output"}
    BraidConfig("a", ["b"], [0.7, 0.3], layers, "router")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("place", PLACES)
def test_every_plan_is_built_as_it_says(strands, strategy, place):
    """And none shares its recipe with another: shares are set anew in some."""
    found = list(plans({"llama": 4, "gemma": 6}, [strategy], [place]))
    known = {name: strands[name] for name in ("llama", "gemma")}
    known |= {s.name: s for s in map(Shuffled, list(known.values()))}
    for plan in found:
        names = [plan.config.anchor, *plan.config.donors]
        built = plan.build([known[name] for name in names])
        assert built.config is not plan.config
        assert (built.config.anchor, built.config.donors) == (names[0], names[1:])
        assert built.config.fusion_layers == plan.config.fusion_layers
        assert isinstance(built, PromptWeighted) is (plan.strategy == BY_PROMPT)
        assert plan.trained is (
            bool(plan.config.fusion_layers) and plan.strategy != BY_PROMPT
        )
        shuffled = any(name.endswith("(shuffled)") for name in names)
        alone = bool(plan.config.fusion_layers) and len(names) == 1
        assert plan.control is (shuffled or alone)
    assert len({str(plan) for plan in found}) == len(found)


def test_a_shuffled_donor_is_shuffled_alike_each_time_and_otherwise_itself(strands):
    llama = strands["llama"]
    donor, ids = Shuffled(llama), torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    first, again = (donor.run(ids, taps=["final"])["final"] for _ in range(2))
    assert torch.equal(first, again)
    assert (donor.width, donor.vocab_size) == (llama.width, llama.vocab_size)
    assert donor.tokens is llama.tokens
    assert donor.name == "llama (shuffled)"
    with pytest.raises(AttributeError, match="no_such_thing"):
        donor.no_such_thing  # noqa: B018
