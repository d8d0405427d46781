"""Explanations: why one arm would be chosen, in numbers that add up and a sentence.

Minus infinity, which JSON lacks, is written as null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._json import known_fields, plain
from braidbandit.bandit.policies import Choice
from braidbandit.catalogue.costs import relative
from braidbandit.ledger.records import Decision
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.conversations import Turn
from braidbandit.recommender.scoring import LATENCY, Situation

Array = NDArray[np.float64]

_WORDS = {
    "share": "the shares of its models",
    "anchor": "its anchor",
    "pair": "how its models work together",
    "strands": "its number of models",
    "layers": "its fusion layers",
    "strategy": "its strategy",
    "control": "its own-state fuser",
    "cost": "its size",
    "gain": "how its models fared on the probe tasks",
    "arm": "its own record",
}
# Contributions to quality below this are not worth a word.
_WORTH_SAYING = 0.005
_NEAREST = 5
_DRAWS = 1000


@dataclass(frozen=True)
class ArmRow:
    """One arm of an explanation: four terms and the score they add up to.

    Attributes
    ----------
    arm_id, label : str
    mean : float
        Expected quality.
    exploration : float
        Confidence bonus, or posterior draw minus mean.
    cost : float
        Minus what latency and compute are worth in quality.
    mask : float
        0, or minus infinity where the arm may not be chosen.
    reason : str
        Why the arm is masked; empty where it is not.
    probability : float
        With which the policy chooses this arm.
    sd : float
        Posterior standard deviation of the quality.
    """

    arm_id: str
    label: str
    mean: float
    exploration: float
    cost: float
    mask: float
    reason: str
    probability: float
    sd: float

    @property
    def score(self) -> float:
        """``mean + exploration + cost + mask``, exactly and in that order."""
        return self.mean + self.exploration + self.cost + self.mask

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-able data."""
        score = None if math.isinf(self.score) else self.score
        mask = None if math.isinf(self.mask) else self.mask
        return {**plain(self), "mask": mask, "score": score}


@dataclass(frozen=True)
class KnownTask:
    """A task that was learnt, and what it says about the explained arm.

    Attributes
    ----------
    decision_id, task_hash : str
    label : str
        The arm that was given to it.
    reward : float
    similarity : float in [-1, 1]
        Cosine of the two tasks' features, without the bias.
    contribution : float
        What its reward adds to the expected quality of the explained arm.
    """

    decision_id: str
    task_hash: str
    label: str
    reward: float
    similarity: float
    contribution: float


@dataclass(frozen=True)
class Counterfactual:
    """The smallest change that would lead to another arm.

    Exact for policies that do not draw, and for Thompson sampling up to 128 arms; of
    more arms another few are drawn when limits or prices change.

    Attributes
    ----------
    change : str
        "latency_ms", "compute_budget", "flops" or "memory": with this much more of
        it. "price": with the price of compute this much different. "quality": with
        an expected quality of the other arm this much higher. "random": no change is
        needed, as the arm was picked at random; the other one has the best score, by
        this much. "moving": the arm is kept in a conversation, unless moving to the
        other one gained this much more over the rest of it, or cost so much less.
    amount : float
    arm_id, label : str
        The other arm.
    """

    change: str
    amount: float
    arm_id: str
    label: str

    def __str__(self) -> str:
        if self.change == "random":
            return f"picked at random; {self.label} has the best score"
        if self.change == "moving" and self.amount <= 0:
            return f"moving to {self.label} is worth it, but was not drawn"
        if self.change == "quality" and not self.amount:
            return f"{self.label} has the same score"
        size = f"{abs(self.amount):.3g}"
        how = {
            "latency_ms": f"with {size} ms more",
            "compute_budget": f"with {size} more of the compute budget",
            "flops": f"with {size} more operations per token",
            "memory": f"with {size} more bytes of memory",
            "price": f"at a price of compute {size} "
            + ("higher" if self.amount > 0 else "lower"),
            "moving": f"if moving to it gained {size} more, or cost less",
            "quality": f"if it were expected to be {size} better",
        }[self.change]
        return f"{how}: {self.label}"


