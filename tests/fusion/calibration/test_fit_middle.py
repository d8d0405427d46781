import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.calibration import fit_middle as middle
from fusion.calibration.calibrate import calibrate
from fusion.calibration.fit_middle import fit_middle, ridge
from fusion.calibration.store import CalibrationStore


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
    monkeypatch.setattr(
        "fusion.calibration.fit_middle.train_part", lambda *a, **o: None
    )
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
    monkeypatch.setattr(
        "fusion.calibration.fit_middle.train_part", lambda *a, **o: None
    )
    options = {"layers": (1,), "strategy": "learned_weighted", "shares": [1.0, 0.0]}
    model = braid("llama", "gemma", **options, std=0)
    fit_middle(store, model, epochs=1)
    assert not model.fusers["1"].weight.any()


@pytest.mark.parametrize(
    ("penalty", "weight", "bias"), [(0.0, 2.0, 0.0), (1.0, 1.0, 1.0), (3.0, 0.5, 1.5)]
)
def test_ridge_of_two_rows_by_hand(penalty, weight, bias):
    """About their means x is -1 and 1, y is -2 and 2: 4 / (2 + 2 p), and through the
    means (1, 2)."""
    found = ridge(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [4.0]]), penalty)
    assert [float(part) for part in found] == pytest.approx([weight, bias])


@pytest.mark.parametrize("rows", [3, 5])
@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_of_states_that_never_change_ridge_learns_the_mean_alone(rows, penalty):
    x = torch.full((rows, 3), 7.0)
    y = torch.arange(2.0 * rows).view(rows, 2)
    weight, bias = ridge(x, y, penalty)
    assert weight.shape == (2, 3)
    assert not weight.any()
    torch.testing.assert_close(bias, y.mean(0))


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.integers(0, 99))
def test_what_ridge_predicts_does_not_hang_on_the_scale_of_the_states(
    scale, shift, seed
):
    """The penalty is relative to their variance, and means are taken off first."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(9, 3, generator=g), torch.randn(9, 2, generator=g)
    moved = x.double() * scale + shift
    (w, b), (v, c) = ridge(x, y), ridge(moved, y)
    torch.testing.assert_close(
        moved @ v.double().T + c, (x @ w.T + b).double(), atol=2e-3, rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ridge_leaves_its_rows_alone_and_answers_in_float32(dtype):
    x, y = torch.tensor([[1.0], [2.0], [4.0]], dtype=dtype), torch.ones(3, 2).to(dtype)
    before = x.clone(), y.clone()
    weight, bias = ridge(x, y)
    assert weight.dtype == bias.dtype == torch.float32
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("strategy", ["learned_weighted", "router", "attention"])
def test_middle_fusers_are_found_again_whatever_their_strategy(
    texts, braid, tmp_path, monkeypatch, strategy
):
    monkeypatch.setattr(middle, "TEXTS", 4)
    found = []
    for trained, reused in ((["mid"], []), ([], ["mid"])):
        model = braid("llama", "gemma", layers=(0, 2), strategy=strategy, std=0)
        store = CalibrationStore([t[:25] for t in texts], tmp_path, 0, False)
        fit_middle(store, model, epochs=1)
        assert (store.trained, store.reused) == (trained, reused)
        found.append(model.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


@pytest.mark.parametrize(
    "change",
    [
        {"layers": (1,)},
        {"strategy": "attention"},
        {"shares": [0.5, 0.5]},
        {"epochs": 2},
    ],
    ids=str,
)
def test_another_recipe_of_middle_fusers_is_trained_anew(
    texts, braid, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(middle, "TEXTS", 4)
    monkeypatch.setattr(middle, "train_part", lambda *a, **o: None)
    recipe = {"layers": (0,), "strategy": "router", "epochs": 1}
    for options in (recipe, {**recipe, **change}):
        epochs = options.pop("epochs")
        store = CalibrationStore([t[:25] for t in texts], tmp_path, 0, False)
        fit_middle(store, braid("llama", "gemma", **options, std=0), epochs)
        assert store.trained == ["mid"]
