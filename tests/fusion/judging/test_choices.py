import pytest
import tiny
import torch

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.conformance import randomise
from fusion.judging.choices import (
    NEUTRAL,
    RULES,
    OptionScores,
    Question,
    option_scores,
    score_options,
)
from fusion.judging.scoring import choose, scored_bytes, scored_tokens, target_log_probs
from fusion.report.controls import ProductOfExperts, Shuffled

PROMPT = "Question: what does the other dog do?\nAnswer:"
# One token and many, one the beginning of another, a word that is cut in two, bytes.
OPTIONS = (
    " the",
    " the dog sleeps",
    " the dog sleeps in the other town.",
    " s",
    " café 😀 你好",
    " return sum(values)",
)
GLUED = "The other dog sl"  # whose last letters go on in the options


def alone(model, prompt, option):
    """Log-likelihood of one option, with everything read for it anew."""
    anchor = model.anchor if isinstance(model, BraidedLLM) else model
    ids, start = scored_tokens(anchor, prompt, option)
    logs = target_log_probs(model, ids, range(start, len(ids)), None, start)
    return float(logs.double().sum())


def check(models, prompt=PROMPT, options=OPTIONS, tolerance=2e-3):
    question = Question(prompt, options)
    for model in models:
        wanted = [alone(model, prompt, option) for option in options]
        assert question.log_probs(model) == pytest.approx(wanted, abs=tolerance)
        anchor = model.anchor if isinstance(model, BraidedLLM) else model
        sizes = [scored_bytes(anchor, prompt, option) for option in options]
        assert question.n_bytes(anchor) == sizes


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MORE_FAMILIES)
@pytest.mark.parametrize("prompt", [PROMPT, GLUED, "😀"])
def test_a_strand_reads_the_prompt_once_and_says_the_same(strands, family, prompt):
    check([strands[family]], prompt)


@pytest.mark.parametrize(
    "names",
    [("llama", "gemma"), ("gemma", "llama"), ("neox", "gpt2"), ("opt", "qwen2")],
)
def test_braids_of_every_place_say_the_same(braid, names):
    """Of one question, so that what strands made of it serves several braids."""
    check(
        [
            braid(*names, layers=("output",), strategy="learned_weighted"),
            braid(*names, layers=("final",)),
            braid(*names, layers=("final", "output")),
            braid(*names, layers=("final", "output"), strategy="attention"),
            braid(names[0], layers=("final",)),
            braid(names[0], layers=(), strategy=None),
            braid(*names, layers=("final", "output"), shares=[1.0, 0.0]),
            # These read each option by itself.
            braid(*names, layers=(1,)),
            braid(*names, layers=("final",), strategy="attention", fuse="prompt"),
        ]
    )


@pytest.mark.parametrize("prompt", [GLUED, " ", "\n\n"])
def test_options_that_go_on_in_a_word_or_behind_a_space(braid, prompt):
    options = ("eeps", "eep", "ept here ", "  x", "ow")
    check([braid("llama", "gemma", layers=("final", "output"))], prompt, options)
    check([braid("gemma", "llama", layers=("final", "output"))], prompt, options)


def test_three_strands_and_two_of_one_tokenizer(braid):
    names = ("gemma", "llama", "gpt2")
    check([braid(*names, layers=("final", "output")), braid(*names, layers=("final",))])
    check([braid("llama", "llama-2", "llama-3", layers=("final", "output"))])


def test_long_options_are_scored_in_pieces(braid):
    options = (" the dog sleeps" * 30, " return x" * 40, " no")
    check([braid("llama", "gemma", layers=("final", "output"))], PROMPT, options)


def test_long_rope_reads_on_either_side_of_its_turn():
    strand = tiny.long_rope_strand(turn=30)
    check([strand], PROMPT, (" a", " the dog sleeps in the other town, they say."))


def test_a_shuffled_donor_reads_each_option_by_itself(strands):
    llama, donor = strands["llama"], Shuffled(strands["gemma"])
    config = BraidConfig("llama", [donor.name], [0.6, 0.4], ["final"], "router")
    check([randomise(BraidedLLM(config, [llama, donor]), seed=0, std=0.1)])


def test_a_product_of_experts_by_definition(strands):
    """With twins that share a tokenizer the pool can be reckoned by hand."""
    config = BraidConfig(
        "llama", ["llama-2"], [0.5, 0.5], ["output"], "learned_weighted"
    )
    pool = ProductOfExperts(config, list(strands.values()))
    ids = strands["llama"].tokens.read(PROMPT + OPTIONS[1])
    rows = torch.tensor([ids])
    with torch.no_grad():
        logs = [
            strands[name].model(rows).logits[0].log_softmax(-1)
            for name in ("llama", "llama-2")
        ]
        found = pool(rows).logits[0].log_softmax(-1)
    wanted = (0.5 * logs[0] + 0.5 * logs[1]).log_softmax(-1)
    assert torch.allclose(found, wanted, atol=1e-3)
    check([pool])
    other = ProductOfExperts(
        BraidConfig("gemma", ["llama"], [0.5, 0.5], ["output"], "learned_weighted"),
        list(strands.values()),
    )
    check([other])


