"""BraidRecommender: learns which braid of language models to use for each task."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from braidbandit import snapshot
from braidbandit.belief import Belief
from braidbandit.catalogue import Braid, Budget, Catalogue
from braidbandit.decision import Decision, Explanation, new_id, task_hash
from braidbandit.descriptors import with_gains
from braidbandit.drift import DriftMonitor, DriftWarning
from braidbandit.encoding import TaskEncoder
from braidbandit.explaining import ChoiceView
from braidbandit.guard import ConservativePolicy, Savings
from braidbandit.policies import Choice, Policy, ThompsonSampling
from braidbandit.posterior import Posterior, PriorScales, parameter_groups
from braidbandit.state import read_state, write_state
from braidbandit.utility import check_price, check_quality

Array = NDArray[np.float64]

_FORGET_EVERY = 50
# Prior scales are chosen again after so many updates, and whenever they double.
_REFINE_FROM = 64
_MOST_PENDING = 1000
_MOST_SETTLED = 100_000


class BraidRecommender(BaseEstimator):
    """Contextual bandit over a catalogue of braids.

    Quality is modelled as ``r = z' W x + noise`` with ``z`` the braid's descriptor
    and ``x`` the task's features, so a reward on one braid informs every related
    braid. ``predict`` is greedy and changes nothing; ``recommend`` explores and
    advances only the random generator; ``update`` draws nothing.

    Parameters
    ----------
    catalogue : Catalogue
        What to choose from.
    encoder : TaskEncoder, optional
        A fitted encoder is used as it is; one that is not fitted is copied, and
        fitted on the tasks of the first ``fit`` or ``warm_start``.
    policy : Policy or ConservativePolicy, optional
        ThompsonSampling (the default), LinUCB, SquareCB, EpsilonGreedy, Greedy or
        Uniform, or one of them guarded by a ConservativePolicy.
    price : float
        Quality given up to go from the dearest arm to the cheapest. Enters the
        scores only: a changed price needs no relearning.
    prior : PriorScales, optional
        Prior before any data; ``warm_start`` replaces its scales.
    forgetting : float in (0, 1]
        Share of what was learnt that is kept at each update; 1 keeps all.
    max_parameters : int
        Arms have task slopes of their own, not only an intercept, while these are
        no more parameters than this.
    drift : DriftMonitor, optional
        Watches for arms whose rewards have moved; none by default.
    random_state : None, int or Generator
        For ``recommend``.

    Attributes
    ----------
    posterior_ : Posterior
    baseline_ : str or None
        Id of the best single model of the warm start.
    signatures_ : ndarray of shape (n, M) or None
        Score of every single model on the probe tasks of the warm start.
    encoder_ : TaskEncoder
    arm_ids_ : tuple of str
    classes_ : ndarray of str, shape (A,)
        The arm ids: columns of ``predict_proba`` and ``decision_function``.
    n_updates_ : int
    surprises_ : ndarray of shape (2, A)
        Sums of the drift monitor.
    savings_ : Savings or None
        What a :class:`ConservativePolicy` may risk.
    pending_ : dict of Decision
        Decisions without a reward, the newest 1,000.
    settled_ : dict of float
        Rewards that were learnt, by decision id, the newest 100,000.
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

    encoder_: TaskEncoder
    Z_: Array
    columns_: tuple[str, ...]
    arm_ids_: tuple[str, ...]
    classes_: NDArray[np.str_]
    rng_: np.random.Generator
    signatures_: Array | None
    posterior_: Posterior | None
    start_: Posterior | None
    savings_: Savings | None
    surprises_: Array
    baseline_: str | None
    n_updates_: int
    ledger_position_: int
    pending_: dict[str, Decision]
    settled_: dict[str, float]
    catalogue_hash_: str

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        policy: Policy | ConservativePolicy | None = None,
        *,
        price: float = 0.05,
        prior: PriorScales | None = None,
        forgetting: float = 1.0,
        max_parameters: int = 640,
        drift: DriftMonitor | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.encoder = encoder
        self.policy = policy
        self.price = price
        self.prior = prior
        self.forgetting = forgetting
        self.max_parameters = max_parameters
        self.drift = drift
        self.random_state = random_state

    # ---- learning ----

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        sample_weight: Any = None,
    ) -> BraidRecommender:
        """Learn from scratch, keeping only the encoder and the warm start.

        Parameters
        ----------
        X : list of tasks, or a Ledger
            A ledger is learnt in the order of its outcomes, which gives the very
            posterior that the live updates gave.
        y : sequence of arm ids or Braid
            The arm each task was given.
        reward : array of shape (n,) in [0, 1], optional
            None means 1 for every row: imitation of good choices.
        sample_weight : array of shape (n,), optional
            At least 0; divides the noise variance of a row.
        """
        self._start()
        if y is None and hasattr(X, "pairs"):
            self._forget_rewards()
            return self.catch_up(X)
        rows = self._check_rows(X, y, reward, sample_weight)
        self._fit_encoder(X)
        self._forget_rewards()
        return self._learn_rows(X, rows)

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        sample_weight: Any = None,
    ) -> BraidRecommender:
        """Learn more rows, or what is new in a ledger; see :meth:`fit`."""
        first = not hasattr(self, "catalogue_hash_")
        self._start()
        if y is None and hasattr(X, "pairs"):
            return self.catch_up(X)
        rows = self._check_rows(X, y, reward, sample_weight)
        if first:
            self._fit_encoder(X)
        return self._learn_rows(X, rows)

    def warm_start(
        self, X: Any, arm_ids: Sequence[str], table: Any
    ) -> BraidRecommender:
        """Start from a small table of tasks that were scored on several arms.

        Sets the prior scales by marginal likelihood on the table, then learns it.
        Where it holds every single model, it also describes each braid by what
        its strands could gain from one another on the probe tasks. A few dozen
        tasks scored on every arm, or on the single models only, are worth more
        than any choice of policy. Call it before any update.

        Parameters
        ----------
        X : list of n tasks
        arm_ids : sequence of B arm ids
        table : array of shape (n, B) in [0, 1]
            Quality of each arm on each task.
        """
        self._start()
        ids = list(arm_ids)
        scores = np.asarray(table, dtype=np.float64)
        if scores.shape != (len(X), len(ids)) or scores.size == 0:
            raise ValueError(
                f"table has shape {scores.shape}, expected ({len(X)}, {len(ids)}): one "
                "row per task, one column per arm"
            )
        if not ((scores >= 0) & (scores <= 1)).all():  # also refuses NaN
            raise ValueError("every score of the table lies in [0, 1]; received others")
        rows = [self._catalogue().index(arm_id) for arm_id in ids]
        if len(set(rows)) != len(rows):
            raise ValueError("the arm ids of the table must differ")
        if self.n_updates_:
            raise ValueError(
                f"warm_start comes before any update; {self.n_updates_} rewards were "
                "learnt already. Use a new recommender, then fit(ledger)"
            )
        self._fit_encoder(X)
        features = self.encoder_.transform(X)
        self._describe(self._signatures(ids, scores))
        posterior = self._new_posterior(features.shape[1])
        posterior.start_from_table(rows, self.Z_[rows], features, scores)
        self.posterior_, self.start_ = posterior, posterior.copy()
        singles = [i for i, row in enumerate(rows) if self._is_single(row)]
        if singles:
            best = max(singles, key=lambda i: float(scores[:, i].mean()))
            self.baseline_ = ids[best]
        return self

    def update(
        self, decision: Decision | str, reward: float | bool, *, weight: float = 1.0
    ) -> BraidRecommender:
        """Learn the quality of one decision.

        Parameters
        ----------
        decision : Decision or str
            The decision, or the id of a pending one.
        reward : float in [0, 1] or bool
            Quality. Cost must not be in it: the price is applied to the scores.
        weight : float
            Above 0; divides the noise variance.

        Raises
        ------
        KeyError
            On an unknown decision id or arm.
        TypeError, ValueError
            On a reward outside [0, 1], a second and different reward for the same
            decision, or a decision of another catalogue or encoder. Whatever is
            raised, nothing has changed.
        """
        quality = check_quality(reward)
        self._start()
        if isinstance(decision, str):
            decision_id = decision
        elif isinstance(decision, Decision):
            decision_id = decision.id
        else:
            raise TypeError(
                f"update takes a Decision or its id, received {type(decision).__name__}"
            )
        if decision_id in self.settled_:
            if self.settled_[decision_id] == quality:
                return self
            raise ValueError(
                f"decision {decision_id!r} was already learnt with reward "
                f"{self.settled_[decision_id]}, received {quality}; call retract first "
                "to replace it"
            )
        if isinstance(decision, str):
            decision = self._pending_decision(decision)
        row, x = self._features_of(decision)
        posterior = self._posterior(len(x))
        surprise = posterior.update(row, self.Z_[row], x, quality, weight)
        self._watch(posterior, row, surprise)
        self.n_updates_ += 1
        self._maintain(posterior, self.n_updates_)
        self.pending_.pop(decision_id, None)
        self._save(decision, quality)
        self.settled_[decision_id] = quality
        _trim(self.settled_, _MOST_SETTLED)
        return self

    def retract(self, decision: Decision) -> BraidRecommender:
        """Take a learnt reward back exactly, as if it had never come.

        Needs the whole decision, as kept by the ledger, and works only without
        forgetting and for a reward learnt with weight 1.
        """
        self._start()
        if decision.id not in self.settled_:
            raise KeyError(f"decision {decision.id!r} has no reward to take back")
        if self.forgetting != 1.0:
            raise ValueError("with forgetting below 1 no reward can be taken back")
        row, x = self._features_of(decision)
        self._posterior(len(x)).downdate(
            row, self.Z_[row], x, self.settled_[decision.id]
        )
        self._save(decision, self.settled_.pop(decision.id), back=True)
        self.pending_[decision.id] = decision
        self.n_updates_ -= 1
        return self

    def catch_up(self, ledger: Any) -> BraidRecommender:
        """Learn what a ledger holds beyond ``ledger_position_``.

        Outcomes that were learnt live are recognised and skipped.
        """
        self._start()
        for sequence, decision, outcome in ledger.pairs(after=self.ledger_position_):
            self.update(decision, outcome.reward)
            self.ledger_position_ = int(sequence)
        return self

    # ---- choosing ----

    def recommend(
        self,
        task: Any,
        compute_budget: float = 1.0,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
    ) -> Decision:
        """Choose a braid for one task; works before any fit.

        Parameters
        ----------
        task : str, dict or ndarray of shape (d,)
        compute_budget : float in [0, 1]
            Highest relative cost: 0 allows the cheapest arms only.
        budget : Budget, optional
            Absolute limits.
        excluded : iterable of arm ids

        Returns
        -------
        Decision
        """
        self._start()
        eligible = self._catalogue().mask(compute_budget, excluded, budget)
        x, belief = self._believe(task)
        cost_term = self._cost_term()
        # Everything is checked by now: a rejected call leaves the generator alone.
        policy = self._policy_now()
        choice = policy.select(belief, cost_term, eligible, self.rng_)
        view = self._view(task, belief, choice, eligible)
        row = choice.arm
        limits = (budget or Budget()).to_dict()
        decision = Decision(
            id=new_id(),
            task_hash=task_hash(task),
            x=tuple(x.tolist()),
            braid=self._catalogue().braids[row],
            propensity=choice.propensity,
            propensity_se=choice.propensity_se,
            arm_ids=self.arm_ids_,
            scores=tuple((belief.mean + choice.exploration + cost_term).tolist()),
            eligible=tuple(eligible.tolist()),
            expected_quality=float(belief.mean[row]),
            uncertainty=float(belief.sd[row]),
            relative_cost=float(self._catalogue().relative_costs()[row]),
            budget={"compute_budget": float(compute_budget), **limits},
            policy=type(self.policy or policy).__name__,
            catalogue_hash=self.catalogue_hash_,
            encoder_hash=self.encoder_.projection_hash(),
            sentence=view.sentence(),
        )
        self.pending_[decision.id] = decision
        _trim(self.pending_, _MOST_PENDING)
        return decision

    def predict(self, X: Any) -> NDArray[np.str_]:
        """Return the id of the arm with the best score for each task, shape (n,)."""
        scores = self.decision_function(X)
        scores[:, ~self._catalogue().mask()] = -np.inf
        return self.classes_[np.argmax(scores, axis=1)]

    def decision_function(self, X: Any) -> Array:
        """Return expected quality minus priced cost, shape (n, A)."""
        self._start()
        features = self.encoder_.transform(X)
        posterior = self._posterior(features.shape[1])
        return posterior.means(self.Z_, features) + self._cost_term()

    def predict_proba(self, X: Any) -> Array:
        """Return the probability with which ``recommend`` picks each arm, (n, A).

        The probability of being chosen, not of being good. Changes nothing.
        """
        self._start()
        eligible, cost_term = self._catalogue().mask(), self._cost_term()
        policy, rng = self._policy_now(), copy.deepcopy(self.rng_)
        rows = []
        for x in self.encoder_.transform(X):
            belief = self._posterior(len(x)).belief(self.Z_, x)
            rows.append(policy.probabilities(belief, cost_term, eligible, rng))
        return np.array(rows)

    def explain(
        self,
        task: Any,
        compute_budget: float = 1.0,
        *,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
    ) -> Explanation:
        """Explain what ``recommend`` would choose now, without choosing it.

        The same arguments and the same state of the random generator give the
        same arm. Changes nothing.
        """
        self._start()
        excluded = list(excluded)
        eligible = self._catalogue().mask(compute_budget, excluded, budget)
        reasons = self._catalogue().mask_reasons(compute_budget, excluded, budget)
        _, belief = self._believe(task)
        rng = copy.deepcopy(self.rng_)
        policy = self._policy_now()
        choice = policy.select(belief, self._cost_term(), eligible, rng)
        return self._view(task, belief, choice, eligible).explanation(reasons)

    # ---- saving ----

    def save(self, path: str | Path) -> None:
        """Save to a directory: ``manifest.json`` and one safetensors file.

        A saved and reloaded recommender gives the same scores bit for bit.
        """
        self._start()
        write_state(path, *snapshot.take(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        resume_rng: bool = False,
    ) -> BraidRecommender:
        """Load what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        catalogue : Catalogue, optional
            The one in use; refused when its hash differs from the saved one.
        encoder : TaskEncoder, optional
            Needed when the saved encoder had an ``embedder`` of its own. Its
            settings must be the saved ones; a copy takes over the fitted arrays.
        resume_rng : bool
            Continue the random sequence. By default it is seeded afresh, so that
            several processes loading one state do not explore in lockstep.

        Raises
        ------
        FileNotFoundError
            When nothing was saved there.
        ValueError
            When the state is damaged, of a newer format, or of another catalogue
            or encoder.
        """
        manifest, arrays = read_state(path)
        try:
            agent = cls(**snapshot.parameters(manifest, arrays, catalogue, encoder))
            agent._start()
            snapshot.fill(agent, manifest, arrays, resume_rng)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the manifest in {path} is damaged: {error!r}; restore a backup"
            ) from error
        return agent

    # ---- inside ----

    def _start(self) -> None:
        """Create the fitted attributes on first use; check the settings always."""
        check_price(self.price)
        if not 0.0 < self.forgetting <= 1.0:
            raise ValueError(f"forgetting lies in (0, 1], received {self.forgetting!r}")
        catalogue = self._catalogue()
        if hasattr(self, "catalogue_hash_"):
            if self.catalogue_hash_ != catalogue.hash:
                raise ValueError(
                    "the catalogue changed after learning began; make a new "
                    "recommender for it and fit it"
                )
            return
        encoder = self.encoder if self.encoder is not None else TaskEncoder()
        fitted = encoder.__sklearn_is_fitted__()
        self.encoder_ = encoder if fitted else clone(encoder)
        self._describe(None)
        self.arm_ids_ = catalogue.ids
        self.classes_ = np.array(catalogue.ids)
        self.rng_ = np.random.default_rng(self.random_state)
        self.posterior_ = None
        self.start_ = None
        self.baseline_ = None
        self._forget_rewards()
        self.catalogue_hash_ = catalogue.hash

    def _catalogue(self) -> Catalogue:
        if not isinstance(self.catalogue, Catalogue):
            raise ValueError(
                "BraidRecommender needs a catalogue, received "
                f"{type(self.catalogue).__name__}; give Catalogue.build(pool)"
            )
        return self.catalogue

    def _policy_now(self) -> Policy:
        """Return the policy for the next decision; a guard depends on the past."""
        policy = self.policy if self.policy is not None else ThompsonSampling()
        if not isinstance(policy, ConservativePolicy):
            return policy
        if self.savings_ is None:
            baseline = policy.baseline or self.baseline_
            if baseline is None:
                raise ValueError(
                    "ConservativePolicy needs a baseline: call warm_start with a table "
                    "that has single models, or give ConservativePolicy(baseline=...)"
                )
            self.savings_ = Savings(baseline)
        guarded = self.savings_.baseline
        departures = sum(
            self._departs(guarded, decision) for decision in self.pending_.values()
        )
        row = self._catalogue().index(guarded)
        return policy.at(row, self.savings_, departures)

    @staticmethod
    def _departs(baseline: str, decision: Decision) -> bool:
        """Whether a decision passed over a baseline that could have been chosen."""
        allowed = decision.eligible[decision.arm_ids.index(baseline)]
        return allowed and decision.braid.id != baseline

    def _save(self, decision: Decision, reward: float, back: bool = False) -> None:
        """Book a reward with the guard, or take it back."""
        policy, savings = self.policy, self.savings_
        if not isinstance(policy, ConservativePolicy) or savings is None:
            return
        kept = decision.braid.id == savings.baseline
        if kept or self._departs(savings.baseline, decision):
            book = savings.before if back else savings.after
            self.savings_ = book(decision.braid.id, reward, policy.share)

    def _cost_term(self) -> Array:
        return -self.price * self._catalogue().relative_costs()

    def _posterior(self, width: int) -> Posterior:
        """Return the posterior; created when the number of features is known."""
        if self.posterior_ is None:
            self.posterior_ = self._new_posterior(width)
        elif self.posterior_.groups.shape[1] != width:
            raise ValueError(
                f"received {width} task features, expected "
                f"{self.posterior_.groups.shape[1]}; use the encoder of the first call"
            )
        return self.posterior_

    def _new_posterior(self, width: int) -> Posterior:
        arms = len(self.Z_)
        return Posterior(
            parameter_groups(self.columns_, width),
            self.prior,
            n_arms=arms,
            own_width=width if arms * width <= self.max_parameters else 1,
        )

    def _is_single(self, row: int) -> bool:
        return self._catalogue().braids[row].is_single

    def _signatures(self, ids: Sequence[str], scores: Array) -> Array | None:
        """Return the columns of the single models, if the table has all of them."""
        place = {
            braid.anchor: column
            for column, braid in enumerate(self._catalogue()[i] for i in ids)
            if braid.is_single
        }
        models = self._catalogue().cards
        if any(name not in place for name in models):
            return None
        return scores[:, [place[name] for name in models]]

    def _describe(self, signatures: Array | None) -> None:
        """Set the descriptors, with the gains where the strands were probed."""
        catalogue = self._catalogue()
        Z, columns = catalogue.descriptors()
        if signatures is not None:
            braids, models = catalogue.braids, list(catalogue.cards)
            Z, columns = with_gains(Z, columns, braids, models, signatures)
        self.Z_, self.columns_ = Z, tuple(columns)
        self.signatures_ = signatures

    def _forget_rewards(self) -> None:
        self.posterior_ = None if self.start_ is None else self.start_.copy()
        self.n_updates_, self.ledger_position_ = 0, 0
        self.pending_ = {}
        self.settled_ = {}
        self.savings_ = None
        self.surprises_ = np.zeros((2, len(self.arm_ids_)))

    def _fit_encoder(self, X: Any) -> None:
        """Fit the encoder once; the random projection served until now."""
        if not self.encoder_.__sklearn_is_fitted__():
            self.encoder_.fit(X)
            self.posterior_, self.pending_ = None, {}

    def _check_rows(
        self, X: Any, y: Any, reward: Any, sample_weight: Any
    ) -> tuple[list[int], Array, Array]:
        """Check labels, rewards and weights before anything is touched."""
        if y is None:
            raise ValueError("fit needs the arm of each task (y), or a ledger")
        arms = [arm.id if isinstance(arm, Braid) else str(arm) for arm in y]
        rows = [self._catalogue().index(arm) for arm in arms]
        rewards = np.ones(len(rows)) if reward is None else np.asarray(reward, float)
        if sample_weight is None:
            weights = np.ones(len(rows))
        else:
            weights = np.asarray(sample_weight, dtype=np.float64)
        shape = (len(X),)
        if not shape == (len(rows),) == rewards.shape == weights.shape:
            raise ValueError(
                f"received {len(X)} tasks, {len(rows)} arms, rewards "
                f"{rewards.shape} and weights {weights.shape}; expected equal lengths"
            )
        for value in rewards:
            check_quality(value)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("sample_weight must be finite and at least 0")
        return rows, rewards, weights

    def _learn_rows(
        self, X: Any, rows: tuple[list[int], Array, Array]
    ) -> BraidRecommender:
        features = self.encoder_.transform(X)
        posterior = self._posterior(features.shape[1]).copy()
        n_updates = self.n_updates_
        for arm, x, reward, weight in zip(rows[0], features, *rows[1:], strict=True):
            if weight > 0:
                posterior.update(arm, self.Z_[arm], x, float(reward), float(weight))
                n_updates += 1
                self._maintain(posterior, n_updates)
        self.posterior_, self.n_updates_ = posterior, n_updates
        return self

    def _maintain(self, posterior: Posterior, n_updates: int) -> None:
        # Both factor the whole covariance, so they are done for many updates at
        # once; counted in updates, so that a replay does them at the same places.
        if self.forgetting < 1.0 and n_updates % _FORGET_EVERY == 0:
            posterior.forget(self.forgetting**_FORGET_EVERY)
        if n_updates >= _REFINE_FROM and n_updates & (n_updates - 1) == 0:
            posterior.refine_scales()

    def _watch(self, posterior: Posterior, row: int, surprise: float) -> None:
        """Widen what is believed of an arm that has changed, and say so."""
        if self.drift is None:
            return
        self.surprises_, alarm = self.drift.watch(self.surprises_, row, surprise)
        if alarm:
            posterior.widen(row, self.drift.widen)
            warnings.warn(
                f"the rewards of arm {self.arm_ids_[row]} have moved away from what "
                "was learnt; its variance was widened. If everything changes slowly, "
                "use forgetting below 1",
                DriftWarning,
                stacklevel=3,
            )

    def _features_of(self, decision: Decision) -> tuple[int, Array]:
        """Return row and features of a decision made under this very set-up."""
        row = self._catalogue().index(decision.braid.id)
        encoder_hash = self.encoder_.projection_hash()
        if decision.encoder_hash != encoder_hash:
            raise ValueError(
                f"decision {decision.id!r} was made with encoder "
                f"{decision.encoder_hash}, this recommender has {encoder_hash}; its "
                "features mean something else. Load the state it was made with"
            )
        return row, np.array(decision.x, dtype=np.float64)

    def _pending_decision(self, decision_id: str) -> Decision:
        if decision_id not in self.pending_:
            raise KeyError(
                f"no pending decision {decision_id!r}; {len(self.pending_)} are "
                "pending. Give the Decision itself, for example from the ledger"
            )
        return self.pending_[decision_id]

    def _believe(self, task: Any) -> tuple[Array, Belief]:
        """Return the features of one task and the belief about every arm."""
        one = task[None, :] if isinstance(task, np.ndarray) and task.ndim == 1 else None
        x = self.encoder_.transform([task] if one is None else one)[0]
        return x, self._posterior(len(x)).belief(self.Z_, x)

    def _view(
        self, task: Any, belief: Belief, choice: Choice, eligible: Any
    ) -> ChoiceView:
        return ChoiceView(
            self._catalogue(), self.Z_, self.columns_, belief, choice,
            self._cost_term(), eligible, self.encoder_.nearest_type(task),
        )  # fmt: skip


def _trim(records: dict[str, Any], most: int) -> None:
    """Drop the oldest records beyond ``most``."""
    while len(records) > most:
        del records[next(iter(records))]
