"""Adapters on one base: the same as peft's own model, and the base once in memory."""

import copy
import json
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.braid.output_mixture import vocabulary_map
from fusion.calibration.calibrate import calibrate
from fusion.conformance import randomise
from fusion.strands.adapters import KINDS, adapter_parameters, read_adapter
from fusion.strands.merging import merge
from fusion.strands.pool import Pool

peft = pytest.importorskip("peft", reason="the extra named adapters is not installed")

IDS = torch.tensor([[5, 50, 150, 250, 300]])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IA3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
SETTINGS = {
    "LORA": {"r": 4, "lora_alpha": 12},
    "LORA of all layers": {"target_modules": "all-linear", "use_rslora": True},
    "LORA by magnitude and direction": {"use_dora": True},
    "LORA of some layers": {"layers_to_transform": [1], "rank_pattern": {"q_proj": 2}},
    "LORA of the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "LORA of the head": {"target_modules": ["lm_head", "q_proj"]},
    "LORA and a head": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "LORA and blocks": {"modules_to_save": ["mlp"]},
    "LOHA": {"kind": "LoHaConfig", "r": 4},
    "LOKR": {"kind": "LoKrConfig", "r": 2, "decompose_both": True},
    "IA3": {"kind": "IA3Config", **IA3},
    "OFT": {"kind": "OFTConfig", "oft_block_size": 8},
}
# peft asks transformers for something under the name that it had before.
peft_warns = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_folder("llama", tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def folder(tmp_path):
    return tiny.tiny_adapter(tmp_path / "legal")


def sources(base, folder, count=8):
    """The plain base, and so many adapters on it."""
    given = {f"a{n}": tiny.tiny_adapter(folder / f"a{n}", n) for n in range(count)}
    with_base = {n: {"source": base, "adapter": path} for n, path in given.items()}
    return {"base": base, **with_base}


def rewrite(folder, **settings):
    """Change the configuration of an adapter; None takes a setting away."""
    file = folder / CONFIG
    told = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({k: v for k, v in told.items() if v is not ...}))


def edit(folder, change):
    """Change the weights of an adapter, given by name without what is before it."""
    found = {
        k.removeprefix("base_model.model."): v
        for k, v in load_file(folder / WEIGHTS).items()
    }
    change(found)
    save_file({f"base_model.model.{k}": v for k, v in found.items()}, folder / WEIGHTS)


def storages(models):
    tensors = [t for m in models for t in (*m.parameters(), *m.buffers())]
    return {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors
    }


# ---- the same as peft ----


@peft_warns
@pytest.mark.parametrize("case", SETTINGS)
def test_a_strand_is_what_peft_makes_of_it(base, tmp_path, case):
    folder = tiny.tiny_adapter(tmp_path / "it", **SETTINGS[case])
    pool = Pool({"base": base, "it": {"source": base, "adapter": folder}})
    alone = pool["base"].model(IDS).logits
    strand = pool["it"]
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model("llama"), folder)
    found, wanted = strand.model(IDS).logits, theirs(IDS).logits
    # Of the head, a change is added to its weights beforehand.
    exact = case != "LORA of the head"
    torch.testing.assert_close(found, wanted, rtol=0, atol=0 if exact else 1e-5)
    assert float((found - alone).abs().max()) > 0.1
    merged = theirs.merge_and_unload()(IDS).logits
    torch.testing.assert_close(found, merged, rtol=1e-5, atol=1e-4)
    # What fusers are trained on reads rows of the head one by one.
    rows = torch.nn.functional.linear(
        strand.run(IDS, taps=["final"])["final"], strand.head.weight
    )
    torch.testing.assert_close(rows, found, rtol=1e-5, atol=1e-5)
    # The base never notices.
    assert torch.equal(pool["base"].model(IDS).logits, alone)
    assert torch.equal(tiny.tiny_model("llama")(IDS).logits, alone)


