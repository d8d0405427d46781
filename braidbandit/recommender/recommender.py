"""BraidRecommender: learns which braid of language models to use for each task."""

from __future__ import annotations

import copy
import operator
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from braidbandit._checks import check_number, check_reward, check_weight, same
from braidbandit._named import in_rows, ordered
from braidbandit._random import RandomSequence
from braidbandit.bandit.guard import ConservativePolicy, Savings
from braidbandit.bandit.logged_value import logged_value
from braidbandit.bandit.policies import Policy
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.limits import NO_LIMITS, Budget, Limits
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Event, new_id
from braidbandit.recommender import saving
from braidbandit.recommender.arm_model import DEFAULT_POLICY, ArmModel
from braidbandit.recommender.asking import AskingPace, check_rate, worth_of_rating
from braidbandit.recommender.comparing import Answer, compared, key_of
from braidbandit.recommender.conversations import (
    Conversations,
    Weighing,
    check_conversation,
)
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.encoder_in_use import EncoderInUse
from braidbandit.recommender.explanation import ChoiceView, Explanation
from braidbandit.recommender.feedback_log import Learnt
from braidbandit.recommender.ledger_sync import LedgerSync, check_encoder
from braidbandit.recommender.objectives import Pacer, check_measurement
from braidbandit.recommender.overrides import chosen_by_person
from braidbandit.recommender.proposal import Proposal
from braidbandit.recommender.rows import (
    arm_ids_of,
    check_rows,
    check_table,
    decision_id_of,
)
from braidbandit.recommender.scoring import Situation, assess, cost_of
from braidbandit.recommender.settings import LearningSettings, check_settings
from braidbandit.recommender.state_files import pack, read_state, unpack, write_state
from braidbandit.tasks.encoder import TaskEncoder, task_hash

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.float64]

_SETTINGS = (
    "catalogue",
    "encoder",
    "policy",
    "price",
    "mean_cost",
    "prior",
    "forgetting",
    "max_parameters",
    "drift",
    "random_state",
    "switching_cost",
)
_OF_ENCODER = (
    *TaskEncoder().get_params(),
    "components_",
    "mean_",
    "gates_",
    "letters_",
    "letters_mean_",
)
# Settings of the posterior: another one has another shape, or other scales.
_SHAPE = ("prior", "max_parameters")


