"""The conformance battery on every kind of braid, and planted defects it must catch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from fusion import conformance
from fusion.braid import cache as cache_file
from fusion.braid import model as model_file
from fusion.braid.cache import BraidCache, Row
from fusion.braid.configuration import STRATEGIES, BraidConfig
from fusion.braid.donors import DonorPath
from fusion.braid.fusers import FUSERS, CrossAttention
from fusion.braid.model import BraidedLLM
from fusion.strands.pool import Pool
from fusion.strands.strand import Strand
from fusion.tokens.token_bytes import Way, complete_text

LAYERS = {
    "mid": (1, 2),
    "final": ("final",),
    "output": ("output",),
    "final+output": ("final", "output"),
    "all": (1, "final", "output"),
}
BRAIDS = (
    ("llama", "gemma"),
    ("gemma", "llama"),
    ("llama", "llama-2"),  # one tokenizer
    ("llama", "gemma", "gpt2"),
    ("llama", "llama-2", "llama-3"),
)


@pytest.fixture
def pool(strands):
    pool = Pool()
    for strand in strands.values():
        pool.add(strand)
    return pool


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("place", LAYERS)
@pytest.mark.parametrize("names", BRAIDS, ids="+".join)
def test_conforms(braid, pool, tmp_path, names, place, strategy):
    layers = LAYERS[place]
    model = braid(*names, layers=layers, strategy=strategy)
    # Two kinds of text per braid, the other two for its neighbours: half the time.
    turn = BRAIDS.index(names) + STRATEGIES.index(strategy) + len(layers)
    conformance.run_all(model, tmp_path, pool, conformance.TEXTS[turn % 2 :: 2])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "names",
    [("qwen2", "opt"), ("opt", "neox", "gemma"), ("neox", "qwen2")],
    ids="+".join,
)
def test_other_architectures_conform(braid, pool, tmp_path, names, strategy):
    """No line of the code knows them."""
    model = braid(*names, layers=(1, "final", "output"), strategy=strategy)
    conformance.run_all(model, tmp_path, pool, conformance.TEXTS[1::2])


@pytest.mark.parametrize(
    ("layers", "strategy"),
    [
        ((1, 2), "learned_weighted"),
        ((1, 2), "router"),
        ((1, "final"), "attention"),
    ],
    ids=str,
)
@pytest.mark.parametrize("names", BRAIDS[1:], ids="+".join)
def test_conforms_with_donors_that_read_the_prompt(
    braid, pool, tmp_path, names, layers, strategy
):
    model = braid(*names, layers=layers, strategy=strategy, fuse="prompt")
    turn = BRAIDS.index(names) + STRATEGIES.index(strategy)
    conformance.run_all(model, tmp_path, pool, conformance.TEXTS[turn % 2 :: 2])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "names",
    [
        ("adapter-0", "adapter-1"),
        ("base", "adapter-0"),
        ("adapter-2", "base", "adapter-1"),
        ("adapter-0", "gemma"),
        ("gemma", "adapter-1"),
    ],
    ids="+".join,
)
def test_adapters_conform(adapted, tmp_path, names, strategy):
    """Two strands of one base, with it or another model."""
    shares = [0.6, *([0.4 / len(names[1:])] * len(names[1:]))]
    recipe = (names[0], names[1:], shares)
    place = STRATEGIES.index(strategy)
    for layers in [(1, "final", "output"), [("final",), (1, 2), ("output",)][place]]:
        config = BraidConfig(*recipe, layers, strategy)
        model = conformance.randomise(BraidedLLM(config, pool=adapted))
        texts = conformance.TEXTS[place % 2 :: 2]
        conformance.run_all(model, tmp_path, adapted, texts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_adapters_that_read_the_prompt_conform(adapted, tmp_path, strategy):
    recipe = ("adapter-0", ["adapter-1"], [0.6, 0.4], [1, 2], strategy)
    model = BraidedLLM(BraidConfig(*recipe, fuse="prompt"), pool=adapted)
    conformance.randomise(model)
    conformance.run_all(model, tmp_path, adapted, conformance.TEXTS[1::2])


@pytest.mark.parametrize("layers", [("final",), ()], ids=["final", "plain"])
def test_a_single_adapter_conforms(adapted, tmp_path, layers):
    strategy = "learned_weighted" if layers else None
    config = BraidConfig("adapter-0", [], [1.0], layers, strategy)
    model = conformance.randomise(BraidedLLM(config, pool=adapted))
    conformance.run_all(model, tmp_path, adapted, conformance.TEXTS[::2])


def test_braids_of_adapters_of_one_base_in_threads(adapted):
    def made(*names, layers, strategy):
        config = BraidConfig(names[0], names[1:], [0.6, 0.4], layers, strategy)
        return conformance.randomise(BraidedLLM(config, pool=adapted))

    model = made("adapter-0", "adapter-1", layers=(1, "final"), strategy="attention")
    others = [
        made("adapter-1", "base", layers=(2, "output"), strategy="router"),
        made("base", "adapter-2", layers=(1,), strategy="learned_weighted"),
    ]
    conformance.check_concurrency(model, others=others, atol=0.0)


def test_every_check_has_a_name(braid, pool, tmp_path):
    named = conformance.checks(braid("llama"), tmp_path, pool)
    assert tuple(named) == conformance.NAMES
    public = {n for n in conformance.__all__ if n.startswith("check_")}
    assert {n.removeprefix("check_") for n in public} == set(conformance.NAMES)


@pytest.mark.parametrize("layers", [("final",), ()], ids=["final", "plain"])
def test_a_single_strand_conforms(braid, pool, tmp_path, layers):
    strategy = "learned_weighted" if layers else None
    model = braid("gemma", layers=layers, strategy=strategy, std=0.1)
    conformance.run_all(model, tmp_path, pool, conformance.TEXTS[::2])


def test_two_braids_share_strands_in_threads(braid):
    model = braid("llama", "gemma", layers=(1, "final"), strategy="attention")
    other = braid("gemma", "llama", layers=(2, "output"), strategy="router")
    conformance.check_concurrency(model, others=[other])


@pytest.mark.parametrize("fuse", ["always", "prompt"])
def test_parity_says_how_near_decoding_is(braid, fuse):
    model = braid("llama", "gemma", layers=(1,), strategy="attention", fuse=fuse)
    found = conformance.parity(model)
    ids = [model.anchor.tokens.encode(text) for text in conformance.TEXTS]
    assert found.positions == sum(map(len, ids))
    assert found.largest_gap < 1e-3
    assert found.same_choice == 1.0
    cut = [conformance.resegmented(model.anchor, model.donors[0], i) for i in ids]
    assert found.recut == {"gemma": sum(map(len, cut)) / found.positions}
    with pytest.raises(ValueError, match="no texts"):
        conformance.parity(model, [])


def test_parity_shows_a_cache_that_is_wrong(braid, monkeypatch):
    real = Row.prefixes

    def stale(self, anchor, donor, new):
        rows, ways = real(self, anchor, donor, new)
        return [row[:-1] or row for row in rows] if new == 1 else rows, ways

    monkeypatch.setattr(Row, "prefixes", stale)
    found = conformance.parity(braid("llama", "gemma", layers=("final",)))
    assert found.largest_gap > 0.01
    assert found.same_choice < 1.0


# A battery that has never failed proves nothing: each defect below has been seen in
# real fusion code, and must be caught.

TWO = conformance.TEXTS[:2]  # of different lengths


@pytest.mark.parametrize("layers", [(1,), LAYERS["all"]], ids=str)
def test_catches_attention_that_sees_the_future(braid, monkeypatch, layers):
    real = CrossAttention._attend

    def everything(self, i, hidden, source):
        source = replace(source, visible=torch.ones_like(source.visible))
        return real(self, i, hidden, source)

    monkeypatch.setattr(CrossAttention, "_attend", everything)
    model = braid("llama", "gemma", layers=layers, strategy="attention")
    with pytest.raises(AssertionError, match="causality"):
        conformance.check_causality(model)
    with pytest.raises(AssertionError, match="cache"):
        conformance.check_cache(model)
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(model, TWO)


@pytest.mark.parametrize("layers", [(1,), LAYERS["all"]], ids=str)
def test_catches_attention_to_the_padding_of_a_donor(braid, monkeypatch, layers):
    """Beside a longer row, a donor's states are filled up: nobody may look at that."""
    real = CrossAttention._attend

    def filling_too(self, i, hidden, source):
        filling = (source.states == 0).all(-1)[:, None]
        return real(self, i, hidden, replace(source, visible=source.visible | filling))

    monkeypatch.setattr(CrossAttention, "_attend", filling_too)
    model = braid("llama", "gemma", layers=layers, strategy="attention")
    conformance.check_causality(model)  # alone, a row has no padding
    with pytest.raises(AssertionError, match="batch"):
        conformance.check_batch(model, TWO)
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(model, TWO)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_catches_a_donor_one_token_ahead(braid, monkeypatch, strategy):
    """The mask shifted by one: every strategy at every place sees what comes next."""
    real = model_file.gather_rows

    def ahead(*args):
        found = real(*args)
        for states in found.states.values():
            most = states.states.shape[1] - 1
            states.last = (states.last + 1).clamp(max=most)
            following = torch.arange(most + 1) <= states.last[..., None]
            states.visible = states.visible | following
        return found

    monkeypatch.setattr(model_file, "gather_rows", ahead)
    model = braid("llama", "gemma", layers=LAYERS["all"], strategy=strategy)
    with pytest.raises(AssertionError, match="causality"):
        conformance.check_causality(model)
    with pytest.raises(AssertionError, match="cache"):
        conformance.check_cache(model)


