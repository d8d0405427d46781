"""MetaBraider: the whole loop, from a task to a braid, its text, and what it taught."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import ArrayLike
from sklearn.base import clone

from braidbandit._checks import check_reward, check_source
from braidbandit._forks import process_id, tell_of_forks
from braidbandit._random import seeded
from braidbandit.agent.braid_builder import (
    BraidBuilder,
    check_settings,
    completed,
    dtype_in,
    source_of,
)
from braidbandit.agent.purging import purge_folder
from braidbandit.agent.served_model import ServedModel
from braidbandit.agent.servers import Servers
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard, as_cards
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.limits import BY_CALLER, Budget
from braidbandit.catalogue.profile import Profile
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Event, Outcome
from braidbandit.recommender.comparing import Answer, compared, key_of
from braidbandit.recommender.explanation import Explanation
from braidbandit.recommender.objectives import as_quality, check_price
from braidbandit.recommender.recommender import BraidRecommender
from braidbandit.recommender.rows import decision_id_of
from braidbandit.recommender.saving import purged
from braidbandit.tasks.encoder import TaskEncoder, is_hash_of, said_in
from braidbandit.tasks.packaged import load_tasks, without_answer

if TYPE_CHECKING:
    from fusion import BraidedLLM, CalibrationReport, Pool

_LOG = logging.getLogger(__name__)

# Outcomes between two saves of the policy; they are learnt again from the ledger in
# less time than one save takes.
_SAVE_EVERY = 20
_PRICE = 0.05
_MOST_PROMPTS = 300  # of calibration texts, for the encoder to be fitted on


class MetaBraider:
    """An agent that chooses, builds and learns braids of language models.

    Parameters
    ----------
    model_pool : iterable of dict, ModelCard or str
        A dict has "model_name" and "domain", and optionally "source" (hub id, folder
        or GGUF file) and "role". What a card does not say of a model's size is read
        from the model's configuration. A model that a server answers for has "endpoint"
        and "price", see :class:`ModelCard`; it is an arm alone.
    catalogue : Catalogue, optional
        What to choose from; by default built from the pool.
    recommender : BraidRecommender, optional
        Used as it is, in place of a saved or new one; brings its own catalogue,
        encoder, price and random_state, which are then not given here.
    encoder : TaskEncoder, optional
        By default the folder's, or sentence embeddings. An encoder that is not fitted
        is fitted on the prompts of the packaged train tasks and of the calibration
        texts that are given; no reward enters.
    ledger : Ledger, optional
        By default ``ledger.sqlite`` in the folder. A ledger belongs to one agent.
    folder : str or Path, optional
        Everything is kept here: ``ledger.sqlite``, ``policy/``, ``store/`` (trained
        fusers) and ``embeddings/`` (of tasks, by the default encoder). A folder that
        was used before is resumed: it brings its catalogue and its calibration
        settings, every outcome its ledger holds is learnt, decisions without one are
        waited for, and all count for ``mean_cost``. None keeps everything until the
        end.
    calibration_texts : sequence, optional
        What fusers are trained on, and the encoder beside the packaged tasks; by
        default the packaged texts. Text, or dicts with "prompt" and "reference".
    dtype : str, optional
        Numbers that strands compute with: "float32" (default) or "bfloat16", which is
        faster on some processors; `fusion.strands.machine.fastest_dtype` measures it.
    layer_sets, strategies, shares : sequences, optional
        Which braids of the pool to choose from; see :meth:`Catalogue.build`. Without
        effect on a folder that is resumed: where it has other braids, a warning says
        so.
    profiles : mapping from name to Profile, optional
        What :func:`braidbandit.profile` measured of the pool: costs are then predicted
        seconds per token, and memory is what was measured. A folder that is resumed
        keeps the costs that learning began with; a warning says so.
    price : float, optional
        Quality given up to go from the dearest arm to the cheapest. By default 0.05,
        or what the folder has.
    keep_text : bool
        Keep the text of tasks in the ledger, redacted by ``Ledger(redact=...)`` if it
        was given one. By default only their hash and features are kept there; see
        :meth:`purge` for what is in the folder.
    random_state : None or int
        With a number, a resumed agent continues its random sequence too, and so does
        every process that is forked; another number than before begins a new one.
        With None each process explores by itself.

    Attributes
    ----------
    recommender : BraidRecommender
    ledger : Ledger
    folder : Path

    Raises
    ------
    ValueError
        When a model's source is unknown, the folder belongs to another pool, or an
        argument would be ignored because of another.

    Examples
    --------
    A pool whose cards say everything needs no model until a braid is built:

    >>> size = {"parameters": 10**8, "layers": 12, "width": 64, "vocab_size": 1000}
    >>> pool = [{"model_name": "general-7b", "domain": "general", **size},
    ...         {"model_name": "coder-7b", "domain": "code", **size}]
    >>> encoder = TaskEncoder(embedder=lambda texts: [[len(t), 1.0] for t in texts])
    >>> catalogue = Catalogue.build(pool, layer_sets=("output",))
    >>> agent = MetaBraider(
    ...     pool, recommender=BraidRecommender(catalogue, encoder, random_state=0))
    >>> task = {"type": "code", "complexity": 0.7}
    >>> decision = agent.forward(task, compute_budget=0.5)
    >>> agent.learn_from_feedback(task, decision, 4 / 5).ledger.counts()
    {'decisions': 1, 'outcomes': 1, 'pending': 0}
    >>> agent.close()
    """

    def __init__(
        self,
        model_pool: Iterable[ModelCard | Mapping[str, Any] | str],
        *,
        catalogue: Catalogue | None = None,
        recommender: BraidRecommender | None = None,
        encoder: TaskEncoder | None = None,
        ledger: Ledger | None = None,
        folder: str | Path | None = None,
        calibration_texts: Sequence[Any] | None = None,
        dtype: str | None = None,
        layer_sets: Sequence[str] | None = None,
        strategies: Sequence[str] | None = None,
        shares: Sequence[tuple[float, ...]] | None = None,
        profiles: Mapping[str, Profile] | None = None,
        price: float | None = None,
        keep_text: bool = False,
        random_state: int | None = None,
    ) -> None:
        enumerated: dict[str, Any] = {
            "layer_sets": layer_sets,
            "strategies": strategies,
            "shares": shares,
            "profiles": profiles,
        }
        learning: dict[str, Any] = {
            "encoder": encoder,
            "price": price,
            "random_state": random_state,
        }
        _check_given(catalogue, recommender, ledger, enumerated, learning)
        check_settings(calibration_texts, dtype)
        if recommender is not None:
            catalogue = recommender.start().catalogue
        exact = catalogue is not None
        pool = as_cards(model_pool)
        catalogue, sources = _choices(
            pool, catalogue, enumerated, dtype_in(folder, dtype)
        )
        self._served = Servers(pool)
        self.keep_text = keep_text
        self._lock = threading.RLock()
        self._saved: int | None = None
        self._open(folder, ledger)
        try:
            texts = self._texts = calibration_texts
            recommender = recommender or _recommender_of(
                self.folder, catalogue, exact, texts, **learning
            )
            self.recommender = recommender.start()
            self._warn_of_unused(catalogue, enumerated)
            self._builder = BraidBuilder(sources, self.folder, texts, dtype)
            tell_of_forks(self)
            # The saved policy is a cache: learn what the ledger holds beyond it.
            self.recommender.resume(self.ledger)
            self.save()
            _LOG.info("%s: %d rewards learnt", self.folder, self.recommender.n_updates_)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: str | Path | None, ledger: Ledger | None) -> None:
        """Open the folder, a temporary one by default, and its ledger."""
        temporary = tempfile.mkdtemp() if folder is None else None
        self.folder = Path(folder or str(temporary)).expanduser().absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger = ledger or Ledger(self.folder / "ledger.sqlite")
        own = None if ledger else self.ledger
        self._drop = partial(_drop, temporary, process_id())
        self._finalizer = weakref.finalize(self, _close, own, self._drop)

    # ---- the loop ----

    def forward(
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
        """Choose a braid for a task. No model is loaded.

        The decision is in the ledger before it is returned. A served model that gave no
        answer is out for one minute, and longer each time: it is not chosen meanwhile.

        Parameters
        ----------
        task : str or dict
            Text, or a dict with "text" (or "prompt"), "type", "complexity" (0 to 1)
            and "capabilities".
        compute_budget : float in [0, 1]
            0 allows the cheapest braids only, 1 all.
        budget, excluded, eligible, preference, accuracy_target, conversation : optional
            As for :meth:`BraidRecommender.recommend`.

        Raises
        ------
        ValueError
            On an empty prompt, or a budget that no braid meets.
        """
        text = said_in(task) if self.keep_text else None
        with self._lock:
            proposal = self.recommender.propose(
                task,
                compute_budget,
                budget,
                self._excluded(excluded) if self._served.outages else excluded,
                eligible=eligible,
                preference=preference,
                accuracy_target=accuracy_target,
                conversation=conversation,
            )
            # A decision counts only once it is in the ledger.
            self.ledger.record_decision(proposal.decision, text)
            self.recommender.commit(proposal)
        decision = proposal.decision
        _LOG.debug("%s: %s", decision.id, decision)
        return decision

    def override(self, decision: Decision | str, arm: Braid | str) -> Decision:
        """Note that a person chose another arm than :meth:`forward` did.

        See :meth:`BraidRecommender.override`. The ledger has it before it counts: in
        one step with the first decision, which is no longer waited for.

        Parameters
        ----------
        decision : Decision or str
            The decision, or its id.
        arm : Braid or str
            One of the catalogue's braids, or its arm id.

        Returns
        -------
        Decision
            The person's: build and rate this one.
        """
        with self._lock:
            decided = decision.id if isinstance(decision, Decision) else decision
            first = self.ledger.decision(decided)
            text = self.ledger.text(first.id) if self.keep_text else None
            proposal = self.recommender.propose_override(first, arm)
            self.ledger.record_decision(proposal.decision, text)
            self.recommender.commit(proposal)
        _LOG.debug("%s: %s", proposal.decision.id, proposal.decision)
        return proposal.decision

    def ask(self, decision: Decision | str, rate: float = 0.1) -> bool:
        """Say whether to ask a person for the rating of an answer; the ledger keeps it.

        See :meth:`BraidRecommender.ask`.

        Parameters
        ----------
        decision : Decision or str
            The decision, or its id.
        rate : float in [0, 1]
            Share of the answers that a person is asked about.
        """
        with self._lock:
            if decision_id_of(decision) not in self.recommender.settled_:
                # By another agent, it does not wait here; the ledger knows it.
                decision = self._decision_of(decision)
            asked = self.recommender.propose_ask(decision, rate)
            if asked is None:
                return False
            asked = self.ledger.record_asked(decision, asked)
            self.recommender.commit_ask(decision, asked)
        return bool(asked["asked"])

    def create_braided_model(
        self, decision: Decision | Braid | str
    ) -> BraidedLLM | ServedModel:
        """Build the braid of a decision, ready to generate.

        Strands are loaded once and shared by all braids. Fusers are calibrated on
        first use, which can take minutes (with a bar, where standard error is a
        terminal); everything trained is kept in the folder.
        A braid that calibration finds no better than its anchor is masked in the
        catalogue, a warning is given, and the anchor alone is returned; no feedback on
        it is learnt of the braid.

        A served model is returned at once, and asked when it generates. Where it gives
        no answer, an :class:`EndpointError` says why, its arm is out for a while, and
        the decision expires without a reward, unless it was given one before: call
        :meth:`forward` again.

        Parameters
        ----------
        decision : Decision, Braid or str
            A decision, one of the catalogue's braids, or its arm id.
        """
        braid = self._braid_of(decision)
        if self._is_served(braid):
            decided = decision.id if isinstance(decision, Decision) else None
            return self._served.model(braid, decided, self._gave_up)
        if braid.id not in self.catalogue.unfit and braid not in self._builder:
            self.calibrate(braid, progress=_is_watched())
        unfit = self.catalogue.unfit
        if braid.id in unfit:
            warnings.warn(
                f"{braid.label()} is unfit ({unfit[braid.id]}); {braid.anchor} alone "
                "answers instead",
                stacklevel=2,
            )
            return self._builder[Braid(braid.anchor)]
        return self._builder[braid]

    def learn_from_feedback(
        self,
        task: Any,
        decision: Decision | str,
        performance: float | bool | Callable[[Any, Any], float],
        *,
        output: Any = None,
        latency_ms: float | None = None,
        compute: float | None = None,
        source: str = "user",
    ) -> MetaBraider:
        """Learn how well a decision turned out.

        The outcome is written to the ledger first, then learnt; the policy is saved now
        and then, and by :meth:`close`. A crash at any point loses nothing: the next
        agent learns the rest from the ledger. The same feedback twice counts once.
        Feedback on an unfit braid, in whose place its anchor answered, is not recorded:
        a warning says so, and the decision waits until :meth:`expire`.

        Parameters
        ----------
        task : str, dict or None
            The task of the decision; None where it is no longer at hand.
        decision : Decision or str
            The decision, or its id.
        performance : float in [0, 1], bool or callable
            Quality, such as ``stars / 5``; or a function of ``(task, output)``.
        output : optional
            What the braid wrote; needed by a callable only.
        latency_ms, compute : float, optional
            Measured costs. Those above 0 are learnt: what later calls expect of
            latency and compute, for budgets and preferences, comes from them. Of a
            served model, what is not given is what its answers in this process took:
            their time, and their money as compute.
        source : str
            Who measured.

        Returns
        -------
        MetaBraider
            The agent itself.

        Raises
        ------
        KeyError
            On a decision that is not in the ledger.
        ValueError, TypeError
            On a performance outside [0, 1] or NaN, another task than the decision's,
            or a second, different outcome. Whatever is raised, nothing has changed.
        """
        found = self._decision_of(decision)
        check_source(source)
        if task is not None and not is_hash_of(found.task_hash, task):
            raise ValueError(
                f"decision {found.id!r} was made for another task; give the task "
                f"that forward received, not {task!r}"
            )
        if callable(performance) and (task is None or output is None):
            raise ValueError("a callable judges task and output: give both")
        if callable(performance):
            # Without the lock: a judge may be slow, and others go on meanwhile.
            performance = as_quality(performance, task, output)
        if self._is_served(found.braid):
            latency_ms, compute = self._measured(found, latency_ms, compute)
        outcome = Outcome(found.id, performance, latency_ms, compute, source)
        with self._lock:
            if self._was_not_shown(found):
                return self
            event = self.ledger.record_outcome(outcome, found)
            self._learn(event)
        _LOG.debug("%s was worth %.3f", found.id, outcome.reward)
        return self

    def prefer(
        self,
        better: Answer,
        worse: Answer,
        strength: float = 1.0,
        source: str = "user",
    ) -> MetaBraider:
        """Learn which of two answers to one task is the better one.

        For an answer that was asked for again, or two that were shown side by side. As
        with :meth:`learn_from_feedback`, it is in the ledger before it is learnt, and
        the same comparison twice counts once.

        Parameters
        ----------
        better, worse : Decision, Braid or str
            Two decisions on the same task; or one decision, and the arm whose answer
            was shown beside it without a decision of its own. Either may be given by
            its id.
        strength : float in (0, 1]
            1 for a plain statement, less for one that is less sure.
        source : str
            Who compared; each source counts once for the same two answers.

        Raises
        ------
        KeyError
            On a decision that is not in the ledger, or an unknown arm.
        TypeError, ValueError
            As for :meth:`BraidRecommender.prefer`. Whatever is raised, nothing has
            changed.

        Warns
        -----
        UserWarning
            Where one of the two braids is unfit: its anchor answered in its place, so
            the comparison is not recorded.
        """
        model = self.recommender.arm_model_
        comparison, decision = compared(
            better, worse, strength, source, model, self._decision_of
        )
        for arm_id in (comparison.better, comparison.worse):
            if arm_id in self.catalogue.unfit:
                warnings.warn(
                    f"the comparison is not learnt: {arm_id} is unfit "
                    f"({self.catalogue.unfit[arm_id]}) and was not shown, its anchor "
                    "alone answered",
                    stacklevel=2,
                )
                return self
        with self._lock:
            event = self.ledger.record_comparison(comparison, decision)
            self._learn(event)
        return self

    def retract_comparison(
        self, one: Answer, other: Answer, *, source: str = "user"
    ) -> MetaBraider:
        """Take back what a source said of two answers, given in either order.

        Raises
        ------
        KeyError
            When the source never compared them.
        """
        with self._lock:
            event = self.ledger.retract_comparison(key_of(one, other, source))
            self._learn(event)
        return self

    def revise(self, decision: Decision | str, reward: float | bool) -> MetaBraider:
        """Replace the reward of a decision, as if it had been this one at first.

        Raises
        ------
        KeyError
            On a decision that is unknown or has no outcome.
        ValueError, TypeError
            On a reward outside [0, 1].
        """
        reward = check_reward(reward)
        found = self._decision_of(decision)
        with self._lock:
            self._learn(self.ledger.revise(found, reward))
        return self

    def retract(self, decision: Decision | str) -> MetaBraider:
        """Take back the reward of a decision, as if it had never been given.

        The decision then waits for feedback again. The same twice counts once.

        Raises
        ------
        KeyError
            On a decision that is unknown or never had an outcome.
        """
        found = self._decision_of(decision)
        with self._lock:
            self._learn(self.ledger.retract(found))
        return self

    def expire(self, before: datetime | Decision | str) -> int:
        """Stop waiting for decisions made before a time, or for one; returns how many.

        Feedback that comes later is refused.
        """
        with self._lock:
            late = self.ledger.expire(before)
            self.recommender.expire(before)
            self.save()
        return late

    def purge(self, before: datetime, *, records: bool = False) -> int:
        """Delete what is old: the texts of tasks, or the whole records.

        From the ledger, see :meth:`Ledger.purge`, and from every file of the folder:
        the saved policy, and copies and exports of ledger and policy that somebody put
        there (what is kept there in other formats is not touched). All embeddings are
        deleted, new ones too, also from the encoder's own ``cache_dir``: they do not
        say which task they belong to, and are computed again when they are needed.

        What remains is what was learnt: the posterior, the encoder's projection if it
        was fitted on such tasks, and under which ids rewards were learnt.

        Parameters
        ----------
        before : datetime
            With a zone. What was decided earlier is deleted.
        records : bool
            Delete decisions and outcomes too, with features and hashes. What was learnt
            from them can then no longer be revised or taken back, and is lost when the
            policy is learnt anew from the ledger.

        Returns
        -------
        int
            Texts, or decisions, that were deleted from the ledger.

        Raises
        ------
        OSError
            When something could not be removed, such as pages of the ledger that
            somebody is reading: it is named, and the rest is done. Purge again.
        """
        with self._lock:
            try:
                gone = self.ledger.purge(
                    before, records=records, edit_policy=partial(purged, before=before)
                )
            except OSError:
                self._purge_folder(before, records)
                raise
            self._purge_folder(before, records)
        return gone

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
        """Explain what :meth:`forward` would choose now, without choosing it.

        Parameters as for :meth:`forward`.
        """
        with self._lock:
            return self.recommender.explain(
                task,
                compute_budget,
                budget,
                self._excluded(excluded) if self._served.outages else excluded,
                eligible=eligible,
                preference=preference,
                accuracy_target=accuracy_target,
                conversation=conversation,
            )

    # ---- models ----

    @property
    def catalogue(self) -> Catalogue:
        """What is chosen from, with the unfit braids marked."""
        return self.recommender.arm_model_.catalogue

    @property
    def outages(self) -> dict[str, str]:
        """Arms whose server gave no answer lately, and until when they are out."""
        return self._served.out()

    @property
    def strands(self) -> Pool:
        """The loaded strands by name; a strand is loaded when it is first asked for."""
        return self._builder.strands

    def warm_start(
        self, tasks: Sequence[Any], arm_ids: Sequence[str], table: Any
    ) -> MetaBraider:
        """Start from tasks that were scored on arms, and learn the ledger anew.

        Until something was decided, an encoder that this agent fitted is fitted once
        more, on these tasks too: it then tells apart what they differ in.

        Parameters
        ----------
        tasks : list of n tasks
        arm_ids : sequence of B arm ids
        table : array or data frame of shape (n, B) in [0, 1]
            As for :meth:`BraidRecommender.warm_start`, with the same errors.
        """
        with self._lock:
            old = self.recommender
            settings: dict[str, Any] = {
                **old.get_params(deep=False),
                "encoder": self._encoder_for(tasks),
            }
            fresh = BraidRecommender(**settings).warm_start(tasks, arm_ids, table)
            fresh.keep_retrained(old).resume(self.ledger)
            self.recommender = fresh
            self.save()
        return self

    def _encoder_for(self, tasks: Sequence[Any]) -> TaskEncoder:
        """Return the encoder, fitted on the tasks too where that harms nothing."""
        encoder = self.recommender.encoder_
        if self.ledger.counts()["decisions"]:
            return encoder  # features of these are in the ledger
        known, copied = _known_tasks(self._texts), cast(Any, clone(encoder))
        if copied.fit(known).projection_hash() != encoder.projection_hash():
            return encoder  # somebody else fitted it
        return cast(TaskEncoder, copied.fit([*known, *tasks]))

    def calibrate(
        self, braid: Braid | str, *, progress: bool = False
    ) -> CalibrationReport | None:
        """Build one braid and train its fusers, or read them from the folder.

        Returns
        -------
        CalibrationReport or None
            None for a model alone, which has nothing to train.
        """
        braid = self._braid_of(braid)
        if self._is_served(braid):
            return None
        judged = partial(self._judge, braid)
        try:
            report = self._builder.build(braid, progress=progress, judged=judged)
        finally:
            if not self._finalizer.alive:  # closed meanwhile
                self._drop()
        _LOG.info("built %s: %s", braid.label(), report or "nothing to train")
        return report

    # ---- keeping ----

    def save(self) -> None:
        """Save the policy to the folder by atomic replace."""
        with self._lock:
            self.recommender.save(self.folder / "policy")
            self._saved = self.recommender.ledger_position_

    def close(self) -> None:
        """Save, and close the ledger, unless it was given; drop a temporary folder."""
        with self._lock:
            if self._saved is not None and self._finalizer.alive:
                self.save()
            self._served.close()
            self._finalizer()

    def __enter__(self) -> MetaBraider:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- forks ----

    def before_fork(self) -> None:
        """Wait until no other thread is in the middle of a change."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; the child process gets a new one."""
        if in_child:
            self._lock = threading.RLock()
            self._builder.after_fork()
            self._served.after_fork()
        else:
            self._lock.release()

    # ---- inside ----

    def _excluded(self, excluded: Iterable[str]) -> Iterable[str]:
        """Add the arms that are out to those that the caller excludes."""
        if isinstance(excluded, str):
            return excluded  # which is refused
        out = self._served.out()
        out = {arm: why for arm, why in out.items() if arm in self.catalogue}
        if not isinstance(excluded, Mapping):
            excluded = dict.fromkeys(excluded, BY_CALLER)
        return {**out, **excluded} if out else excluded

    def _is_served(self, braid: Braid) -> bool:
        card = self.catalogue.cards.get(braid.anchor)
        if card is None or card.endpoint is None:
            return False
        self._served.cards.setdefault(card.name, card)  # it may have come since
        return True

    def _gave_up(self, decision_id: str) -> None:
        """Stop waiting for a decision that no server answered."""
        with self._lock:
            if not self._finalizer.alive:
                return  # closed meanwhile
            try:
                self.ledger.expire(decision_id)
                self.recommender.expire(decision_id)
            except Exception:  # what the server did is said by another error
                _LOG.warning("%s could not expire", decision_id, exc_info=True)

    def _measured(
        self, decision: Decision, latency_ms: float | None, compute: float | None
    ) -> tuple[float | None, float | None]:
        """Return measurements as given, else as the answers of a server took."""
        measured: tuple[float | None, float | None] = None, None
        used = self._served.used.get(decision.id)
        if decision.id in self.recommender.settled_:
            # The same feedback again: it is compared with what it was at first.
            known = self.ledger.said_before(
                decision.id, self.ledger.last_sequence() + 1
            )
            if known is not None:
                measured = known.latency_ms, known.compute
        elif used is not None:
            measured = 1000 * used.seconds, used.money
        return (
            measured[0] if latency_ms is None else latency_ms,
            measured[1] if compute is None else compute,
        )

    def _purge_folder(self, before: datetime, records: bool) -> None:
        if records:
            self.recommender.forget_decisions(before)
        self.recommender.encoder_.forget_embeddings()
        self.save()
        purge_folder(self.folder, before, records=records, besides=self.ledger.path)

    def _learn(self, event: Event | None) -> None:
        """Learn an event that was just written; None where the ledger had it."""
        self.recommender.sync(self.ledger, event=event)
        if self.recommender.ledger_position_ - (self._saved or 0) >= _SAVE_EVERY:
            self.save()

    def _was_not_shown(self, decision: Decision) -> bool:
        """Whether the anchor alone answered in place of an unfit braid; warns if so."""
        braid, unfit = decision.braid, self.catalogue.unfit
        if braid.id not in unfit or decision.id in self.recommender.settled_:
            return False
        warnings.warn(
            f"the reward of decision {decision.id!r} is not learnt: {braid.label()} is "
            f"unfit ({unfit[braid.id]}) and was not shown, {braid.anchor} alone "
            "answered. It is not chosen again",
            stacklevel=3,
        )
        return True

    def _decision_of(self, decision: Decision | str) -> Decision:
        """Return a decision as it was made; refuse one that could not be learnt."""
        decision_id = decision.id if isinstance(decision, Decision) else decision
        model, waits = self.recommender.arm_model_, self.recommender.pending_
        # One that waits is in hand; any other the ledger knows.
        found = waits.get(decision_id) if isinstance(decision_id, str) else None
        if found is None:
            found = self.ledger.decision(decision_id)
        if found.braid.id not in model.rows and found.braid.id not in model.removed:
            self.catalogue.index(found.braid.id)
        encoder = self.recommender.encoder_hash_
        if found.encoder_hash != encoder:
            raise ValueError(
                f"decision {found.id!r} was made with encoder {found.encoder_hash}, "
                f"this agent has {encoder}; open the folder it was made in"
            )
        return found

    def _warn_of_unused(
        self, catalogue: Catalogue, enumerated: Mapping[str, Any]
    ) -> None:
        given = [name for name, value in enumerated.items() if value is not None]
        mine = {name: card.profile for name, card in self.catalogue.cards.items()}
        profiles = {name: card.profile for name, card in catalogue.cards.items()}
        if "profiles" in given and profiles != mine:
            warnings.warn(
                f"{self.folder} is resumed with the costs that its learning began "
                "with; the profiles have no effect on it. Use another folder",
                stacklevel=3,
            )
        given = [name for name in given if name != "profiles"]
        if given and set(self.catalogue.ids) != set(catalogue.ids):
            warnings.warn(
                f"{self.folder} is resumed with its own {self.catalogue!r}; {given} "
                "have no effect on it. Use add_arms and remove_arms, or another folder",
                stacklevel=3,
            )

    def _braid_of(self, decision: Decision | Braid | str) -> Braid:
        if isinstance(decision, Decision):
            decision = decision.braid
        if isinstance(decision, Braid):
            decision = decision.id
        if not isinstance(decision, str):
            raise TypeError(
                "expected a Decision, a Braid or an arm id, received "
                f"{type(decision).__name__}"
            )
        return self.catalogue[decision]

    def _judge(self, braid: Braid, report: CalibrationReport) -> None:
        """Mark a braid that calibration found no better than its anchor."""
        if report.fit:
            return
        reason = (
            f"{report.bits_after:.3f} bits per byte on held-out calibration text, "
            f"{braid.anchor} alone {report.bits_before:.3f}"
        )
        with self._lock:
            unfit = self.catalogue.with_unfit(braid.id, reason)
            self.recommender.set_params(catalogue=unfit).start()
            if self._finalizer.alive:
                self.save()


