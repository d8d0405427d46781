import math

import pytest
import torch

from fusion.calibration.sample import bits_per_token, sample_states


@pytest.mark.parametrize("strategy", ["learned_weighted", "router", "attention"])
@torch.no_grad()
def test_the_states_are_those_of_the_braid_as_it_is_served(store, braid, strategy):
    """With more positions than there are, all of them are in the sample."""
    model = braid("llama", "gemma", layers=(1, "final", "output"), strategy=strategy)
    own = store.features(model.anchor)
    sample = sample_states(store, model, [2, 5], 9999)
    served = [model.encode(own[i].ids[None]) for i in (2, 5)]
    wanted = torch.cat([states.hidden[0, :-1] for states in served])
    found = sample.states.hidden[0]
    assert len(found) == len(wanted) == len(sample.targets)
    # In another order, the same for states and targets.
    logits = model.head(sample.states, (slice(None), slice(None)))
    losses = torch.nn.functional.cross_entropy(logits, sample.targets)
    before = [
        torch.nn.functional.cross_entropy(
            model(own[i].ids[None]).logits[0, :-1], own[i].targets, reduction="sum"
        )
        for i in (2, 5)
    ]
    assert float(losses) == pytest.approx(float(sum(before)) / len(found), rel=1e-4)
    [readings] = sample.states.donors
    assert readings.shape == (1, len(found))
    # Each stands beside the position that it was read at.
    said = [
        reading.nodes[-1].state
        for states in served
        for reading in states.donors[0][0, :-1]
    ]
    assert sorted(float(r.nodes[-1].state[0]) for r in readings[0]) == pytest.approx(
        sorted(float(state[0]) for state in said)
    )


def test_positions_are_shared_out_among_the_texts(store, braid):
    model = braid("llama", layers=(), strategy=None, std=0)
    sample = sample_states(store, model, [0, 3, 4], 10)
    assert len(sample.targets) == 3 * math.ceil(10 / 3)
    assert sample.states.donors == []
    torch.testing.assert_close(sample.states.hidden[0], sample.before)
    texts = [store.features(model.anchor)[i] for i in (0, 3, 4)]
    n_bytes = sum(int(t.ends[-1] - t.ends[0]) for t in texts)
    assert sample.bytes_per_token == n_bytes / sum(len(t.targets) for t in texts)
    again = sample_states(store, model, [0, 3, 4], 10)
    assert torch.equal(sample.targets, again.targets)


def test_bits_are_the_mean_over_all_positions():
    """Chances of 1/2, 1/4 and 1/4: (1 + 2 + 2) / 3 bits, whatever the slices."""
    log_p = torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0], [0.5, 0.25, 0.25]]).log()
    many = log_p.repeat(50, 1)
    targets = torch.tensor([0, 1, 2] * 50)
    assert bits_per_token(lambda at: many[at], targets) == pytest.approx(5 / 3)