def test_catches_the_segmentation_of_the_whole_text(braid, monkeypatch):
    """Reading the whole text once leaks: later bytes change earlier cuts."""

    def whole(self, anchor, donor, new):
        data = anchor.tokens.text(self.ids)
        ids = donor.tokens.encode(complete_text(data))
        donor_ends = donor.tokens.ends(ids)
        ends = anchor.tokens.ends(self.ids)[-new:]
        rows = [
            [i for i, e in zip(ids, donor_ends, strict=True) if e <= end]
            for end in ends
        ]
        return rows, [[Way(t, 0)] for t in range(new)]

    monkeypatch.setattr(Row, "prefixes", whole)
    model = braid("llama", "gemma", strategy="learned_weighted")
    with pytest.raises(AssertionError, match="causality"):
        conformance.check_causality(model)


def test_catches_one_list_of_token_numbers_for_two_tokenizers(braid, monkeypatch):
    """The donor reads the anchor's numbers, which mean other text to it."""

    def numbers(self, anchor, donor, new):
        first = len(self.ids) - new
        rows = [self.ids[: t + 1] for t in range(first, len(self.ids))]
        return rows, [[Way(t, 0)] for t in range(new)]

    monkeypatch.setattr(Row, "prefixes", numbers)
    with pytest.raises(AssertionError, match="donor llama"):
        conformance.check_donors(braid("gpt2", "llama"))


