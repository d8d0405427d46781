import numpy as np
import pytest

from braidbandit.posterior import GROUPS, Posterior, PriorScales, parameter_groups

NAMES = ["bias", "share:a", "cost", "arm:x", "arm:y"]
Z = np.array([[1, 0.5, -0.2, 1, 0], [1, -0.5, 0.2, 0, 1]])


def make(**scales):
    return Posterior(parameter_groups(NAMES, 3, 100), PriorScales(**scales))


def phi_of(posterior, z, x):
    return np.outer(z, x)[posterior.groups >= 0]


def sds(posterior):
    labels = posterior.groups[posterior.groups >= 0]
    return np.array([getattr(posterior.scales, GROUPS[g]) for g in labels])


def test_arm_slopes_go_when_the_model_is_too_large():
    large = parameter_groups(NAMES, 3, 100)
    small = parameter_groups(NAMES, 3, 10)
    assert (large[3] == [4, 5, 5]).all()
    assert (small[3] == [4, -1, -1]).all()
    assert (large[2] == [2, -1, -1]).all()


def test_posterior_equals_the_dense_closed_form():
    """mean = m0 + P Phi'(r - Phi m0)/s2, P = (D^-2 + Phi'Phi/s2)^-1."""
    rng = np.random.default_rng(0)
    posterior = make(noise=0.3)
    rows, r = [], rng.random(25)
    for value in r:
        z, x = Z[rng.integers(2)], np.append(1.0, rng.standard_normal(2))
        rows.append(phi_of(posterior, z, x))
        posterior.update(z, x, value)
    Phi, prior = np.array(rows), np.zeros(posterior.n_parameters)
    prior[0] = posterior.scales.mean
    P = np.linalg.inv(np.diag(1 / sds(posterior) ** 2) + Phi.T @ Phi / 0.09)
    mean = prior + P @ Phi.T @ (r - Phi @ prior) / 0.09
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-10)
    x = np.array([1.0, 0.3, -0.7])
    got_mean, got_variance = posterior.arm_moments(Z, x)
    F = np.array([phi_of(posterior, z, x) for z in Z])
    np.testing.assert_allclose(got_mean, F @ mean, atol=1e-10)
    np.testing.assert_allclose(got_variance, np.diag(F @ P @ F.T), atol=1e-10)
    np.testing.assert_allclose(posterior.means(Z, x[None])[0], F @ mean, atol=1e-10)


def test_unseen_arm_has_the_prior_variance_at_any_scale():
    """Only the arm intercept is active: z = arm, x = bias, var = scale^2."""
    for scale in (0.01, 0.5, 7.0):
        posterior = make(arm_intercept=scale)
        x = np.array([1.0, 0.0, 0.0])
        only_y = np.array([[0, 0, 0, 0, 1.0]])
        posterior.update(np.array([0, 0, 0, 1.0, 0]), x, 0.9)
        mean, variance = posterior.arm_moments(only_y, x)
        assert mean[0] == 0
        assert variance[0] == pytest.approx(scale**2)


def test_a_reward_informs_related_arms():
    posterior = make()
    x = np.array([1.0, 0.5, 0.5])
    before = posterior.arm_moments(Z, x)
    posterior.update(Z[0], x, 1.0)
    after = posterior.arm_moments(Z, x)
    assert (after[0] > before[0]).all()
    assert (after[1] < before[1]).all()


def test_weight_is_repetition():
    once, twice = make(), make()
    x = np.array([1.0, 0.5, 0.5])
    once.update(Z[0], x, 0.9, weight=2.0)
    twice.update(Z[0], x, 0.9)
    twice.update(Z[0], x, 0.9)
    np.testing.assert_allclose(once.mean, twice.mean, atol=1e-14)


def test_table_equals_stream():
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(6), rng.standard_normal((6, 2))])
    R = rng.random((6, 2))
    batch, stream = make(), make()
    batch.condition_on_table(Z, X, R)
    for x, row in zip(X, R, strict=True):
        for z, r in zip(Z, row, strict=True):
            stream.update(z, x, r)
    np.testing.assert_allclose(batch.mean, stream.mean, atol=1e-12)
    np.testing.assert_allclose(
        batch.factor @ batch.factor.T, stream.factor @ stream.factor.T, atol=1e-12
    )


