import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

import pytest
import tiny
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DynamicCache,
    FalconConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    OPTConfig,
    OPTForCausalLM,
)

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.judging.scoring import bits_per_byte
from fusion.strands.strand import Strand, decoder_layers

FAMILY = pytest.mark.parametrize("family", tiny.FAMILIES)
IDS = torch.tensor([[5, 50, 150, 250, 300]])


@pytest.fixture
def strand(strands, family):
    return strands[family]


@FAMILY
def test_taps_are_the_models_own_hidden_states(strand):
    """Last decoder layer aside: there transformers reports the state after the norm."""
    n = strand.n_layers
    got = strand.run(IDS, taps=[*range(n), "final"])
    theirs = strand.model(IDS, output_hidden_states=True)
    for layer in range(n - 1):
        assert torch.equal(got[layer], theirs.hidden_states[layer + 1])
    assert torch.equal(got["final"], theirs.hidden_states[-1])
    assert torch.equal(strand.logits(got["final"]), theirs.logits)


@FAMILY
def test_stops_at_the_deepest_tap(strand):
    last = decoder_layers(strand.body, strand.n_layers)[-1]
    ran = []
    handle = last.register_forward_hook(lambda *_: ran.append(1))
    try:
        assert set(strand.run(IDS, taps=[0])) == {0}
        assert not ran
        strand.run(IDS, taps=["final"])
        assert ran
    finally:
        handle.remove()


@FAMILY
def test_an_edit_changes_what_comes_after(strand):
    plain = strand.run(IDS, taps=[0, 1, "final"])
    edited = strand.run(IDS, taps=[0, 1, "final"], edits={1: lambda h: h * 2})
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] * 2)
    assert not torch.allclose(edited["final"], plain["final"])
    # Nothing stays behind.
    assert torch.equal(strand.run(IDS, taps=["final"])["final"], plain["final"])


@FAMILY
def test_an_edit_that_fails_leaves_nothing_behind(strand):
    before = strand.model(IDS).logits

    def broken(hidden):
        raise RuntimeError("edit failed")

    with pytest.raises(RuntimeError, match="edit failed"):
        strand.run(IDS, taps=["final"], edits={0: broken})
    assert torch.equal(strand.model(IDS).logits, before)


def test_two_strands_of_one_model_do_not_hear_each_other(strands):
    """A run of one strand inside an edit of another is its own request."""
    a, b = strands["llama"], strands["llama-2"]
    alone = b.run(IDS, taps=["final"])["final"]
    inside = {}

    def edit(hidden):
        inside.update(b.run(IDS, taps=["final"]))
        return hidden

    a.run(IDS, taps=["final"], edits={1: edit})
    assert torch.equal(inside["final"], alone)


@FAMILY
def test_is_frozen(strand):
    assert not strand.model.training
    assert not any(p.requires_grad for p in strand.model.parameters())


def test_facts(strands):
    s = strands["gemma"]
    assert (s.n_layers, s.width, s.name, s.source) == (6, 48, "gemma", "gemma")
    assert s.vocab_size == s.head.weight.shape[0]
    assert (s.dtype, s.device) == (torch.float32, torch.device("cpu"))
    assert tiny.tiny_strand("gpt2", "other").name == "other"


def test_a_capped_head_is_followed():
    model = tiny.tiny_model("gemma")
    model.config.final_logit_softcapping = 1.5
    strand = Strand("capped", model, tiny.tiny_tokenizer("gemma"))
    got = strand.logits(strand.run(IDS, taps=["final"])["final"])
    assert got.abs().max() <= 1.5
    assert torch.equal(got, model(IDS).logits)


def test_a_head_of_another_width_is_refused():
    """OPT-350M projects its states before the head."""
    tokenizer = tiny.tiny_tokenizer("opt")
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=36,
        word_embed_proj_dim=20,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    with pytest.raises(ValueError, match="width 36 and a head of width 20"):
        Strand("odd", OPTForCausalLM(config), tokenizer)


def test_a_head_that_does_more_is_refused():
    model = tiny.tiny_model("llama")
    model.lm_head.register_forward_hook(lambda m, a, out: out)
    real = model.forward
    model.forward = lambda *a, **k: _scaled(real(*a, **k))
    with pytest.raises(ValueError, match="between its final norm and its logits"):
        Strand("odd", model, tiny.tiny_tokenizer("llama"))


def test_a_model_that_keeps_no_tokens_is_refused():
    """A recurrent state cannot take its last tokens back."""
    tokenizer = tiny.tiny_tokenizer("llama")
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8
    )
    with pytest.raises(ValueError, match="MambaForCausalLM keeps no keys and values"):
        Strand("odd", MambaForCausalLM(config), tokenizer)


def test_a_window_inside_the_layers_is_known():
    """GPT-Neo's local layers go by columns, whatever mask they are given."""
    tokenizer = tiny.tiny_tokenizer("llama")
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    )
    strand = Strand("neo", GPTNeoForCausalLM(config), tokenizer)
    assert strand.window == 8
    assert not strand.reads_trees