def test_catches_a_donor_of_which_only_the_newest_token_is_kept(braid, monkeypatch):
    """Attention over all of the donor in training, over one token in decoding."""
    real = model_file.gather_rows

    def newest(*args):
        found = real(*args)
        for states in found.states.values():
            if states.last.shape[1] == 1:
                states.visible = states.visible.clone()
                states.visible[:, :, :-1] = False
        return found

    monkeypatch.setattr(model_file, "gather_rows", newest)
    model = braid("llama", "gemma", layers=(1,), strategy="attention")
    with pytest.raises(AssertionError, match="cache"):
        conformance.check_cache(model)


def test_catches_a_donor_that_reads_on_after_the_prompt(braid, monkeypatch):
    real = model_file.advance

    def all_of_it(*given, **options):
        return real(*given, **{**options, "fuse": "always", "prompt_length": None})

    monkeypatch.setattr(model_file, "advance", all_of_it)
    with pytest.raises(AssertionError, match="prompt"):
        conformance.check_prompt(braid("llama", "gemma", layers=(1,), fuse="prompt"))


def test_catches_a_prompt_that_ends_with_each_step(braid, monkeypatch):
    """What donors read must not depend on how the text is fed."""
    real = model_file.advance

    def forgetful(*given, **options):
        return real(*given, **{**options, "prompt_length": None})

    monkeypatch.setattr(model_file, "advance", forgetful)
    with pytest.raises(AssertionError, match="cache"):
        conformance.check_cache(braid("llama", "gemma", layers=(1,), fuse="prompt"))


def test_catches_an_absent_donor_that_shows_a_later_token(braid, monkeypatch):
    """Before a donor's first token its first reading stood in, and was told."""

    real = cache_file._readings

    def stand_in(*given):
        found = real(*given)
        later = next((reading for reading in found if reading is not None), None)
        return np.array([r or later for r in found], dtype=object)

    monkeypatch.setattr(cache_file, "_readings", stand_in)
    with pytest.raises(AssertionError, match="causality"):
        conformance.check_causality(braid("opt", "neox", "gemma", layers=("output",)))