def test_every_kind_is_tested():
    assert {case.split()[0] for case in SETTINGS} == set(KINDS)


@peft_warns
@pytest.mark.parametrize("family", ["gemma", "gpt2", "qwen2", "opt", "neox"])
def test_adapters_of_other_families(family, tmp_path):
    targets = {"gpt2": ["c_attn"], "neox": ["query_key_value"]}
    settings = {"target_modules": targets.get(family, ["q_proj", "v_proj"])}
    settings |= {"fan_in_fan_out": True} if family == "gpt2" else {}
    base = tiny.tiny_folder(family, tmp_path / "base")
    folder = tiny.tiny_adapter(tmp_path / "it", family=family, **settings)
    pool = Pool({"base": base, "it": {"source": base, "adapter": folder}})
    theirs = peft.PeftModel.from_pretrained(tiny.tiny_model(family), folder)
    assert torch.equal(pool["it"].model(IDS).logits, theirs(IDS).logits)
    plain = tiny.tiny_model(family)(IDS).logits
    assert torch.equal(pool["base"].model(IDS).logits, plain)
    assert not torch.equal(plain, theirs(IDS).logits)


# ---- one base, many strands ----


def test_the_base_is_in_memory_once(base, tmp_path):
    given = sources(base, tmp_path)
    pool = Pool(given)
    models = [pool[name].model for name in given]
    once = storages([models[0]])
    own = sum(adapter_parameters(str(tmp_path / f"a{n}")) for n in range(8)) * 4
    held = storages(models)
    assert set(once) <= set(held)
    assert sum(held.values()) == sum(once.values()) + own
    # One tokenizer, and its tokens are told as they are.
    assert len({id(pool[name].tokens) for name in given}) == 1
    assert vocabulary_map(pool["a0"], pool["a1"]).same
    # Nor are others beside them: whatever loads a name finds what there is.
    assert sum(storages([pool["a3"].model, pool["base"].model]).values()) < (
        sum(once.values()) + own / 4
    )


def test_adapters_need_no_strand_of_the_base(base, tmp_path):
    given = sources(base, tmp_path, 2)
    del given["base"]
    pool = Pool(given)
    assert list(pool) == ["a0", "a1"]
    held = storages([pool["a0"].model, pool["a1"].model])
    own = sum(adapter_parameters(str(tmp_path / f"a{n}")) for n in range(2)) * 4
    alone = storages([tiny.tiny_model("llama")])
    assert sum(held.values()) == sum(alone.values()) + own


def test_loading_order_changes_nothing(base, tmp_path):
    given = sources(base, tmp_path, 2)
    orders = (list(given), list(given)[::-1])
    found = []
    for order in orders:
        pool = Pool(given)
        for name in order:
            pool[name].model(IDS, output_hidden_states=True)
        found.append({name: pool[name].model(IDS).logits for name in given})
    assert all(torch.equal(found[0][name], found[1][name]) for name in given)


def test_eight_threads_give_what_one_gives(base, tmp_path):
    given = sources(base, tmp_path)
    pool = Pool(given)
    texts = [torch.randint(2, 300, (1, 5 + n)) for n in range(4)]
    work = [(name, ids) for ids in texts for name in given if name != "base"]
    work += [("base", ids) for ids in texts]

    def read(item):
        name, ids = item
        edits = {2: lambda h: h * 1.5}
        return pool[name].run(ids, taps=[0, 2, "final"], edits=edits)

    alone = [read(item) for item in work]
    barrier = Barrier(8)

    def together(thread):
        barrier.wait(timeout=60)
        turned = work[thread * 3 :] + work[: thread * 3]
        return [(item, read(item)) for item in turned]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(together, range(8)))
    pairs = zip(work, alone, strict=True)
    wanted = {(name, id(ids)): states for (name, ids), states in pairs}
    for of_thread in found:
        for (name, ids), states in of_thread:
            for tap, state in states.items():
                assert torch.equal(state, wanted[name, id(ids)][tap])