def _scaled(out):
    out.logits = out.logits * 3
    return out


def test_decoder_layers_must_be_unmistakable():
    twice = nn.ModuleDict(
        {name: nn.ModuleList(nn.Linear(1, 1) for _ in range(2)) for name in "ab"}
    )
    with pytest.raises(ValueError, match="found 2 module lists of length 2"):
        decoder_layers(twice, 2)
    with pytest.raises(ValueError, match="found 0"):
        decoder_layers(twice, 3)


def test_the_content_is_all_that_decides_what_it_computes():
    """A setting, the order of rows and of columns, a weight; not where it came from."""
    strand, again = (tiny.tiny_strand("llama") for _ in range(2))
    assert strand.content == again.content
    assert strand.number != again.number
    seen = {strand.content}
    for change in (
        lambda model: setattr(model.config, "rms_norm_eps", 0.1),
        lambda model: model.lm_head.weight.copy_(model.lm_head.weight.flip(0)),
        lambda model: model.lm_head.weight.copy_(model.lm_head.weight.flip(1)),
        lambda model: model.model.norm.weight.mul_(1.01),
    ):
        other = tiny.tiny_strand("llama")
        with torch.no_grad():
            change(other.model)
        seen.add(other.content)
    assert len(seen) == 5


@torch.no_grad()
def test_what_is_known_of_a_strand_follows_its_weights():
    strand = tiny.tiny_strand("llama")
    known = [(strand.stamp, strand.fingerprint, strand.content)]
    strand.model.model.norm.weight.mul_(1.5)
    known.append((strand.stamp, strand.fingerprint, strand.content))
    strand.model.lm_head.weight = torch.nn.Parameter(strand.head.weight.flip(0))
    known.append((strand.stamp, strand.content))
    for values in zip(*known[:2], strict=True):
        assert len(set(values)) == 2
    assert known[2][0] != known[1][0]
    assert known[2][1] != known[1][2]


def _llama(limit, **rope):
    tokenizer = tiny.tiny_tokenizer("llama")
    config = LlamaConfig(
        **tiny.small("llama"),
        max_position_embeddings=limit,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default", **rope},
    )
    torch.manual_seed(0)
    return Strand("llama", LlamaForCausalLM(config).eval(), tokenizer)


LONG = torch.arange(5, 35)[None]  # 30 tokens


def test_a_text_beyond_the_positions_is_read_with_one_warning():
    strand = _llama(20)
    strand.run(LONG[:, :20], taps=["final"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = strand.run(LONG, taps=["final"])["final"]
        strand.run(LONG, taps=[0])
    assert [w.category for w in said] == [UserWarning]
    assert "made for 20 tokens and reads 30" in str(said[0].message)
    assert torch.equal(found, strand.body(LONG).last_hidden_state)
    # Of a cache all tokens count, of a padded text those that are real.
    for taps in (["final"], [0]):
        strand, cache = _llama(20), DynamicCache()
        strand.run(LONG[:, :15], taps=taps, cache=cache)
        with pytest.warns(UserWarning, match="reads 21"):
            strand.run(LONG[:, :6], taps=taps, cache=cache)
    places = (torch.arange(30) - 12).clamp(min=0)[None]
    mask = torch.ones(1, 30, dtype=torch.long)
    mask[:, :12] = 0
    _llama(20).run(LONG, taps=[0], attention_mask=mask, position_ids=places)


def test_each_strand_of_a_braid_warns_for_itself():
    tokenizer = tiny.tiny_tokenizer("llama")
    big, small = _llama(4096), _llama(20)
    small.name = "small"
    config = BraidConfig("llama", ["small"], [0.5, 0.5], ["output"], "learned_weighted")
    model = BraidedLLM(config, [big, small])
    assert len(tokenizer(tiny.PROSE)["input_ids"]) > 20
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.generate(tiny.PROSE, max_new_tokens=2)
        bits_per_byte(model, tiny.PROSE, " And so on.")
    assert ["small was made for 20 tokens" in str(w.message) for w in said] == [True]


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({}, 20),
        ({"rope_type": "linear", "factor": 2.0}, 20),
        (
            {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 20,
            },
            40,
        ),
    ],
    ids=str,
)
def test_positions_are_what_the_configuration_says(rope, positions):
    assert _llama(20, **rope).positions == positions


def test_dynamic_rope_reads_no_further_than_its_positions():
    """Beyond them each later token moves the earlier ones, for the next reader too."""
    strand = _llama(20, rope_type="dynamic", factor=2.0)
    before = strand.run(LONG[:, :20], taps=["final"])["final"]
    with pytest.raises(ValueError, match="dynamic RoPE moves earlier tokens"):
        strand.run(LONG, taps=["final"])
    cache = DynamicCache()
    strand.run(LONG[:, :20], taps=["final"], cache=cache)
    with pytest.raises(ValueError, match="shorter text than these 21 tokens"):
        strand.run(LONG[:, 20:21], taps=["final"], cache=cache)
    assert cache.get_seq_length() == 20
    assert torch.equal(strand.run(LONG[:, :20], taps=["final"])["final"], before)


