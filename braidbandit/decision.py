"""Frozen records: what was decided, what came of it, and why it was decided.

Records travel as JSON. Floats are written by ``repr`` and come back bit for bit;
minus infinity, which JSON lacks, is written as null where it can occur.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from braidbandit.braid import Braid, content_hash


def now() -> str:
    """UTC time as ISO 8601 text."""
    return datetime.now(timezone.utc).isoformat()


def new_id() -> str:
    """Return a fresh id, unique across processes whatever their seeds."""
    return uuid.uuid4().hex


def task_hash(task: Any) -> str:
    """Content hash of a task: equal tasks share it, the text is not recoverable.

    Examples
    --------
    >>> task_hash({"type": "code", "complexity": 0.7})
    '86991227ed8cd8f8'
    """
    if hasattr(task, "tolist"):
        task = task.tolist()
    return content_hash(task)


@dataclass(frozen=True)
class Decision:
    """One choice of a braid for one task.

    Attributes
    ----------
    id : str
    task_hash : str
    x : tuple of float
        Task features the posterior saw; enough to learn from later.
    braid : Braid
    propensity, propensity_se : float
        Probability with which the braid was chosen, and its standard error.
    arm_ids, scores, eligible : tuples of equal length
        Every arm, its score before masking, and whether it could be chosen.
    expected_quality, uncertainty : float
        Posterior mean and standard deviation of the chosen arm's quality.
    relative_cost : float in [0, 1]
    budget : dict
        Budget and limits of the call.
    policy : str
    catalogue_hash, encoder_hash : str
    sentence : str
        The choice in words.
    created_at : str
        ISO 8601, UTC.
    """

    id: str
    task_hash: str
    x: tuple[float, ...]
    braid: Braid
    propensity: float
    propensity_se: float
    arm_ids: tuple[str, ...]
    scores: tuple[float, ...]
    eligible: tuple[bool, ...]
    expected_quality: float
    uncertainty: float
    relative_cost: float
    budget: dict[str, Any]
    policy: str
    catalogue_hash: str
    encoder_hash: str
    sentence: str = ""
    created_at: str = field(default_factory=now)

    def __str__(self) -> str:
        return self.sentence or f"{self.braid.label()} (decision {self.id})"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return {**_plain(self), "braid": self.braid.recipe()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """Build a record from :meth:`to_dict`; unknown keys are a KeyError."""
        values = _known(cls, data)
        for key in ("x", "arm_ids", "scores", "eligible"):
            values[key] = tuple(values[key])
        values["braid"] = Braid.from_recipe(values["braid"])
        return cls(**values)


@dataclass(frozen=True)
class Outcome:
    """What was measured for one decision.

    Parameters
    ----------
    decision_id : str
    reward : float in [0, 1]
        Quality.
    latency_ms, compute : float, optional
        At least 0.
    source : str
        Who measured: "user", "judge", "test", ...
    created_at : str
        ISO 8601, UTC.

    Examples
    --------
    >>> outcome = Outcome("d1", 0.8, latency_ms=12.5)
    >>> Outcome.from_dict(outcome.to_dict()) == outcome
    True
    """

    decision_id: str
    reward: float
    latency_ms: float | None = None
    compute: float | None = None
    source: str = "user"
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        if isinstance(self.reward, str) or not 0.0 <= float(self.reward) <= 1.0:
            raise ValueError(f"reward lies in [0, 1], received {self.reward!r}")
        object.__setattr__(self, "reward", float(self.reward))
        for key in ("latency_ms", "compute"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{key} must be at least 0 or None, received {value}")

    def same_measurement(self, other: Outcome) -> bool:
        """Whether both say the same, whenever they said it."""
        mine, theirs = self.to_dict(), other.to_dict()
        return all(mine[key] == theirs[key] for key in mine if key != "created_at")

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return _plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Build a record from :meth:`to_dict`; unknown keys are a KeyError."""
        return cls(**_known(cls, data))


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
        Minus price times relative cost.
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
        return {**_plain(self), "mask": mask, "score": score}


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
    """

    arm_id: str
    rows: tuple[ArmRow, ...]
    blocks: dict[str, float]
    sentence: str
    probability: float

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
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-able data."""
        return {**_plain(self), "rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Explanation:
        """Build an explanation from :meth:`to_dict`."""
        values = _known(cls, data)
        rows = []
        for row in values["rows"]:
            row = {key: value for key, value in row.items() if key != "score"}
            row["mask"] = -math.inf if row["mask"] is None else row["mask"]
            rows.append(ArmRow(**row))
        return cls(**{**values, "rows": tuple(rows)})

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
                "plot needs matplotlib: pip install matplotlib"
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


def dumps(record: Decision | Outcome | Explanation) -> str:
    """Return a record as JSON text."""
    return json.dumps(record.to_dict(), allow_nan=False)


def _plain(record: Any) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _known(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    if set(data) - known:
        raise KeyError(
            f"unknown keys {sorted(set(data) - known)} for {cls.__name__}; known keys "
            f"are {sorted(known)}"
        )
    return dict(data)
