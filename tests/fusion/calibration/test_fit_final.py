import pytest
import torch

from fusion.braid.fusers import LearnedWeighted
from fusion.calibration.fit_final import Positions, fit_adapter, fit_final
from fusion.calibration.store import CalibrationStore

STRATEGIES = ("learned_weighted", "router", "attention")


@pytest.mark.parametrize(
    "names", [("llama", "gemma"), ("gemma", "llama")], ids="+".join
)
def test_beside_each_position_is_the_donors_last_token_by_then(store, strands, names):
    anchor, donor = (strands[name] for name in names)
    positions = Positions(store, anchor, [donor], served=False)
    [(states, index)] = positions.sources
    texts, others = store.features(anchor), store.features(donor, anchor)
    at = offset = 0
    for text, other in zip(texts, others, strict=True):
        for end in text.ends[:-1]:
            seen = int((other.ends <= end).sum())
            assert int(index[at]) == (offset + seen - 1 if seen else -1)
            at += 1
        assert torch.equal(states[offset : offset + len(other.ids)], other.hidden)
        offset += len(other.ids)
    assert at == len(index) == len(positions.hidden) == len(positions.targets)


def test_positions_belong_to_the_texts_of_their_half(store, strands):
    positions = Positions(store, strands["llama"], [])
    counts = [len(t.targets) for t in store.features(strands["llama"])]
    assert len(positions.training) == sum(counts[i] for i in store.training)
    assert len(positions.held_out) == sum(counts[i] for i in store.held_out)
    both = sorted(positions.training + positions.held_out)
    assert both == list(range(sum(counts)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_at_positions_is_that_of_the_fuser_on_whole_texts(
    store, braid, strategy
):
    """A fuser without context sees the same beside a position either way."""
    model = braid("llama", "gemma", strategy=strategy)
    fuser = model.fusers["final"]
    aligned = fuser.aligned if strategy == "attention" else fuser
    positions = Positions(store, model.anchor, model.donors)
    every = list(range(len(positions.targets)))
    parts = [every[i : i + 7] for i in range(0, len(every), 7)]
    with torch.no_grad():
        whole = float(positions.loss(aligned, every))
        mean = sum(float(positions.loss(aligned, p)) * len(p) for p in parts)
    assert whole == pytest.approx(mean / len(every), rel=1e-4)


def test_the_own_map_is_what_the_fuser_of_the_matched_control_gets(
    texts, tmp_path, braid
):
    store = CalibrationStore(texts, tmp_path, 0, False)
    model = braid("llama", strategy="learned_weighted", std=0)
    adapter = LearnedWeighted(model.anchor.width, [4], add=True)
    fit_adapter(store, adapter, model.anchor, None, epochs=1)
    fit_final(store, model, epochs=1)
    assert (store.trained, store.reused) == (["own"], ["own"])
    for key in ("own.weight", "own.bias"):
        found = model.fusers["final"].state_dict()[key]
        assert torch.equal(adapter.state_dict()[key], found)
    assert not adapter.bridges[0].weight.any()


def test_an_adapter_learns_from_what_the_anchor_has_really_read(store, braid):
    model = braid("llama", "gemma", layers=("final", "output"), std=0)
    adapter, [donor] = model.mixer.adapters[0], model.donors
    positions = Positions(store, donor, [model.anchor], served=False)
    before = positions.loss(adapter, positions.held_out).item()
    fit_adapter(store, adapter, donor, model.anchor, epochs=2)
    after = positions.loss(adapter, positions.held_out).item()
    assert after < before
    assert adapter.bridges[0].weight.any()


def test_beside_each_position_is_what_serving_has_there(store, braid):
    model = braid("llama", "gemma", layers=("final",))
    texts = store.features(model.anchor)
    [(states, index)] = Positions(store, model.anchor, model.donors).sources
    start = cut = 0
    for i, text in enumerate(texts):
        read = {}
        model.encode(text.ids[None], memo=read)
        [served] = [v.states["final"] for v in read.values() if hasattr(v, "states")]
        wanted, present = served.aligned()
        n = len(text.targets)
        here = index[start : start + n]
        assert torch.equal(here >= 0, present[0, :n, 0])
        found = states[here.clamp(min=0)] * present[0, :n]
        torch.testing.assert_close(found, wanted[0, :n], atol=1e-4, rtol=1e-4)
        cut += len(store.cuts(model.anchor, model.donors[0])[i][0])
        start += n
    assert cut > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parts_of_a_pair_are_found_again(braid, texts, tmp_path, strategy):
    """learned_weighted and the aligned part of attention are one; router is its own."""
    wanted = ["final", *(["attention"] if strategy == "attention" else [])]
    states = []
    for trained, reused in ((wanted, []), ([], wanted)):
        model = braid("llama", "gemma", strategy=strategy, std=0)
        store = CalibrationStore(texts, tmp_path, 0, False)
        fit_final(store, model, epochs=1)
        assert (store.trained, store.reused) == (trained, reused)
        states.append(model.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


class Scaled(torch.nn.Module):
    """A fuser of another kind: one number by which the anchor's states are moved."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, hidden, sources, shares):
        moved = sum(s.aligned()[0][..., : hidden.shape[-1]].mean() for s in sources)
        return hidden * (1.0 + self.scale * (1.0 + moved))


def test_a_fuser_of_a_new_kind_is_trained_and_kept_under_its_name(store, braid):
    model = braid("llama", "gemma")
    model.fusers["final"] = Scaled()
    fit_final(store, model, epochs=2)
    found = model.fusers["final"].scale.item()
    assert found != 0.0
    model.fusers["final"] = Scaled()
    fit_final(store, model, epochs=2)
    assert model.fusers["final"].scale.item() == found