def test_strands_of_one_base_do_not_hear_each_other(base, tmp_path):
    """A run of one strand inside an edit of another is its own request."""
    pool = Pool(sources(base, tmp_path, 2))
    alone = pool["a1"].run(IDS, taps=[1, "final"])
    inside = {}

    def edit_first(hidden):
        inside.update(pool["a1"].run(IDS, taps=[1, "final"]))
        return hidden + 1

    pool["a0"].run(IDS, taps=["final"], edits={1: edit_first})
    assert all(torch.equal(inside[tap], alone[tap]) for tap in alone)


def test_it_is_frozen_and_the_random_sequence_stays(base, tmp_path):
    given = sources(base, tmp_path, 2)
    before = torch.get_rng_state()
    pool = Pool(given)
    strands = [pool[name] for name in given]
    assert torch.equal(torch.get_rng_state(), before)
    for strand in strands:
        assert not strand.model.training
        assert not any(p.requires_grad for p in strand.model.parameters())


def test_weights_are_told_apart(base, tmp_path):
    pool = Pool(sources(base, tmp_path, 2))
    strands = [pool[name] for name in ("base", "a0", "a1")]
    for what in ("fingerprint", "content", "stamp"):
        assert len({getattr(strand, what) for strand in strands}) == 3
    # The same files, from elsewhere.
    again = {"again": {"source": base, "adapter": tmp_path / "a1"}}
    assert Pool(again)["again"].content == pool["a1"].content
    # They follow the adapter's weights, which others do not have.
    before = [(s.content, s.stamp) for s in strands]
    strands[2].model.model.layers[0].self_attn.q_proj.lora_A.default.weight.mul_(2)
    assert [(s.content, s.stamp) for s in strands[:2]] == before[:2]
    assert strands[2].content != before[2][0]
    assert strands[2].stamp != before[2][1]


def test_what_is_in_no_weight_is_told_apart(base, tmp_path):
    """The same weights at twice the strength are another strand."""
    given = {}
    for name, alpha in (("a", 8), ("b", 16), ("c", 8)):
        path = tiny.tiny_adapter(tmp_path / name, lora_alpha=alpha)
        given[name] = {"source": base, "adapter": path}
    a, b, c = (Pool(given)[name] for name in given)
    assert a.fingerprint != b.fingerprint
    assert a.content != b.content
    assert (a.fingerprint, a.content) == (c.fingerprint, c.content)


@pytest.mark.parametrize("first", ["base", "a0"])
def test_moving_one_moves_all_that_stands_on_the_base(base, tmp_path, first):
    given = sources(base, tmp_path, 2)
    pool = Pool(given)
    strands = [pool[name] for name in given]
    before = [s.content for s in strands]
    braid = BraidedLLM(BraidConfig(first), pool=pool)
    braid.to(torch.bfloat16)
    assert [s.dtype for s in strands] == [torch.bfloat16] * 3
    for strand in strands:
        assert {p.dtype for p in strand.model.parameters()} == {torch.bfloat16}
        assert strand.model(IDS).logits.dtype == torch.bfloat16
    assert not set(before) & {s.content for s in strands}
    held, own = storages([s.model for s in strands]), storages([strands[0].model])
    assert len(held) < len(own) * 2
    # One that is loaded now is as the others are, on the same weights.
    pool.sources["late"] = {"source": str(base), "adapter": str(tmp_path / "a1")}
    assert pool["late"].content == strands[2].content


def test_dtype_of_the_pool(base, folder):
    pool = Pool({"it": {"source": base, "adapter": folder}}, dtype=torch.bfloat16)
    types = {p.dtype for p in pool["it"].model.parameters()}
    assert types == {torch.bfloat16}
    assert pool["it"].dtype == torch.bfloat16