def _choices(
    cards: Sequence[ModelCard],
    catalogue: Catalogue | None,
    enumerated: Mapping[str, Any],
    dtype: str,
) -> tuple[Catalogue, dict[str, Any]]:
    """Return what to choose from, and where each model comes from."""
    sources = {card.name: source_of(card) for card in cards if not card.is_served}
    if catalogue is None:
        whole = [c if c.is_served else completed(c, sources, dtype) for c in cards]
        catalogue = Catalogue.build(whole, **enumerated)
    missing = sorted(set(catalogue.cards) - {card.name for card in cards})
    if missing:
        raise ValueError(f"the catalogue uses {missing}, not in the model pool")
    served = {name for name, card in catalogue.cards.items() if card.is_served}
    for card in cards:
        if card.name in catalogue.cards and card.is_served != (card.name in served):
            raise ValueError(
                f"{card.name!r} has an endpoint in the model pool or in the catalogue, "
                "and not in the other; give the same cards to both"
            )
    return catalogue, sources


def _check_given(
    catalogue: Catalogue | None,
    recommender: BraidRecommender | None,
    ledger: Ledger | None,
    enumerated: Mapping[str, Any],
    learning: Mapping[str, Any],
) -> None:
    """Refuse arguments that make no sense, or would be ignored because of others."""
    if learning["price"] is not None:
        check_price(learning["price"])
    seeded(learning["random_state"])
    if catalogue is not None and recommender is not None:
        raise ValueError("give a catalogue or a recommender, which has one; not both")
    if recommender is not None:
        _refuse({**enumerated, **learning}, "a recommender")
    elif catalogue is not None:
        _refuse(enumerated, "a catalogue")
    if ledger is not None and not isinstance(ledger, Ledger):
        raise TypeError(f"ledger is a Ledger, received {ledger!r}; give Ledger(url)")


