"""Beyond the conformance battery: shapes, shares, errors, writing, saving."""

import copy
import json
import string

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, normalizers
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedTokenizerFast,
)

from fusion.braid.cache import BraidCache
from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.braid.output_mixture import special_pairs, vocabulary_map
from fusion.conformance import randomise, sibling
from fusion.strands.pool import Pool
from fusion.strands.strand import Strand
from fusion.tokens.vocabulary import UNTOLD, Node, Reading


@pytest.fixture
def model(braid):
    return braid("llama", "gemma", layers=(1, "final", "output"), strategy="router")


def ids_of(model, text=tiny.PROSE):
    return torch.tensor([model.anchor.tokens.encode(text)])


def logits(model, **options):
    with torch.no_grad():
        return model(ids_of(model), **options).logits


def test_logits_are_the_anchors_shape(model):
    out = model(ids_of(model))
    assert out.logits.shape == (*ids_of(model).shape, model.anchor.vocab_size)
    assert out.cache is None
    assert out.loss is None


def test_output_is_a_distribution(model):
    total = logits(model).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_loss_is_the_mean_over_next_tokens_and_skips_minus_100(model):
    ids = ids_of(model)
    log_p = logits(model).log_softmax(-1)[0, :-1]
    wanted = -log_p.gather(1, ids[0, 1:, None])[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids, labels=ids).loss, wanted.mean())
        labels = ids.clone()
        labels[0, 3:] = -100
        torch.testing.assert_close(model(ids, labels=labels).loss, wanted[:2].mean())


def test_logits_to_keep(model):
    kept = logits(model, logits_to_keep=2)
    assert kept.shape[1] == 2
    torch.testing.assert_close(kept, logits(model)[:, -2:], atol=1e-5, rtol=1e-5)


