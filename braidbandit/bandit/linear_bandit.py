"""LinearBandit: a contextual bandit over numbers, as a scikit-learn classifier."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from braidbandit._checks import (
    check_labels,
    check_one_kind,
    check_propensities,
    check_rewards,
    check_weights,
    same,
)
from braidbandit._named import Labels, feature_names, few, in_columns, in_rows, ordered
from braidbandit._random import RandomSequence
from braidbandit.bandit.logged_value import logged_value
from braidbandit.bandit.online_posterior import (
    UNSOLVED,
    OnlinePosterior,
    check_learning,
)
from braidbandit.bandit.policies import EpsilonGreedy, Policy, check_policy
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# A value above the first drowns all other columns; a column whose values all stay below
# the second hardly counts.
_LARGEST, _SMALLEST = 150.0, 0.05
# A useful column has a value that is not near 0 in this many rows.
_ENOUGH_ROWS = 10
# Settings that shape the posterior: learning goes on only while they stay.
_KEPT = ("arms", "descriptors", "columns", "prior", "max_parameters")


class _Rows(NamedTuple):
    """Rows to learn from, after every check."""

    X: Array  # contexts, shape (n, d)
    y: NDArray[Any]
    rewards: Array
    weights: Array


class LinearBandit(ClassifierMixin, BaseEstimator):
    """Contextual bandit over numeric contexts.

    The reward of arm a in context x is ``z_a' W x + b_a' x + noise``. One Gaussian
    posterior covers ``W`` and every ``b_a``, so arms with similar descriptors ``z``
    inform each other (``docs/math.md``).

    The prior expects columns around 0 of about unit variance, so standardise contexts:
    ``make_pipeline(StandardScaler(), LinearBandit())``. Values beyond 150 are refused.
    There is a warning for columns that stay below 0.05, even taken together.

    Parameters
    ----------
    policy : ThompsonSampling, LinUCB, EpsilonGreedy, Greedy or Uniform, optional
        How ``recommend`` explores, which ``predict_proba`` tells the probabilities of.
        By default ``EpsilonGreedy``, whose most probable arm is the one that
        ``predict`` returns, as scikit-learn expects of a classifier.
    arms : array-like of shape (A,), optional
        Labels of the arms. By default those in the first ``y``.
    descriptors : array-like of shape (A, q), optional
        What the arms have in common, one row per entry of ``arms``; also a data frame
        or a dict by arm. By default arms share a common level and the effect of the
        context on all of them, and nothing else.
    columns : sequence of str, optional
        Names of the descriptors; :func:`parameter_groups` says what they decide. By
        default those of a data frame.
    prior : PriorScales, optional
    forgetting : float in (0, 1]
        Share of what was learnt that is kept at each reward; 1 keeps all.
    max_parameters : int
        Arms have context slopes of their own, not only an intercept, as long as these
        are no more than so many parameters for all arms together.
    random_state : None, int, Generator or RandomState
        Seeds ``recommend``; 0 is a seed like any other. A new value takes effect at
        once. With None, a process that was forked or got a copy draws other numbers.

    Attributes
    ----------
    classes_ : ndarray of shape (A,)
        The arms: columns of ``predict_proba`` and ``decision_function``.
    Z_ : ndarray of shape (A, m)
        Descriptors, with a constant in front.
    columns_ : tuple of str, length m
        Names of these.
    posterior_ : Posterior
    n_updates_ : int
        Number of rewards in the posterior.
    clock_ : int
        Number of rewards learnt so far, by which forgetting is timed.
    faded_ : float
        Log of the share that forgetting has left of the first reward.
    n_features_in_ : int

    Notes
    -----
    ``predict`` is greedy and changes nothing; ``predict_proba`` is the probability of
    being *chosen* by ``recommend``, not of being right.

    References
    ----------
    Li et al. (2010), *A contextual-bandit approach to personalized news article
    recommendation*; Agrawal and Goyal (2013), *Thompson sampling for contextual bandits
    with linear payoffs*.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    >>> bandit = LinearBandit(random_state=0)
    >>> bandit = bandit.fit(X, ["a", "b", "b", "a"], reward=[1.0, 0.9, 0.1, 0.0])
    >>> bandit.predict(X[:2]).tolist()
    ['a', 'b']
    >>> bandit.predict_proba(X[:1]).round(2).tolist()
    [[0.95, 0.05]]
    """

    n_features_in_: int
    classes_: NDArray[Any]
    columns_: tuple[str, ...]
    online_: OnlinePosterior
    draws_: RandomSequence

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        arms: ArrayLike | None = None,
        descriptors: ArrayLike | None = None,
        columns: Sequence[str] | None = None,
        prior: PriorScales | None = None,
        forgetting: float = 1.0,
        max_parameters: int = 640,
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
    ) -> None:
        self.policy = policy
        self.arms = arms
        self.descriptors = descriptors
        self.columns = columns
        self.prior = prior
        self.forgetting = forgetting
        self.max_parameters = max_parameters
        self.random_state = random_state

    # ---- what was learnt ----

    @property
    def posterior_(self) -> Posterior:
        """The posterior that the rewards gave."""
        return self.online_.posterior

    @property
    def n_updates_(self) -> int:
        """Number of rewards in the posterior."""
        return self.online_.n_updates

    @property
    def clock_(self) -> int:
        """Number of rewards learnt so far, by which forgetting is timed."""
        return self.online_.clock

    @property
    def faded_(self) -> float:
        """Log of the share that forgetting has left of the first reward."""
        return self.online_.faded

    @property
    def rng_(self) -> np.random.Generator:
        """The generator that ``recommend`` draws from."""
        return self.draws_.generator

    # ---- the estimator ----

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> LinearBandit:
        """Learn from scratch.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Contexts.
        y : array-like of shape (n,)
            The arm that was chosen in each.
        reward : array-like of shape (n,) in [0, 1], optional
            None means 1 for every row: the arms in y are good choices to imitate.
        propensity : array-like of shape (n,) in (0, 1], optional
            Probability with which the logged arm was chosen. It is checked here and
            used by ``score`` only, as the posterior conditions on the arm chosen.
        sample_weight : array-like of shape (n,) or float, optional
            From 1e-6 to 1e6, or 0 to leave a row out; divides its noise variance.

        Returns
        -------
        LinearBandit
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            When a setting or a row cannot be right. The estimator is then as it was.
        """
        return self._learn(X, y, None, reward, propensity, sample_weight, first=True)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> LinearBandit:
        """Learn more rows.

        Parameters
        ----------
        X, y, reward, propensity, sample_weight
            As in :meth:`fit`.
        classes : array-like of shape (A,), optional
            The arms. Needed on the first call, unless they are a setting or all in y;
            later calls may repeat it.

        Returns
        -------
        LinearBandit
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            As in :meth:`fit`, and when a setting that shapes the posterior has changed
            since learning began.
        """
        first = not hasattr(self, "online_")
        return self._learn(X, y, classes, reward, propensity, sample_weight, first)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the arm with the best expected reward for each context.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n,)
        """
        features = self._features(X)
        return self.classes_[self.posterior_.means(self.Z_, features).argmax(axis=1)]

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the expected reward of every arm in each context.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, A), or (n,)
            Of two arms, by scikit-learn's convention, what the second is expected to
            earn more than the first.
        """
        features = self._features(X)
        means = self.posterior_.means(self.Z_, features)
        return means[:, 1] - means[:, 0] if len(self.classes_) == 2 else means

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability with which ``recommend`` picks each arm.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, A)
            An estimate for ``ThompsonSampling``, exact for other policies.
        """
        features, policy, draws = self._features(X), self._policy(), self.draws_
        no_cost, every = np.zeros(len(self.Z_)), np.ones(len(self.Z_), dtype=bool)
        if not draws.follows(self.random_state):
            draws = RandomSequence(self.random_state)
        rows = []
        for x in features:
            # Each row from the same place, so that it does not depend on those before.
            belief, rng = self.posterior_.belief(self.Z_, x), draws.copy()
            rows.append(policy.probabilities(belief, no_cost, every, rng))
        return np.array(rows)

    def recommend(
        self, X: ArrayLike, *, mask: ArrayLike | None = None
    ) -> tuple[NDArray[Any], Array]:
        """Choose an arm for each context, exploring; advances the random generator.

        Parameters
        ----------
        X : array-like of shape (n, d)
        mask : array-like of bool, shape (A,) or (n, A), optional
            Which arms may be chosen now; a Series, data frame or dict by arm.

        Returns
        -------
        arms : ndarray of shape (n,)
        propensities : ndarray of shape (n,)
            Probability with which each was chosen.

        Raises
        ------
        ValueError
            When the mask has another shape, is not boolean, or leaves a row no arm.

        Examples
        --------
        >>> bandit = LinearBandit(random_state=0).fit([[-1.0], [1.0]], ["a", "b"])
        >>> arms, propensities = bandit.recommend([[1.0]], mask=[True, False])
        >>> arms.tolist(), propensities.tolist()
        (['a'], [1.0])
        """
        features = self._features(X)
        shape = (len(features), len(self.classes_))
        allowed = np.asarray(True)
        if mask is not None:
            allowed = in_columns(mask, self.classes_.tolist(), "mask", X)
        if allowed.dtype != bool or allowed.shape not in ((), shape[1:], shape):
            raise ValueError(
                f"mask must be boolean of shape {shape[1:]} or {shape}, received "
                f"{allowed.dtype} {allowed.shape}"
            )
        allowed = np.broadcast_to(allowed, shape)
        if not allowed.any(axis=1).all():
            raise ValueError("the mask leaves some row no arm; allow at least one")
        policy, no_cost = self._policy(), np.zeros(shape[1])
        self.draws_.follow(self.random_state)
        choices = [
            policy.select(self.posterior_.belief(self.Z_, x), no_cost, rows, self.rng_)
            for x, rows in zip(features, allowed, strict=True)
        ]
        arms = self.classes_[[choice.arm for choice in choices]]
        return arms, np.array([choice.propensity for choice in choices])

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> float:
        """Return the off-policy value of ``predict`` on logged rows.

        The self-normalised inverse propensity estimate: the mean reward of the rows
        whose logged arm is the predicted one, each weighted by 1 / propensity.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.
        reward : array-like of shape (n,) in [0, 1], optional
            Without it the value is the share of rows whose arm is the predicted one.
        propensity : array-like of shape (n,) in (0, 1], optional
            Without it the log is taken to have ignored the context: each arm's share
            of the rows is its propensity.

        Returns
        -------
        float
            In [0, 1], higher is better; NaN when no row has the predicted arm.

        References
        ----------
        Swaminathan and Joachims (2015), *The self-normalized estimator for
        counterfactual learning*.
        """
        given = {"y": y, "reward": reward, "propensity": propensity}
        y, *rest = in_rows(X, {**given, "sample_weight": sample_weight})
        return logged_value(self.predict(X), y, *rest)

    # ---- inside ----

    def _learn(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None,
        reward: ArrayLike | None,
        propensity: ArrayLike | None,
        sample_weight: ArrayLike | None,
        first: bool,
    ) -> LinearBandit:
        """Learn on a copy, then become it: an error leaves the estimator as it was."""
        check_learning(self.forgetting, self.prior, self.max_parameters)
        self._policy()
        work = copy.copy(self)
        given = {"y": y, "reward": reward, "propensity": propensity}
        rows = work._checked(X, {**given, "sample_weight": sample_weight}, first)
        if first:
            work._begin(work._arms(rows.y, classes), rows.X.shape[1] + 1)
        else:
            work._go_on(classes)
        work._learn_checked(rows)
        # Replaced, not updated: names of columns that X no longer has must go.
        self.__dict__ = work.__dict__
        if first and (small := too_small(rows.X)):
            warnings.warn(_told_of_small(small, rows.X, self._names()), stacklevel=3)
        if self.online_.take_notice():
            warnings.warn(UNSOLVED, stacklevel=3)
        return self

    def _checked(self, X: Any, given: Mapping[str, Any], first: bool) -> _Rows:
        """Return the rows if they can be learnt; notes the columns of X."""
        y, reward, propensity, weight = in_rows(X, given)
        # Before y becomes an array, in which a missing label is text like any other.
        labels = check_labels(y) if _is_column(y) else []
        if not first:
            # The arms are of one kind; one of them stands for all.
            check_one_kind([*labels, *self.classes_[:1].tolist()])
        contexts, y = cast(
            "tuple[Array, NDArray[Any]]",
            validate_data(self, X, y, dtype=np.float64, reset=first),
        )
        check_scale(contexts, self._names(), "contexts")
        check_classification_targets(y)
        n = len(contexts)
        if isinstance(weight, Real):
            weight = np.full(n, weight)
        weights, rewards = check_weights(weight, n), check_rewards(reward, n)
        if not weights.any():
            raise ValueError(
                "every sample_weight is zero, so there is nothing to learn"
            )
        check_propensities(propensity, n)
        return _Rows(contexts, y, rewards, weights)

    def _learn_checked(self, rows: _Rows) -> None:
        arms = _places(rows.y, self.classes_)
        each = zip(arms, _with_bias(rows.X), rows.rewards, rows.weights, strict=True)
        for arm, x, reward, weight in each:
            if weight > 0:
                z = self.Z_[arm]
                self.online_.update(int(arm), z, x, float(reward), float(weight))

    def _begin(self, arms: NDArray[Any], width: int) -> None:
        """Create arms, generator and posterior."""
        shared, names = shared_descriptors(
            arms.tolist(), self.descriptors, self.columns
        )
        self.classes_ = arms
        self.Z_: Array = np.ascontiguousarray(
            np.column_stack([np.ones(len(arms)), shared])
        )
        self.columns_ = ("bias", *names)
        self.draws_ = RandomSequence(self.random_state)
        self.online_ = OnlinePosterior.start(
            self.columns_,
            width,
            len(arms),
            prior=self.prior,
            forgetting=self.forgetting,
            max_parameters=self.max_parameters,
        )
        self._began_with = {name: getattr(self, name) for name in _KEPT}

    def _go_on(self, classes: ArrayLike | None) -> None:
        """Go on with copies of what was learnt, under the present settings."""
        self._check_continued(classes)
        self.draws_ = copy.copy(self.draws_)
        self.draws_.follow(self.random_state)
        self.online_ = self.online_.copy()
        self.online_.forget_at(self.forgetting)

    def _check_continued(self, classes: ArrayLike | None) -> None:
        """Refuse to go on under settings that have changed since learning began."""
        changed = [
            name
            for name, value in self._began_with.items()
            if not same(getattr(self, name), value)
        ]
        if changed:
            raise ValueError(
                f"{changed} changed after learning began; partial_fit goes on with "
                "what was learnt. Set them back, or learn from scratch: fit"
            )
        if classes is not None:
            _check_same_arms(classes, self.classes_, "the first call had")

    def _arms(self, y: NDArray[Any], classes: Any) -> NDArray[Any]:
        """Return the labels of the arms, of the setting, of ``classes``, or in y."""
        if self.arms is not None and classes is not None:
            _check_same_arms(classes, self.arms, "the estimator's arms are")
        given = self.arms if self.arms is not None else classes
        if given is None:
            return np.unique(y)
        arms = np.asarray(check_labels(ordered(given, "arms"), "entries of arms"))
        check_one_kind([*arms.tolist(), *y.tolist()])
        if arms.ndim != 1 or not len(arms) or len(np.unique(arms)) != len(arms):
            raise ValueError(f"arms must be distinct labels, received {given!r}")
        return arms

    def _features(self, X: Any) -> Array:
        """Return contexts to predict for, checked, with the constant in front."""
        check_is_fitted(self, "online_")
        checked = validate_data(self, X, dtype=np.float64, reset=False)
        contexts = np.asarray(checked, dtype=np.float64)
        check_scale(contexts, self._names(), "contexts")
        return _with_bias(contexts)

    def _names(self) -> Sequence[str] | None:
        """Return the names of the columns of X, if it had any."""
        return getattr(self, "feature_names_in_", None)

    def _policy(self) -> Policy:
        check_policy(self.policy)
        return self.policy if self.policy is not None else EpsilonGreedy()