def _recommender_of(
    folder: Path,
    catalogue: Catalogue,
    exact: bool,
    texts: Sequence[Any] | None,
    *,
    encoder: TaskEncoder | None,
    price: float | None,
    random_state: int | None,
) -> BraidRecommender:
    """Load the policy of a folder, or start one with a fitted encoder."""
    policy, kept = folder / "policy", folder / "embeddings"
    if not (policy / "manifest.json").exists():
        encoder = encoder or TaskEncoder(cache_dir=kept)
        if not encoder.__sklearn_is_fitted__():
            copied: Any = clone(encoder)
            encoder = copied.fit(_known_tasks(texts))
        return BraidRecommender(
            catalogue,
            encoder,
            price=_PRICE if price is None else price,
            random_state=random_state,
        )
    resume = random_state is not None
    agent = BraidRecommender.load(policy, encoder=encoder, resume_rng=resume)
    if encoder is None:
        agent.encoder_.set_params(cache_dir=kept)
    saved = agent.arm_model_.catalogue
    catalogue = _at_prices_of(saved, catalogue)
    if saved.cards != catalogue.cards or (exact and saved.hash != catalogue.hash):
        raise ValueError(
            f"{folder} was used with {saved!r}, received {catalogue!r}; give the same "
            "models, or another folder"
        )
    # Where models are served may be elsewhere today. What was measured stays: costs
    # describe the arms that were learnt of.
    cards = [
        replace(catalogue.cards[name], profile=card.profile)
        for name, card in saved.cards.items()
    ]
    saved = Catalogue(cards, saved.braids, {**saved.unfit, **catalogue.unfit})
    agent.set_params(catalogue=saved)
    if price is not None:
        agent.set_params(price=price)
    if None not in (random_state, agent.random_state):
        agent.set_params(random_state=random_state)
    return agent