def test_a_memo_changes_nothing_and_serves_the_next_braid(model, braid):
    ids, memo = ids_of(model), {}
    other = braid("llama", "gemma", layers=("final",), strategy="attention")
    with torch.no_grad():
        plain = [m.head(m.encode(ids)) for m in (other, model)]
        first = [m.head(m.encode(ids, memo=memo)) for m in (other, model)]
        again = [m.head(m.encode(ids, memo=memo)) for m in (other, model)]
    for a, b, c in zip(plain, first, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("layers", [(1,), ("final",)], ids=str)
def test_a_donor_at_share_0_is_as_good_as_absent(braid, layers):
    """Three strands, one at 0, give the bits of the two."""
    three = braid("llama", "gemma", "gpt2", layers=layers, shares=[0.6, 0.4, 0.0])
    two = braid("llama", "gemma", layers=layers, shares=[0.6, 0.4])
    mine = three.state_dict()
    # A weight per donor has a row per donor: the first donor's is kept.
    two.load_state_dict({k: mine[k][: len(v)] for k, v in two.state_dict().items()})
    assert torch.equal(logits(three), logits(two))


def test_shares_move_a_mid_layer_braid(braid):
    low, high = (
        braid("llama", "gemma", layers=(1,), shares=[1 - s, s]) for s in (0.01, 0.5)
    )
    alone = sibling(low, [1.0, 0.0])
    distance = [(logits(m) - logits(alone)).abs().max() for m in (low, high)]
    assert 0 < distance[0] < distance[1]


@pytest.mark.parametrize("strategy", ["learned_weighted", "router", "attention"])
@pytest.mark.parametrize("layers", [(1,), ("final",), ("output",)], ids=str)
def test_every_fuser_does_something(braid, strategy, layers):
    """Else the battery would compare the anchor with itself."""
    model = braid("llama", "gemma", layers=layers, strategy=strategy)
    gap = logits(model).log_softmax(-1) - logits(
        sibling(model, [1.0, 0.0])
    ).log_softmax(-1)
    assert gap.abs().max() > 0.1


def test_an_uncalibrated_output_mixes_by_share(strands):
    """p = 0.75 p_anchor + 0.25 T p_donor, where the donor has read the same text.

    It may have read its end as complete tokens, or as the beginning of a longer one.
    """
    config = BraidConfig("llama", ["gemma"], [0.75, 0.25], ["output"], "router")
    model = BraidedLLM(config, list(strands.values()))
    text = "The rain in S"
    ids = ids_of(model, text)
    llama, gemma = strands["llama"], strands["gemma"]
    theirs = gemma.tokens.encode(text)
    # It may go on as " Sp", " |Sp" or " |S|p".
    assert [gemma.tokens.table[i] for i in theirs[-3:]] == [b" in", b" ", b"S"]
    with torch.no_grad():
        p = llama.model(ids).logits[0, -1].softmax(-1)
        hidden = gemma.run(torch.tensor([theirs]), taps=["final"])["final"][0, -3:]
        log_q = gemma.logits(hidden).log_softmax(-1)
        nodes = (
            Node(hidden[0], -1, theirs[-3], b" S", False),
            Node(hidden[1], 0, theirs[-2], b"S", True),
            Node(hidden[2], 1, theirs[-1], b"", True),
        )
        spelling = llama.tokens.spelling(ids[0].tolist(), ids.shape[1] - 1)
        carrier = vocabulary_map(llama, gemma)
        carried = carrier.carry(Reading(nodes, spelling), log_q, p).p
        got = model(ids).logits[0, -1].exp()
    torch.testing.assert_close(got, 0.75 * p + 0.25 * carried, atol=1e-5, rtol=1e-4)


def surely(anchor, donor, token):
    """What a donor that is sure of its next token tells an anchor that is not."""
    log_q = torch.full((donor.vocab_size,), -1e4)
    log_q[token] = 0.0
    p = torch.full((anchor.vocab_size,), 1 / anchor.vocab_size)
    reading = Reading((Node(torch.zeros(1), -1, 0, b"", True),))
    return vocabulary_map(anchor, donor).carry(reading, [log_q], p).p


def test_ends_of_text_are_twins(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    out = surely(llama, gemma, gemma.tokenizer.eos_token_id)
    # All but what is the anchor's own at least.
    assert out[llama.tokenizer.eos_token_id] > 1 - UNTOLD


def test_special_tokens_of_one_name_are_twins(strands):
    """One that ends a turn is any of the anchor's ends, where it has no such twin."""
    llama, gemma, donor = strands["llama"], strands["gemma"], tiny.tiny_strand("gpt2")
    pad = donor.tokenizer.pad_token_id
    pairs = dict(special_pairs(llama, donor))
    assert pairs[pad] == llama.tokenizer.pad_token_id
    assert pad not in dict(special_pairs(gemma, donor))
    donor.model.generation_config.eos_token_id = [donor.tokenizer.eos_token_id, pad]
    assert dict(special_pairs(gemma, donor))[pad] == gemma.tokenizer.eos_token_id


def test_the_map_follows_what_ends_a_turn():
    anchor, donor = tiny.tiny_strand("gemma"), tiny.tiny_strand("gpt2")
    end, pad = donor.tokenizer.eos_token_id, donor.tokenizer.pad_token_id
    told = [surely(anchor, donor, pad)]
    donor.model.generation_config.eos_token_id = [end, pad]
    told.append(surely(anchor, donor, pad))
    # Without a twin nothing is told, and the anchor's own is left.
    torch.testing.assert_close(told[0], torch.full_like(told[0], 1 / len(told[0])))
    assert told[1][anchor.tokenizer.eos_token_id] > 1 - UNTOLD
    assert vocabulary_map(anchor, donor) is vocabulary_map(anchor, donor)


def test_only_fusers_are_parameters(model):
    assert {n.split(".")[0] for n, _ in model.named_parameters()} == {"fusers", "mixer"}
    assert model.config.vocab_size == model.anchor.vocab_size


@pytest.mark.parametrize("text", [tiny.PROSE, tiny.EMOJI])
def test_text_in_text_out(model, text):
    out = model.generate(text, max_new_tokens=6, do_sample=False)
    ids = ids_of(model, text)
    new = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )[0, ids.shape[1] :]
    assert out == model.tokenizer.decode(new, skip_special_tokens=True)


def test_a_text_in_is_one_text_out_whatever_form_is_asked_for(model):
    options = {"max_new_tokens": 3, "do_sample": False}
    wanted = model.generate(tiny.PROSE, **options)
    got = model.generate(tiny.PROSE, return_dict_in_generate=True, **options)
    assert got == wanted
    for given in (
        {"num_return_sequences": 2, "do_sample": True},
        {"generation_config": GenerationConfig(num_return_sequences=2, do_sample=True)},
    ):
        with pytest.raises(ValueError, match="num_return_sequences=2; give tensors"):
            model.generate(tiny.PROSE, **given)


def test_without_a_dict_a_tuple_comes_back(model):
    ids = ids_of(model)
    with torch.no_grad():
        loss, found = model(ids, labels=ids, return_dict=False)
        out = model(ids, labels=ids)
    assert torch.equal(loss, out.loss)
    assert torch.equal(found, out.logits)


def test_a_generation_config_says_how_much_is_written(model):
    ids = ids_of(model, tiny.PROSE)
    for limit in ({"max_new_tokens": 3}, {"max_length": ids.shape[1] + 3}):
        config = GenerationConfig(do_sample=False, **limit)
        out = model.generate(tiny.PROSE, config)
        assert out == model.generate(tiny.PROSE, do_sample=False, **limit)
        assert out == model.generate(tiny.PROSE, max_new_tokens=3, do_sample=False)


def test_no_number_of_tokens_is_passed_over(model):
    """transformers refuses 0, in its own words."""
    with pytest.raises(ValueError, match="0"):
        model.generate("The quick", max_new_tokens=0)


def test_a_braid_finds_stop_strings_with_its_own_tokenizer(model):
    """Given with the call or in the configuration, as an anchor's may have it."""
    letters = list(string.printable)
    ids = ids_of(model)
    short = model.generate(ids, stop_strings=letters, max_new_tokens=40)
    assert short.shape[1] < ids.shape[1] + 40
    model.generation_config.stop_strings = letters
    assert torch.equal(model.generate(ids, max_new_tokens=40), short)
    text = model.generate(tiny.PROSE, max_new_tokens=40)
    assert text.endswith(tuple(letters))


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(ValueError, match="prompt is empty"):
        model.generate(prompt)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3)])