class BraidRecommender(BaseEstimator):
    """Contextual bandit over a catalogue of braids: tasks in, decisions out.

    Quality is modelled as ``r = z' W x + noise`` with ``z`` the braid's descriptor
    and ``x`` the task's features, so a reward on one braid informs every related
    braid. ``predict`` is greedy and changes nothing; ``recommend`` explores;
    ``update`` draws nothing. It has no lock: threads that share it must take turns.

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
        no more parameters than this. May be changed when ``prior`` may.
    drift : DriftMonitor, optional
        Watches for arms whose rewards have moved; none by default.
    random_state : None, int, Generator or RandomState
        For ``recommend``; 0 is a seed like any other. Another one takes effect at once.
        With None, every process that was forked, or got a copy, draws for itself.
    switching_cost : float, optional
        Quality given up to keep the arm of a conversation rather than move to another.
        By default what reading the conversation anew costs at the prices of the call:
        as much as an answer, until answers of both kinds were timed.

    Attributes
    ----------
    arm_model_ : ArmModel
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
        Sequence number of the last event of a ledger that was learnt.
    n_decisions_ : int
        Decisions committed by this object.
    conversations_ : Conversations
        The newest 1,000.
    asking_ : AskingPace
        What a rating was worth of late.

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

    arm_model_: ArmModel
    draws_: RandomSequence
    catalogue_hash_: str
    pacer_: Pacer
    n_decisions_: int
    conversations_: Conversations
    asking_: AskingPace
    _in_use: EncoderInUse
    _checked: tuple[tuple[Any, ...], tuple[Any, ...]] | None

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
        switching_cost: float | None = None,
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
        self.switching_cost = switching_cost

    # ---- what was learnt ----

    @property
    def posterior_(self) -> Posterior | None:
        """Posterior of quality; None until a task was seen."""
        quality = self.arm_model_.quality
        return None if quality is None else quality.posterior

    @property
    def classes_(self) -> NDArray[Any]:
        """The arm ids, in the order of the catalogue."""
        return np.array(self.arm_model_.catalogue.ids)

    @property
    def arm_ids_(self) -> tuple[str, ...]:
        """The arm ids as text."""
        return self.arm_model_.catalogue.ids

    @property
    def baseline_(self) -> str | None:
        """Id of the best single model of the warm start."""
        return self.arm_model_.account.baseline

    @property
    def savings_(self) -> Savings | None:
        """What a ConservativePolicy may risk; None without one, or a baseline."""
        return self.arm_model_.account.savings

    @property
    def surprises_(self) -> Array:
        """Sums of the drift monitor, shape (2, A)."""
        return self.arm_model_.surprises

    @property
    def encoder_(self) -> TaskEncoder:
        """The encoder in use."""
        return self._in_use.encoder

    @property
    def encoder_hash_(self) -> str:
        """Hash of the encoder whose features the posterior knows."""
        return self._in_use.hash

    @property
    def Z_(self) -> Array:
        """Descriptors of the arms, shape (A, m)."""
        return self.arm_model_.descriptors

    @property
    def rng_(self) -> np.random.Generator:
        """The generator that ``recommend`` draws from."""
        return self.draws_.generator

    @property
    def n_updates_(self) -> int:
        """Rewards in the posterior, the warm start not counted."""
        quality = self.arm_model_.quality
        return 0 if quality is None else quality.n_updates

    @property
    def ledger_position_(self) -> int:
        """Sequence number of the last event of a ledger that was learnt."""
        return self.arm_model_.position

    @property
    def pending_(self) -> dict[str, Decision]:
        """Decisions without a reward."""
        return self.arm_model_.log.pending

    @property
    def settled_(self) -> dict[str, float]:
        """Rewards that were learnt, by decision id."""
        return self.arm_model_.log.settled

    @property
    def feedback_counts_(self) -> dict[str, int]:
        """How often feedback was learnt, repeated, revised, retracted, expired."""
        return self.arm_model_.log.counts

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
        conversation: str | None = None,
    ) -> Decision:
        """Choose a braid for one task; works before any fit.

        Advances the random generator, and notes that the decision is pending: until
        its reward comes, further decisions count its arm as explored.

        Parameters
        ----------
        task : str, dict or ndarray of shape (d,)
        compute_budget : float in [0, 1]
            Highest relative cost: 0 allows the cheapest arms only.
        budget : Budget, optional
            Absolute limits.
        excluded : iterable of arm ids, or mapping from arm id to reason
            Explanations give the reason.
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
        conversation : str, optional
            Id of the conversation that the task is a turn of: its arm is kept unless
            another is expected to earn more over the rest of it than the switch costs.
            ``Decision.conversation`` has both, and says why it moved if it did. The
            newest 1,000 conversations are known.

        Returns
        -------
        Decision
        """
        proposal = self.propose(
            task,
            compute_budget,
            budget,
            excluded,
            eligible=eligible,
            preference=preference,
            accuracy_target=accuracy_target,
            conversation=conversation,
        )
        self.commit(proposal)
        return proposal.decision

    def propose(
        self,
        task: Any,
        compute_budget: float = 1.0,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
        *,
        eligible: ArrayLike | None = None,
        preference: Mapping[str, float] | None = None,
        accuracy_target: float | None = None,
        conversation: str | None = None,
    ) -> Proposal:
        """Choose a braid without deciding yet: nothing changes.

        For callers that write a decision down before it counts: if that fails, they
        do not commit it, and nothing has to be undone.

        Parameters
        ----------
        task, compute_budget, budget, excluded, eligible, preference, accuracy_target,
        conversation
            As for :meth:`recommend`.

        Returns
        -------
        Proposal
            For :meth:`commit`, before another decision is committed.
        """
        given = compute_budget, budget, excluded, eligible, preference, accuracy_target
        limits = NO_LIMITS if _is_free(given) else Limits(*given)
        view, place = self._choose(task, limits, conversation, ahead=True)
        model, catalogue = self.arm_model_, self.arm_model_.catalogue
        now, choice, turn = view.now, view.choice, view.turn
        row, belief, latency = choice.arm, now.belief, now.latency
        saved, default = model.account.savings, None
        if saved is not None:
            default = float(belief.mean[model.rows[saved.baseline]])
        braid, hashed, sentence = (
            catalogue.braids[row],
            task_hash(task),
            view.sentence(),
        )
        decision = Decision(
            id=new_id(),
            task_hash=hashed,
            x=tuple(now.x.tolist()),
            braid=braid,
            propensity=choice.propensity,
            propensity_se=choice.propensity_se,
            arm_ids=catalogue.ids,
            # Arrays here; the record makes tuples of them when they are read.
            scores=view.scores,  # type: ignore[arg-type]
            eligible=now.eligible,  # type: ignore[arg-type]
            expected_quality=float(belief.mean[row]),
            uncertainty=view.uncertainty,
            relative_cost=float(model.relative_costs[row]),
            budget=dict(limits.record),
            policy=type(self.policy or DEFAULT_POLICY).__name__,
            catalogue_hash=self.catalogue_hash_,
            encoder_hash=self._in_use.hash,
            sentence=sentence,
            version=len(model.versions.get(braid.id, ())),
            expected_latency_ms=None if latency is None else float(latency[row]),
            default_quality=default,
            conversation=None if turn is None else turn.to_dict(),
        )
        return Proposal(decision, self.n_decisions_, self.draws_.generator, place)

    def commit(self, proposal: Proposal) -> Self:
        """Decide as proposed: the generator advances, and a reward is waited for.

        Raises
        ------
        ValueError
            When another decision was committed since, or the random generator is
            another one now: propose again.
        """
        if proposal.after != self.n_decisions_:
            raise ValueError(
                f"decision {proposal.decision.id!r} was proposed before another one "
                "was committed, with the same random numbers; propose again"
            )
        if proposal.generator is not self.draws_.generator:
            raise ValueError(
                f"decision {proposal.decision.id!r} was proposed elsewhere, or with "
                "random numbers that are no longer in use; propose again"
            )
        decision, first = proposal.decision, proposal.first
        if first is not None:
            self.arm_model_.log.to_override(first)
            self.arm_model_.log.override(first.id, decision.id)
        self.n_decisions_ += 1
        self.draws_.advance_to(proposal.place)
        self.arm_model_.await_reward(decision)
        if decision.conversation is not None:
            self.conversations_.note(decision)
        self._pace(decision, first)
        return self

    def override(self, decision: Decision | str, arm: Braid | str) -> Decision:
        """Note that a person chose another arm than a decision has.

        The new decision is the person's: nothing was drawn, so its policy is "person"
        and off-policy evaluation leaves it out. Its reward is learnt as any other, of
        the arm that was served. The first decision was not served: no reward of it is
        waited for, and a guard books neither.

        Parameters
        ----------
        decision : Decision or str
            One that waits for a reward, or its id; a person's own too. One of another
            recommender is given as a Decision. What waits is kept without the other
            arms, so by id ``scores`` and ``eligible`` are of now: all that are fit.
        arm : Braid or str
            Any arm of the catalogue, or its id. It need not have been eligible: a
            person may go beyond a budget, and ``Decision.eligible`` still says so where
            the whole decision is given.

        Returns
        -------
        Decision
            With the id of the first one as ``instead_of``.

        Raises
        ------
        KeyError
            On an arm that is not in the catalogue, an id that is not waited for, or a
            decision that expired.
        ValueError
            When the decision has this arm, has a reward, or was overridden already.
        """
        proposal = self.propose_override(decision, arm)
        self.commit(proposal)
        return proposal.decision

    def ask(self, decision: Decision | str, rate: float = 0.1) -> bool:
        """Say whether to ask a person for the rating of an answer, and note it.

        By chance, with a known probability: on average the rate that a person puts up
        with, more where a rating is expected to change more of what is chosen for
        tasks like this, and at least a quarter of it anywhere. The same decision gets
        the same reply. A rating that nobody asked for is welcome all the same.

        Parameters
        ----------
        decision : Decision or str
            One that waits for a reward, or its id. The arm may have been removed
            meanwhile: its rating is worth least.
        rate : float in [0, 1]
            Share of the answers to ask about.

        Returns
        -------
        bool
            False where the reward is known already.

        Raises
        ------
        KeyError
            On an id that is unknown, or a decision that expired or was overridden.
        """
        asked = self.propose_ask(decision, rate)
        if asked is None:
            return False
        self.commit_ask(decision, asked)
        return bool(asked["asked"])

    def propose_ask(
        self, decision: Decision | str, rate: float = 0.1
    ) -> dict[str, Any] | None:
        """Return what :meth:`ask` would note, or has; None where a reward is known."""
        rate = check_rate(rate)
        self.start()
        model, log = self.arm_model_, self.arm_model_.log
        decision_id = decision_id_of(decision)
        if decision_id in log.settled:
            return None
        log.refuse_overridden(decision_id)
        found = decision
        here = decision_id in log.pending or decision_id in log.expired
        if here or isinstance(found, str):
            found = log.decision(decision_id)
        if found.asked is not None:
            return found.asked
        check_encoder(found, self._in_use.hash)
        x, worth = np.array(found.x), 0.0
        model.require(len(x))
        if found.braid.id not in model.removed:
            row = self._catalogue().index(found.braid.id)
            worth = worth_of_rating(model, x, row, self._cost_term(x))
        return self.asking_.consider(decision_id, worth, rate)

    def commit_ask(self, decision: Decision | str, asked: Mapping[str, Any]) -> Self:
        """Note what :meth:`propose_ask` returned; twice counts once."""
        decision_id, log = decision_id_of(decision), self.arm_model_.log
        noted = log.pending.get(decision_id, decision)
        if isinstance(noted, str) or noted.asked is None:
            self.asking_ = self.asking_.after(asked)
        log.note_asked(decision_id, dict(asked))
        return self

    def propose_override(self, decision: Decision | str, arm: Braid | str) -> Proposal:
        """Return what :meth:`override` would note, without noting it."""
        self.start()
        decision_id_of(decision)
        model = self.arm_model_
        first = model.log.to_override(decision)
        check_encoder(first, self._in_use.hash)
        row = self._catalogue().index(arm_ids_of([arm])[0])
        if first.braid.id == model.catalogue.ids[row]:
            raise ValueError(
                f"decision {first.id!r} has {model.labels[row]} already; to override "
                "it, choose another arm"
            )
        x = np.array(first.x)
        scores = model.means(x[None, :])[0] + self._cost_term(x)
        second = chosen_by_person(model, first, row, scores)
        draws = self.draws_
        place = draws.ahead().bit_generator.state
        return Proposal(second, self.n_decisions_, draws.generator, place, first)

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
        conversation: str | None = None,
    ) -> Explanation:
        """Explain what ``recommend`` would choose now, without choosing it.

        The same arguments and the same state of the random generator give the
        same arm. Changes nothing.
        """
        given = compute_budget, budget, excluded, eligible, preference, accuracy_target
        view, _ = self._choose(task, Limits(*given), conversation)
        return view.explanation()

    def predict(self, X: Any) -> NDArray[np.str_]:
        """Return the id of the arm with the best score for each task, shape (n,)."""
        scores = self.decision_function(X)
        scores[:, ~self._catalogue().mask()] = -np.inf
        return self.classes_[np.argmax(scores, axis=1)]

    def decision_function(self, X: Any) -> Array:
        """Return expected quality minus priced cost, shape (n, A)."""
        self.start()
        features = self.encoder_.features(X)
        means = self.arm_model_.means(features)
        return means + np.array([self._cost_term(x) for x in features])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability with which ``recommend`` picks each arm, (n, A).

        The probability of being chosen, not of being good. Changes nothing.
        """
        self.start()
        # The same draws for every row: it does not depend on the rows before it.
        rows = [self.choice_probabilities(x) for x in self.encoder_.features(X)]
        return np.array(rows)

    def choice_probabilities(self, x: Array, limits: Limits | None = None) -> Array:
        """Return the probability of each arm for one row of features, shape (A,).

        Parameters
        ----------
        x : ndarray of shape (k,)
            Of ``encoder_``, such as ``Decision.x``.
        limits : Limits, optional

        Raises
        ------
        ValueError
            When no arm is left.
        """
        self.start()
        model, limits = self.arm_model_, NO_LIMITS if limits is None else limits
        now = assess(model, x, limits, self.price, self.pacer_.price)
        policy, rng = model.policy_now(), self.draws_.copy()
        return policy.probabilities(now.belief, now.cost_term, now.eligible, rng)

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

    # ---- learning from rows, and from a table ----

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn rows from scratch, keeping only the encoder and the warm start.

        A ledger is learnt by :meth:`sync`.

        Parameters
        ----------
        X : list of tasks
        y : sequence of arm ids or Braid
            The arm each task was given.
        reward : array of shape (n,) in [0, 1], optional
            None means 1 for every row: imitation of good choices.
        propensity : array of shape (n,) in (0, 1], optional
            Probability with which the logged arm was chosen; checked, and used by
            ``score`` only, as the posterior conditions on the arm that was chosen.
        sample_weight : array of shape (n,), optional
            From 1e-6 to 1e6, or 0 to leave a row out; divides its noise variance.

        Notes
        -----
        Columns of data frames are brought into the order of the rows of ``X``: by its
        labels, or by its texts.
        """
        self.start(anew=True)
        given = {"reward": reward, "propensity": propensity}
        arms, rewards, weights = self._rows(X, y, sample_weight, given)
        model, in_use = self.arm_model_, self._in_use.fitted(X)
        self._check_anew(())
        features = in_use.encoder.features(X)
        with self._reading(in_use):
            if model.start is None:
                model.adopt(self.prior, self.max_parameters)
                model.describe(None)  # there may be other arms by now
            model.forget_rewards()
            model.learn_rows(arms, features, rewards, weights)
        model.tell()
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn more rows; see :meth:`fit`."""
        first = not hasattr(self, "arm_model_") or self.arm_model_.quality is None
        self.start()
        given = {"reward": reward, "propensity": propensity}
        arms, rewards, weights = self._rows(X, y, sample_weight, given)
        in_use = self._in_use.fitted(X) if first else self._in_use
        features, model = in_use.encoder.features(X), self.arm_model_
        with self._reading(in_use):
            model.learn_rows(arms, features, rewards, weights)
        model.tell()
        return self

    def warm_start(self, X: Any, arm_ids: Sequence[str], table: Any) -> Self:
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
        table : array or data frame of shape (n, B) in [0, 1]
            Quality of each arm on each task, NaN where it was not scored; a row or
            column without any score is refused. The columns and rows of a data frame
            are put in the order of ``arm_ids`` and ``X``.
        """
        self.start(anew=True)
        ids = ordered(arm_ids, "arm_ids")
        arms, scores = check_table(X, ids, table, self._catalogue())
        learnt = self.n_updates_ + len(self.arm_model_.log.judged)
        if learnt:
            raise ValueError(
                f"warm_start comes before any update; {learnt} rewards were "
                "learnt already. Use a new recommender, then sync(ledger)"
            )
        in_use = self._in_use.fitted(X)
        features = in_use.encoder.features(X)
        with self._reading(in_use):
            self.arm_model_.adopt(self.prior, self.max_parameters)
            self.arm_model_.learn_table(arms, features, scores)
        return self

    # ---- learning from decisions, and from a ledger ----

    def sync(
        self,
        ledger: Ledger,
        since: int | datetime | None = None,
        *,
        anew: bool = False,
        event: Event | None = None,
    ) -> Self:
        """Learn what a ledger holds beyond ``ledger_position_``, in its order.

        Outcomes and comparisons are learnt, revisions replaced and retractions taken
        back exactly;
        what was learnt live is recognised and skipped. Where something can no longer
        be taken back exactly (see :meth:`retract`), everything is learnt anew from
        what the ledger now says. Outcomes of arms that the catalogue never had are
        passed over, with a warning.

        Parameters
        ----------
        ledger : Ledger
        since : int or datetime, optional
            Skip the events up to this sequence number, or the outcomes that were
            measured before this time (with a zone).
        anew : bool
            Forget the rewards learnt so far, but not the warm start, and learn the
            whole ledger. That gives the same posterior as the live updates gave. Only
            arms that were retrained may differ: they are widened at the first
            decision of each new version. Decisions without an outcome are still
            waited for.
        event : Event, optional
            What was just written to the ledger. It is not read back, unless there
            are earlier events, by others, that were not learnt yet.

        Raises
        ------
        ValueError
            At an outcome of another encoder; what came before it is learnt.
        """
        if not isinstance(ledger, Ledger):
            raise TypeError(f"sync takes a Ledger, received {type(ledger).__name__}")
        self.start(anew=anew)
        model, sync = self.arm_model_, self._sync()
        if anew:
            self._check_anew(("max_parameters",))
            with model.all_or_nothing():
                model.adopt(self.prior, self.max_parameters)
                model.begin_anew()
                passed_over = sync.read(ledger, since)
        else:
            passed_over = sync.read(ledger, since, event)
        _tell_of_ledger(model, passed_over)
        return self

    def learn_event(self, event: Event) -> Self:
        """Learn one event of a ledger, wherever it stands; see :meth:`sync`."""
        self.start()
        _tell_of_ledger(self.arm_model_, self._sync().learn(event))
        return self

    def replica(self, **settings: Any) -> Self:
        """Return a copy with other settings that has learnt the warm start only.

        It draws the same random numbers, in another process too.
        """
        other = copy.deepcopy(self).set_params(**settings).start()
        other.arm_model_.forget_rewards()
        other.draws_.resume(self.draws_.copy())
        return other

    def resume(self, ledger: Ledger) -> Self:
        """Catch up with what was written to a ledger after the state was saved.

        Outcomes are learnt, open decisions are waited for, and all of them count
        for ``mean_cost``.
        """
        self.start()
        model, sync = self.arm_model_, self._sync()
        saved = model.log.newest()
        passed_over = sync.read(ledger)
        sync.wait(ledger, saved)
        for decision in ledger.decided_after(saved):
            self.conversations_.note(decision)
            if decision.asked is not None:
                self.asking_ = self.asking_.after(decision.asked)
            first = None
            if decision.instead_of is not None:
                first = _found(ledger, decision.instead_of)
                model.log.override(decision.instead_of, decision.id)
            self._pace(decision, first)
        _tell_of_ledger(model, passed_over)
        return self

    def update(
        self,
        decision: Decision | str,
        reward: float | bool,
        *,
        weight: float = 1.0,
        latency_ms: float | None = None,
        compute: float | None = None,
    ) -> Self:
        """Learn how one decision turned out; it may come late and in any order.

        The very same reward again is ignored, and counted in
        ``feedback_counts_["repeated"]``. A reward of an arm that was retrained since
        counts less; one of an arm that was removed informs its relatives.

        Parameters
        ----------
        decision : Decision or str
            The decision, or the id of a pending one.
        reward : float in [0, 1] or bool
            Quality. Cost must not be in it: costs are applied to the scores.
        weight : float
            From 1e-6 to 1e6; divides the noise variance.
        latency_ms, compute : float, optional
            What it took, above 0; compute in any unit, but always the same.

        Raises
        ------
        KeyError
            On an unknown or expired decision id, or an unknown arm.
        TypeError, ValueError
            On a reward outside [0, 1], a second and different reward for the same
            decision, a decision of another encoder, or one so old that it is not
            known whether its reward was learnt (older than the newest 100,000
            rewards, and not pending). Whatever is raised, nothing has changed; but a
            warning that a filter makes an error comes after all is learnt.
        """
        quality, weight = check_reward(reward), check_weight(weight)
        latency_ms = check_measurement("latency_ms", latency_ms)
        compute = check_measurement("compute", compute)
        self.start()
        model, log = self.arm_model_, self.arm_model_.log
        if log.is_repeat(decision_id_of(decision), quality):
            return self
        found = log.decision(decision) if isinstance(decision, str) else decision
        check_encoder(found, self._in_use.hash)
        model.refuse_if_gone(found)
        model.learn(
            Learnt(found, quality, weight, latency_ms=latency_ms, compute=compute)
        )
        model.tell()
        return self

    def revise(self, decision: Decision | str, reward: float | bool) -> Self:
        """Replace a learnt reward exactly, as if this one had come in its place.

        See :meth:`retract` for what can be revised.
        """
        quality = check_reward(reward)
        self.start()
        decision_id_of(decision)
        model = self.arm_model_
        model.revise(model.record_of(decision), quality)
        return self

    def retract(self, decision: Decision | str) -> Self:
        """Take a learnt reward back exactly; the decision then waits for one again.

        The id is enough for the newest 500 rewards. An older one needs the whole
        decision, as kept by the ledger, no forgetting, and no weight or measurement
        in any of the older ones. A reward of an arm that was retrained or removed
        since is refused, even where it came back: its part in the posterior can no
        longer be told apart. So is one beyond the newest 100,000; ``sync`` looks these
        up in the ledger.
        """
        self.start()
        decision_id_of(decision)
        model = self.arm_model_
        model.unlearn(model.record_of(decision))
        return self

    def prefer(
        self,
        better: Answer,
        worse: Answer,
        strength: float = 1.0,
        source: str = "user",
    ) -> Self:
        """Learn which of two answers to one task is the better one.

        What the two have in common cancels: how hard the task is, and how strict the
        judge. The decisions still wait for a reward, which may come too. Comparisons in
        a circle (a over b, b over c, c over a) are fine: people differ, and what is
        learnt lies between.

        Parameters
        ----------
        better, worse : Decision, Braid or str
            Two decisions on the same task; or one decision, and the arm whose answer
            was shown beside it without a decision of its own. Either may be given by
            its id: that of a decision that waits, or one of the newest that were
            learnt.
        strength : float in (0, 1]
            1 for a plain statement, less for one that is less sure: half of a
            statement at 0.5. Equally good answers are no comparison.
        source : str
            Who compared. The same source on the same two answers counts once; several
            sources count each.

        Raises
        ------
        KeyError
            On an unknown decision or arm.
        TypeError, ValueError
            On decisions of different tasks or of another encoder, one answer given
            twice, two answers of one arm, two arms without a decision, a strength
            outside (0, 1], a source without a name, or another comparison of the two by
            the same source: :meth:`retract_comparison` comes first then. Nothing has
            changed then.

        Notes
        -----
        See section 10 of ``docs/math.md``. An answer of an arm that was retrained since
        counts less; one of an arm that was removed informs its relatives, and can no
        longer be taken back. A :class:`ConservativePolicy` books rewards only, and the
        drift monitor watches these only. Where several sources compare the same
        answers, those that disagree with the rest count less.
        """
        self.start()
        model = self.arm_model_
        given = compared(better, worse, strength, source, model, self._known_decision)
        comparison, decision = given
        if not model.log.is_same_judgement(comparison):
            check_encoder(decision, self._in_use.hash)
            model.compare(decision, comparison)
            model.tell()
        return self

    def retract_comparison(
        self, one: Answer, other: Answer, *, source: str = "user"
    ) -> Self:
        """Take back what a source said of two answers, given in either order.

        Its part in the posterior is removed exactly. Possible for the newest 500
        comparisons, of arms that were not retrained or removed since; of any other, and
        of what was never compared, a ValueError says what to do.
        """
        self.start()
        self.arm_model_.uncompare(key_of(one, other, source))
        return self

    def expire(self, before: datetime | Decision | str) -> list[str]:
        """Stop waiting for decisions made before a time, or for one; return their ids.

        A reward that comes later is refused by id; the Decision itself is learnt.
        Until then a guard takes it for 0.
        """
        self.start()
        return self.arm_model_.expire(before)

    def forget_decisions(self, before: datetime) -> Self:
        """Drop the decisions made before a time, with their features; for a purge.

        What was learnt from them stays, but can no longer be revised or taken back by
        id. Those that waited for a reward are waited for no longer; a guard takes them
        for 0.
        """
        self.start()
        self.arm_model_.forget_decisions(before)
        self.conversations_.forget(before)
        return self

    # ---- arms that come, change and go ----

    def add_arms(
        self, braids: Iterable[Braid], cards: Iterable[ModelCard] = ()
    ) -> Self:
        """Add braids; each starts from what its relatives taught, not from nothing.

        Parameters
        ----------
        braids : iterable of Braid
        cards : iterable of ModelCard
            Cards of models the catalogue does not have yet; with ``parameters``,
            where all cards of the catalogue have them.
        """
        self.start()
        catalogue = self._catalogue().with_braids(braids, cards)
        self.arm_model_.add(catalogue)
        self._take_over(catalogue)
        return self

    def remove_arms(self, arms: Iterable[Braid | str]) -> Self:
        """Remove braids. What they taught about their relatives stays."""
        self.start()
        catalogue = self._catalogue().without(arm_ids_of(arms))
        self.arm_model_.remove(catalogue)
        self._take_over(catalogue)
        return self

    def retrain(self, arm: Braid | str, share: float = 0.5) -> Self:
        """Note that a braid was trained anew: its mean stays, its variance grows.

        Parameters
        ----------
        arm : Braid or str
        share : float in [0, 1)
            How far it may have moved, as a share of the variance with which models
            differ.
        """
        if not 0.0 <= check_number("share", share) < 1.0:
            raise ValueError(f"share must lie in [0, 1), received {share!r}")
        self.start()
        arm_id = arm.id if isinstance(arm, Braid) else arm
        self._catalogue().index(arm_id)
        self.arm_model_.retrain(arm_id, float(share))
        return self

    def keep_retrained(self, other: BraidRecommender) -> Self:
        """Note which arms were trained anew in another recommender of the same arms.

        They are widened as a ledger is learnt that the other one has learnt, too: call
        it before :meth:`resume`.

        Parameters
        ----------
        other : BraidRecommender
        """
        self.start()
        self.arm_model_.rewind(other.start().arm_model_.retrained())
        return self

    # ---- keeping ----

    def save(self, path: str | Path | Ledger) -> None:
        """Save to a directory: ``manifest.json`` and one safetensors file.

        Or to a :class:`Ledger`, which keeps the newest three. A saved and reloaded
        recommender gives the same scores bit for bit.
        """
        self.start()
        state = saving.to_state(
            self.get_params(),
            self.arm_model_,
            self.encoder_,
            self.pacer_,
            self.rng_,
            self.conversations_,
            self.asking_,
        )
        if isinstance(path, Ledger):
            path.write_snapshot(self.ledger_position_, *pack(*state))
        else:
            write_state(path, *state)

    @classmethod
    def load(
        cls,
        path: str | Path | Ledger,
        *,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        resume_rng: bool = False,
    ) -> Self:
        """Load what :meth:`save` wrote.

        Parameters
        ----------
        path : str, Path or Ledger
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
        if isinstance(path, Ledger):
            text, blob = path.read_snapshot()
            manifest, arrays = unpack(text, blob, "the snapshot in the ledger")
        else:
            manifest, arrays = read_state(path)
        try:
            manifest, arrays = saving.newest(manifest, arrays)
            agent = cls(**saving.parameters(manifest, arrays, catalogue, encoder))
            agent.start()
            if resume_rng:
                agent.draws_.resume(saving.generator(manifest))
            else:
                agent.draws_.reseed()
            agent.arm_model_.restore(saving.learnt(manifest, arrays, agent.arm_model_))
            agent.pacer_ = Pacer(**manifest["pacer"])
            agent.conversations_ = saving.conversations(manifest)
            agent.asking_ = AskingPace(**manifest["asking"])
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"the manifest in {path} is damaged: {error!r}; restore a backup"
            ) from error
        return agent

    # ---- inside ----

    def start(self, anew: bool = False) -> Self:
        """Make ready to learn on first use, and check the settings.

        Every other method calls it; ``anew`` says that learning is about to begin
        again, with other settings.
        """
        if not anew and self._is_as_checked():
            return self
        self._checked = None  # until all is checked, and in force
        check_settings(vars(self))
        catalogue = self._catalogue()
        if not hasattr(self, "arm_model_"):
            self._begin(catalogue)
        elif self.catalogue_hash_ != catalogue.hash:
            raise ValueError(
                "the catalogue changed after learning began; use add_arms and "
                "remove_arms, or make a new recommender for it and fit it"
            )
        model = self.arm_model_
        self._in_use.check_kept(self.encoder, model.quality is not None)
        if model.quality is not None and not anew and self._other_shape():
            raise ValueError(
                f"{self._other_shape()} changed after learning began; that takes "
                "effect with fit or warm_start only. Set them back, or learn anew"
            )
        model.reorder(catalogue)
        # These may be changed at any time by set_params.
        model.follow(self._settings())
        self.draws_.follow(self.random_state)
        if not anew:
            self._checked = (self._in_force(), self._contents())
        return self

    def _is_as_checked(self) -> bool:
        """Whether settings, encoder and arms are those that were checked last."""
        checked = vars(self).get("_checked")
        if checked is None or self.arm_model_.quality is None:
            return False
        things, contents = checked
        same_things = all(map(operator.is_, things, self._in_force()))
        return same_things and contents == self._contents()

    def _in_force(self) -> tuple[Any, ...]:
        """Return what a decision depends on, to be compared by identity."""
        model, mine = self.arm_model_, vars(self)
        return (
            *[mine[name] for name in _SETTINGS],
            model.settings,
            model.catalogue,
            *[vars(e).get(name) for e in self._encoders() for name in _OF_ENCODER],
        )

    def _contents(self) -> tuple[Any, ...]:
        """Return what may be changed in place, to be compared by value."""
        unfit = len(self.arm_model_.catalogue.unfit)
        return (unfit, *[tuple(encoder.types) for encoder in self._encoders()])

    def _encoders(self) -> tuple[TaskEncoder, ...]:
        given, used = self.encoder, self._in_use.encoder
        return (used,) if given is None or given is used else (used, given)

    def _begin(self, catalogue: Catalogue) -> None:
        draws = RandomSequence(self.random_state)  # refuses what is no seed
        self._in_use = EncoderInUse(self.encoder)
        self.arm_model_ = ArmModel(catalogue, self._settings(), self.encoder_.blocks())
        self.draws_, self.catalogue_hash_ = draws, catalogue.hash
        self.pacer_, self.n_decisions_ = Pacer(), 0
        self.conversations_, self.asking_ = Conversations(), AskingPace()

    def _settings(self) -> LearningSettings:
        return LearningSettings(
            self.policy, self.prior, self.forgetting, self.max_parameters, self.drift
        )

    def _other_shape(self) -> list[str]:
        """Return the settings that differ from those the posterior was made with."""
        made = self.arm_model_.settings
        return [n for n in _SHAPE if not same(getattr(self, n), getattr(made, n))]

    def _take_over(self, catalogue: Catalogue) -> None:
        """Go on with another catalogue."""
        self.catalogue, self.catalogue_hash_ = catalogue, catalogue.hash

    def _catalogue(self) -> Catalogue:
        if not isinstance(self.catalogue, Catalogue):
            raise ValueError(
                "BraidRecommender needs a catalogue, received "
                f"{type(self.catalogue).__name__}; give Catalogue.build(pool)"
            )
        return self.catalogue

    @contextmanager
    def _reading(self, in_use: EncoderInUse) -> Generator[None, None, None]:
        """Learn with this encoder's features; all is as it was if an error ends it."""
        model, other = self.arm_model_, in_use is not self._in_use
        with model.all_or_nothing():
            if other:  # a random projection served until now
                model.read_blocks(in_use.encoder.blocks())
                model.forget_pending()
            yield
        if other:
            self._in_use = in_use
            self.conversations_.forget()

    def _check_anew(self, fixed: tuple[str, ...]) -> None:
        """Refuse settings that learning from scratch would not take over."""
        warm = self.arm_model_.start is not None
        lost = [n for n in self._other_shape() if warm or n in fixed]
        if self.arm_model_.quality is not None and lost:
            raise ValueError(
                f"{lost} changed after learning began, and fit keeps "
                f"{'the warm start' if warm else 'the arms'} with the first ones. Set "
                "them back, or make a new recommender"
            )

    def _rows(
        self, X: Any, y: Any, sample_weight: Any, others: Mapping[str, Any]
    ) -> tuple[list[int], Array, Array]:
        """Check rows that are to be learnt before anything is touched."""
        self.arm_model_.policy_now()  # refuses a guard that has no baseline
        given = {**others, "sample_weight": sample_weight}
        return check_rows(X, y, given, self._catalogue())

    def _known_decision(self, decision: Decision | str) -> Decision:
        """Return a decision, by its id only while it waits or is among the newest."""
        if isinstance(decision, Decision):
            return decision
        log = self.arm_model_.log
        if decision in log.learnt:
            return log.learnt[decision].decision
        return log.decision(decision)

    def _sync(self) -> LedgerSync:
        return LedgerSync(self.arm_model_, self._in_use.hash)

    def _assess(
        self, task: Any, limits: Limits, conversation: str | None
    ) -> tuple[Situation, tuple[str, float] | None]:
        """Return what is known for one choice, and the type of the task."""
        self.start()
        one = task[None, :] if isinstance(task, np.ndarray) and task.ndim == 1 else None
        x = self.encoder_.features([task] if one is None else one)[0]
        kind = self.encoder_.type_of(task, x)
        if conversation is not None:
            x = self.conversations_.features(conversation, x)
        return assess(self.arm_model_, x, limits, self.price, self.pacer_.price), kind

    def _choose(
        self,
        task: Any,
        limits: Limits,
        conversation: str | None,
        ahead: bool = False,
    ) -> tuple[ChoiceView, Mapping[str, Any]]:
        """Return one choice with all that went into it, and where its draws end."""
        if conversation is not None:
            conversation = check_conversation(conversation)
        now, kind = self._assess(task, limits, conversation)
        model, turn = self.arm_model_, None
        policy = model.policy_now()
        rng = self.draws_.ahead() if ahead else self.draws_.copy()
        choice = policy.select(now.belief, now.cost_term, now.eligible, rng)
        if conversation is not None:
            known, cost = self.conversations_, self.switching_cost
            weighing = Weighing(known, model, self.price, cost)
            choice, turn = weighing.turn(conversation, now, choice, policy, rng)
        view = ChoiceView(model, now, choice, kind, turn)
        return view, rng.bit_generator.state

    def _pace(self, decision: Decision, first: Decision | None) -> None:
        """Count the cost of a decision; one that was not served has cost nothing."""
        if self.mean_cost is None:
            return
        saved = 0.0 if first is None else self.mean_cost - first.relative_cost
        self.pacer_.spend(decision.relative_cost + saved, self.mean_cost)

    def _cost_term(self, x: Array) -> Array:
        return cost_of(self.arm_model_, x, self.price, self.pacer_.price)


def _is_free(given: tuple[Any, ...]) -> bool:
    """Whether limits are those of a call that gives none."""
    compute_budget, budget, excluded, *others = given
    free = isinstance(compute_budget, float) and compute_budget == 1.0
    free = free and isinstance(excluded, tuple) and not excluded
    return free and all(value is None for value in (budget, *others))


def _found(ledger: Ledger, decision_id: str) -> Decision | None:
    """Return a decision of a ledger; None where it was purged."""
    try:
        return ledger.decision(decision_id)
    except KeyError:
        return None


def _tell_of_ledger(model: ArmModel, passed_over: Sequence[str]) -> None:
    """Give the warnings of reading a ledger, once all is learnt."""
    if passed_over:
        arms = ", ".join(sorted(set(passed_over))[:3])
        model.notice(
            f"{len(passed_over)} outcomes or comparisons in the ledger were passed "
            f"over: their arms are not in the catalogue ({arms}). After add_arms, "
            "sync(ledger, anew=True) learns them too"
        )
    model.tell(stacklevel=4)