def shared_descriptors(
    arms: Sequence[Any], descriptors: Any, columns: Sequence[str] | None
) -> tuple[Array, list[str]]:
    """Return the descriptors of the arms as an array, and the names of its columns.

    Parameters
    ----------
    arms : sequence, length A
    descriptors : array-like, data frame or mapping of shape (A, q), or None
    columns : sequence of str, length q, optional

    Returns
    -------
    shared : ndarray of shape (A, q)
    names : list of str

    Raises
    ------
    ValueError
        When there is not one row per arm, a value is not finite or above 150, or names
        do not fit the columns.

    Examples
    --------
    >>> shared_descriptors(["a", "b"], {"b": [2.0], "a": [1.0]}, ["size"])
    (array([[1.],
           [2.]]), ['size'])
    """
    n_arms, given, names = len(arms), descriptors, columns
    if given is None:
        if names is not None:
            raise ValueError(f"columns {names!r} name no descriptors; give some")
        return np.zeros((n_arms, 0)), []
    if isinstance(given, Mapping):
        given = in_columns(given, arms, "descriptors").T
    (given,) = in_rows(Labels(labels=list(arms)), {"descriptors": given})
    if names is None:
        names = feature_names(given)
    else:
        names = ordered(names, "columns")
        given = in_columns(given, names, "descriptors")
    shared = np.asarray(given, dtype=np.float64)
    if shared.ndim != 2 or len(shared) != n_arms or not np.isfinite(shared).all():
        raise ValueError(
            f"descriptors must be finite of shape ({n_arms}, q), one row per arm, "
            f"received shape {shared.shape}"
        )
    names = list(names or (f"feature:{j}" for j in range(shared.shape[1])))
    if len(set(names)) != shared.shape[1]:
        raise ValueError(f"expected {shared.shape[1]} column names, got {names}")
    check_scale(shared, names, "descriptors")
    return shared, names