class Counting:
    """A strand that counts the tokens that it reads."""

    def __init__(self, strand):
        self.strand, self.tokens_read = strand, 0

    def __getattr__(self, name):
        return getattr(self.strand, name)

    def run(self, input_ids, **options):
        self.tokens_read += input_ids.numel()
        return self.strand.run(input_ids, **options)


def test_a_prompt_is_read_once_for_all_options_and_braids(strands):
    llama, gemma = Counting(strands["llama"]), Counting(strands["gemma"])
    braids = [
        BraidedLLM(
            BraidConfig("llama", ["gemma"], [0.6, 0.4], layers, "router"),
            [llama, gemma],
        )
        for layers in (["output"], ["final"], ["final", "output"])
    ]
    long = PROMPT * 10
    llama.tokens_read = gemma.tokens_read = 0  # strands are tried out before
    score_options([llama, *braids], long, OPTIONS)
    for strand in (llama, gemma):
        prompt = len(strand.strand.tokens.read(long))
        options = sum(len(strand.strand.tokens.read(option)) for option in OPTIONS)
        neutral = len(strand.strand.tokens.read(NEUTRAL))
        # A text so far may be cut otherwise, and is read beside.
        assert strand.tokens_read <= prompt + neutral + 3 * options
        assert strand.tokens_read < 1.6 * prompt


def test_options_behind_one_position_ask_for_it_once(strands):
    at = Question(PROMPT, OPTIONS[:3]).positions(strands["llama"])
    assert len(at.first) == len(at.hidden) < len(at.targets) == sum(at.counts)
    assert at.place[0] == at.place[at.counts[0]]


def test_the_rules():
    scores = OptionScores((-6.0, -4.0), (12, 4), (-9.0, -4.5))
    assert [scores.choice(rule) for rule in RULES] == [0, 1, 0]
    assert OptionScores((-2.0, -2.0), (2, 2), (0.0, 0.0)).choice("byte") == 0
    with pytest.raises(ValueError, match="unknown rule 'bytes'"):
        scores.by("bytes")


def test_the_likelihood_without_the_prompt(strands):
    llama = strands["llama"]
    [scores] = score_options([llama], PROMPT, OPTIONS)
    wanted = [alone(llama, NEUTRAL, option) for option in OPTIONS]
    assert scores.unprompted == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_same_choice_as_one_option_after_the_other(strands, family):
    strand = strands[family]
    [scores] = score_options([strand], PROMPT, OPTIONS)
    assert scores.choice("byte") == choose(strand, PROMPT, OPTIONS)


def test_weights_that_change_are_read_anew():
    strand = tiny.tiny_strand("llama")
    question = Question(PROMPT, OPTIONS)
    before = question.log_probs(strand)
    with torch.no_grad():
        strand.head.weight.mul_(1.5)
    after = question.log_probs(strand)
    assert after != before
    assert after == pytest.approx(
        [alone(strand, PROMPT, option) for option in OPTIONS], abs=2e-3
    )


@pytest.mark.parametrize(
    ("prompt", "options"), [("", (" a", " b")), ("Q:", (" a", ""))]
)
def test_nothing_is_refused(prompt, options):
    with pytest.raises(ValueError, match="not empty"):
        Question(prompt, options)


def test_an_option_of_which_nothing_is_scored_is_refused(strands):
    """llama has no token in front of a text, and reads "re" as one token."""
    llama = strands["llama"]
    assert len(llama.tokens.read("re")) == 1
    with pytest.raises(ValueError, match="nothing to score in the option 'e'"):
        Question("r", ("e", "x")).log_probs(llama)


def test_numbers_that_are_none_are_refused(strands):
    strand = tiny.tiny_strand("llama")
    with torch.no_grad():
        strand.head.weight[7].fill_(float("nan"))
    with pytest.raises(ValueError, match="no finite numbers"):
        option_scores(strand, Question("Q:", (" a", " b")), Question("A", (" a", " b")))


def test_a_braid_of_decoder_layers_is_not_fused_elsewhere(braid):
    model = braid("llama", "gemma", layers=(1,))
    with pytest.raises(ValueError, match=r"fuses decoder layers \[1\]"):
        Question(PROMPT, OPTIONS).states(model)


def test_strands_that_llama_cpp_runs(tmp_path):
    pytest.importorskip("llama_cpp", reason="the extra named native is not installed")
    import ggufs

    llama, gemma = (
        ggufs.native_strand(tmp_path, family, family) for family in ("llama", "gemma")
    )
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final", "output"], "router")
    model = randomise(BraidedLLM(config, [llama, gemma]), seed=0, std=0.1)
    check([llama, gemma, model], tolerance=0.3)