def test_empty_input_is_refused(model, shape):
    with pytest.raises(ValueError, match="at least one row"):
        model(torch.zeros(*shape, dtype=torch.long))


@pytest.fixture
def with_nfc(strands):
    """A donor whose tokenizer changes some texts."""
    gemma = tiny.tiny_strand("gemma")
    backend = copy.deepcopy(gemma.tokenizer.backend_tokenizer)
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), backend.normalizer])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>")
    donor = Strand("gemma", gemma.model, tokenizer)
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    return BraidedLLM(config, [strands["llama"], donor])


def test_a_text_that_a_donor_cannot_read_is_refused(with_nfc):
    with pytest.raises(ValueError, match=r"cannot round-trip.*NFC"):
        with_nfc.generate("cafe\u0301", max_new_tokens=1)


def test_what_the_anchor_writes_stops_no_request(with_nfc):
    """The donor then reads what its tokenizer makes of the text."""
    model, ids = with_nfc, with_nfc.anchor.tokens.encode("cafe\u0301 x")
    start = len(with_nfc.anchor.tokens.encode("cafe"))
    cache = BraidCache()
    model(torch.tensor([ids[:start]]), cache=cache)
    for token in ids[start:]:
        out = model(torch.tensor([[token]]), cache=cache)
    assert torch.isfinite(out.logits).all()
    donor = model.donors[0]
    assert cache.rows[0].donors["gemma"].ids == donor.tokens.encode("café x")


@pytest.mark.parametrize("prompt_length", [0, -1])
def test_a_prompt_without_columns_is_refused(braid, prompt_length):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    with pytest.raises(ValueError, match="at least one column"):
        model(ids_of(model), prompt_length=prompt_length)


def test_a_text_goes_on_from_its_cache(braid):
    """Donors read what came first; the rest is written as in one go."""
    model = braid("llama", "gemma", layers=(1,), strategy="attention", fuse="prompt")
    cache, ids = BraidCache(), ids_of(model)
    options = {"do_sample": False, "cache": cache}
    mask = torch.ones(1, 100, dtype=torch.long)
    whole = model.generate(
        ids, attention_mask=mask[:, : ids.shape[1]], max_new_tokens=6, do_sample=False
    )
    n = ids.shape[1]
    first = model.generate(ids, attention_mask=mask[:, :n], max_new_tokens=3, **options)
    n = first.shape[1]
    then = model.generate(
        first, attention_mask=mask[:, :n], max_new_tokens=3, **options
    )
    assert torch.equal(then, whole)
    assert cache.rows[0].prompt == ids.shape[1]


def test_a_prompt_does_not_change_in_a_cache(braid):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    cache, ids = BraidCache(), ids_of(model)
    with torch.no_grad():
        model(ids[:, :4], cache=cache, prompt_length=6)
        with pytest.raises(ValueError, match=r"begun with prompts of \[6\] columns"):
            model(ids[:, 4:], cache=cache, prompt_length=7)


def test_another_models_cache_is_refused(model):
    with pytest.raises(TypeError, match=r"DynamicCache.*BraidCache"):
        model(ids_of(model), cache=DynamicCache())


def test_a_cache_of_another_batch_is_refused(model):
    cache = BraidCache()
    with torch.no_grad():
        model(ids_of(model), cache=cache)
        with pytest.raises(ValueError, match="cache holds 1 rows, received 2"):
            model(ids_of(model).repeat(2, 1), cache=cache)


def test_a_missing_strand_is_refused(strands):
    config = BraidConfig("llama", ["nobody"], [0.5, 0.5], ["final"], "router")
    with pytest.raises(KeyError, match="no strand named 'nobody'"):
        BraidedLLM(config, list(strands.values()))
    with pytest.raises(TypeError, match="BraidConfig and strands, or model_configs"):
        BraidedLLM()


def test_by_hand(strands):
    pool = Pool()
    for strand in strands.values():
        pool.add(strand)
    model = BraidedLLM(
        model_configs=[
            {"model_name": "llama", "role": "anchor", "share": 3},
            {"model_name": "gemma", "share": 1},
        ],
        fusion_strategy="attention",
        fusion_layers=[2, "final"],
        fuse="prompt",
        pool=pool,
    )
    assert model.config.fuse == "prompt"
    assert model.config.shares == [0.75, 0.25]
    assert (model.anchor.name, model.donors[0].name) == ("llama", "gemma")
    assert list(model.fusers) == ["2", "final"]
    assert model.config.strategy == "attention"


@pytest.mark.parametrize(
    "extra",
    [
        {"model_configs": [{"model_name": "llama"}]},
        {"fusion_strategy": "router"},
        {"fusion_layers": ["final"]},
        {"shares": [1.0]},
        {"fuse": "prompt"},
    ],
)
def test_a_config_goes_with_nothing_that_it_says(strands, extra):
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    with pytest.raises(ValueError, match=next(iter(extra))):
        BraidedLLM(config, list(strands.values()), **extra)


