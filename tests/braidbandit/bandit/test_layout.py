"""Where the parameters are in W: products against the matrix written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit.bandit.layout import Layout
from braidbandit.bandit.posterior import check_features, contract
from braidbandit.bandit.prior import parameter_groups

KINDS = ("bias", "share:a", "anchor:a", "cost", "pair:a+b", "strands", "layers:final")
LAYOUTS = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.integers(1, 4)
)


@settings(max_examples=60, deadline=None)
@given(LAYOUTS, st.integers(0, 1000))
def test_products_are_those_with_the_matrix(names_and_width, seed):
    """phi' theta = z' W x, and W x has the moments that theta gives it."""
    names, k = names_and_width
    groups, rng = parameter_groups(names, k), np.random.default_rng(seed)
    layout = Layout(groups)
    p = len(layout)
    assert p == (groups >= 0).sum() == len(layout.labels)
    theta, factor = rng.standard_normal(p), rng.standard_normal((p, p))
    z = rng.standard_normal(len(names))
    x = np.append(1.0, rng.standard_normal(k - 1))
    W = layout.matrix(theta)
    assert (W[groups < 0] == 0).all()
    np.testing.assert_array_equal(layout.entries(W), theta)
    assert layout.features(z, x) @ theta == pytest.approx(z @ W @ x)
    mu, half = contract(layout, theta, factor, x)
    np.testing.assert_allclose(mu, W @ x, atol=1e-12)
    expected = np.array([layout.matrix(column) @ x for column in factor.T]).T
    np.testing.assert_allclose(half, expected, atol=1e-12)


def test_sums_over_pairs_are_never_formed_row_by_row():
    rng = np.random.default_rng(0)
    layout = Layout(parameter_groups(["bias", "cost", "strands"], 3))
    Z, X = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    phi = np.array([[layout.features(z, x) for z in Z] for x in X])
    np.testing.assert_allclose(
        layout.of_pairs(Z.T @ Z, X.T @ X), np.einsum("nbp,nbq->pq", phi, phi)
    )
    np.testing.assert_allclose(
        layout.outer(Z, X[:, :2].T @ X), np.einsum("nd,nbp->bdp", X[:, :2], phi)
    )


def test_columns_that_come_later_have_slopes_where_others_have():
    """The slopes of the bias row are those of the task, and do not count."""
    more = parameter_groups(["share:b"], 3)
    old = Layout(parameter_groups(["bias", "share:a"], 3))
    assert old.more_rows(more).groups[-1].tolist() == more[0].tolist()
    flat = Layout(parameter_groups(["bias", "cost"], 3))
    assert flat.more_rows(more).groups[-1].tolist() == [more[0, 0], -1, -1]
    assert more[0, 1] >= 0  # what was given is as it was
    bias = Layout(parameter_groups(["bias"], 3))
    assert bias.more_rows(more).groups[-1].tolist() == more[0].tolist()
    np.testing.assert_array_equal(old.more_rows(more).groups[:2], old.groups)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [-1, -1]], "at least one parameter"),
        ([[0, 1], [-1, 2]], "come first"),
        ([0, 1], "two axes"),
    ],
)
def test_layouts_that_cannot_be(groups, message):
    with pytest.raises(ValueError, match=message):
        Layout(np.array(groups))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([1.0, 2.0], "expected width 3"),
        ([[[1.0, 2.0, 3.0]]], "expected width 3"),
        ([2.0, 0.0, 0.0], "constant 1"),
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "constant 1"),
        ([np.nan, 0.0, 0.0], "constant 1"),
        ([1.0, np.nan, 0.0], "feature 1"),
        ([1.0, 0.0, -np.inf], "feature 2"),
        ([[1.0, 0.0, 0.0], [1.0, 10_001.0, 0.0]], "10001 in feature 1"),
    ],
)
def test_features_that_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        check_features(np.array(X), 3)


def test_features_that_are_right_are_not_copied():
    X = np.array([[1.0, 1e4], [1.0, -1e4]])
    assert check_features(X, 2) is X
    assert check_features(np.ones((0, 2)), 2).shape == (0, 2)


def test_sums_over_pairs_by_hand():
    """A level with a slope, and a cost without: theta = (a, b, c), phi = (1, x, z).

    Arms z = 2 and 3, tasks x = 4 and 5: sums over four pairs of 1, x, z, xx, xz, zz.
    """
    layout = Layout(np.array([[0, 1], [4, -1]]))
    Z, X = np.array([[1.0, 2.0], [1.0, 3.0]]), np.array([[1.0, 4.0], [1.0, 5.0]])
    assert layout.of_pairs(Z.T @ Z, X.T @ X).tolist() == [
        [4.0, 18.0, 10.0],
        [18.0, 82.0, 45.0],
        [10.0, 45.0, 26.0],
    ]
    # Own intercepts: the sums over tasks of phi, for each arm.
    assert layout.outer(Z, np.ones((1, 2)) @ X).tolist() == [
        [[2.0, 9.0, 4.0]],
        [[2.0, 9.0, 6.0]],
    ]
    assert layout.entries(np.array([[7.0, 8.0], [9.0, 0.0]])).tolist() == [7, 8, 9]
    assert layout.shape == (2, 2)


@settings(max_examples=40, deadline=None)
@given(LAYOUTS, st.integers(0, 1000))
def test_a_matrix_of_parameters_goes_there_and_back(names_and_width, seed):
    groups = parameter_groups(*names_and_width)
    layout = Layout(groups)
    theta = np.random.default_rng(seed).standard_normal(len(layout))
    np.testing.assert_array_equal(layout.entries(layout.matrix(theta)), theta)
    np.testing.assert_array_equal(layout.labels, groups[groups >= 0])
    np.testing.assert_array_equal(layout.entries(groups), layout.labels)


@settings(max_examples=40, deadline=None)
@given(LAYOUTS, st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
def test_more_rows_leave_the_parameters_of_before_in_their_places(old, more):
    names, k = old
    layout = Layout(parameter_groups(names, k))
    wider = layout.more_rows(parameter_groups(more, k))
    assert wider.shape == (len(names) + len(more), k)
    np.testing.assert_array_equal(wider.groups[: len(names)], layout.groups)
    np.testing.assert_array_equal(wider.labels[: len(layout)], layout.labels)
    z, x = np.arange(1.0, len(names) + 1), np.append(1.0, np.arange(2.0, k + 1))
    wide = np.append(z, np.zeros(len(more)))
    np.testing.assert_array_equal(
        wider.features(wide, x),
        np.append(layout.features(z, x), np.zeros(len(wider) - len(layout))),
    )


@pytest.mark.parametrize("dtype", [int, np.float32, bool])
def test_features_of_any_kind_of_number_are_right(dtype):
    X = np.array([[1, 0, 1], [1, 1, 0]], dtype=dtype)
    found = check_features(X, 3)
    assert found.dtype == np.float64
    assert found.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert check_features(X[0], 3).shape == (3,)


def test_the_largest_feature_is_named_even_beside_nan():
    X = np.ones((3, 4))
    X[1, 2], X[2, 3] = np.nan, 1e9
    with pytest.raises(ValueError, match="received inf in feature 2"):
        check_features(X, 4)
    X[1, 2] = 0.0
    with pytest.raises(
        ValueError, match=r"at most 10000, received 1e\+09 in feature 3"
    ):
        check_features(X, 4)