def _places(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.intp]:
    """Return the position of each label among the arms."""
    order = np.argsort(classes, kind="stable")
    known = classes[order]
    at = np.minimum(np.searchsorted(known, y), len(known) - 1)
    if (known[at] != y).any():
        raise ValueError(
            f"unknown arms {sorted(set(y[known[at] != y].tolist()))}; expected "
            f"some of {classes.tolist()}"
        )
    return np.asarray(order[at])


def _told_of_small(small: list[int], X: Array, names: Sequence[str] | None) -> str:
    columns = small if names is None else [names[column] for column in small]
    return (
        f"the columns {few(columns)} of the contexts hold nothing beyond "
        f"{np.abs(X[:, small]).max():.2g} and will hardly count: the prior expects "
        "about unit variance. Standardise: "
        "make_pipeline(StandardScaler(), LinearBandit())"
    )


def _is_column(y: Any) -> bool:
    """Whether y has one label per row; if not, scikit-learn says what is wrong."""
    return y is not None and getattr(y, "ndim", 1) == 1


def _check_same_arms(classes: Any, arms: Any, whose: str) -> None:
    given, known = ordered(classes, "classes"), ordered(arms, "arms")
    if set(given) != set(known):
        raise ValueError(f"classes are {given}, {whose} {known}; arms cannot change")


