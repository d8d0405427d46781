import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.calibration import middle
from fusion.calibration.calibrate import calibrate
from fusion.calibration.middle import fit_middle, ridge


def test_ridge_is_least_squares_without_a_penalty():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randn(40, 2, generator=g)
    weight, bias = ridge(x, y, penalty=0.0)
    wanted = np.linalg.lstsq(np.c_[x, np.ones(40)], y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.T, wanted[:3], atol=1e-5)
    np.testing.assert_allclose(bias, wanted[3], atol=1e-5)


def test_ridge_shrinks_and_bears_fewer_rows_than_columns():
    x, y = torch.randn(4, 9), torch.randn(4, 2)
    small, large = (ridge(x, y, penalty=p)[0].norm() for p in (0.01, 10.0))
    assert torch.isfinite(small)
    assert large < small


def test_middle_layers_are_trained_on_texts_of_all_parts(texts, braid, monkeypatch):
    """A file may be sorted by domain; its first texts are of one domain then."""
    monkeypatch.setattr(middle, "TEXTS", 12)
    texts = [f"{part} {text}" for part in "abc" for text in texts]
    model = braid("llama", "gemma", layers=(1,), std=0)
    chosen = []

    def note(store, part, loss, items, **rest):
        chosen.append(items)

    monkeypatch.setattr(middle, "train_part", note)
    for _ in range(2):
        calibrate(model, texts, progress=False)
    assert chosen[0] == chosen[1]
    parts = [{texts[i][0] for i in part} for part in chosen[0]]
    assert parts[0] == set("abc")
    assert len(parts[1]) > 1
    assert not set(chosen[0][0]) & set(chosen[0][1])


def test_a_heavier_penalty_gives_a_smaller_map():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [2.0], [3.0]])
    sizes = [float(ridge(x, y, p)[0].norm()) for p in (0.0, 0.1, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert ridge(x, y, 0.0)[0].flatten().tolist() == pytest.approx([1.0, 2.0, 3.0])


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(1, 8), st.floats(1e-4, 10), st.integers(0, 99))
def test_ridge_solves_the_normal_equations(n, width, penalty, seed):
    """(X'X + p mean(diag X'X) I) W' = X'Y, with X and Y about their means."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, width, generator=g), torch.randn(n, 2, generator=g)
    weight, bias = ridge(x, y, penalty)
    cx, cy = (part.double() - part.double().mean(0) for part in (x, y))
    gram = cx.T @ cx
    gram += penalty * gram.diagonal().mean() * torch.eye(width)
    wanted = torch.linalg.solve(gram, cx.T @ cy).T
    torch.testing.assert_close(weight, wanted.float(), atol=1e-5, rtol=1e-4)
    left = y.mean(0) - weight @ x.mean(0)
    torch.testing.assert_close(bias, left, atol=1e-5, rtol=1e-4)


def test_bridges_begin_as_the_ridge_map_with_a_small_weight(store, braid, monkeypatch):
    """Share times weight is 0.05: that much of the bridged donor is mixed in."""
    monkeypatch.setattr("fusion.calibration.middle.train_part", lambda *a, **o: None)
    model = braid("llama", "gemma", layers=(1,), strategy="learned_weighted", std=0)
    fit_middle(store, model, epochs=1)
    fuser = model.fusers["1"]
    share = model.config.shares[1]
    assert fuser.weight.flatten().tolist() == pytest.approx(
        [middle.START / share] * model.anchor.width
    )
    assert store.trained == ["mid"]
    [bridge] = fuser.bridges.children()
    assert bridge.weight.any()


def test_no_weight_for_a_donor_with_share_0(store, braid, monkeypatch):
    monkeypatch.setattr("fusion.calibration.middle.train_part", lambda *a, **o: None)
    options = {"layers": (1,), "strategy": "learned_weighted", "shares": [1.0, 0.0]}
    model = braid("llama", "gemma", **options, std=0)
    fit_middle(store, model, epochs=1)
    assert not model.fusers["1"].weight.any()