@dataclass(frozen=True)
class Explanation:
    """Why one arm would be chosen for one task.

    Attributes
    ----------
    arm_id : str
        The arm this explanation is of.
    rows : tuple of ArmRow
        Every arm, in catalogue order.
    blocks : dict
        What each block of descriptors adds to the arm's expected quality over the
        best single model.
    sentence : str
    probability : float
        With which the arm is chosen.
    confidence : float
        Probability, by what is believed now, that no eligible arm is better when
        costs are counted.
    costs : dict
        The cost of the arm by part: "compute", "latency", "pacing". They add up to
        the cost of its row.
    prior : float
        Expected quality of the arm before anything was learnt.
    nearest : tuple of KnownTask
        The learnt tasks most like this one, the most similar first.
    rest : float
        What everything else that was learnt adds, the warm start included:
        ``prior + contributions of the nearest + rest`` is the arm's mean.
    counterfactual : Counterfactual, optional
    """

    arm_id: str
    rows: tuple[ArmRow, ...]
    blocks: dict[str, float]
    sentence: str
    probability: float
    confidence: float = math.nan
    costs: dict[str, float] = field(default_factory=dict)
    prior: float = 0.0
    nearest: tuple[KnownTask, ...] = ()
    rest: float = 0.0
    counterfactual: Counterfactual | None = None

    @property
    def chosen(self) -> ArmRow:
        """The row of the explained arm."""
        return next(row for row in self.rows if row.arm_id == self.arm_id)

    def top(self, n: int = 5) -> list[ArmRow]:
        """Return the ``n`` rows with the best scores, best first."""
        return sorted(self.rows, key=lambda row: -row.score)[:n]

    def __str__(self) -> str:
        shown = self.top()
        if self.chosen not in shown:
            shown.append(self.chosen)
        width = max(len(row.label) for row in shown)
        head = f"  {'arm':<{width}}    mean  explore    cost   score   prob"
        lines = [self.sentence, "", head]
        for row in shown:
            mark = ">" if row.arm_id == self.arm_id else " "
            lines.append(
                f"{mark} {row.label:<{width}}  {row.mean:6.3f}  {row.exploration:+7.3f}"
                f"  {row.cost:+6.3f}  {row.score:6.3f}  {row.probability:5.2f}"
                + (f"  {row.reason}" if row.reason else "")
            )
        hidden = len(self.rows) - len(shown)
        if hidden:
            lines.append(f"  ... and {hidden} more arms")
        lines += ["", *self._notes()]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        notes = [f"confidence that it is the best choice: {self.confidence:.2f}"]
        if self.counterfactual is not None:
            notes.append(str(self.counterfactual))
        notes += [
            f"where its expected quality {self.chosen.mean:.3f} comes from:",
            f"  {self.prior:+.3f}  before anything was learnt",
        ]
        notes += [
            f"  {task.contribution:+.3f}  a task of similarity {task.similarity:.2f}: "
            f"{task.reward:.2f} with {task.label}"
            for task in self.nearest
        ]
        return [*notes, f"  {self.rest:+.3f}  all else"]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-able data."""
        other = self.counterfactual
        return {
            **plain(self),
            "rows": [row.to_dict() for row in self.rows],
            "nearest": [plain(task) for task in self.nearest],
            "counterfactual": None if other is None else plain(other),
            "confidence": None if math.isnan(self.confidence) else self.confidence,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Explanation:
        """Build an explanation from :meth:`to_dict`."""
        values = known_fields(cls, data)
        rows = []
        for row in values["rows"]:
            row = {key: value for key, value in row.items() if key != "score"}
            row["mask"] = -math.inf if row["mask"] is None else row["mask"]
            rows.append(ArmRow(**row))
        values["rows"] = tuple(rows)
        values["nearest"] = tuple(KnownTask(**t) for t in values.get("nearest", ()))
        other = values.get("counterfactual")
        values["counterfactual"] = None if other is None else Counterfactual(**other)
        if values.get("confidence") is None:
            values["confidence"] = math.nan
        return cls(**values)

    def plot(self, ax: Any = None) -> Any:
        """Draw the terms of the best arms as stacked bars; returns the axes.

        Raises
        ------
        ImportError
            When matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install 'braidbandit[plot]'"
            ) from error
        if ax is None:
            _, ax = plt.subplots(figsize=(8, 3))
        rows = self.top()[::-1]
        labels = [row.label for row in rows]
        ax.barh(labels, [row.mean for row in rows], label="expected quality")
        # Positive terms are stacked to the right of the mean, the cost to the left.
        ax.barh(
            labels,
            [row.exploration for row in rows],
            left=[row.mean for row in rows],
            label="exploration",
            alpha=0.6,
        )
        ax.barh(labels, [row.cost for row in rows], label="cost")
        ax.set_xlabel("score")
        ax.legend(loc="lower right", fontsize="small")
        return ax


