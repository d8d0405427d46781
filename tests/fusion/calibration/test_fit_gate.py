import pytest
import torch

from fusion.calibration import fit_gate as gate
from fusion.calibration.fit_gate import active_gate, fit_gate
from fusion.calibration.sample import sample_states
from fusion.calibration.store import CalibrationStore


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("strategy", ["router", "attention"])
def test_only_the_gate_is_fitted_and_it_lowers_the_loss(store, braid, strategy):
    model = braid("llama", "gemma", layers=("output",), strategy=strategy, std=0)
    before = state(model)
    sample = sample_states(store, model, store.held_out[1::2], gate.POSITIONS)

    def loss():
        logits = model.head(sample.states, (slice(None), slice(None)))
        return float(torch.nn.functional.cross_entropy(logits, sample.targets).detach())

    start = loss()
    fit_gate(store, model, epochs=1)
    assert loss() < start
    changed = {
        k for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"mixer.gate.weight", "mixer.gate.bias"}
    assert store.trained == ["gate"]


def test_it_ends_at_the_posterior_mode(store, braid):
    """There the slope of loss and prior together is zero."""
    model = braid("llama", "gemma", layers=("output",), std=0)
    fit_gate(store, model, epochs=1)
    found, slopes = active_gate(model), {}
    sample = sample_states(store, model, store.held_out[1::2], gate.POSITIONS)
    logits = model.head(sample.states, (slice(None), slice(None)))
    nats = torch.nn.functional.cross_entropy(logits, sample.targets, reduction="sum")
    prior = sum(w.pow(2).sum() for w in found.parameters()) / 2 / gate.PRIOR**2
    slopes = torch.autograd.grad(
        (nats + prior) / len(sample.targets), found.parameters()
    )
    assert all(float(slope.abs().max()) < 1e-3 for slope in slopes)


def test_a_tight_prior_leaves_the_shares(store, braid, monkeypatch):
    monkeypatch.setattr(gate, "PRIOR", 1e-6)
    model = braid("llama", "gemma", layers=("output",), std=0)
    fit_gate(store, model, epochs=1)
    assert all(
        float(w.detach().abs().max()) < 1e-6 for w in active_gate(model).parameters()
    )


@pytest.mark.parametrize(
    ("layers", "strategy", "shares"),
    [
        (("final",), "router", None),
        (("output",), "learned_weighted", None),
        (("output",), "router", [1.0, 0.0]),
    ],
    ids=["no output", "shares alone", "nothing to weigh"],
)
def test_where_there_is_no_gate_nothing_is_fitted(
    braid, texts, layers, strategy, shares
):
    options = {"layers": layers, "strategy": strategy, "shares": shares}
    model = braid("llama", "gemma", **options, std=0)
    before = state(model)
    store = CalibrationStore(texts, None, 0, False)
    fit_gate(store, model, epochs=1)
    assert active_gate(model) is None
    assert store.trained == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
