"""LinearBandit: a scikit-learn classifier that is composed of posterior and policy."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_checks import COLLIDING, MISSING

from braidbandit import (
    EpsilonGreedy,
    Greedy,
    LinearBandit,
    LinUCB,
    PriorScales,
    ThompsonSampling,
)
from braidbandit.bandit.online_posterior import OnlinePosterior


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([LinearBandit(), LinearBandit(Greedy(), forgetting=0.999)])
def test_sklearn(estimator, check):
    """Every check, none excused.

    With a policy that explores, ``predict_proba`` (the probability of being chosen)
    need not be largest for the arm that ``predict`` (which is greedy) returns, as two
    checks of classifiers ask: hence the default policy.
    """
    check(estimator)


def log(n=200, seed=0):
    """Uniform logging of two arms: "a" earns 0.9 where x > 0, "b" where x < 0."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    y = rng.choice(["a", "b"], n)
    right = (X[:, 0] > 0) == (y == "a")
    return X, y, np.where(right, 0.9, 0.2), np.full(n, 0.5)


def test_it_learns_from_a_log():
    X, y, reward, propensity = log()
    bandit = LinearBandit(random_state=0).fit(X, y, reward=reward)
    new = log(seed=1)[0]
    assert np.mean((bandit.predict(new) == "a") == (new[:, 0] > 0)) > 0.95
    value = bandit.score(X, y, reward=reward, propensity=propensity)
    assert 0.85 < value <= 0.9
    assert value == pytest.approx(bandit.score(X, y, reward=reward), abs=0.02)
    agree = np.mean(bandit.predict(X) == y)
    assert bandit.score(X, y) == pytest.approx(agree)


def test_score_by_hand():
    """Two rows agree: (0.9 / 0.25 + 0.3 / 0.5) / (1 / 0.25 + 1 / 0.5) = 0.7."""
    X = np.array([[1.0], [1.0], [-1.0]])
    bandit = LinearBandit().fit(X[:2], ["a", "a"])
    bandit = LinearBandit(arms=["a", "b"]).fit(X, ["a", "a", "a"])
    value = bandit.score(
        X, ["a", "a", "b"], reward=[0.9, 0.3, 0.1], propensity=[0.25, 0.5, 0.5]
    )
    assert value == pytest.approx(0.7)
    assert np.isnan(bandit.score(X[:1], ["b"], reward=[1.0]))


def test_partial_fits_equal_one_fit():
    X, y, reward, _ = log()
    whole = LinearBandit().fit(X, y, reward=reward)
    parts = LinearBandit()
    for i in range(0, 200, 50):
        rows = slice(i, i + 50)
        parts.partial_fit(X[rows], y[rows], classes=["a", "b"], reward=reward[rows])
    assert parts.posterior_.mean.tobytes() == whole.posterior_.mean.tobytes()


def test_arms_that_share_descriptors_inform_each_other():
    X = np.zeros((30, 1))
    features = [[1.0], [1.0], [-1.0]]
    bandit = LinearBandit(arms=["a", "b", "c"], descriptors=features)
    bandit.fit(X, ["a"] * 30, reward=np.full(30, 1.0))
    a, b, c = bandit.decision_function(X[:1])[0]
    assert a > b > c


def test_random_state_zero_is_a_seed_and_settings_have_names():
    X, y, reward, _ = log()
    runs = []
    for seed in (0, 0, 1):
        bandit = LinearBandit(ThompsonSampling(), random_state=seed)
        runs.append(bandit.fit(X, y, reward=reward).recommend(X)[0].tolist())
    assert runs[0] == runs[1] != runs[2]
    with pytest.raises(TypeError, match="positional"):
        LinearBandit(None, ["a"])


def test_recommend_obeys_the_mask_and_reports_propensities():
    X, y, reward, _ = log()
    bandit = LinearBandit(EpsilonGreedy(0.2), random_state=0).fit(X, y, reward=reward)
    arms, propensities = bandit.recommend(X)
    greedy = arms == bandit.predict(X)
    np.testing.assert_allclose(propensities, np.where(greedy, 0.9, 0.1))
    only, sure = bandit.recommend(X, mask=[False, True])
    assert set(only) == {"b"}
    np.testing.assert_allclose(sure, 1.0)
    for mask in ([False, False], [True], [1, 0]):
        with pytest.raises(ValueError, match="mask"):
            bandit.recommend(X, mask=mask)