@dataclass(frozen=True)
class ChoiceView:
    """Everything that went into one choice.

    Parameters
    ----------
    model : ArmModel
    now : Situation
    choice : Choice
    kind : tuple of (type, share), optional
        Type of the task and how sure that is.
    turn : Turn, optional
        Of a conversation.
    """

    model: ArmModel
    now: Situation
    choice: Choice
    kind: tuple[str, float] | None
    turn: Turn | None = None

    @cached_property
    def scores(self) -> Array:
        """Score of every arm before masking, shape (A,)."""
        return self.now.belief.mean + self.choice.exploration + self.now.cost_term

    @cached_property
    def uncertainty(self) -> float:
        """Posterior standard deviation of the chosen arm's quality."""
        return self.now.belief.sd_of(self.choice.arm)

    @property
    def _is_kept(self) -> bool:
        """Whether a conversation keeps its arm, which need not have the best score."""
        return self.turn is not None and self.turn.stayed

    def _label_of(self, arm_id: str) -> str:
        row = self.model.rows.get(arm_id)
        return arm_id if row is None else self.model.labels[row]

    def blocks(self) -> dict[str, float]:
        """Split the chosen arm's lead over the best single model by block.

        The values add up to the difference of the two expected qualities.
        """
        model, singles = self.model, self.model.catalogue.singles
        if not len(singles):
            return {}
        best = int(singles[self.now.belief.mean[singles].argmax()])
        belief, arm = self.now.belief, self.choice.arm
        lead = (model.descriptors[arm] - model.descriptors[best]) * belief.mu
        blocks = {"arm": float(belief.own[arm] - belief.own[best])}
        for column in lead.nonzero()[0].tolist():
            block = model.blocks[column]
            blocks[block] = blocks.get(block, 0.0) + float(lead[column])
        return {block: value for block, value in blocks.items() if value}

    def sentence(self) -> str:
        """Say what was chosen, why, and what is expected of it."""
        row, belief, model = self.choice.arm, self.now.belief, self.model
        reasons = []
        if self.turn is not None and self.turn.held is not None:
            reasons.append(self.turn.reason(self._label_of))
        best = _better_than(row, self.scores, self.now.eligible)
        if best is not None and not self._is_kept:
            reasons.append(
                f"it was picked at random (the best score has {model.labels[best]})"
            )
        if self.now.missed_target:
            reasons.append(
                f"no braid is expected to reach {self.now.limits.accuracy_target:g}"
            )
        if self.kind is not None:
            reasons.append(f"the task is {self.kind[0]}-related ({self.kind[1]:.2f})")
        leading = sorted(self.blocks().items(), key=lambda item: -item[1])[:2]
        said = [(b, v) for b, v in leading if v > _WORTH_SAYING and b in _WORDS]
        if said:
            gains = " and ".join(f"{_WORDS[b]} ({v:+.2f})" for b, v in said)
            reasons.append(f"{gains} speak for it over the best single model")
        if not reasons or np.ptp(belief.mean) < 1e-9:
            reasons.append("nothing known yet speaks for another")
        cost = model.relative_costs[row]
        return (
            f"chose {model.labels[row]}, because "
            f"{' and '.join(reasons)}; expected quality {belief.mean[row]:.2f} "
            f"+- {self.uncertainty:.2f}, cost {cost:.2f} of the dearest "
            f"(probability {self.choice.propensity:.2f})"
        )

    def explanation(self) -> Explanation:
        """Return every arm's terms, and why this one."""
        catalogue, now = self.model.catalogue, self.now
        reasons = now.reasons(catalogue)
        rows = tuple(
            ArmRow(
                arm_id=arm_id,
                label=self.model.labels[row],
                mean=float(now.belief.mean[row]),
                exploration=float(self.choice.exploration[row]),
                cost=float(now.cost_term[row]),
                mask=0.0 if now.eligible[row] else float("-inf"),
                reason=reasons[row],
                probability=float(self.choice.probabilities[row]),
                sd=float(now.belief.sd[row]),
            )
            for row, arm_id in enumerate(catalogue.ids)
        )
        prior, nearest = self.prior(), self.nearest()
        known = sum(task.contribution for task in nearest)
        return Explanation(
            arm_id=catalogue.ids[self.choice.arm],
            rows=rows,
            blocks=self.blocks(),
            sentence=self.sentence(),
            probability=self.choice.propensity,
            confidence=self.confidence(),
            costs={k: float(v[self.choice.arm]) for k, v in now.costs.items()},
            prior=prior,
            nearest=nearest,
            rest=float(now.belief.mean[self.choice.arm]) - prior - known,
            counterfactual=self.counterfactual(),
        )

    def counterfactual(self) -> Counterfactual | None:
        """Return the nearest change under which another arm would have been chosen."""
        turn = self.turn
        if turn is None or not turn.stayed:
            return nearest_change(self.model, self.now, self.scores, self.choice.arm)
        if turn.other is None or turn.expected_gain is None:
            return None
        more = turn.switching_cost - turn.expected_gain
        return Counterfactual("moving", more, turn.other, self._label_of(turn.other))

    def confidence(self) -> float:
        """Probability that no eligible arm is better, costs counted.

        By joint draws from the posterior, the same ones every time.
        """
        draws = self.now.belief.draw(_DRAWS, np.random.default_rng(0))
        scores = np.where(self.now.eligible, draws + self.now.cost_term, -np.inf)
        return float((scores.argmax(axis=1) == self.choice.arm).mean())

    def prior(self) -> float:
        """Return the expected quality of the chosen arm before anything was learnt."""
        z = self.model.descriptors[self.choice.arm]
        return self._prior_of(z, self.now.x)

    def nearest(self) -> tuple[KnownTask, ...]:
        """Return the learnt tasks most like this one, and what each adds.

        The posterior mean is the prior mean plus, for every reward that was learnt,
        ``cov(arm, its arm) (reward - its prior mean) weight / noise^2``: an exact
        split of the arm's expected quality by observation.
        """
        model, posterior = self.model, self.model.posterior
        records = list(model.log.learnt.values())
        if not records:
            return ()
        X = np.array([record.decision.x for record in records])
        near = _cosines(X[:, 1:], self.now.x[1:])
        arm = self.choice.arm
        here = posterior.covariance_terms(arm, model.descriptors[arm], self.now.x)
        found = []
        for i in np.argsort(-near, kind="stable")[:_NEAREST]:
            record = records[i]
            other, z, x, _ = model.evidence(record.decision, record.weight)
            weight = record.applied * model.kept(record)
            surprise = record.reward - self._prior_of(z, x)
            together = float(posterior.covariance_terms(other, z, x) @ here)
            if other == arm:
                width = posterior.own_width
                own = posterior.own_covariance[arm] @ x[:width]
                together += float(self.now.x[:width] @ own)
            gain = together * weight / posterior.scales.noise**2
            found.append(
                KnownTask(
                    decision_id=record.decision.id,
                    task_hash=record.decision.task_hash,
                    label=_shown(record.decision),
                    reward=record.reward,
                    similarity=float(near[i]),
                    contribution=gain * surprise,
                )
            )
        return tuple(found)

    def _prior_of(self, z: Array, x: Array) -> float:
        # Only the intercepts (block 0) have a prior mean that is not zero.
        posterior = self.model.posterior
        return posterior.scales.mean * float(z @ (posterior.groups == 0) @ x)