def test_strands_come_from_one_place(strands):
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    with pytest.raises(ValueError, match="strands or a pool"):
        BraidedLLM(config, list(strands.values()), pool=Pool())
    pool = Pool()
    for strand in strands.values():
        pool.add(strand)
    found = strands["llama"].source
    configs = [{"model_name": "llama", "source": found}]
    assert BraidedLLM(model_configs=configs, fusion_layers=[], pool=pool).donors == []
    configs = [{"model_name": "llama", "source": "elsewhere"}]
    for where in ({"pool": pool}, {"strands": list(strands.values())}):
        with pytest.raises(ValueError, match="its model config says 'elsewhere'"):
            BraidedLLM(model_configs=configs, fusion_layers=[], **where)


@pytest.mark.parametrize(
    ("configs", "error", "says"),
    [
        ([], ValueError, "empty"),
        ([{"share": 1.0}], KeyError, "model_name"),
        ([{"model_name": "llama", "sahre": 1.0}], KeyError, "sahre"),
    ],
)
def test_a_bad_recipe_by_hand_is_refused(configs, error, says):
    with pytest.raises(error, match=says):
        BraidedLLM(model_configs=configs)


class TestFiles:
    @pytest.fixture
    def saved(self, strands, tmp_path):
        """A braid of two folders, saved."""
        sources = {
            f: str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")
        }
        pool = Pool(sources)
        config = BraidConfig(
            "llama", ["gemma"], [0.5, 0.5], [1, "final", "output"], "router"
        )
        made = randomise(BraidedLLM(config, [pool["llama"], pool["gemma"]]))
        made.save_pretrained(tmp_path / "braid")
        return made, tmp_path / "braid"

    def test_strands_are_found_again_without_a_pool(self, saved):
        made, path = saved
        loaded = BraidedLLM.from_pretrained(path)
        assert loaded.anchor is not made.anchor
        assert torch.equal(logits(loaded), logits(made))

    def test_the_files_are_small_and_hold_no_code(self, saved):
        made, path = saved
        assert sorted(f.name for f in path.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]
        size = sum(p.numel() for p in made.parameters()) * 4
        assert (path / "model.safetensors").stat().st_size < size + 10_000
        assert "auto_map" not in json.loads((path / "config.json").read_text())

    def test_weights_that_do_not_fit_are_refused(self, saved):
        _, path = saved
        weights = load_file(path / "model.safetensors")
        name = sorted(weights)[0]
        for broken in (
            {k: v for k, v in weights.items() if k != name},
            {**weights, "extra": torch.zeros(1)},
            {**weights, name: torch.zeros(1, 1, 1)},
        ):
            save_file(broken, path / "model.safetensors")
            with pytest.raises(ValueError, match="do not fit its recipe"):
                BraidedLLM.from_pretrained(path)

    def test_a_folder_without_weights_is_refused(self, saved):
        _, path = saved
        (path / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="expected a saved braid"):
            BraidedLLM.from_pretrained(path)


def test_half_precision_strands_keep_float32_fusers():
    strands = []
    for family in ("llama", "gemma"):
        strand = tiny.tiny_strand(family)
        strand.model.to(torch.bfloat16)
        strands.append(strand)
    for strategy in ("learned_weighted", "router", "attention"):
        config = BraidConfig(
            "llama", ["gemma"], [0.5, 0.5], [1, "final", "output"], strategy
        )
        model = randomise(BraidedLLM(config, strands))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.dtype == torch.bfloat16
        assert torch.isfinite(logits(model)).all()
        assert model.generate(tiny.CODE, max_new_tokens=2, do_sample=False) is not None


def test_half_precision_is_for_strands_only(strands):
    mine = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(("llama", "gemma"))]
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    model = BraidedLLM(config, mine).to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {s.dtype for s in mine} == {torch.bfloat16}
    assert model(torch.tensor([[5, 6, 7]])).logits.dtype == torch.bfloat16


def test_a_configuration_may_turn_the_cache_off(model):
    """The whole text is then read at every step: the same tokens."""
    ids = ids_of(model)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    mask = {"attention_mask": torch.ones_like(ids)}
    wanted = model.generate(ids, **options, **mask)
    plain = GenerationConfig(use_cache=False, **options)
    assert torch.equal(model.generate(ids, plain, **mask), wanted)
    assert torch.equal(model.generate(ids, generation_config=plain, **mask), wanted)
    none = model.generate(ids, cache=None, **options, **mask)
    assert torch.equal(none, wanted)


def test_padding_on_the_right_is_refused_where_it_is_written(model):
    ids = ids_of(model).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        model.generate(ids, attention_mask=mask, max_new_tokens=2)


@pytest.mark.parametrize("anchor", ["gemma", "llama"])
def test_padding_between_tokens_is_read_past_or_refused(braid, anchor):
    """A sliding window of 8 columns would end inside the padding."""
    model = braid(anchor, "gpt2", layers=(1, "final"))
    ids = ids_of(model)
    gap = torch.cat([ids[:, :6], ids[:, :3], ids[:, 6:]], dim=1)
    mask = torch.ones_like(gap)
    mask[:, 6:9] = 0
    cache = BraidCache()
    model(gap[:, :9], attention_mask=mask[:, :9], cache=cache)
    rest = {"attention_mask": mask, "cache": cache}
    if anchor == "gemma":
        with pytest.raises(ValueError, match="sees 8 columns back"):
            model(gap[:, 9:], **rest)
        assert cache.get_seq_length() == 9
        assert cache.rows[0].ids == ids[0, :6].tolist()
        return
    with torch.no_grad():
        got = model(gap[:, 9:], **rest).logits
    torch.testing.assert_close(got, logits(model)[:, 6:], atol=1e-4, rtol=1e-4)