ALIBI = {
    "mpt": MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=4),
    "falcon": FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
}


@pytest.mark.parametrize("name", ALIBI)
def test_a_model_that_counts_columns_is_known(name):
    """MPT's ALiBi counts padding between tokens; that of Bloom and Falcon does not."""
    config, tokenizer = copy.deepcopy(ALIBI[name]), tiny.tiny_tokenizer("llama")
    config.vocab_size = len(tokenizer)
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    strand = Strand(name, model, tokenizer)
    assert strand.counts_columns is (name == "mpt")
    braid = BraidedLLM(BraidConfig(name), [strand])
    filled = torch.cat([LONG[:, :6], LONG[:, :5], LONG[:, 6:12]], dim=1)
    mask = torch.ones_like(filled)
    mask[:, 6:11] = 0
    with torch.no_grad():
        if name == "mpt":
            with pytest.raises(ValueError, match="padding between tokens; mpt counts"):
                braid(filled, attention_mask=mask)
            with pytest.raises(ValueError, match="64 positions"):
                braid(LONG.repeat(1, 3))
            mask[:, :6] = 0  # now it is on the left
            filled, wanted = filled[:, 6:], braid(LONG[:, 6:12]).logits
            got = braid(filled, attention_mask=mask[:, 6:]).logits[:, 5:]
        else:
            wanted = braid(LONG[:, :12]).logits[:, 6:]
            got = braid(filled, attention_mask=mask).logits[:, 11:]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_padding_between_tokens_is_no_column_to_others(strands):
    for name in ("llama", "gpt2", "qwen2", "opt", "neox"):
        assert not strands[name].counts_columns


def test_long_and_short_texts_side_by_side_keep_their_positions(monkeypatch):
    """Long RoPE sets its frequencies for each text, where all threads look."""
    strand = tiny.long_rope_strand(16)
    texts = [LONG[:, :16], LONG[:, :17]]
    wanted = [strand.run(ids, taps=["final"])["final"] for ids in texts]
    kind, meeting, met = type(strand.body.rotary_emb), Barrier(2), []
    real = kind.forward

    def forward(*args, **options):
        try:
            met.append(meeting.wait(0.2))  # for another that has come in too
        except BrokenBarrierError:
            meeting.reset()
        return real(*args, **options)

    monkeypatch.setattr(kind, "forward", forward)
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(strand.run, ids, taps=["final"]) for ids in texts]
        for job, alone in zip(jobs, wanted, strict=True):
            assert torch.equal(job.result()["final"], alone)
    assert not met


def test_what_a_strand_read_last_is_not_part_of_its_content():
    before = tiny.long_rope_strand(16).content
    strand = tiny.long_rope_strand(16)
    strand.run(LONG, taps=["final"])
    assert strand.content == before


@pytest.mark.parametrize("pad", [0, 1])
def test_a_row_of_zeros_hides_no_head(pad):
    """Logits of the padding token are all 0, whatever they are divided by."""
    tokenizer = tiny.tiny_tokenizer("qwen2")
    config = GraniteConfig(
        **tiny.small("qwen2", num_key_value_heads=2),
        logits_scaling=8.0,
        pad_token_id=pad,
        bos_token_id=0,
        eos_token_id=0,
    )
    with pytest.raises(ValueError, match="between its final norm and its logits"):
        Strand("granite", GraniteForCausalLM(config), tokenizer)


@pytest.mark.parametrize("size", [1e-4, 0.0])
def test_small_or_equal_logits_hide_no_head(size):
    model = tiny.tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(size)
    real = model.forward
    model.forward = lambda *a, **k: _scaled(real(*a, **k))
    with pytest.raises(ValueError, match="between its final norm and its logits"):
        Strand("odd", model, tiny.tiny_tokenizer("llama"))


@pytest.mark.parametrize("wrong", ["no states", "no run"])
def test_a_body_that_is_none_is_refused(wrong, monkeypatch):
    model = tiny.tiny_model("llama")

    def forward(*_, **__):
        if wrong == "no run":
            raise RuntimeError("sizes differ")
        return object()

    monkeypatch.setattr(model.model, "forward", forward)
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot be run as a body"):
        Strand("odd", model, tiny.tiny_tokenizer("llama"))


def test_layers_are_those_of_the_text_model():
    """The image encoder has as many."""
    tokenizer = tiny.tiny_tokenizer("llama")
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    image = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=image,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    model = Gemma3ForConditionalGeneration(config)
    strand = Strand("gemma", model, tokenizer)
    got = strand.run(IDS, taps=[0, 1, "final"])
    assert torch.equal(strand.logits(got["final"]), model(IDS).logits)
    assert got[0].shape == (1, 5, 32)