def _shown(decision: Decision) -> str:
    """Return the label of a decision's braid, and whether a person chose it."""
    label = decision.braid.label()
    return label if decision.instead_of is None else f"{label} (a person's choice)"


def _cosines(X: Array, x: Array) -> Array:
    norms = np.linalg.norm(X, axis=1) * np.linalg.norm(x)
    return np.where(norms > 0, X @ x / np.where(norms > 0, norms, 1.0), 0.0)


def _better_than(arm: int, scores: Array, eligible: NDArray[np.bool_]) -> int | None:
    """Return the eligible arm with the best score; None where the arm itself has it.

    With a better one around, the arm can only be a random pick.
    """
    best = int(np.where(eligible, scores, -np.inf).argmax())
    # Arms that lost an early round score the same as the winner, up to rounding.
    return best if scores[best] > scores[arm] + 1e-9 else None


def nearest_change(
    model: ArmModel, now: Situation, scores: Array, arm: int
) -> Counterfactual | None:
    """Return the nearest change under which another arm would have been chosen.

    An arm that was picked at random needs no change: the one with the best score is
    named. Of other arms, first the limits of the call: among the arms with a better
    score that one limit alone rules out, the one that needs the smallest increase,
    measured as a share of the limit. Then the price of compute. Else how much better
    the runner-up would have to be.

    Parameters
    ----------
    model : ArmModel
    now : Situation
    scores : ndarray of shape (A,)
        Before masking.
    arm : int
        The chosen one.
    """
    ids, braids = model.catalogue.ids, model.catalogue.braids

    def change(kind: str, amount: float, row: int) -> Counterfactual:
        return Counterfactual(kind, float(amount), ids[row], braids[row].label())

    better = _better_than(arm, scores, now.eligible)
    if better is not None:
        return change("random", scores[better] - scores[arm], better)
    found = _beyond_limits(model, now, scores, arm)
    if found is not None:
        return change(*found)
    others = np.flatnonzero(now.eligible & (np.arange(len(scores)) != arm))
    if not len(others):
        return None
    best = int(others[np.argmax(scores[others])])
    if scores[best] >= scores[arm]:
        return change("quality", 0.0, best)
    return change(*(_by_price(model, now, scores, arm, others) or
                    ("quality", scores[arm] - scores[best], best)))  # fmt: skip


