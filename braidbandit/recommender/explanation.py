"""Explanations: why one arm would be chosen, in numbers that add up.

Minus infinity, which JSON lacks, is written as null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from braidbandit._json import known_fields, plain


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
        an expected quality of the other arm this much higher.
    amount : float
    arm_id, label : str
        The other arm.
    """

    change: str
    amount: float
    arm_id: str
    label: str

    def __str__(self) -> str:
        size = f"{abs(self.amount):.3g}"
        how = {
            "latency_ms": f"with {size} ms more",
            "compute_budget": f"with {size} more of the compute budget",
            "flops": f"with {size} more operations per token",
            "memory": f"with {size} more bytes of memory",
            "price": f"at a price of compute {size} "
            + ("higher" if self.amount > 0 else "lower"),
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