def test_catches_a_donor_cache_that_is_not_cropped(braid, monkeypatch):
    def forgetful(self, where, ids, flat):
        self.ids = [ids[i] for i in where]
        self.states = {tap: s[list(where)] for tap, s in flat.items()}
        # but the keys and values of the tokens left behind stay

    monkeypatch.setattr(DonorPath, "follow", forgetful)
    with pytest.raises(AssertionError, match="donor gemma"):
        conformance.check_donors(braid("llama", "gemma"))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("donor", "why"), [("llama-2", "logits differ"), ("gemma", "raised RuntimeError")]
)
def test_catches_one_cache_for_two_models(braid, monkeypatch, donor, why, strategy):
    """llama-2 has keys of llama's shape, so nothing else would complain; gemma not."""
    real = BraidedLLM.encode

    def shared(self, input_ids, attention_mask, position_ids, cache, **options):
        if cache is not None and not cache.rows:
            cache.rows = [Row(donors={donor: DonorPath(cache=cache)})]
        return real(self, input_ids, attention_mask, position_ids, cache, **options)

    monkeypatch.setattr(BraidedLLM, "encode", shared)
    model = braid("llama", donor, strategy=strategy)
    with pytest.raises(AssertionError, match=f"cache.* {why}"):
        conformance.check_cache(model)


def test_catches_state_kept_on_the_module(braid, monkeypatch):
    """One donor path for all requests: right alone, wrong side by side."""
    kept = BraidCache()
    real = model_file.advance

    def remembered(anchor, ids, mask, positions, cache, **options):
        if cache is not None and not cache.rows:
            cache.rows = kept.rows
        step = real(anchor, ids, mask, positions, cache, **options)
        if cache is not None:
            kept.rows = cache.rows
        return step

    monkeypatch.setattr(model_file, "advance", remembered)
    with pytest.raises(AssertionError, match="cache"):
        conformance.check_cache(braid("llama", "gemma"))