def test_downdate_takes_back_one_of_many():
    rng = np.random.default_rng(2)
    rows = [(Z[i % 2], np.append(1.0, rng.standard_normal(2))) for i in range(8)]
    whole, without = make(), make()
    for i, (z, x) in enumerate(rows):
        whole.update(z, x, 0.1 * i)
        if i != 3:
            without.update(z, x, 0.1 * i)
    whole.downdate(*rows[3], 0.1 * 3)
    np.testing.assert_allclose(whole.mean, without.mean, atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        (Z[0], np.array([1.0, np.nan, 0.0]), 0.5),
        (Z[0], np.array([1.0, 0.0]), 0.5),
        (Z[0][:2], np.array([1.0, 0.0, 0.0]), 0.5),
        (Z[0], np.array([1.0, 0.0, 0.0]), np.inf),
        (Z[0], np.array([1.0, 0.0, 0.0]), 0.5, 0.0),
    ],
)
def test_rejected_updates_change_nothing(call):
    posterior = make()
    mean, factor = posterior.mean.tobytes(), posterior.factor.tobytes()
    with pytest.raises(ValueError, match="received"):
        posterior.update(*call)
    assert posterior.mean.tobytes() == mean
    assert posterior.factor.tobytes() == factor


def test_evidence_gradient_is_the_derivative():
    from braidbandit.posterior import _negative_log_evidence

    rng = np.random.default_rng(3)
    posterior = make()
    X = np.column_stack([np.ones(9), rng.standard_normal((9, 2))])
    R = rng.random((9, 2)) - 0.5
    gram, moment, square = posterior._table_statistics(Z, X, R)
    labels = posterior.groups[posterior.groups >= 0]
    positions = np.searchsorted(np.unique(labels), labels)
    start = np.log(np.array([0.3, 0.06, 0.15, 0.06, 0.08, 0.03, 0.25]))
    fixed = (start, positions, gram, moment, square, R.size)
    at = start + 0.1
    _, gradient = _negative_log_evidence(at, *fixed)
    for i in range(len(at)):
        step = np.eye(len(at))[i] * 1e-5
        up, down = (_negative_log_evidence(at + s, *fixed)[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


def test_evidence_is_the_density_of_the_table():
    """Differences of the evidence equal differences of the dense log density."""
    from scipy.stats import multivariate_normal

    from braidbandit.posterior import _negative_log_evidence

    rng = np.random.default_rng(4)
    posterior = make()
    X = np.column_stack([np.ones(4), rng.standard_normal((4, 2))])
    R = rng.random((4, 2)) - 0.5
    gram, moment, square = posterior._table_statistics(Z, X, R)
    labels = posterior.groups[posterior.groups >= 0]
    Phi = np.array([phi_of(posterior, z, x) for x in X for z in Z])
    centre = np.zeros(7)

    def ours(scales):
        value, _ = _negative_log_evidence(
            np.log(scales), centre, labels, gram, moment, square, R.size
        )
        return -(value - 0.5 * ((np.log(scales) / 1.5) ** 2).sum())

    def dense(scales):
        sd = scales[:-1][labels]
        cov = (Phi * sd**2) @ Phi.T + scales[-1] ** 2 * np.eye(len(Phi))
        return multivariate_normal(np.zeros(len(Phi)), cov).logpdf(R.ravel())

    one = np.array([0.3, 0.06, 0.15, 0.06, 0.08, 0.03, 0.25])
    two = one * np.array([2.0, 0.5, 1.5, 3.0, 0.2, 2.0, 0.7])
    assert ours(one) - ours(two) == pytest.approx(dense(one) - dense(two), abs=1e-9)


def test_marginal_likelihood_finds_the_noise_and_is_deterministic():
    rng = np.random.default_rng(5)
    X = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    R = 0.6 + 0.2 * X[:, [1]] * Z[:, 1] + 0.05 * rng.standard_normal((200, 2))
    first, second = make(), make()
    first.set_prior_by_marginal_likelihood(Z, X, R)
    second.set_prior_by_marginal_likelihood(Z, X, R)
    assert first.scales == second.scales
    assert first.scales.noise == pytest.approx(0.05, rel=0.1)
    assert first.scales.interaction > 2 * first.scales.task
    assert first.scales.mean == pytest.approx(R.mean())


def test_bad_scales_and_gamma():
    with pytest.raises(ValueError, match="noise"):
        PriorScales(noise=0.0)
    with pytest.raises(ValueError, match="gamma"):
        make().forget(0.0)