def test_a_mask_of_another_shape_is_refused(model):
    ids = ids_of(model)
    for rows, columns in ((1, 2), (2, ids.shape[1])):
        with pytest.raises(ValueError, match="attention_mask has shape"):
            model(ids, attention_mask=torch.ones(rows, columns))
    cache = BraidCache()
    model(ids, cache=cache)
    with pytest.raises(ValueError, match=rf"expected \(1, {ids.shape[1] + 1}\)"):
        model(ids[:, :1], cache=cache, attention_mask=torch.ones(1, 1))


def test_an_anchor_without_a_share_speaks_before_the_donors_first_token(braid):
    """gemma begins with a token that gpt2 has nothing beside."""
    model = braid("gemma", "gpt2", layers=("output",), shares=[0.0, 1.0])
    assert torch.isfinite(logits(model)).all()


def test_fusers_of_another_strand_are_refused(tmp_path):
    """The name and all shapes are the same: only the weights tell."""
    mine = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(("llama", "gemma"))]
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    randomise(BraidedLLM(config, mine)).save_pretrained(tmp_path)
    pool = Pool()
    pool.add(mine[0])
    pool.add(tiny.tiny_strand("gemma", seed=7))
    with pytest.raises(ValueError, match="trained on another 'gemma'"):
        BraidedLLM.from_pretrained(tmp_path, pool=pool)


def test_moving_strands_to_half_precision_keeps_the_fusers_bits():
    mine = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(("llama", "gemma"))]
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    model = randomise(BraidedLLM(config, mine))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.to(torch.bfloat16)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_braid_moved_to_half_precision_loads_in_half_precision(tmp_path):
    """Its strands are rounded, and their fingerprints are those of rounded ones."""
    sources = {f: str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")}
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router", sources)
    model = randomise(BraidedLLM(config))
    model.save_pretrained(tmp_path / "before")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "after")
    loaded = BraidedLLM.from_pretrained(tmp_path / "after", dtype=torch.bfloat16)
    fusers = model.state_dict()
    assert all(torch.equal(v, fusers[k]) for k, v in loaded.state_dict().items())


def test_special_tokens_that_are_written_out_are_text_to_donors(braid):
    model = braid("llama", "gemma", layers=("final", "output"))
    text = "The <bos> tag and <eos> the end"
    assert model.generate(text, max_new_tokens=2, do_sample=False) is not None


def test_a_donor_with_few_positions_says_so(braid):
    """The tiny gpt2 has 512 positions."""
    model = braid("llama", "gpt2", layers=("final",))
    with pytest.raises(ValueError, match="gpt2 cannot read this: .* 512 positions"):
        model(ids_of(model, tiny.PROSE * 120))


def test_texts_are_given_one_by_one_or_as_tensors(model):
    with pytest.raises(TypeError, match=r"a text or a tensor, received list"):
        model.generate(["one", "two"])


