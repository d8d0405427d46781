"""BraidRecommender: learns which braid of language models to use for each task."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from braidbandit._named import in_rows
from braidbandit.bandit.choice import Choice, Policy
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.logged_value import logged_value
from braidbandit.bandit.prior import PriorScales
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.limits import Budget, Limits
from braidbandit.ledger.records import Decision, new_id
from braidbandit.recommender.arm_model import arm_ids_of
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.explaining import ChoiceView
from braidbandit.recommender.explanation import Explanation
from braidbandit.recommender.objectives import Preference
from braidbandit.recommender.online import Online
from braidbandit.recommender.persistent import Persistent
from braidbandit.recommender.scoring import Situation, assess, cost_terms
from braidbandit.tasks.encoder import TaskEncoder
from braidbandit.tasks.reading import task_hash

Array = NDArray[np.float64]


class BraidRecommender(Online, Persistent, BaseEstimator):
    """Contextual bandit over a catalogue of braids: tasks in, decisions out.

    Quality is modelled as ``r = z' W x + noise`` with ``z`` the braid's descriptor
    and ``x`` the task's features, so a reward on one braid informs every related
    braid. ``predict`` is greedy and changes nothing; ``recommend`` explores;
    ``update`` draws nothing. The numeric bandit inside is a :class:`LinearBandit`.
    One call at a time: several threads share it under a lock of theirs.

    Parameters
    ----------
    catalogue : Catalogue
        What to choose from. ``add_arms`` and ``remove_arms`` replace it.
    encoder : TaskEncoder, optional
        A fitted encoder is used as it is; one that is not fitted is copied, and
        fitted on the tasks of the first ``fit`` or ``warm_start``. ``sklearn.clone``
        leaves no encoder fitted: in cross-validation each fold fits its own.
    policy : Policy or ConservativePolicy, optional
        ThompsonSampling (the default), LinUCB, SquareCB, EpsilonGreedy, Greedy or
        Uniform, or one of them guarded by a ConservativePolicy.
    price : float
        Quality given up to go from the dearest arm to the cheapest. Enters the
        scores only: a changed price needs no relearning.
    mean_cost : float in [0, 1], optional
        Long-run mean of the relative cost of the decisions. A price is added that
        rises while decisions cost more, and falls while they cost less. It counts
        every decision, rated or not.
    prior : PriorScales, optional
        Prior before any data; ``warm_start`` replaces its scales. Another one takes
        effect with the next ``fit`` or ``warm_start``, and is refused by all else.
    forgetting : float in (0, 1]
        Share of what was learnt that is kept at each update; 1 keeps all.
    max_parameters : int
        Arms have task slopes of their own, not only an intercept, while these are
        no more parameters than this. May be changed as ``prior`` may.
    drift : DriftMonitor, optional
        Watches for arms whose rewards have moved; none by default.
    random_state : None, int, Generator or RandomState
        For ``recommend``; 0 is a seed like any other. Another one takes effect at once.
        With None, every process that was forked, or got a copy, draws for itself.

    Attributes
    ----------
    learner_ : ArmLearner
        Posteriors of quality, latency and compute, and the feedback so far.
    encoder_ : TaskEncoder
    posterior_ : Posterior or None
        Of quality; None until a task was seen.
    classes_ : ndarray of str, shape (A,)
        The arm ids: columns of ``predict_proba`` and ``decision_function``.
    n_updates_ : int
    pending_ : dict of Decision
        Decisions without a reward, the newest 1,000.
    settled_ : dict of float
        Rewards that were learnt, by decision id, at least the newest 100,000.
    feedback_counts_ : dict of int
        How often feedback was "learnt", "repeated" (and ignored), "revised",
        "retracted", and how many decisions "expired".
    baseline_ : str or None
        Id of the best single model of the warm start.
    surprises_ : ndarray of shape (2, A)
        Sums of the drift monitor.
    savings_ : Savings or None
        What a :class:`ConservativePolicy` may risk.
    pacer_ : Pacer
        The price that holds ``mean_cost``.
    ledger_position_ : int
        Sequence number of the last ledger outcome that was read.

    Examples
    --------
    >>> embed = lambda texts: np.eye(4)[[len(text) % 4 for text in texts]]
    >>> agent = BraidRecommender(
    ...     Catalogue.build(["a", "b"], layer_sets=("output", "final")),
    ...     TaskEncoder(embedder=embed), random_state=0)
    >>> decision = agent.recommend({"type": "code", "complexity": 0.7})
    >>> agent.update(decision, 0.9).n_updates_
    1
    >>> agent.predict(["sort a list"]).shape
    (1,)
    """

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        policy: Policy | ConservativePolicy | None = None,
        *,
        price: float = 0.05,
        mean_cost: float | None = None,
        prior: PriorScales | None = None,
        forgetting: float = 1.0,
        max_parameters: int = 640,
        drift: DriftMonitor | None = None,
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.encoder = encoder
        self.policy = policy
        self.price = price
        self.mean_cost = mean_cost
        self.prior = prior
        self.forgetting = forgetting
        self.max_parameters = max_parameters
        self.drift = drift
        self.random_state = random_state

    # ---- choosing ----

    def recommend(
        self,
        task: Any,
        compute_budget: float = 1.0,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
        *,
        eligible: ArrayLike | None = None,
        preference: Mapping[str, float] | None = None,
        accuracy_target: float | None = None,
    ) -> Decision:
        """Choose a braid for one task; works before any fit.

        Advances the random generator, and notes that the decision is pending: until
        its reward comes, further decisions take its arm for explored.

        Parameters
        ----------
        task : str, dict or ndarray of shape (d,)
        compute_budget : float in [0, 1]
            Highest relative cost: 0 allows the cheapest arms only.
        budget : Budget, optional
            Absolute limits.
        excluded : iterable of arm ids
        eligible : collection of arm ids, or array of bool of shape (A,), optional
            The only arms that may be chosen now; also a Series or a dict of bool by
            arm id.
        preference : dict, optional
            What counts, such as ``{"quality": 1, "latency": 0.2, "compute": 0.1}``:
            0.2 of quality is given up to go from the slowest to the fastest arm. By
            default quality and the recommender's ``price`` of compute.
        accuracy_target : float in [0, 1], optional
            Leaves only arms that may reach this quality (mean plus one standard
            deviation); when there is none, the one that comes nearest.

        Returns
        -------
        Decision
        """
        limits = Limits(
            compute_budget=compute_budget,
            budget=budget,
            excluded=_kept(excluded),
            eligible=eligible,
            preference=preference,
            accuracy_target=accuracy_target,
        )
        now, hashed = self._assess(task, limits), task_hash(task)
        # Everything is checked by now: a rejected call leaves the generator alone.
        policy, catalogue = self.learner_.policy_now(), self._catalogue()
        choice = policy.select(now.belief, now.cost_term, now.eligible, self.rng_)
        view = self._view(task, now, choice)
        row = choice.arm
        relative_cost = float(catalogue.relative_costs()[row])
        decision = Decision(
            id=new_id(),
            task_hash=hashed,
            x=tuple(now.x.tolist()),
            braid=catalogue.braids[row],
            propensity=choice.propensity,
            propensity_se=choice.propensity_se,
            arm_ids=catalogue.ids,
            # Arrays here; the record makes tuples of them when they are read.
            scores=view.scores,  # type: ignore[arg-type]
            eligible=now.eligible,  # type: ignore[arg-type]
            expected_quality=float(now.belief.mean[row]),
            uncertainty=now.belief.sd_of(row),
            relative_cost=relative_cost,
            budget=limits.to_dict(),
            policy=type(self.policy or policy).__name__,
            catalogue_hash=self.catalogue_hash_,
            encoder_hash=self.encoder_.projection_hash(),
            sentence=view.sentence(),
            version=len(self.learner_.versions.get(catalogue.ids[row], ())),
            expected_latency_ms=None
            if now.latency is None
            else float(now.latency[row]),
        )
        self.learner_.await_reward(decision)
        if self.mean_cost is not None:
            self.pacer_.spend(relative_cost, self.mean_cost)
        return decision

    def predict(self, X: Any) -> NDArray[np.str_]:
        """Return the id of the arm with the best score for each task, shape (n,)."""
        scores = self.decision_function(X)
        scores[:, ~self._catalogue().mask()] = -np.inf
        return self.classes_[np.argmax(scores, axis=1)]

    def decision_function(self, X: Any) -> Array:
        """Return expected quality minus priced cost, shape (n, A)."""
        self._start()
        features = self.encoder_._features(X)
        self.learner_.require(features.shape[1])
        bandit = self.learner_.bandit
        means = bandit.posterior_.means(bandit.Z_, features)
        return means + np.array([self._cost_term(x) for x in features])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability with which ``recommend`` picks each arm, (n, A).

        The probability of being chosen, not of being good. Changes nothing.
        """
        self._start()
        eligible, policy = self._catalogue().mask(), self.learner_.policy_now()
        rows = []
        for x in self.encoder_._features(X):
            # The same draws for every row: it does not depend on the rows before it.
            belief, rng = self.learner_.believe(x), copy.deepcopy(self.rng_)
            rows.append(policy.probabilities(belief, self._cost_term(x), eligible, rng))
        return np.array(rows)

    def score(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> float:
        """Return the off-policy value of ``predict`` on logged rows, in [0, 1].

        See :meth:`LinearBandit.score`.
        """
        given = {"y": y, "reward": reward, "propensity": propensity}
        y, *rest = in_rows(X, {**given, "sample_weight": sample_weight})
        return logged_value(self.predict(X), arm_ids_of(y), *rest)

    def explain(
        self,
        task: Any,
        compute_budget: float = 1.0,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
        *,
        eligible: ArrayLike | None = None,
        preference: Mapping[str, float] | None = None,
        accuracy_target: float | None = None,
    ) -> Explanation:
        """Explain what ``recommend`` would choose now, without choosing it.

        The same arguments and the same state of the random generator give the
        same arm. Changes nothing.
        """
        limits = Limits(
            compute_budget=compute_budget,
            budget=budget,
            excluded=_kept(excluded),
            eligible=eligible,
            preference=preference,
            accuracy_target=accuracy_target,
        )
        now = self._assess(task, limits)
        policy, rng = self.learner_.policy_now(), copy.deepcopy(self.rng_)
        choice = policy.select(now.belief, now.cost_term, now.eligible, rng)
        return self._view(task, now, choice).explanation()

    # ---- inside ----

    def _assess(self, task: Any, limits: Limits) -> Situation:
        self._start()
        one = task[None, :] if isinstance(task, np.ndarray) and task.ndim == 1 else None
        x = self.encoder_._features([task] if one is None else one)[0]
        return assess(self.learner_, x, limits, self.price, self.pacer_.price)

    def _cost_term(self, x: Array) -> Array:
        parts = cost_terms(
            self.learner_, x, Preference(compute=self.price), self.pacer_.price
        )
        return parts["compute"] + parts["latency"] + parts["pacing"]

    def _view(self, task: Any, now: Situation, choice: Choice) -> ChoiceView:
        kind = self.encoder_.type_of(task, now.x)
        return ChoiceView(self.learner_, now, choice, kind)


def _kept(excluded: Iterable[str]) -> Iterable[str]:
    """Make a collection of what may be read only once; text is refused later."""
    return excluded if isinstance(excluded, str) else tuple(excluded)