def test_facts_count_the_adapter(base, folder):
    (folder / "other.txt").write_text("not read")
    pool = Pool({"base": base, "it": {"source": base, "adapter": folder}})
    facts, plain = pool.facts("it"), pool.facts("base")
    count = sum(t.numel() for t in load_file(folder / WEIGHTS).values())
    assert adapter_parameters(str(folder)) == count > 0
    assert facts["parameters"] == plain["parameters"] + count
    held = sum(p.numel() for p in pool["it"].model.parameters())
    assert facts["parameters"] == held
    assert (facts["adapter"], plain["adapter"]) == (str(folder), None)
    assert facts["memory"] == plain["memory"] + 4 * count
    own = dict.fromkeys(("parameters", "adapter", "memory"), 0)
    assert {**facts, **own} == {**plain, **own}


# ---- braids of them ----


def test_a_saved_braid_comes_back_with_its_adapters(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.tiny_adapter(tmp_path / "legal", 1)
    tiny.tiny_adapter(tmp_path / "code", 2)
    entries = [
        {"model_name": "legal", "source": base, "adapter": "legal"},
        {"model_name": "code", "source": base, "adapter": tmp_path / "code"},
        {"model_name": "plain", "source": base},
    ]
    braid = randomise(BraidedLLM(model_configs=entries))
    assert braid.anchor.source == {
        "source": str(base),
        "adapter": str(tmp_path / "legal"),
    }
    braid.save_pretrained(tmp_path / "braid")
    monkeypatch.chdir(base)
    again = BraidedLLM.from_pretrained(tmp_path / "braid")
    assert again.config.sources == braid.config.sources
    assert again.donors[1].source == str(base)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, braid(IDS).logits)
    # Another adapter of the same shape in its place is told.
    tiny.tiny_adapter(tmp_path / "legal", 3)
    with pytest.raises(ValueError, match="trained on another 'legal'"):
        BraidedLLM.from_pretrained(tmp_path / "braid")


def test_model_configs_say_what_the_strands_are(base, folder):
    entry = {"model_name": "it", "source": str(base), "adapter": str(folder)}
    strand = Pool({"it": {"source": base, "adapter": folder}})["it"]
    options = {"fusion_layers": (), "strands": [strand]}
    assert BraidedLLM(model_configs=[entry], **options).anchor is strand
    other = {**entry, "adapter": "elsewhere"}
    with pytest.raises(ValueError, match="'it' comes from .*leave the adapter out"):
        BraidedLLM(model_configs=[other], **options)
    with pytest.raises(ValueError, match="every model is named once"):
        BraidedLLM(model_configs=[entry, other])


def test_a_store_keeps_what_was_made_of_an_adapter(base, tmp_path):
    """Calibrated once; other weights of the adapter are another strand to the store."""
    tiny.tiny_adapter(tmp_path / "it", 1)
    given = {"base": base, "it": {"source": base, "adapter": tmp_path / "it"}}
    recipe = BraidConfig("base", ["it"], [0.5, 0.5], ["final"], "learned_weighted")
    texts, store = tiny.CALIBRATION_TEXTS, tmp_path / "store"

    def run():
        return calibrate(BraidedLLM(recipe, pool=Pool(given)), texts, store=store)

    assert "final" in run().trained
    assert run().trained == ()
    tiny.tiny_adapter(tmp_path / "it", 2)
    assert "final" in run().trained


# ---- what is refused ----


def load(base, folder):
    return Pool({"it": {"source": base, "adapter": folder}})["it"]


@pytest.mark.parametrize("of", ["gemma", "deeper", "wider"])
def test_an_adapter_of_another_base(base, tmp_path, of):
    family = "gemma" if of == "gemma" else "llama"
    folder = tiny.tiny_adapter(tmp_path / "it", family=family)
    name = "model.layers.{}.self_attn.q_proj.lora_A.weight"
    if of == "deeper":
        edit(folder, lambda f: f.update({name.format(9): f[name.format(0)].clone()}))
    if of == "wider":
        edit(folder, lambda f: f.update({name.format(0): torch.ones(8, 64)}))
    says = (
        f"the adapter in {folder} does not fit '{base}': .*it names 'tiny-.*' as its "
        "base.*give the base that it was trained on"
    )
    with pytest.raises(ValueError, match=says):
        load(base, folder)