@pytest.mark.parametrize("layers", [(1,), ("final",)], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_catches_a_fuser_that_is_not_the_identity_at_first(
    braid, pool, tmp_path, monkeypatch, strategy, layers
):
    class Loud(FUSERS[strategy]):
        def __init__(self, *args):
            super().__init__(*args)
            attends = strategy == "attention"
            factor = self.outputs[0].weight if attends else self.bridges[0].bias
            factor.data.fill_(1e-3)
            if not attends:
                self.weight.data.fill_(1.0)  # at a decoder layer the zero factor

    model = braid("llama", "gemma", layers=layers, strategy=strategy)
    named = conformance.checks(model, tmp_path, pool, TWO)
    named["identity"]()
    monkeypatch.setitem(FUSERS, strategy, Loud)
    with pytest.raises(AssertionError, match="identity"):
        named["identity"]()  # it builds an untrained braid of the same recipe


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_catches_a_share_of_nothing_that_still_speaks(
    braid, pool, tmp_path, monkeypatch, strategy
):
    model = braid("llama", "gemma", layers=LAYERS["all"], strategy=strategy)
    monkeypatch.setattr(model_file.BraidedLLM, "active", True)
    identity = conformance.checks(model, tmp_path, pool, TWO)["identity"]
    with pytest.raises(AssertionError, match="identity"):
        identity()


def test_catches_positions_that_count_padding(braid, monkeypatch):
    real = BraidedLLM.encode

    def counting(self, input_ids, attention_mask, position_ids, cache, **options):
        T = input_ids.shape[1]
        if attention_mask is not None:
            total = attention_mask.shape[1]
            position_ids = torch.arange(total - T, total).expand(len(input_ids), T)
        return real(self, input_ids, attention_mask, position_ids, cache, **options)

    monkeypatch.setattr(BraidedLLM, "encode", counting)
    # Learned absolute positions: a rotary model would forgive a constant shift.
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(braid("gpt2", "gemma"), TWO)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_catches_a_donor_that_reads_padding(braid, monkeypatch, strategy):
    real = Row.extend

    def unmasked(self, ids, is_real, *given):
        return real(self, ids, [True] * len(ids), *given)

    monkeypatch.setattr(Row, "extend", unmasked)
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(
            braid("llama", "gemma", layers=LAYERS["all"], strategy=strategy), TWO
        )


@pytest.mark.parametrize("layers", [("final",), LAYERS["all"]], ids=str)
def test_catches_an_anchor_that_reads_padding(braid, monkeypatch, layers):
    real = Strand.run

    def unmasked(self, input_ids, *, attention_mask=None, **options):
        return real(self, input_ids, **options)

    monkeypatch.setattr(Strand, "run", unmasked)
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(braid("llama", "llama-2", layers=layers), TWO)


def test_catches_a_gap_that_a_sliding_window_counts(braid, monkeypatch):
    """Text behind padding on the right: gemma's window would end inside the gap."""
    conformance.check_padding(braid("gemma", "llama"), TWO)  # refuses it
    monkeypatch.setattr(cache_file, "_refuse_gaps", lambda mask, anchor: None)
    with pytest.raises(AssertionError, match="padding"):
        conformance.check_padding(braid("gemma", "llama"), TWO)


def test_catches_writing_behind_padding(braid, monkeypatch):
    """Padding on the right, passed off as text of the prompt."""
    real = BraidedLLM.generate

    def patient(self, ids, attention_mask, **options):
        mask = attention_mask.clone()
        mask[:, -1] = 1
        return real(self, ids, attention_mask=mask, **options)

    monkeypatch.setattr(BraidedLLM, "generate", patient)
    with pytest.raises(AssertionError, match="behind padding"):
        conformance.check_greedy(braid("llama", "gemma"), TWO)


def beside_its_own(reading, mine):
    """The reading of another row, as far as the anchor has tokens in this one."""
    most = max(node.beside for node in mine.nodes)
    nodes = (n._replace(beside=min(n.beside, most)) for n in reading.nodes)
    return replace(reading, nodes=tuple(nodes))


def test_catches_rows_that_are_sampled_beside_the_donors_of_the_first(
    braid, monkeypatch
):
    """In decoding only, and right for one row: only a batch shows it."""
    real = model_file.gather_rows

    def first(*args):
        found = real(*args)
        for states in found.states.values():
            if states.last.shape[1] == 1:
                for name in ("states", "last", "visible"):
                    rows = getattr(states, name)
                    setattr(states, name, rows[:1].expand_as(rows))
        if found.readings.shape[1] == 1:
            found.readings[:, 0] = [
                beside_its_own(found.readings[0, 0], mine)
                for mine in found.readings[:, 0]
            ]
        return found

    monkeypatch.setattr(model_file, "gather_rows", first)
    model = braid("llama", "gemma", layers=LAYERS["all"])
    conformance.check_sampling(model, conformance.TEXTS[:1])
    with pytest.raises(AssertionError, match="sampled"):
        conformance.check_sampling(model)


def _stay(self, indices):
    """Rows stay where they are."""


def _within_the_first(self, indices):
    """Beams of every text follow those of the first."""
    self.rows = [copy.deepcopy(self.rows[i % 2]) for i in indices]


@pytest.mark.parametrize("pick", [_stay, _within_the_first])
def test_catches_rows_that_do_not_follow_their_beams(braid, monkeypatch, pick):
    monkeypatch.setattr(BraidCache, "_pick", pick)
    model = braid("llama", "gemma", layers=("final", "output"))
    with pytest.raises(AssertionError, match="generate|beams: raised"):
        conformance.check_beams(model)


def test_catches_a_strand_that_trains(braid, strands):
    model = braid("llama", "gemma", layers=(1,))
    weight = strands["llama"].model.lm_head.weight
    weight.requires_grad_(True)
    try:
        with pytest.raises(AssertionError, match="frozen"):
            conformance.check_frozen(model)
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_catches_strands_in_the_saved_file(braid, pool, strands, tmp_path):
    model = braid("llama", "gemma")
    model.strand = strands["llama"].model.model  # as a submodule, it would be saved
    with pytest.raises(AssertionError, match="save"):
        conformance.check_save_load(model, tmp_path, pool)


def test_refuses_texts_too_tame_to_prove_causality(braid):
    with pytest.raises(AssertionError, match="proves little"):
        conformance.check_causality(braid("llama", "gemma"), texts=["1 2"])


@pytest.mark.parametrize("turn", [6, 12])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_donors_with_long_rope_conform_past_their_turn(
    braid, strands, pool, tmp_path, turn, strategy
):
    phi = tiny.long_rope_strand(turn)
    pool.add(phi)
    config = BraidConfig("llama", ["phi3"], [0.6, 0.4], ["final", "output"], strategy)
    model = conformance.randomise(BraidedLLM(config, [strands["llama"], phi]))
    assert all(len(phi.tokens.encode(text)) > turn for text in conformance.TEXTS)
    conformance.run_all(model, tmp_path, pool)


def test_what_an_anchor_asks_for_when_writing_is_no_defect(braid):
    """Penalties change what is written, not what the logits say."""
    model = braid("llama", "gemma", layers=("final",))
    asked = {"repetition_penalty": 3.0, "do_sample": True, "num_beams": 3}
    model.generation_config.update(**asked)
    conformance.check_greedy(model)
    conformance.check_sampling(model)
    conformance.check_beams(model)
    assert model.generation_config.repetition_penalty == 3.0
