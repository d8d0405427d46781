"""Tabular: learning from rows of a log, from a probe table, and from a whole ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit._checks import (
    as_floats,
    check_propensities,
    check_rewards,
    check_weights,
)
from braidbandit._named import in_columns, in_rows, ordered
from braidbandit.recommender.arm_model import arm_ids_of
from braidbandit.recommender.fitted import Fitted

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.float64]
Rows = tuple[list[int], Array, Array]


class Tabular(Fitted):
    """What a recommender learns at once, rather than decision by decision."""

    if TYPE_CHECKING:

        def catch_up(
            self, ledger: Any, since: int | datetime | None = None
        ) -> Self: ...
        def _read(self, ledger: Any) -> list[str]: ...
        def _tell_of_ledger(self, unknown: Sequence[str]) -> None: ...

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from scratch, keeping only the encoder and the warm start.

        Parameters
        ----------
        X : list of tasks, or a Ledger
            A ledger is learnt in its order, revisions and retractions included,
            which gives the very posterior that the live updates gave (but for arms
            that were retrained: they are widened where the version of their decisions
            rises). Decisions without an outcome are still waited for.
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
        self._start(anew=True)
        if _is_ledger(X, y, reward, propensity, sample_weight):
            self._check_anew(("max_parameters",))
            with self._all_or_nothing():
                self._adopt()
                self._begin_anew()
                unknown = self._read(X)
            self._tell_of_ledger(unknown)
            return self
        rows = self._check_rows(X, y, reward, propensity, sample_weight)
        self._check_anew(())
        self._fit_encoder(X)
        features = self.encoder_._features(X)
        if self.learner_.start is None:
            self._adopt()
            self.learner_.describe(None)  # there may be other arms by now
        with self._all_or_nothing():
            self._forget_rewards()
            self._learn_rows(features, rows)
        self.learner_.bandit.tell()
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        since: int | datetime | None = None,
    ) -> Self:
        """Learn more rows, or what is new in a ledger; see :meth:`fit`.

        ``since`` skips the beginning of a ledger; see :meth:`catch_up`.
        """
        first = not hasattr(self, "learner_") or not self.learner_.started
        self._start()
        if _is_ledger(X, y, reward, propensity, sample_weight):
            return self.catch_up(X, since)
        if since is not None:
            raise ValueError("since goes with a ledger; give partial_fit(ledger, ...)")
        rows = self._check_rows(X, y, reward, propensity, sample_weight)
        if first:
            self._fit_encoder(X)
        features = self.encoder_._features(X)
        with self._all_or_nothing():
            self._learn_rows(features, rows)
        self.learner_.bandit.tell()
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
            Quality of each arm on each task. The columns and rows of a data frame are
            put in the order of ``arm_ids`` and ``X``.
        """
        self._start(anew=True)
        ids = ordered(arm_ids, "arm_ids")
        rows, scores = self._check_table(X, ids, table)
        self._fit_encoder(X)
        self._adopt()
        self._learn_table(ids, rows, self.encoder_._features(X), scores)
        return self

    # ---- inside ----

    def _check_anew(self, fixed: tuple[str, ...]) -> None:
        """Refuse settings that learning from scratch would not take over."""
        warm = self.learner_.start is not None
        lost = [n for n in self._other_shape() if warm or n in fixed]
        if self.learner_.started and lost:
            raise ValueError(
                f"{lost} changed after learning began, and fit keeps "
                f"{'the warm start' if warm else 'the arms'} with the first ones. Set "
                "them back, or make a new recommender"
            )

    def _check_rows(
        self, X: Any, y: Any, reward: Any, propensity: Any, sample_weight: Any
    ) -> Rows:
        """Check labels, rewards and weights before anything is touched."""
        if y is None:
            raise ValueError("fit needs the arm of each task (y), or a ledger")
        self.learner_.policy_now()  # refuses a guard that has no baseline
        y, reward, propensity, sample_weight = in_rows(
            X,
            {
                "y": y,
                "reward": reward,
                "propensity": propensity,
                "sample_weight": sample_weight,
            },
        )
        rows = [self._catalogue().index(arm_id) for arm_id in arm_ids_of(y)]
        if len(rows) != len(X):
            raise ValueError(
                f"received {len(X)} tasks and {len(rows)} arms; expected equal lengths"
            )
        rewards = check_rewards(reward, len(rows))
        check_propensities(propensity, len(rows))
        return rows, rewards, check_weights(sample_weight, len(rows))

    def _learn_rows(self, features: Array, rows: Rows) -> None:
        self.learner_.require(features.shape[1])
        bandit = self.learner_.bandit
        for arm, x, reward, weight in zip(rows[0], features, *rows[1:], strict=True):
            if weight > 0:
                bandit.learn(arm, bandit.Z_[arm], x, float(reward), float(weight))

    def _check_table(
        self, X: Any, ids: Sequence[str], table: Any
    ) -> tuple[list[int], Array]:
        scores = as_floats(in_columns(table, ids, "table", X), "table")
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
        return rows, scores

    def _learn_table(
        self, ids: Sequence[str], rows: list[int], features: Array, scores: Array
    ) -> None:
        learner, bandit = self.learner_, self.learner_.bandit
        learner.describe(self._signatures(ids, scores))
        learner.require(features.shape[1])
        posterior = bandit.posterior_
        braids = self._catalogue().braids
        strands = [strand for row in rows for strand in braids[row].strands]
        shared = len(set(strands)) < len(strands)
        posterior.start_from_table(rows, bandit.Z_[rows], features, scores, shared)
        learner.start = posterior.copy()
        singles = [i for i, row in enumerate(rows) if braids[row].is_single]
        if singles:
            best = max(singles, key=lambda i: float(scores[:, i].mean()))
            learner.guarding.baseline = ids[best]

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


def _is_ledger(X: Any, y: Any, *columns: Any) -> bool:
    """Whether tasks come from a ledger, which brings their arms and rewards too."""
    # A data frame may have a column of that name.
    if not callable(getattr(X, "events", None)):
        return False
    if any(given is not None for given in (y, *columns)):
        raise ValueError(
            "a ledger brings its arms, rewards and propensities; give y, reward, "
            "propensity and sample_weight with tasks only"
        )
    return True