def fingerprint(bandit):
    posterior = bandit.posterior_
    arrays = [getattr(posterior, name).tobytes() for name in posterior.ARRAYS]
    return [*arrays, posterior.square, bandit.n_updates_, bandit.clock_]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (([[np.nan, 0.0]], ["a"]), {}),
        (([[np.inf, 0.0]], ["a"]), {}),
        (([[0.0]], ["a"]), {}),
        (([[0.0, 0.0]], ["c"]), {}),
        (([[0.0, 0.0]], ["a"]), {"reward": [1.1]}),
        (([[0.0, 0.0]], ["a"]), {"reward": [np.nan]}),
        (([[0.0, 0.0]], ["a"]), {"reward": [0.5, 0.5]}),
        (([[0.0, 0.0]], ["a"]), {"propensity": [0.0]}),
        (([[0.0, 0.0]], ["a"]), {"sample_weight": [-1.0]}),
        (([[0.0, 0.0]] * 2, ["a", "c"]), {"reward": [0.5, 0.5]}),
    ],
)
def test_bad_rows_change_nothing(rows, settings):
    X, y, reward, _ = log()
    bandit = LinearBandit().fit(X, y, reward=reward)
    before = fingerprint(bandit)
    with pytest.raises(ValueError, match=r"NaN|infinity|features|arm|reward|prop|weig"):
        bandit.partial_fit(*rows, **settings)
    assert fingerprint(bandit) == before


@pytest.mark.parametrize("name", [*MISSING, *COLLIDING])
def test_labels_that_are_missing_or_collide_change_nothing(name):
    labels, X = {**MISSING, **COLLIDING}[name], np.zeros((4, 2))
    X_known, y, reward, _ = log()
    bandit = LinearBandit().fit(X_known, y, reward=reward)
    before = fingerprint(bandit)
    reason = "no arm|several kinds"
    for learn in (bandit.fit, bandit.partial_fit, LinearBandit().fit):
        with pytest.raises(ValueError, match=reason):
            learn(X, labels)
    with pytest.raises(ValueError, match=reason):
        bandit.score(X, labels, reward=[1.0] * 4)
    assert fingerprint(bandit) == before
    with pytest.raises(ValueError, match=reason):
        LinearBandit().partial_fit(X, ["a"] * 4, classes=labels)
    with pytest.raises(ValueError, match=reason):
        LinearBandit(arms=labels).fit(X, ["a"] * 4)


def test_labels_of_another_kind_than_the_arms():
    """A float column of whole numbers names the same arms; text and truth do not."""
    X = np.zeros((2, 1))
    bandit = LinearBandit().fit(X, [1, 2])
    assert bandit.partial_fit(X, [1.0, 2.0]).n_updates_ == 4
    for labels in (["1", "2"], [True, True]):
        with pytest.raises(ValueError, match="several kinds"):
            bandit.partial_fit(X, labels)
        with pytest.raises(ValueError, match="several kinds"):
            LinearBandit().partial_fit(X, labels, classes=[1, 2])
    assert bandit.n_updates_ == 4
    assert bandit.fit(X, ["1", "2"]).classes_.tolist() == ["1", "2"]


def test_bad_settings():
    X, y, _, _ = log(10)
    for settings in (
        {"arms": ["a", "a"]},
        {"arms": ["a", "b"], "descriptors": [[1.0]]},
        {"descriptors": [[1.0], [np.nan]]},
        {"descriptors": [[1.0], [2.0]], "columns": ["x", "y"]},
        {"forgetting": 0.0},
    ):
        with pytest.raises(ValueError, match=r"arms|descriptors|names|forgetting"):
            LinearBandit(**settings).fit(X, y)


def test_model_selection_and_routing():
    X, y, reward, propensity = log()
    logged = {"reward": reward, "propensity": propensity}
    plain = cross_validate(LinearBandit(), X, y, params={"reward": reward}, cv=3)
    assert plain["test_score"].shape == (3,)
    with sklearn.config_context(enable_metadata_routing=True):
        names = {"reward": True, "propensity": True}
        bandit = LinearBandit().set_fit_request(**names).set_score_request(**names)
        found = cross_validate(bandit, X, y, params=logged, cv=3)
        assert (found["test_score"] > 0.8).all()
        if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
            pytest.skip("pipelines of scikit-learn below 1.8 pass score nothing on")
        search = GridSearchCV(
            make_pipeline(StandardScaler(), bandit),
            {"linearbandit__policy": [Greedy(), EpsilonGreedy()]},
            cv=3,
        ).fit(X, y, **logged)
        assert search.best_score_ > 0.8