@pytest.mark.filterwarnings("ignore:gemma was made for 512 tokens")
@pytest.mark.parametrize("begun", [0, 4])
def test_a_cache_forgets_a_text_that_was_refused(braid, begun):
    model = braid("llama", "gemma", "gpt2", layers=(1, "final"))
    ids, cache = ids_of(model), BraidCache()
    with torch.no_grad():
        if begun:
            model(ids[:, :begun], cache=cache)
        with pytest.raises(ValueError, match="gpt2 cannot read this"):
            model(ids_of(model, tiny.PROSE * 120), cache=cache)
        got = model(ids[:, begun:], cache=cache).logits
    torch.testing.assert_close(got, logits(model)[:, begun:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", [1, 2, 3], ids=["donor", "between", "anchor"])
def test_a_cache_forgets_a_step_that_was_stopped(braid, at, monkeypatch):
    model = braid("llama", "gemma", layers=(1, "output"))
    ids, cache, real, calls = ids_of(model), BraidCache(), Strand.run, []

    def stop(strand, *args, **options):
        calls.append(strand)
        if at == 2 and len(calls) == 2:
            raise KeyboardInterrupt
        return real(strand, *args, **options)

    def stop_inside(*_):
        if at != 2:
            raise KeyboardInterrupt

    with torch.no_grad():
        model(ids[:, :10], cache=cache)
        body = (model.donors[0] if at == 1 else model.anchor).body
        with monkeypatch.context() as patch:
            patch.setattr(Strand, "run", stop)
            handle = body.layers[2].register_forward_hook(stop_inside)
            with pytest.raises(KeyboardInterrupt):
                model(ids[:, 10:12], cache=cache)
            handle.remove()
        got = model(ids[:, 10:], cache=cache).logits
    torch.testing.assert_close(got, logits(model)[:, 10:], atol=1e-4, rtol=1e-4)


def test_a_prompt_with_an_assistant(braid):
    """The assistant proposes several tokens at once; they are not of the prompt."""
    model = braid("llama", "gemma", layers=(1,), strategy="attention", fuse="prompt")
    ids = ids_of(model)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False}
    options["max_new_tokens"] = 6
    wanted = model.generate(ids, **options)
    helped = model.generate(ids, assistant_model=model.anchor.model, **options)
    assert torch.equal(helped, wanted)


def test_a_recipe_may_say_which_donor_layer_feeds_which(strands, tmp_path):
    """Of six layers of gemma, 1 and 3 are beside layers 0 and 2 of llama's four."""

    def build(**taps):
        config = BraidConfig(
            "llama", ["gemma"], [0.6, 0.4], [0, 2], "router", donor_layers=taps
        )
        return randomise(BraidedLLM(config, list(strands.values())))

    usual, other = build(), build(gemma={0: 3})
    gemma = strands["gemma"]
    assert usual.donor_taps(gemma) == {0: 1, 2: 3}
    assert other.donor_taps(gemma) == {0: 3, 2: 3}
    assert not torch.allclose(logits(usual), logits(other))
    other.save_pretrained(tmp_path)
    pool = Pool()
    for name in ("llama", "gemma"):
        pool.add(strands[name])
    again = BraidedLLM.from_pretrained(tmp_path, pool=pool)
    assert torch.equal(logits(again), logits(other))
    for taps in ({"gemma": {0: 6}}, {"gemma": {1: 0}}, {"llama": {0: 0}}):
        with pytest.raises(ValueError, match="donor_layers"):
            build(**taps)


@pytest.fixture(scope="module")
def stripping():
    """A tokenizer whose decoder drops the space in front of a text, as Llama 2's."""
    backend = copy.deepcopy(tiny.tiny_tokenizer("neox").backend_tokenizer)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("spaces", [0, 1, 4])
def test_what_is_written_goes_on_from_the_prompt(stripping, monkeypatch, spaces):
    """Space in front of the first word, or an indentation, is not lost."""
    strand = Strand("neox", tiny.tiny_model("neox"), stripping)
    model = BraidedLLM(BraidConfig("neox"), [strand])
    prompt, then = "a braid of", " " * spaces + "strands"
    new = stripping(prompt + then)["input_ids"][len(stripping(prompt)["input_ids"]) :]

    def write(self, ids, *_, **__):
        return torch.cat([ids, torch.tensor([[*new, stripping.eos_token_id]])], dim=1)

    monkeypatch.setattr(GenerationMixin, "generate", write)
    assert model.generate(prompt) == then
    whole = stripping.decode(write(model, ids_of(model, prompt))[0], True)
    assert whole == prompt + then


def test_bytes_of_no_character_leave_the_prompt_whole(stripping, monkeypatch):
    """The decoder spoils what stands in bytes before them too."""
    strand = Strand("neox", tiny.tiny_model("neox"), stripping)
    model = BraidedLLM(BraidConfig("neox"), [strand])
    half = stripping.convert_tokens_to_ids("<0xE4>")

    def write(self, ids, *_, **__):
        return torch.cat([ids, torch.tensor([[half]])], dim=1)

    monkeypatch.setattr(GenerationMixin, "generate", write)
    assert model.generate("天") == "\ufffd"


def test_what_is_written_is_not_cleaned_up(monkeypatch):
    tokenizer = copy.deepcopy(tiny.tiny_tokenizer("llama"))
    name = "clean_up_tokenization_spaces"
    for setting in (name, f"{name}_for_bpe_even_though_it_will_corrupt_output"):
        setattr(tokenizer, setting, True)
    model = BraidedLLM(
        BraidConfig("llama"), [Strand("llama", tiny.tiny_model("llama"), tokenizer)]
    )
    new = torch.tensor([model.anchor.tokens.encode(" , not . n't")])

    def write(self, ids, *_, **__):
        return torch.cat([ids, new], dim=1)

    monkeypatch.setattr(GenerationMixin, "generate", write)
    assert model.generate("It is .") == " , not . n't"


@pytest.mark.parametrize("begin", ["", "<bos>"])
def test_a_start_token_that_is_written_out_is_not_doubled(braid, begin):
    model, read = braid("gemma", "llama", layers=("final",)), []
    handle = model.anchor.body.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    try:
        out = model.generate(f"{begin}The rain<eos> ", max_new_tokens=1)
    finally:
        handle.remove()
    bos, eos = (model.tokenizer.convert_tokens_to_ids(t) for t in ("<bos>", "<eos>"))
    assert read[0][0] == bos
    assert [read[0].count(token) for token in (bos, eos)] == [1, 1]
    assert "rain" not in out  # only what was written


SETTINGS = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [75, 80],
    "max_new_tokens": 12,
    "eos_token_id": [0, 7],
    "pad_token_id": 1,
    "cache_implementation": "static",
    "temperature": 0.6,  # without do_sample: transformers would not save it anew
}


