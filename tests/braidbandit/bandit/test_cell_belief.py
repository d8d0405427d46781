"""The belief about cells against the closed form, and what a cell is worth."""

import numpy as np
import pytest
from scipy.stats import norm

from braidbandit.bandit.cell_belief import CellBelief
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups

SCALES = PriorScales(mean=0.5, braid=0.2, interaction=0.1, noise=0.3)
Z = np.array([[1, 0.5, -0.2], [1, -0.5, 0.2], [1, 0.1, 0.0]])
COMMON = 0.4


def make(own_width=3, n=6, common=COMMON, names=("bias", "share:a", "cost")):
    prior = Posterior(parameter_groups(names, 3), SCALES, 3, own_width)
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    return CellBelief(prior, Z[:, : len(names)], X, common)


CELLS = [(0, 1, 0.9), (2, 0, 0.1), (0, 2, 0.4), (0, 0, 0.7), (2, 1, 0.2), (4, 1, 1.0)]


def parts(belief):
    """Features (n * A, D) of all cells, task by task, from what the belief gives."""
    size = len(belief.mean)
    whole = belief._of_every_arm(np.eye(size), np.arange(6))
    return whole.transpose(2, 1, 0).reshape(-1, size)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_cells_are_learnt_as_the_closed_form_has_it(own_width):
    """With all rewards of a task correlated, in whatever order they come."""
    belief = make(own_width)
    Phi, D = parts(belief), belief.covariance.copy()
    m0 = belief.mean.copy()
    for cell in CELLS:
        belief.learn(*cell)
    place = [3 * task + arm for task, arm, _ in CELLS]
    task = np.array([cell[0] for cell in CELLS])
    noise = 0.3**2 * (COMMON * (task[:, None] == task) + (1 - COMMON) * np.eye(6))
    F, r = Phi[place], np.array([cell[2] for cell in CELLS])
    gain = D @ F.T @ np.linalg.inv(F @ D @ F.T + noise)
    np.testing.assert_allclose(belief.mean, m0 + gain @ (r - F @ m0), atol=1e-12)
    np.testing.assert_allclose(belief.covariance, D - gain @ F @ D, atol=1e-12)
    means = belief.quality(np.arange(6)).T.ravel()
    np.testing.assert_allclose(means, Phi @ belief.mean, atol=1e-12)


def test_foreseeing_moves_no_mean_and_says_by_how_much_one_will_move():
    belief, at = make(), np.arange(6)
    belief.learn(0, 1, 0.9)
    before, mean = belief.covariance.copy(), belief.quality(at)
    Phi = parts(belief)
    moves = belief.foresee(0, 2, at)
    np.testing.assert_allclose(belief.quality(at), mean, atol=1e-12)
    lost = np.diag(Phi @ (before - belief.covariance) @ Phi.T)
    np.testing.assert_allclose(moves.T.ravel() ** 2, lost, atol=1e-12)
    # The rewards of the task that come later are compared with what was expected.
    belief.learn(0, 0, 0.2)
    assert np.isfinite(belief.mean).all()


def test_a_copy_learns_apart():
    belief = make()
    other, mean = belief.copy(), belief.mean.copy()
    other.learn(0, 0, 1.0)
    np.testing.assert_array_equal(belief.mean, mean)
    belief.learn(0, 1, 0.0)
    again = make()
    again.learn(0, 1, 0.0)
    np.testing.assert_array_equal(belief.mean, again.mean)


def test_chances_are_those_of_draws():
    """Two arms: the normal probability that their difference is above 0."""
    prior = Posterior(np.zeros((1, 1), dtype=int), SCALES, 2, 1)
    belief = CellBelief(prior, np.ones((2, 1)), np.ones((3, 1)), 0.0)
    belief.learn(0, 0, 0.8)
    at, Phi = np.arange(1), np.array([0.0, 1.0, -1.0])
    gap, sd = Phi @ belief.mean, np.sqrt(Phi @ belief.covariance @ Phi)
    chances = belief.chances(at, 100_000, np.random.default_rng(0))
    np.testing.assert_allclose(chances.sum(axis=0), 1.0)
    np.testing.assert_allclose(chances[0, 0], norm.cdf(gap / sd), atol=0.005)


def test_a_cell_is_worth_the_variance_it_takes_from_differences():
    """Of two arms as likely to be best, a quarter of that of their difference."""
    belief, at, half = make(), np.arange(6), np.array([[0.5], [0.5], [0.0]])
    belief.learn(0, 1, 0.9)
    chances = np.tile(half, (1, 6))
    worth = belief.worth(np.array([0, 3]), np.array([0, 1]), at, chances)
    for found, cell in zip(worth, [(0, 0), (3, 1)], strict=True):
        moves = belief.copy().foresee(*cell, at)
        np.testing.assert_allclose(found, ((moves[0] - moves[1]) ** 2).mean() / 4)


def test_what_cannot_change_a_choice_is_worth_less():
    """An arm that is far behind."""
    belief, rng = make(names=("bias",)), np.random.default_rng(0)
    for task in range(6):
        belief.learn(task, 0, 0.9)
        belief.learn(task, 2, 0.85 + 0.1 * rng.random())
        belief.learn(task, 1, 0.0)
    at = np.arange(6)
    chances = belief.chances(at, 500, rng)
    worth = belief.worth(np.zeros(3, dtype=int), np.arange(3), at, chances)
    assert worth[1] < 0.2 * worth[2]
