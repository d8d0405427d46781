"""Projection: clusters of unlabelled tasks become a few smooth features."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.tasks.projection import (
    check_size,
    fit_letters,
    fit_projection,
    memberships,
    random_projection,
)


def clouds(per=20, kinds=9, width=12, seed=0):
    """Tight, well separated clouds of points, and which one each is from."""
    rng = np.random.default_rng(seed)
    centres = 5 * np.eye(kinds, width)
    label = np.repeat(np.arange(kinds), per)
    return centres[label] + 0.1 * rng.standard_normal((len(label), width)), label


def test_memberships_by_hand():
    """Centres 0 and 1, width 1, point 1: exp(-1) against exp(0)."""
    gates = np.array([[0.0, 0.0], [2.0, -1.0]])
    found = memberships(gates, np.array([[1.0]]))
    want = np.exp(-1) / (1 + np.exp(-1))
    np.testing.assert_allclose(found, [[want, 1 - want]])


def test_points_of_one_kind_share_their_features():
    """Nine clouds, eight directions: constant within a cloud, different between."""
    X, label = clouds()
    found = fit_projection(X, 8, seed=0)
    points = found.apply(X)
    means = np.array([points[label == kind].mean(axis=0) for kind in range(9)])
    assert np.abs(points - means[label]).max() < 1e-3
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    assert apart[np.triu_indices(9, k=1)].min() > 1
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    assert points.var(axis=0).mean() == pytest.approx(1.0)


def test_a_new_point_gets_the_features_of_its_kind():
    X, label = clouds()
    found = fit_projection(X, 8, seed=0)
    new, kind = clouds(per=1, seed=1)
    old = found.apply(X)
    for point, k in zip(found.apply(new), kind, strict=True):
        np.testing.assert_allclose(point, old[label == k][0], atol=1e-3)


@pytest.mark.parametrize(
    ("n", "width", "k"), [(39, 12, 15), (200, 12, 6), (200, 6, 8), (200, 8, 8)]
)
def test_principal_components_where_clusters_say_less(n, width, k):
    """Too few tasks, too few directions, or an embedding that is narrow already."""
    X = np.random.default_rng(0).standard_normal((n, width))
    found = fit_projection(X, k, seed=0)
    assert len(found.gates) == 0
    assert found.components.shape == (min(k, width), width)
    again = (X - X.mean(axis=0)) @ found.components.T
    np.testing.assert_allclose(found.apply(X), again)


def test_fewer_tasks_give_fewer_kinds():
    X = np.random.default_rng(0).standard_normal((50, 20))
    assert fit_projection(X, 15, seed=0).gates.shape == (10, 21)


def test_repeated_tasks_count_once():
    X = np.tile(np.random.default_rng(0).standard_normal((20, 20)), (10, 1))
    assert len(fit_projection(X, 15, seed=0).gates) == 0


def test_no_more_tasks_than_directions():
    X = np.random.default_rng(0).standard_normal((3, 12))
    found, cold = fit_projection(X, 4, seed=1), random_projection(12, 4, seed=1)
    np.testing.assert_array_equal(found.components, cold.components)


def test_far_away_points_stay_finite():
    X, _ = clouds()
    assert np.isfinite(fit_projection(X, 8, seed=0).apply(1e5 * X)).all()


def test_the_seed_decides():
    X = np.random.default_rng(0).standard_normal((100, 20))
    one, same, other = (fit_projection(X, 9, seed=s).apply(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("scale", [1e200, 1e7, 1e-8, 1e-200])
def test_embeddings_whose_squares_are_lost_are_refused(scale):
    X, _ = clouds()
    with pytest.raises(ValueError, match="Scale them"):
        fit_projection(scale * X, 4, seed=0)


def test_tasks_that_are_all_alike_have_no_directions():
    for shape in ((50, 20), (50, 3)):
        found = fit_projection(np.ones(shape), 4, seed=0)
        assert np.isfinite(found.components).all()
        np.testing.assert_array_equal(found.apply(np.ones((2, shape[1]))), 0.0)


def test_components_by_hand():
    """Points at (2, 0), (-2, 0), (0, 1), (0, -1): variances 2 and 1/2, a mean of 5/4.

    The first direction is the first axis, the second the second, both positive, and
    the scale is one over the root of the mean variance.
    """
    X = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = fit_projection(X, 2, seed=0)
    np.testing.assert_allclose(found.components, np.eye(2) / np.sqrt(1.25), atol=1e-12)
    np.testing.assert_allclose(found.mean, 0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_random_directions_are_orthogonal_and_of_unit_variance(k):
    """Rows of length sqrt(12): a unit vector has a mean square of 1 along them."""
    found = random_projection(12, k, seed=3)
    rows = found.components
    assert rows.shape == (min(k, 12), 12)
    np.testing.assert_allclose(rows @ rows.T, 12 * np.eye(len(rows)), atol=1e-9)
    assert found.gates.shape == (0, 13)
    np.testing.assert_array_equal(found.apply(np.zeros((2, 12))), 0.0)
    np.testing.assert_array_equal(found.apply(np.eye(12)), rows.T)


@pytest.mark.parametrize("name", ["gates", "mean", "components"])
def test_directions_that_are_shared_cannot_be_written_to(name):
    """The same arrays serve every encoder of that width, and a fit may keep them."""
    array = getattr(random_projection(5, 2, seed=0), name)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 1.0


@given(
    st.integers(1, 6), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31 - 1)
)
def test_any_tasks_give_finite_features_of_at_most_k_columns(width, n, k, seed):
    X = np.random.default_rng(seed).integers(-2, 3, (n, width)).astype(float)
    found = fit_projection(X, k, seed=0)
    points = found.apply(X)
    assert points.shape == (n, min(k, width))
    assert np.isfinite(points).all()
    again = fit_projection(X, k, seed=0)
    np.testing.assert_array_equal(again.apply(X), points)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_memberships_are_shares_that_the_common_part_of_logits_leaves(seed, c, d):
    rng = np.random.default_rng(seed)
    gates, X = 3 * rng.standard_normal((c, d + 1)), rng.standard_normal((6, d))
    found = memberships(gates, X)
    assert found.shape == (6, c)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    moved = memberships(gates + rng.standard_normal(d + 1), X)
    np.testing.assert_allclose(moved, found, atol=1e-9)
    logits = X @ gates[:, :d].T + gates[:, d]
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e3])
def test_the_unit_of_embeddings_does_not_matter(factor):
    """Each projection has unit average variance, of components and of clusters."""
    for X in (clouds()[0], np.random.default_rng(0).standard_normal((30, 5))):
        one = fit_projection(X, 4, seed=0)
        other = fit_projection(factor * X, 4, seed=0)
        np.testing.assert_allclose(other.apply(factor * X), one.apply(X), atol=1e-6)


@pytest.mark.parametrize("column", [0, 3])
def test_the_column_that_drowns_the_others_is_named(column):
    X = np.ones((3, 5))
    X[1, column] = -2.5e6
    says = rf"column {column} of the embeddings holds 2.5e\+06, .* at most 1e\+06"
    with pytest.raises(ValueError, match=says):
        check_size(X)
    for fitted in (random_projection(5, 2, seed=0), fit_projection(np.eye(5), 2, 0)):
        with pytest.raises(ValueError, match=says):
            fitted.apply(X)
    X[1, column] = 1e6
    check_size(X)


def test_nothing_of_what_is_given_is_written_to():
    X, _ = clouds()
    X.setflags(write=False)
    fit_projection(X, 8, seed=0).apply(X)
    fit_projection(X[:20], 4, seed=0).apply(X)


@pytest.mark.parametrize(
    "texts", [[f"t{i}" for i in range(8)], ["same"] * 20, ["\u00e9"] * 5 + ["x"] * 5]
)
def test_letters_of_hardly_any_text(texts):
    letters, mean = fit_letters(texts, 8)
    assert np.isfinite(letters).all()
    assert letters.shape[0] == len(mean) == len(set(texts)) // 5