def test_a_braid_writes_as_its_anchors_model_does(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps(SETTINGS))
    model = BraidedLLM(BraidConfig("m", sources={"m": str(folder)}))
    anchor = copy.deepcopy(model.anchor.model)
    anchor.generation_config.cache_implementation = None
    ids = ids_of(model)
    mask = torch.ones_like(ids)
    wanted = anchor.generate(ids, attention_mask=mask)
    model.save_pretrained(tmp_path / "braid")
    for braided in (model, BraidedLLM.from_pretrained(tmp_path / "braid")):
        assert torch.equal(braided.generate(ids, attention_mask=mask), wanted)
        config = braided.generation_config
        assert config.cache_implementation is None
        for name in set(SETTINGS) - {"cache_implementation"}:
            assert getattr(config, name) == SETTINGS[name]
    # The anchor keeps its own, and a configuration beside it does not hide the limit.
    assert model.anchor.model.generation_config.cache_implementation == "static"
    whole = model.generate(tiny.PROSE, GenerationConfig(do_sample=False))
    assert model.generate(tiny.PROSE) == whole


def test_an_anchor_that_shows_its_attention_does_not_in_a_braid():
    strand = tiny.tiny_strand("llama")
    strand.model.generation_config.output_attentions = True
    strand.model.generation_config.output_hidden_states = True
    braid = BraidedLLM(BraidConfig(anchor="llama"), [strand])
    assert braid.generate(ids_of(braid), max_new_tokens=2).shape[0] == 1


def test_token_ids_come_from_the_tokenizer_where_the_model_has_none(strands):
    config = BraidedLLM(BraidConfig("gemma"), [strands["gemma"]]).generation_config
    tokenizer = strands["gemma"].tokenizer
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id


def test_braids_keep_a_cache_of_their_own(model):
    ids = ids_of(model)
    static = GenerationConfig(cache_implementation="static", max_new_tokens=1)
    for given in ({"cache_implementation": "static"}, {"generation_config": static}):
        with pytest.raises(ValueError, match="braids keep a cache of their own"):
            model.generate(ids, **given)
        with pytest.raises(ValueError, match="braids keep a cache of their own"):
            model.generate(tiny.PROSE, **given)


@pytest.mark.parametrize(
    "keep", [torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([5, 2, 2])], ids=str
)
def test_logits_to_keep_may_say_which(model, keep):
    got, wanted = logits(model, logits_to_keep=keep), logits(model)[:, keep]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    cache, ids = BraidCache(), ids_of(model)
    with torch.no_grad():
        with pytest.raises(IndexError):
            model(ids, cache=cache, logits_to_keep=torch.tensor([999]))
        assert cache.get_seq_length() == 0
        assert cache.rows == []


def test_texts_that_are_packed_into_a_row_are_refused(braid):
    """Their positions begin again; donors would read on from the first text."""
    model = braid("llama", "gemma", layers=("final",))
    rows = [model.anchor.tokens.encode(t) for t in ("The quick fox", "def add(a, b)")]
    packed = torch.tensor([sum(rows, [])])
    places = torch.tensor([[i for row in rows for i in range(len(row))]])
    with pytest.raises(ValueError, match=rf"0 where {len(rows[0])} comes next"):
        model(packed, position_ids=places)
    with torch.no_grad():
        for alone in (braid("llama", layers=("final",)),
                      braid("llama", "gemma", shares=[1.0, 0.0])):  # fmt: skip
            got = alone(packed, position_ids=places).logits[:, len(rows[0]) :]
            wanted = alone(torch.tensor([rows[1]])).logits
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrong", [[0, 1, 1, 2], [0, 2, 3, 4], [3, 2, 1, 0]])
@pytest.mark.parametrize("fuse", ["always", "prompt"])
def test_positions_that_donors_cannot_follow_are_refused(braid, wrong, fuse):
    model = braid("llama", "gemma", layers=(1,), strategy="attention", fuse=fuse)
    ids, cache = ids_of(model)[:, :8], BraidCache()
    with torch.no_grad():
        whole = model(ids, cache=BraidCache(), prompt_length=4).logits[:, 4:]
        model(ids[:, :4], cache=cache)
        rest = {"input_ids": ids[:, 4:], "cache": cache}
        places = torch.tensor([wrong])
        with pytest.raises(ValueError, match="donors read a row as one text"):
            model(ids[:, :4], position_ids=places)
        for again in (places + 4, torch.tensor([[0, 1, 2, 3]])):
            with pytest.raises(ValueError, match="donors read a row as one text"):
                model(**rest, position_ids=again)
        with pytest.raises(ValueError, match="one position for each token"):
            model(**rest, position_ids=torch.zeros(3, 1, 4, dtype=torch.long))
        assert cache.get_seq_length() == 4
        got = model(**rest, position_ids=torch.tensor([[4, 5, 6, 7]])).logits
    torch.testing.assert_close(got, whole, atol=1e-4, rtol=1e-4)