def test_an_adapter_of_layers_that_are_not_there(base, folder):
    rewrite(folder, target_modules=["c_attn"])
    with pytest.raises(ValueError, match="does not fit.*c_attn"):
        load(base, folder)


def test_an_adapter_that_lacks_a_weight(base, folder):
    edit(folder, lambda found: found.popitem())
    with pytest.raises(ValueError, match=r"does not fit.*there is no .*lora_"):
        load(base, folder)


def test_weights_that_are_no_numbers(base, folder):
    edit(folder, lambda found: next(iter(found.values())).fill_(torch.nan))
    with pytest.raises(ValueError, match="weights that are no numbers"):
        load(base, folder)


@pytest.mark.parametrize("what", ["nothing", "no folder", "a file"])
def test_where_there_is_no_adapter(base, tmp_path, what):
    folder = tmp_path / "it"
    if what == "nothing":
        folder.mkdir()
    if what == "a file":
        folder.write_text("{}")
    with pytest.raises(ValueError, match=f"no {CONFIG} in"):
        load(base, folder)
    with pytest.raises(ValueError, match=f"no {CONFIG} in"):
        Pool({"it": {"source": base, "adapter": folder}}).facts("it")


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 8}', "\xff"])
def test_a_damaged_configuration(base, folder, text):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"cannot read .*{CONFIG}"):
        load(base, folder)


def test_a_damaged_file(base, folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    for ask in (lambda pool: pool["it"], lambda pool: pool.facts("it")):
        with pytest.raises(ValueError, match=f"cannot read {WEIGHTS} in .*damaged"):
            ask(Pool({"it": {"source": base, "adapter": folder}}))


def test_a_pickle_is_refused_and_not_opened(base, folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"no {WEIGHTS} in .*all files"):
        load(base, folder)
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="a pickle, which may run code; save it again"):
        load(base, folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"},
        {"megatron_config": {"a": 1}, "megatron_core": "os"},
        {"trust_remote_code": True},
        {"auto_map": {"AutoModel": "code.Model"}},
        {"layer_replication": [[0, 2], [1, 4]]},
        {"trainable_token_indices": [1, 2]},
        {"alora_invocation_tokens": [3]},
        {"target_parameters": ["q_proj.weight"]},
        {"a_setting_of_tomorrow": 3},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_are_not_supported(base, folder, settings):
    rewrite(folder, **settings)
    with pytest.raises(ValueError, match=f"sets .*{next(iter(settings))}=.*not supp"):
        load(base, folder)


@pytest.mark.parametrize("start", ["pissa", "olora", "loftq", "pissa_niter_4"])
def test_a_start_that_changes_the_base(base, folder, start):
    rewrite(folder, init_lora_weights=start)
    with pytest.raises(ValueError, match="changes the base's own weights"):
        load(base, folder)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("PROMPT_TUNING", "changes no weights"), ("PREFIX_TUNING", "changes no weights"),
     ("P_TUNING", "changes no weights"), ("VERA", "merge it"), ("XLORA", "merge it"),
     ("NEW", "merge it")],
)  # fmt: skip
def test_kinds_that_are_not_supported(base, folder, kind, says):
    rewrite(folder, peft_type=kind)
    with pytest.raises(ValueError, match=f"of the kind {kind}.*{says}"):
        load(base, folder)


def test_a_setting_that_peft_refuses(base, folder):
    rewrite(folder, layers_to_transform=[1], target_modules="q_proj")
    with pytest.raises(ValueError, match=f"{CONFIG} in .* is none of a LoraConfig"):
        load(base, folder)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("rows", [0, 3])
