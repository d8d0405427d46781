"""Projection: clusters of unlabelled tasks become a few smooth features."""

import numpy as np
import pytest

from braidbandit.tasks.projection import fit_projection, memberships, random_projection


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
