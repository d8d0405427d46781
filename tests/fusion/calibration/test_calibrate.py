import math

import pandas as pd
import pytest
import tiny
import torch
from elsewhere import elsewhere

from fusion.braid.configuration import STRATEGIES, BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.calibration.calibrate import calibrate
from fusion.calibration.store import CalibrationStore
from fusion.calibration.texts import HELD_OUT_EVERY, MIN_TEXTS
from fusion.conformance import check_frozen
from fusion.judging.scoring import bits_per_byte
from fusion.report.controls import PromptWeighted
from fusion.report.scores import score
from fusion.strands.pool import Pool
from fusion.strands.strand import Strand

TEXTS = tiny.CALIBRATION_TEXTS
LAYERS = {"mid": (1,), "final": ("final",), "all": (1, "final", "output")}
PLACES = {**LAYERS, "output": ("output",)}


def fit(model, **options):
    return calibrate(model, TEXTS, epochs=2, progress=False, **options)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def differences(model, wanted):
    """Names of the weights that are not bit for bit as wanted."""
    return [k for k, v in model.state_dict().items() if not torch.equal(v, wanted[k])]


def goes_by_the_seed(make, tmp_path):
    """And by nothing else: neither by the generator nor by what was learnt before.

    Else texts that it learnt before would be held out now, and kept in the store.
    """
    one, other = make(0), make(0.1)
    fit(one, seed=3)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    fit(other, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not differences(other, one.state_dict())


def is_shared_by_a_store(make, tmp_path):
    one, other = make(0), make(0)
    first, second = (fit(model, store=tmp_path) for model in (one, other))
    assert first.reused == second.trained == ()
    # What trained from another part needs that part no more.
    assert set(second.reused) <= set(first.trained)
    assert second.bits_after == first.bits_after
    assert not differences(other, one.state_dict())


def is_as_without_a_store(make, tmp_path):
    one, other = make(0), make(0)
    kept, not_kept = fit(one, store=tmp_path), fit(other)
    assert (kept.bits_before, kept.bits_after) == (
        not_kept.bits_before,
        not_kept.bits_after,
    )
    assert not differences(other, one.state_dict())


def leaves_the_braid_as_it_was_when_refused(make, tmp_path):
    model = make(0.1)
    before = state(model)
    with pytest.raises(ValueError, match="cannot round-trip"):
        calibrate(model, [*TEXTS, "a\u2581b"], progress=False)
    with pytest.raises(ValueError, match="one token alone predicts nothing"):
        calibrate(model, ["a"] * 12, progress=False)
    assert not differences(model, before)


def is_saved_and_loaded(make, tmp_path):
    model = make(0)
    report = fit(model)
    model.save_pretrained(tmp_path / "braid")
    pool = Pool()
    for strand in (model.anchor, *model.donors):
        pool.add(strand)
    loaded = BraidedLLM.from_pretrained(tmp_path / "braid", pool=pool)
    assert not differences(loaded, model.state_dict())
    assert report.bits_after == pytest.approx(fit(loaded).bits_after, rel=1e-6)


CONTRACTS = [
    goes_by_the_seed,
    is_shared_by_a_store,
    is_as_without_a_store,
    leaves_the_braid_as_it_was_when_refused,
    is_saved_and_loaded,
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_every_fuser_keeps_every_contract(braid, tmp_path, layers, strategy, contract):
    def make(std):
        return braid("llama", "gemma", layers=layers, strategy=strategy, std=std)

    contract(make, tmp_path)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_learns_and_leaves_strands_alone(braid, layers, strategy):
    model = braid("llama", "gemma", layers=layers, strategy=strategy, std=0)
    strands = [model.anchor.model, *(d.model for d in model.donors)]
    before = [p.clone() for m in strands for p in m.parameters()]
    start = state(model)
    report = fit(model)
    after = [p for m in strands for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)
    assert any(not torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert report.fit is (report.bits_after < report.bits_before)
    assert report.reused == ()
    if layers != LAYERS["mid"]:  # the own adapter alone does that much
        assert report.fit
    check_frozen(model, TEXTS[:1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_matched_control_is_trained(braid, strategy):
    """A braid of one strand with a fuser of any strategy: fed its own states."""
    model = braid("llama", layers=("final",), strategy=strategy, std=0)
    report = calibrate(model, TEXTS, epochs=20, progress=False)
    assert report.trained == ("own",)
    assert report.bits_after < report.bits_before - 0.01


@pytest.mark.parametrize(
    ("layers", "strategy"),
    [((1,), "learned_weighted"), (("final", "output"), "attention")],
    ids=["mid", "final+output"],
)
def test_calibrates_and_scores_on_the_device_of_its_strands(tmp_path, layers, strategy):
    """As on the processor: on a new device, and with features that a file brings."""
    texts = [text[:30] for text in TEXTS]

    def figures(device, store):
        strands = [
            Strand(n, tiny.tiny_model(n).to(device), tiny.tiny_tokenizer(n))
            for n in ("llama", "gemma")
        ]
        config = BraidConfig("llama", ["gemma"], [0.6, 0.4], layers, strategy)
        model = BraidedLLM(config, strands)
        fitted = calibrate(model, texts, epochs=1, progress=False, store=store)
        weighted = PromptWeighted(config, strands)
        text = {"domain": "prose", "prompt": "the", "reference": tiny.PROSE}
        scores = score([model, weighted], [text], 20, tmp_path)
        return [fitted.bits_before, fitted.bits_after, *(s["prose"] for s in scores)]

    wanted = figures("cpu", None)
    with elsewhere() as device:
        for _ in range(2):  # strands anew: the second time all parts are in the store
            got = figures(device, tmp_path)
            assert got == pytest.approx(wanted, rel=1e-3)


def test_a_plain_strand_has_nothing_to_learn(braid):
    report = fit(braid("llama", layers=(), strategy=None, std=0))
    assert report.trained == ()
    assert report.bits_after == report.bits_before
    assert report.fit


def test_bits_are_exact_where_every_position_counts(braid):
    """Few texts and no donor: nothing is sampled, so the figure can be recomputed."""
    model = braid("llama", layers=("final",), strategy="learned_weighted", std=0)
    report = fit(model)
    held_out = CalibrationStore(TEXTS, None, 0, False).held_out
    assert len(held_out) == math.ceil(len(TEXTS) / HELD_OUT_EVERY)
    held_out = held_out[::2]  # the others are for gates
    for braided, bits in ((False, report.bits_before), (True, report.bits_after)):
        total = n_bytes = 0.0
        for i in held_out:
            ends = model.anchor.tokens.ends(model.anchor.tokens.encode(TEXTS[i]))
            size = int(ends[-1] - ends[0])
            speaker = model if braided else model.anchor
            total += bits_per_byte(speaker, "", TEXTS[i]) * size
            n_bytes += size
        assert bits == pytest.approx(total / n_bytes, rel=1e-4)


def test_a_store_is_shared_and_changes_nothing(braid, tmp_path, monkeypatch):
    layers = ("final", "output")
    model = braid("llama", "gemma", layers=layers, std=0)
    first = fit(model, store=tmp_path)
    assert set(first.trained) == {"adapter", "final", "gate"}
    assert first.reused == ()
    again = braid("llama", "gemma", layers=layers, std=0)
    second = fit(again, store=tmp_path)
    assert second.trained == ()
    assert second.bits_after == first.bits_after
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    # Another braid of these strands finds what it shares.
    other = braid("llama", "gemma", layers=("final",), strategy="attention", std=0)
    third = fit(other, store=tmp_path)
    assert (third.trained, third.reused) == (("final", "attention"), ())
    # Another split is another calibration, of the same features.
    monkeypatch.setattr("fusion.calibration.store.compute_features", None)
    assert fit(again, store=tmp_path, seed=1).reused == ()
    assert all(p.suffix == ".safetensors" for p in tmp_path.iterdir())


def test_a_part_does_not_depend_on_what_the_store_has_already(braid, tmp_path):
    """As many numbers are drawn with a part from the store as without."""

    def make(*layers):
        return braid("llama", "gemma", layers=layers, strategy="router", std=0)

    fit(make("final"), store=tmp_path)
    one, other = make("final", "output"), make("final", "output")
    assert set(fit(one, store=tmp_path).reused) == {"final"}
    fit(other)
    assert not differences(one, other.state_dict())


def test_a_file_that_was_cut_off_is_made_again(braid, tmp_path):
    def run():
        # Strands that this process has not read the texts with.
        strands = [tiny.tiny_strand(name) for name in ("llama", "gemma")]
        config = BraidConfig(
            "llama", ["gemma"], [0.6, 0.4], ("final", "output"), "router"
        )
        model = BraidedLLM(config, strands)
        return calibrate(model, TEXTS, store=tmp_path, epochs=1, progress=False)

    wanted = run()
    files = list(tmp_path.iterdir())
    assert {f.name.split("-")[0] for f in files} == {
        "features", "vocabulary", "cuts", "adapter", "final", "gate", "report"
    }  # fmt: skip
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    assert run().bits_after == wanted.bits_after
    assert run().trained == ()


def test_an_interrupted_calibration_goes_on(braid, tmp_path, monkeypatch):
    model = braid("llama", "gemma", layers=("final", "output"), std=0)
    monkeypatch.setattr(
        "fusion.calibration.calibrate.fit_gate",
        lambda *a: (_ for _ in ()).throw(OSError("power")),
    )
    with pytest.raises(OSError, match="power"):
        fit(model, store=tmp_path)
    monkeypatch.undo()
    report = fit(
        braid("llama", "gemma", layers=("final", "output"), std=0), store=tmp_path
    )
    assert report.trained == ("gate",)
    assert set(report.reused) == {"adapter", "final"}


def test_a_braid_whose_donor_has_no_share_is_its_anchor(braid):
    layers = ("final", "output")
    report = fit(braid("llama", "gemma", layers=layers, shares=[1.0, 0.0], std=0))
    assert report.bits_after == report.bits_before


def test_texts_may_be_tasks(braid):
    model = braid("llama", layers=(), strategy=None, std=0)
    tasks = [{"prompt": t[:9], "reference": t[9:]} for t in TEXTS]
    joined = [f"{t[:9]}\n{t[9:]}" for t in TEXTS]
    got = calibrate(model, tasks, progress=False)
    assert got.bits_before == calibrate(model, joined, progress=False).bits_before


def test_a_budget_of_tokens_takes_as_many_texts_as_it_pays_for(braid, tmp_path):
    model = braid("llama", "gemma", layers=("final",), std=0)
    texts = [f"{part} {text}" for part in "abc" for text in TEXTS]
    tokens = sum(len(model.anchor.tokens.encode(text)) for text in texts)
    options = {"budget": tokens // 2, "epochs": 1, "progress": False}
    report = calibrate(model, texts, store=tmp_path, **options)
    assert 0.3 * tokens < report.tokens <= tokens // 2
    # The same texts for every seed: their features are read once.
    calibrate(model, texts, store=tmp_path, seed=1, **options)
    assert len(list(tmp_path.glob("features-*"))) == 2
    before = state(model)
    with pytest.raises(ValueError, match="budget of 9 tokens pays for 0 of 36 texts"):
        calibrate(model, texts, budget=9)
    with pytest.raises(ValueError, match="budget of nan tokens"):
        calibrate(model, texts, budget=math.nan)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_gradients_may_be_off_around_it(braid):
    model = braid("llama", "gemma", std=0)
    with torch.no_grad():
        assert fit(model).fit
    before = state(model)
    refused = pytest.raises(RuntimeError, match="outside torch.inference_mode")
    with torch.inference_mode(), refused:
        fit(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_texts_are_refused(braid):
    model = braid("llama", "gemma", std=0)
    start = state(model)
    with pytest.raises(ValueError, match=f"received 3 .* at least {MIN_TEXTS}"):
        calibrate(model, TEXTS[:3])
    with pytest.raises(ValueError, match=f"text {len(TEXTS)} is empty"):
        calibrate(model, [*TEXTS, " \n"])
    with pytest.raises(KeyError, match="'prompt' and 'reference'"):
        calibrate(model, [{"text": t} for t in TEXTS])
    with pytest.raises(ValueError, match="cannot round-trip"):
        calibrate(model, [*TEXTS, "a\u2581b"], progress=False)
    with pytest.raises(ValueError, match="epochs=0; give at least 1"):
        calibrate(model, TEXTS, epochs=0)
    with pytest.raises(ValueError, match="one token alone predicts nothing"):
        calibrate(model, ["a"] * 12, progress=False)
    with pytest.raises(TypeError, match="a string or a mapping, received None"):
        calibrate(model, [*TEXTS, None], progress=False)
    for texts in ("text of many letters", pd.DataFrame([TEXTS] * 12)):
        with pytest.raises(TypeError, match="give a list of texts"):
            calibrate(model, texts, progress=False)
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("half", [0, 1], ids=["judge", "gate"])
def test_held_out_texts_of_one_token_are_refused(braid, half):
    model = braid("llama", "gemma", layers=("final", "output"))
    start = state(model)
    texts = list(TEXTS)
    texts[CalibrationStore(TEXTS, None, 0, False).held_out[half]] = "a"
    with pytest.raises(ValueError, match="one token alone predicts nothing"):
        calibrate(model, texts, progress=False)
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


def test_another_model_of_the_same_name_shares_nothing(tmp_path):
    config = {"anchor": "x", "fusion_layers": ["final"], "strategy": "router"}
    for seed in (0, 1):
        strand = tiny.tiny_strand("llama", "x", seed=seed)
        model = BraidedLLM(BraidConfig(**config), [strand])
        assert fit(model, store=tmp_path).reused == ()


def test_another_configuration_of_a_model_shares_nothing(tmp_path):
    config = {"anchor": "x", "fusion_layers": ["final"], "strategy": "router"}
    for theta in (10_000.0, 500.0):
        strand = tiny.tiny_strand("llama", "x")
        with torch.no_grad():
            strand.model.config.rope_parameters["rope_theta"] = theta
        model = BraidedLLM(BraidConfig(**config), [strand])
        assert fit(model, store=tmp_path).reused == ()


def test_a_text_of_one_token_does_no_harm(braid):
    model = braid("llama", "gemma", layers=("final", "output"), std=0)
    report = calibrate(model, [*TEXTS, *["a"] * 6], epochs=1, progress=False)
    assert math.isfinite(report.bits_before)
    assert math.isfinite(report.bits_after)


def test_special_tokens_are_calibrated_on_as_they_are_read(braid):
    """The anchor reads them as tokens, and the donor what serving gives it."""
    model = braid("gemma", "llama", layers=(1, "final", "output"), std=0)
    texts = [f"<bos>{text}<eos> {i}" for i, text in enumerate(TEXTS)]
    read = {strand.name: [] for strand in (model.anchor, *model.donors)}
    handles = [
        strand.body.register_forward_pre_hook(
            lambda _, __, given, rows=read[strand.name]: rows.extend(
                given["input_ids"].tolist()
            ),
            with_kwargs=True,
        )
        for strand in (model.anchor, *model.donors)
    ]
    try:
        report = calibrate(model, texts, epochs=1, progress=False)
    finally:
        for handle in handles:
            handle.remove()
    assert math.isfinite(report.bits_after)
    # Nobody reads the names of the anchor's tokens as characters, but the donor where
    # it learns its own adapter, from the text as it is.
    eos = model.tokenizer.eos_token_id
    assert all(eos in row for row in read["gemma"])
    words = {model.donors[0].tokens.join(row) for row in read["llama"]}
    for i, text in enumerate(TEXTS):
        assert any(w.startswith(f"{text} {i}".encode()) for w in words)