def test_positions_may_begin_anywhere_and_padding_has_any(braid):
    """What counts is that they go on one by one, in a cache too."""
    model = braid("llama", "gemma", layers=("final", "output"))
    ids, cache = ids_of(model)[:, :9], BraidCache()
    padded = torch.cat([ids[:, :3], ids], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 9])
    places = torch.arange(12)[None]
    places[:, 1] = 7
    with torch.no_grad():
        wanted = model(ids).logits
        first = model(padded[:, :6], mask[:, :6], places[:, :6], cache=cache).logits
        cache.crop(-1)
        then = model(padded[:, 5:], mask, places[:, 5:], cache=cache).logits
    got = torch.cat([first[:, 3:5], then], dim=1)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def long_rope_braid(strands, turn, *donors, **options):
    options = {"layers": ("final",), "strategy": "router", "fuse": "always", **options}
    shares = [0.6, *([0.4 / len(donors)] * len(donors))] if donors else [1.0]
    layers = options["layers"] if donors else ()
    strategy = options["strategy"] if donors else None
    config = BraidConfig("phi3", donors, shares, layers, strategy, fuse=options["fuse"])
    phi = tiny.long_rope_strand(turn)
    return randomise(BraidedLLM(config, [phi, *strands.values()]))


WRITING = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}


@pytest.mark.parametrize("length", [14, 15, 16, 17, 20])
def test_an_anchor_with_long_rope_writes_what_its_model_writes(strands, length):
    model = long_rope_braid(strands, 16)
    ids = ids_of(model)[:, :length]
    mask = {"attention_mask": torch.ones_like(ids)}
    wanted = model.anchor.model.generate(ids, **WRITING, **mask)
    assert torch.equal(model.generate(ids, **WRITING, **mask), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"donors": ("gemma",), "layers": (1, "final", "output")},
        {"donors": ("gemma",), "layers": (1,), "num_beams": 2},
        {"donors": ("gemma",), "layers": (1,), "fuse": "prompt",
         "strategy": "attention"},
    ],
    ids=str,
)  # fmt: skip
def test_writing_past_the_turn_is_as_without_a_cache(strands, options):
    kinds = ("layers", "fuse", "strategy")
    how = {k: options[k] for k in kinds if k in options}
    model = long_rope_braid(strands, 20, *options.get("donors", ()), **how)
    options = {k: v for k, v in options.items() if k not in (*kinds, "donors")}
    ids = ids_of(model)[:, :16]
    ids = torch.cat([ids[:, :2], ids], dim=1)
    mask = torch.ones_like(ids)
    mask[:, :2] = 0  # padding counts for nothing
    options = {**WRITING, **options, "attention_mask": mask}
    cache = BraidCache()
    got = model.generate(ids, cache=cache, **options)
    assert torch.equal(got, model.generate(ids, use_cache=False, **options))
    assert cache.long
    # A begun cache goes on, and begins anew where it has to.
    for tokens in (4, 12):
        cache = BraidCache()
        part = {**options, "num_beams": 1, "num_return_sequences": 1}
        whole = model.generate(ids, use_cache=False, **part)
        first = model.generate(ids, cache=cache, **{**part, "max_new_tokens": tokens})
        mask = torch.cat([part["attention_mask"], torch.ones(1, tokens).long()], dim=1)
        rest = {"attention_mask": mask, "max_new_tokens": 16 - tokens}
        then = model.generate(first, cache=cache, **{**part, **rest})
        assert torch.equal(then[:, : whole.shape[1]], whole)


def test_a_cache_that_crosses_the_turn_is_refused(strands):
    model = long_rope_braid(strands, 16, "gemma")
    ids, cache = ids_of(model), BraidCache()
    with torch.no_grad():
        model(ids[:, :14], cache=cache)
        rows = cache.rows
        for new in (ids[:, 14:17], ids[:, 14:20]):
            with pytest.raises(ValueError, match=r"more than 16 tokens with other pos"):
                model(new, cache=cache)
            assert cache.get_seq_length() == 14
            assert cache.rows is rows
            assert not cache.long
        got = model(ids[:, 14:16], cache=cache).logits
        wanted = model(ids[:, :16]).logits[:, 14:]
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
        # Back over it, too.
        cache = BraidCache()
        model(ids[:, :18], cache=cache)
        got = model(ids[:, 18:20], cache=cache).logits
        torch.testing.assert_close(
            got, model(ids[:, :20]).logits[:, 18:], atol=1e-4, rtol=1e-4
        )
        cache.crop(-8)
        with pytest.raises(ValueError, match=r"more than 16 tokens with other pos"):
            model(ids[:, 12:14], cache=cache)


def test_rows_on_both_sides_of_the_turn_are_refused(strands):
    model = long_rope_braid(strands, 16, "gemma")
    ids = ids_of(model)[:, :18].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with pytest.raises(ValueError, match="rows of 15 to 18 tokens in one batch: phi3"):
        model(ids, attention_mask=mask)
    mask[1, 1:3] = 1  # 17 and 18
    with torch.no_grad():
        got = model(ids, attention_mask=mask).logits[1, 1:]
        wanted = model(ids[1:, 1:]).logits[0]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_a_braid_says_how_many_positions_its_anchor_has(braid, tmp_path):
    model = braid("llama", "gemma")
    assert model.config.max_position_embeddings == 512
    model.save_pretrained(tmp_path)
    assert BraidConfig.from_pretrained(tmp_path).max_position_embeddings == 512