def test_clones_and_set_output():
    X, y, _, _ = log(20)
    scaled = make_pipeline(StandardScaler(), LinearBandit(random_state=0))
    scaled.set_output(transform="default").fit(X, y)
    again = clone(scaled).fit(X, y)
    assert (again.predict(X) == scaled.predict(X)).all()


def test_a_bandit_that_forgets_noise_free_rewards_goes_on():
    rng, bandit = np.random.default_rng(0), LinearBandit(forgetting=0.995)
    W = rng.standard_normal((3, 4)) / 20
    X, arms = rng.standard_normal((7000, 4)), rng.integers(3, size=7000)
    reward = np.clip(0.5 + np.einsum("nd,nd->n", X, W[arms]), 0.0, 1.0)
    bandit.fit(X, arms, reward=reward)
    assert np.isfinite(bandit.posterior_.factor).all()


UNSCALED = {
    "a timestamp": lambda X: np.column_stack([X, 1.7e9 + np.arange(len(X))]),
    "a constant": lambda X: np.column_stack([X, np.full(len(X), 1e9)]),
    "all shifted": lambda X: X + 1e6,
    "all shifted by less": lambda X: X + 1e3,
    "one value": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e100, X),
    "the other sign": lambda X: -1e4 * np.abs(X) - 1e4,
}


@pytest.mark.parametrize("change", UNSCALED.values(), ids=UNSCALED)
def test_columns_that_drown_the_others_are_refused(change):
    X, y, reward, _ = log()
    with pytest.raises(ValueError, match=r"column \d of the contexts .* Standardise"):
        LinearBandit().fit(change(X), y, reward=reward)
    bandit = make_pipeline(StandardScaler(), LinearBandit(random_state=0))
    bandit.fit(change(X), y, linearbandit__reward=reward)
    width = change(X).shape[1] - 2
    bandit = LinearBandit().fit(np.column_stack([X, X[:, :width]]), y, reward=reward)
    before = fingerprint(bandit)
    for call in (
        lambda: bandit.partial_fit(change(X), y, reward=reward),
        lambda: bandit.predict(change(X)),
        lambda: bandit.predict_proba(change(X)),
        lambda: bandit.decision_function(change(X)),
        lambda: bandit.recommend(change(X)),
        lambda: bandit.score(change(X), y),
    ):
        with pytest.raises(ValueError, match=r"column \d"):
            call()
    assert fingerprint(bandit) == before


def test_a_column_that_drowns_the_others_is_named():
    pandas = pytest.importorskip("pandas")
    X, y, reward, _ = log()
    frame = pandas.DataFrame({"size": X[:, 0], "asked_at": 1.7e9 + X[:, 1]})
    with pytest.raises(ValueError, match="column 'asked_at' of the contexts"):
        LinearBandit().fit(frame, y, reward=reward)
    with pytest.raises(ValueError, match="column 'price' of the descriptors"):
        LinearBandit(descriptors=[[1e9], [2e9]], columns=["price"]).fit(X, y)


@pytest.mark.parametrize("scale", [1e-3, 1e-9, 1e-200])
def test_a_column_too_small_to_count_is_told_of(scale):
    X, y, reward, _ = log()
    X = np.column_stack([X[:, 0], scale * X[:, 1], np.zeros(200)])
    bandit = LinearBandit()
    with pytest.warns(UserWarning, match=r"the columns \[1\] of the contexts"):
        bandit.fit(X, y, reward=reward)
    assert bandit.n_updates_ == 200
    bandit.partial_fit(X[:1], y[:1], reward=reward[:1])  # a row may be near 0