def _with_bias(X: Array) -> Array:
    return np.column_stack([np.ones(len(X)), X])


def check_scale(X: Array, names: Sequence[str] | None, what: str) -> None:
    """Refuse columns that would drown all others.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    names : sequence of str, length d, optional
    what : str
        What X holds, for the message.

    Raises
    ------
    ValueError
        When a value is beyond 150 in size; it names the first such column.

    Examples
    --------
    >>> check_scale(np.array([[1e9]]), ["asked_at"], "contexts")
    Traceback (most recent call last):
    ValueError: column 'asked_at' of the contexts holds 1e+09, expected ...
    """
    beyond = np.abs(X) > _LARGEST
    if beyond.any():
        column = int(beyond.any(axis=0).argmax())
        name = column if names is None else repr(names[column])
        raise ValueError(
            f"column {name} of the {what} holds {X[beyond[:, column], column][0]:g}, "
            f"expected values around 0 of about unit variance, at most {_LARGEST:g}. "
            "Standardise, make_pipeline(StandardScaler(), LinearBandit()), and clip "
            "outliers"
        )


def too_small(X: Array) -> list[int]:
    """Return the columns that are too small to count, even taken together.

    Parameters
    ----------
    X : ndarray of shape (n, d)

    Returns
    -------
    list of int
        Columns that are not all 0 but stay below 0.05; none where there are fewer than
        10 rows, or the norm of a row over these columns reaches 0.05.

    Examples
    --------
    >>> too_small(np.array([[1.0, 1e-3, 0.0]] * 10))
    [1]
    """
    largest = np.abs(X).max(axis=0)
    small = (largest > 0) & (largest < _SMALLEST)
    together = np.linalg.norm(X[:, small], axis=1).max()
    if len(X) < _ENOUGH_ROWS or together >= _SMALLEST:
        return []
    return np.flatnonzero(small).tolist()