def test_another_vocabulary(base, folder, name, rows):
    """Trained embeddings and resized ones are saved beside what is peft's own."""
    weight = dict(tiny.tiny_model("llama").named_parameters())[name].detach()
    more = torch.cat([weight, weight[:rows]])
    edit(folder, lambda found: found.update({name: more}))
    if rows == 0:
        load(base, folder)  # a copy of the base's: nothing was changed
        edit(folder, lambda found: found[name][0].add_(1))
    with pytest.raises(ValueError, match=rf"{name}\), as one with another vocabulary"):
        load(base, folder)


def test_a_saved_head_of_another_vocabulary(base, tmp_path):
    folder = tiny.tiny_adapter(tmp_path / "it", modules_to_save=["lm_head"])
    edit(folder, lambda f: f.update({"lm_head.weight": torch.ones(9, 32)}))
    with pytest.raises(ValueError, match=r"lm_head.weight is \(9, 32\).*vocabulary"):
        load(base, folder)


def test_a_tokenizer_beside_the_adapter(base, folder):
    tiny.tiny_tokenizer("llama").save_pretrained(folder)
    load(base, folder)
    tiny.tiny_tokenizer("gemma").save_pretrained(folder)
    with pytest.raises(ValueError, match="a tokenizer of its own.*remove its"):
        load(base, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*tokenizer\.json"):
        load(base, folder)


def test_a_refusal_changes_nothing(base, tmp_path):
    given = sources(base, tmp_path, 1)
    given["wrong"] = {"source": base, "adapter": tmp_path / "nowhere"}
    pool = Pool(given)
    before = {name: pool[name].model(IDS).logits for name in ("base", "a0")}
    folder = tiny.tiny_adapter(tmp_path / "nowhere", family="gemma")
    with pytest.raises(ValueError, match="does not fit"):
        pool["wrong"]
    for name, logits in before.items():
        assert torch.equal(pool[name].model(IDS).logits, logits)
        assert not any(p.requires_grad for p in pool[name].model.parameters())
    # Once it is right it is loaded.
    tiny.tiny_adapter(folder, 4)
    assert pool["wrong"].name == "wrong"


def test_an_adapter_is_no_folder_to_merge(base, folder, tmp_path):
    pool = Pool({"base": base, "it": {"source": base, "adapter": folder}})
    with pytest.raises(ValueError, match="with the adapter .*which no folder holds"):
        pool.folder("it")
    with pytest.raises(ValueError, match="with the adapter"):
        merge(["base", "it"], tmp_path / "merged", pool=pool)


def test_without_peft_the_error_names_the_extra(base, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    pool = Pool({"base": base, "it": {"source": base, "adapter": folder}})
    assert pool["base"].name == "base"
    assert pool.facts("it")["parameters"] > pool.facts("base")["parameters"]
    with pytest.raises(ImportError, match=r"pip install 'braidbandit\[adapters\]'"):
        pool["it"]


def test_a_configuration_is_not_written_to(base, folder):
    adapter = read_adapter(str(folder))
    before = copy.deepcopy(adapter.config)
    load(base, folder)
    assert adapter.config == before


def test_adapters_make_room_and_their_base_stays_while_it_is_used(base, folder):
    """A base in memory is no cost for the next adapter on it."""
    sources = {"base": base, "it": {"source": base, "adapter": folder}}
    facts = {name: Pool(sources).facts(name)["memory"] for name in sources}
    pool = Pool(sources, memory_limit=facts["it"] + 1000)
    plain = weakref.ref(pool["base"])
    weights = plain().model.get_input_embeddings().weight.data_ptr()
    assert pool["it"].model.get_input_embeddings().weight.data_ptr() == weights
    # A limit for one of the two alone: the base is loaded once all the same.
    pool = Pool(sources, memory_limit=facts["base"] + 1)
    pool["base"]
    with pytest.raises(MemoryError, match="more than the pool's memory_limit"):
        pool["it"]
    assert pool["base"].name == "base"