def _known_tasks(texts: Sequence[Any] | None) -> list[Any]:
    """Return what an encoder is fitted on: packaged tasks, and given texts."""
    tasks: list[Any] = [without_answer(task) for task in load_tasks("train")]
    if texts is None:
        return tasks
    prompts = [text if isinstance(text, str) else text["prompt"] for text in texts]
    prompts = [prompt for prompt in prompts if prompt.strip()]
    return tasks + prompts[:: -(-len(prompts) // _MOST_PROMPTS) or 1]


def _at_prices_of(saved: Catalogue, given: Catalogue) -> Catalogue:
    """Return a catalogue with the prices at which learning began; warn of others.

    What was learnt of costs is relative to these. New prices count in what answers
    take, from which the difference is learnt.
    """
    others = {
        name: saved.cards[name].price
        for name, card in given.cards.items()
        if name in saved.cards and card.is_served and saved.cards[name].is_served
        if card.price != saved.cards[name].price
    }
    if not others:
        return given
    warnings.warn(
        f"the prices of {sorted(others)} are others than when learning began: answers "
        "are counted at the new ones, and the estimates before any answer stay at the "
        "former ones, or use another folder",
        stacklevel=4,
    )
    cards = [
        replace(card, price=others.get(name, card.price))
        for name, card in given.cards.items()
    ]
    return Catalogue(cards, given.braids, given.unfit)


def _refuse(given: Mapping[str, Any], owner: str) -> None:
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise ValueError(
            f"{owner} brings its own; {unused} would be ignored. Set them where it is "
            f"made, or do not give {owner}"
        )


def _is_watched() -> bool:
    """Whether somebody sees standard error; a program without a window has none."""
    shown: Any = sys.stderr
    return shown is not None and bool(shown.isatty())


def _close(ledger: Ledger | None, drop: Callable[[], None]) -> None:
    if ledger is not None:
        ledger.close()
    drop()


def _drop(temporary: str | None, process: str) -> None:
    """Remove a temporary folder; a process that was forked leaves it its parent."""
    if temporary is not None and process == process_id():
        shutil.rmtree(temporary, ignore_errors=True)