def _beyond_limits(
    model: ArmModel, now: Situation, scores: Array, arm: int
) -> tuple[str, float, int] | None:
    limits, catalogue = now.limits, model.catalogue
    budget = limits.budget
    used: dict[str, tuple[float, Array]] = {}
    if limits.compute_budget < 1.0:
        costs = catalogue.relative_costs()
        used["compute_budget"] = (limits.compute_budget, costs)
    if budget is not None and budget.flops is not None:
        used["flops"] = (budget.flops, catalogue.operations())
    if budget is not None and budget.memory is not None:
        used["memory"] = (budget.memory, catalogue.memory())
    if budget is not None and budget.latency_ms is not None and now.latency is not None:
        used["latency_ms"] = (budget.latency_ms, now.latency)
    over = {name: values > limit for name, (limit, values) in used.items()}
    broken = np.sum([*over.values(), np.zeros(len(scores))], axis=0)
    ruled_out = np.array([bool(reason) for reason in now.reasons(catalogue)])
    found = []
    for name, (limit, values) in used.items():
        alone = over[name] & (broken == 1) & (scores > scores[arm])
        alone &= ruled_out & ~_otherwise_out(model, now, name)
        for row in np.flatnonzero(alone):
            need = float(values[row] - limit)
            found.append((need / max(limit, 1e-12), name, need, int(row)))
    return min(found)[1:] if found else None


def _otherwise_out(model: ArmModel, now: Situation, name: str) -> NDArray[np.bool_]:
    """Arms that are out for a reason that is no limit of amount."""
    catalogue = model.catalogue
    out = np.isin(catalogue.ids, [*catalogue.unfit, *now.limits.excluded])
    for kind, mask, _ in now.masked:
        if kind != LATENCY:
            out = out | mask
    return np.asarray(out)


def _by_price(
    model: ArmModel,
    now: Situation,
    scores: Array,
    arm: int,
    others: NDArray[np.int64],
) -> tuple[str, float, int] | None:
    """Return the nearest other price of compute with another winner among two."""
    # What the price is put on: measured compute, as soon as there is any.
    compute = model.expected("compute", now.x)
    cost = relative(model.catalogue.costs() if compute is None else compute)
    gap = scores[arm] - scores[others]
    extra = cost[arm] - cost[others]
    with np.errstate(divide="ignore", invalid="ignore"):
        # At a price higher by this, the other arm has the same score.
        rise = np.where(extra != 0, gap / extra, np.inf)
    price = -now.costs["compute"].min()
    possible = np.isfinite(rise) & (rise + price >= 0)
    if not possible.any():
        return None
    at = int(np.argmin(np.where(possible, np.abs(rise), np.inf)))
    return "price", float(rise[at]), int(others[at])