def test_small_columns_that_count_together_are_no_mistake():
    """As those of an embedding of length 1; and of very many not all are named."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 2000))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    small = np.abs(X).max(axis=0) < 0.05
    assert small.any()
    LinearBandit(max_parameters=0).fit(X[:, small], rng.integers(2, size=30))
    with pytest.warns(UserWarning, match=r"columns \[0, 1, 2, 3, 4, '...'\] of"):
        LinearBandit(max_parameters=0).fit(1e-3 * X[:, :50], rng.integers(2, size=30))


@pytest.mark.parametrize("weights", [[1e12], [1e-9], [-1.0], [np.nan]])
def test_weights_beyond_their_range_change_nothing(weights):
    X, y, reward, _ = log()
    bandit = LinearBandit().fit(X, y, reward=reward)
    before = fingerprint(bandit)
    for learn in (bandit.fit, bandit.partial_fit):
        with pytest.raises(ValueError, match=r"weight|NaN"):
            learn(X[:1], y[:1], sample_weight=weights)
        assert fingerprint(bandit) == before


def test_weights_of_any_size_leave_scales_to_be_chosen():
    rng = np.random.default_rng(0)
    X, y, reward, _ = log(600)
    bandit = LinearBandit().fit(
        X, y, reward=reward, sample_weight=10 ** rng.uniform(-6, 6, 600)
    )
    assert np.isfinite(bandit.decision_function(X)).all()


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_scales_that_cannot_be_chosen_are_kept_and_told_of_once(
    forgetting, monkeypatch
):
    """At the 64th and the 128th reward; and every 50th forgets."""
    X, y, reward, _ = log(160)
    calm = LinearBandit(forgetting=1.0).fit(X[:40], y[:40], reward=reward[:40])
    bandit = LinearBandit(forgetting=forgetting)
    bandit.fit(X[:40], y[:40], reward=reward[:40])

    def fails(*_):
        raise np.linalg.LinAlgError("2-th leading minor")

    monkeypatch.setattr("braidbandit.bandit.posterior.solve", fails)
    with pytest.warns(UserWarning, match="standardise the features") as told:
        bandit.partial_fit(X[40:], y[40:], reward=reward[40:])
    assert len(told) == 1
    assert bandit.posterior_.scales == calm.posterior_.scales
    assert (bandit.n_updates_, bandit.clock_, bandit.faded_) == (160, 160, 0.0)
    assert bandit.posterior_.count == 160
    for _ in range(3):
        bandit.partial_fit(X, y, reward=reward)
    assert bandit.n_updates_ == 640


def test_a_warning_that_is_an_error_comes_after_all_is_learnt():
    X, y, reward, _ = log()
    bandit = LinearBandit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="hardly count"):
            bandit.fit(1e-9 * X, y, reward=reward)
    assert bandit.n_updates_ == 200


COPIES = {
    "pickle": lambda bandit: pickle.loads(pickle.dumps(bandit)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_as_the_original_does(copied):
    """The same choices, the same learning; and neither moves the other."""
    X, y, reward, _ = log()
    bandit = LinearBandit(ThompsonSampling(), forgetting=0.99, random_state=0)
    bandit.fit(X, y, reward=reward)
    other = copied(bandit)
    for found, want in zip(other.recommend(X), bandit.recommend(X), strict=True):
        np.testing.assert_array_equal(found, want)
    before = fingerprint(bandit)
    other.partial_fit(X[:60], y[:60], reward=reward[:60])
    assert fingerprint(bandit) == before
    bandit.partial_fit(X[:60], y[:60], reward=reward[:60])
    assert fingerprint(bandit) == fingerprint(other)
    np.testing.assert_array_equal(other.predict_proba(X), bandit.predict_proba(X))


def test_it_is_what_its_parts_are():
    """A row is an update of the posterior, a recommendation a choice of the policy."""
    X, y, reward, _ = log(40)
    weight = np.linspace(0.5, 2.0, 40)
    policy = ThompsonSampling(floor=0.1)
    bandit = LinearBandit(policy, forgetting=0.99, random_state=3)
    bandit.fit(X, y, reward=reward, sample_weight=weight)
    online = OnlinePosterior.start(["bias"], 3, 2, forgetting=0.99)
    rows = np.column_stack([np.ones(40), X])
    for arm, x, r, w in zip(y == "b", rows, reward, weight, strict=True):
        online.update(int(arm), np.ones(1), x, float(r), float(w))
    assert online.posterior.mean.tobytes() == bandit.posterior_.mean.tobytes()
    assert bandit.faded_ == online.faded
    rng, every = np.random.default_rng(3), np.ones(2, dtype=bool)
    for x in rows[:10]:
        belief = online.posterior.belief(np.ones((2, 1)), x)
        choice = policy.select(belief, np.zeros(2), every, rng)
        arms, propensities = bandit.recommend(x[None, 1:])
        assert arms.tolist() == ["ab"[choice.arm]]
        assert propensities.tolist() == [choice.propensity]


def test_a_clone_has_the_settings_and_nothing_else():
    X, y, reward, _ = log()
    bandit = LinearBandit(LinUCB(0.3), max_parameters=0, random_state=0)
    again = clone(bandit.fit(X, y, reward=reward))
    assert again.get_params() == bandit.get_params()
    assert not [name for name in vars(again) if name.endswith("_")]
    assert fingerprint(again.fit(X, y, reward=reward)) == fingerprint(bandit)


def test_one_weight_is_the_weight_of_every_row():
    X, y, reward, _ = log()
    one = LinearBandit().fit(X, y, reward=reward, sample_weight=2.0)
    every = LinearBandit().fit(X, y, reward=reward, sample_weight=[2] * 200)
    assert fingerprint(one) == fingerprint(every)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(4), "zero"),
        (0, "zero"),
        (np.ma.array([1.0, 2.0, 1.0, 1.0], mask=[0, 1, 0, 0]), "masked"),
        (np.ones((4, 1)), "shape"),
        ([1.0, 1.0], "shape|rows"),
    ],
)
def test_weights_that_are_none(weights, message):
    X, y, reward, _ = log()
    bandit = LinearBandit().fit(X, y, reward=reward)
    before = fingerprint(bandit)
    for learn in (bandit.fit, bandit.partial_fit):
        with pytest.raises(ValueError, match=message):
            learn(X[:4], y[:4], sample_weight=weights)
        assert fingerprint(bandit) == before


def test_a_row_of_weight_0_is_left_out():
    X, y, reward, _ = log(10)
    weight = np.append(np.ones(9), 0.0)
    bandit = LinearBandit(arms=["a", "b"]).fit(
        X, y, reward=reward, sample_weight=weight
    )
    without = LinearBandit(arms=["a", "b"]).fit(X[:9], y[:9], reward=reward[:9])
    assert fingerprint(bandit) == fingerprint(without)


def test_columns_of_before_are_forgotten_by_fit():
    pandas = pytest.importorskip("pandas")
    X, y, reward, _ = log()
    frame = pandas.DataFrame(X, columns=["size", "age"])
    bandit = LinearBandit().fit(frame, y, reward=reward)
    assert bandit.feature_names_in_.tolist() == ["size", "age"]
    assert not hasattr(bandit.fit(X, y, reward=reward), "feature_names_in_")


# ---- against the normal equations ----


def design(Z, X, arm, own_width):
    """All features of one row: shared by column of Z, then d of each arm."""
    x = np.append(1.0, X)
    own = np.zeros((len(Z), own_width))
    own[arm] = x[:own_width]
    # A descriptor's name, here feature:j, is of a knob: with slopes.
    return np.append(np.outer(Z[arm], x).ravel(), own.ravel())


@pytest.mark.parametrize("max_parameters", [0, 640])
@pytest.mark.parametrize("described", [False, True])
def test_predictions_are_those_of_the_normal_equations(described, max_parameters):
    """With and without descriptors, own intercepts and own slopes as well.

    Fifty rows, so that prior scales stay as they are: 0.3 for the level, 0.05 for its
    slopes; 0.05 and 0.02 for a descriptor; and for the arms' own, 0.02 beside
    descriptors of models and 0.15 with slopes of 0.05 where there are none.
    """
    X, _, _, _ = log(50)
    rng = np.random.default_rng(1)
    y, reward, weight = rng.integers(3, size=50), rng.random(50), 0.5 + rng.random(50)
    descriptors = rng.standard_normal((3, 1)) if described else None
    bandit = LinearBandit(
        arms=[0, 1, 2], descriptors=descriptors, max_parameters=max_parameters
    ).fit(X, y, reward=reward, sample_weight=weight)
    assert bandit.posterior_.scales == PriorScales()
    d = 3 if max_parameters else 1
    sd = [0.3, 0.05, 0.05] + [0.05, 0.02, 0.02] * described
    sd = np.array(sd + [0.15, 0.05, 0.05][:d] * 3)
    Phi = np.array([design(bandit.Z_, x, a, d) for x, a in zip(X, y, strict=True)])
    precision = np.diag(sd**-2) + Phi.T @ (Phi * weight[:, None]) / 0.25**2
    theta = np.linalg.solve(precision, Phi.T @ (weight * (reward - 0.7)) / 0.25**2)
    new = log(7, seed=2)[0]
    features = np.array([[design(bandit.Z_, x, a, d) for a in range(3)] for x in new])
    means = 0.7 + features @ theta
    np.testing.assert_allclose(bandit.decision_function(new), means, atol=1e-10)
    assert bandit.predict(new).tolist() == means.argmax(axis=1).tolist()
    # The bonus: alpha sqrt(phi' P phi) on top.
    variance = np.einsum("nap,pq,naq->na", features, np.linalg.inv(precision), features)
    bandit.set_params(policy=LinUCB(2.0, floor=0.0))
    best = (means + 2.0 * np.sqrt(variance)).argmax(axis=1)
    assert bandit.predict_proba(new).argmax(axis=1).tolist() == best.tolist()


def test_two_rows_by_pencil():
    """A level N(0.5, 1), own intercepts N(0, 1), noise 1, no slopes to speak of.

    A reward of 1 for "a": half of 1 is unexpected, of variance 3, so level and
    intercept move 1/6 each: "a" is at 5/6, "b" at 2/3. A 0 for "b" then: its variance
    is 2/3 + 1 + 1 = 8/3, and the covariance of "a" with it 2/3 - 1/3 = 1/3. So "a"
    falls by 1/3 * 2/3 * 3/8 = 1/12 to 3/4, and "b" by 5/3 * 2/3 * 3/8 to 1/4.
    """
    prior = PriorScales(
        mean=0.5, intercept=1.0, task=1e-9, braid=1.0, interaction=1e-9, noise=1.0
    )
    bandit = LinearBandit(prior=prior, arms=["a", "b"])
    bandit.partial_fit([[1.0]], ["a"], reward=[1.0])
    assert bandit.decision_function([[0.0]]) == pytest.approx([2 / 3 - 5 / 6])
    bandit.partial_fit([[1.0]], ["b"], reward=[0.0])
    means = bandit.posterior_.means(bandit.Z_, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(means, [[3 / 4, 1 / 4]])
    assert bandit.decision_function([[0.0]]) == pytest.approx([-1 / 2])


# ---- what it is given ----

STORED = {
    "float32": lambda X: X.astype(np.float32),
    "whole numbers": lambda X: X.astype(int),
    "column-major": np.asfortranarray,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed twice": lambda X: X[::-1].copy()[::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "a list": lambda X: X.tolist(),
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_contexts_of_any_storage_are_learnt_alike(stored):
    X, y, reward, _ = log(50)
    X = np.round(2 * X)
    policy = ThompsonSampling()
    want = LinearBandit(policy, random_state=0).fit(X, y, reward=reward)
    found = LinearBandit(policy, random_state=0).fit(stored(X), y, reward=reward)
    assert fingerprint(found) == fingerprint(want)
    new = X[:8]
    for read in ("predict", "predict_proba", "recommend"):
        np.testing.assert_array_equal(
            getattr(found, read)(stored(new)), getattr(want, read)(new)
        )


@pytest.mark.parametrize("kind", [list, tuple, np.array])
@pytest.mark.parametrize(
    "labels", [["a", "bb"], [3, -1], [True, False], [1.0, 2.0]], ids=str
)
def test_labels_of_any_kind_come_back(labels, kind):
    X, y, reward, _ = log(40)
    y = [labels[arm] for arm in (y == "b").astype(int)]
    bandit = LinearBandit(random_state=0).fit(X, kind(y), reward=reward)
    assert bandit.classes_.tolist() == sorted(labels)
    assert set(bandit.predict(X).tolist()) <= set(labels)
    assert set(bandit.recommend(X)[0].tolist()) <= set(labels)
    plain = LinearBandit().fit(X, np.array(y) == sorted(labels)[1], reward=reward)
    np.testing.assert_array_equal(
        bandit.decision_function(X), plain.decision_function(X)
    )


def test_arms_keep_the_order_in_which_they_were_given():
    X, y, reward, _ = log()
    given, usual = LinearBandit(arms=["b", "c", "a"]), LinearBandit(arms=list("abc"))
    for bandit in (given, usual):
        bandit.fit(X, y, reward=reward)
    assert given.classes_.tolist() == ["b", "c", "a"]
    np.testing.assert_allclose(
        given.decision_function(X), usual.decision_function(X)[:, [1, 2, 0]], atol=1e-12
    )
    np.testing.assert_array_equal(given.predict(X), usual.predict(X))


def test_one_arm_is_all_there_is():
    X, _, _, _ = log(20)
    bandit = LinearBandit(ThompsonSampling()).fit(X, ["a"] * 20)
    assert set(bandit.predict(X)) == {"a"}
    np.testing.assert_allclose(bandit.predict_proba(X), np.ones((20, 1)))
    arms, propensities = bandit.recommend(X)
    assert set(arms) == {"a"}
    np.testing.assert_allclose(propensities, 1.0)


def test_masks_descriptors_and_rewards_follow_their_names():
    pandas = pytest.importorskip("pandas")
    X, y, reward, _ = log()
    by_arm = {"b": [2.0, 0.1], "a": [1.0, 0.3]}
    frame = pandas.DataFrame(by_arm, index=["size", "price"]).T
    plain = LinearBandit(
        arms=["a", "b"], descriptors=[by_arm["a"], by_arm["b"]], random_state=0
    ).fit(X, y, reward=reward)
    for descriptors in (by_arm, frame):
        bandit = LinearBandit(arms=["a", "b"], descriptors=descriptors, random_state=0)
        rows = pandas.Series(reward, index=range(100, 300)).sample(frac=1.0)
        contexts = pandas.DataFrame(X, index=range(100, 300), columns=["u", "v"])
        bandit.fit(contexts, pandas.Series(y, index=contexts.index), reward=rows)
        assert fingerprint(bandit) == fingerprint(plain)
    assert bandit.columns_ == ("bias", "size", "price")
    for mask in ({"b": True, "a": False}, pandas.Series({"b": True, "a": False})):
        assert set(bandit.recommend(contexts, mask=mask)[0]) == {"b"}
    with pytest.raises(ValueError, match="missing .*'a'"):
        bandit.recommend(contexts, mask={"b": True, "c": False})
    with pytest.raises(ValueError, match="feature names"):
        bandit.predict(contexts[["v", "u"]])


# ---- refusals ----

REFUSED = {
    "policy": ({"policy": Greedy}, TypeError, "policy is a policy such as"),
    "prior": ({"prior": {"noise": 0.1}}, TypeError, "prior is PriorScales"),
    "forgetting": ({"forgetting": 1.5}, ValueError, r"\(0, 1\], received 1.5"),
    "max_parameters": ({"max_parameters": -1}, ValueError, "max_parameters"),
    "no arms": ({"arms": []}, ValueError, "arms must be distinct"),
    "arms of one name": ({"arms": "ab"}, TypeError, "arms is a list of names"),
    "unknown arms": ({"arms": ["a", "c"]}, ValueError, "unknown arms .'b'."),
    "names of nothing": ({"columns": ["x"]}, ValueError, "name no descriptors"),
    "a flat descriptor": ({"descriptors": [1.0, 2.0]}, ValueError, "one row per arm"),
    "too many rows": ({"descriptors": [[1.0]] * 3}, ValueError, r"shape \(2, q\)"),
    "names twice": (
        {"descriptors": [[1.0, 2.0]] * 2, "columns": ["x", "x"]},
        ValueError,
        "expected 2 column names",
    ),
}


@pytest.mark.parametrize(
    ("settings", "error", "message"), REFUSED.values(), ids=REFUSED
)
def test_settings_are_refused_whole(settings, error, message):
    """Before and after learning; what was learnt before goes on being there."""
    X, y, reward, _ = log(30)
    fresh = LinearBandit(**settings)
    with pytest.raises(error, match=message):
        fresh.fit(X, y, reward=reward)
    assert not [name for name in vars(fresh) if name.endswith("_")]
    bandit = LinearBandit(random_state=0).fit(X, y, reward=reward)
    before = fingerprint(bandit)
    with pytest.raises(error, match=message):
        bandit.set_params(**settings).fit(X, y, reward=reward)
    assert fingerprint(bandit) == before
    assert bandit.classes_.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"arms": ["a", "b", "c"]},
        {"descriptors": [[1.0], [2.0]]},
        {"prior": PriorScales(noise=0.1)},
        {"max_parameters": 0},
    ],
    ids=str,
)
def test_what_shapes_the_posterior_stays_while_it_learns(change):
    X, y, reward, _ = log(30)
    bandit = LinearBandit().fit(X, y, reward=reward)
    before, name = fingerprint(bandit), next(iter(change))
    usual = bandit.get_params()[name]
    with pytest.raises(ValueError, match=rf"\['{name}'\] changed after learning"):
        bandit.set_params(**change).partial_fit(X, y, reward=reward)
    assert fingerprint(bandit) == before
    bandit.set_params(**{name: usual}).partial_fit(X, y, reward=reward)
    assert bandit.n_updates_ == 60


def test_later_calls_may_repeat_the_arms_and_no_others():
    X, y, reward, _ = log(30)
    bandit = LinearBandit().partial_fit(X, y, ["b", "a"], reward=reward)
    bandit.partial_fit(X, y, ["a", "b"], reward=reward)
    before = fingerprint(bandit)
    for classes in (["a"], ["a", "b", "c"], ["a", "c"]):
        with pytest.raises(ValueError, match="arms cannot change"):
            bandit.partial_fit(X, y, classes, reward=reward)
        assert fingerprint(bandit) == before


@pytest.mark.parametrize("forgetting", [1e-300, 1e-7])
def test_however_fast_it_forgets_it_goes_on(forgetting):
    """The 50th power of the share is no number above 0 any more."""
    X, y, reward, _ = log(160)
    bandit = LinearBandit(forgetting=forgetting).fit(X, y, reward=reward)
    assert bandit.n_updates_ == 160
    assert bandit.posterior_.count == pytest.approx(10)
    assert np.isfinite(bandit.decision_function(X)).all()


# ---- what does not change it ----


def test_reading_changes_nothing():
    X, y, reward, propensity = log(60)
    bandit = LinearBandit(ThompsonSampling(), random_state=0)
    bandit.fit(X, y, reward=reward)
    before, state = fingerprint(bandit), bandit.rng_.bit_generator.state
    for read in (bandit.predict, bandit.predict_proba, bandit.decision_function):
        np.testing.assert_array_equal(read(X), read(X))
    bandit.score(X, y, reward=reward, propensity=propensity)
    assert fingerprint(bandit) == before
    assert bandit.rng_.bit_generator.state == state
    bandit.recommend(X)
    assert fingerprint(bandit) == before
    assert bandit.rng_.bit_generator.state != state


@pytest.mark.parametrize(
    "policy", [ThompsonSampling(), LinUCB(), EpsilonGreedy(), Greedy()], ids=repr
)
@pytest.mark.parametrize("arms", [2, 140])
def test_a_row_does_not_depend_on_the_rows_beside_it(policy, arms):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 2)), rng.integers(min(arms, 20), size=60)
    bandit = LinearBandit(policy, arms=range(arms), random_state=0)
    bandit.fit(X, y, reward=rng.random(60))
    whole = bandit.predict_proba(X[:6])
    assert whole.shape == (6, arms)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0)
    for i in range(6):
        np.testing.assert_allclose(bandit.predict_proba(X[[i]])[0], whole[i])
        assert bandit.predict(X[[i]]) == bandit.predict(X[:6])[i]


def test_another_policy_or_seed_takes_effect_at_once():
    X, y, reward, _ = log(60)
    bandit = LinearBandit(Greedy(), random_state=0).fit(X, y, reward=reward)
    assert set(bandit.recommend(X)[1]) == {1.0}
    bandit.set_params(policy=EpsilonGreedy(1.0), random_state=5)
    found = bandit.recommend(X)[0]
    assert bandit.predict_proba(X) == pytest.approx(np.full((60, 2), 0.5))
    fresh = LinearBandit(EpsilonGreedy(1.0), random_state=5).fit(X, y, reward=reward)
    np.testing.assert_array_equal(found, fresh.recommend(X)[0])
