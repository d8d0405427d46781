"""What policies are estimated to earn: as records, a data frame, and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from braidbandit.evaluation.frames import frame_of, text_of

if TYPE_CHECKING:
    from pandas import DataFrame

# What is printed of an estimate.
_SHOWN = (
    "policy",
    "estimator",
    "value",
    "low",
    "high",
    "sequence_low",
    "sequence_high",
    "effective_n",
    "n",
)


@dataclass(frozen=True)
class Estimate:
    """The mean reward of one policy by one estimator.

    Attributes
    ----------
    policy, estimator : str
    value : float
        By IPS and DR it may lie outside [0, 1].
    low, high : float in [0, 1]
        Interval: by empirical likelihood for DR, by the bootstrap for the others.
    n : int
        Rows of the log.
    effective_n : float
        How many rows written by the policy itself would say as much. Rows of one
        cluster count as one.
    mean_weight, largest_weight : float
        Of target probability over propensity; the mean should be near 1.
    sequence_low, sequence_high : float in [0, 1], optional
        Confidence sequence: holds however often one looks, and also where the policy
        that wrote the log learnt as it went. None where the rows cannot be in the order
        in which they were decided.
    """

    policy: str
    estimator: str
    value: float
    low: float
    high: float
    n: int
    effective_n: float
    mean_weight: float
    largest_weight: float
    sequence_low: float | None = None
    sequence_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Estimates of several policies on one log.

    Attributes
    ----------
    rows : tuple of Estimate
        One per policy and estimator.
    refused : dict of str
        Policies on which the log cannot answer, and why.
    logged : float
        Mean reward of the log itself.
    left_out : int
        Comparisons of two answers in the ledger, which no estimate is made of.

    Examples
    --------
    >>> row = Estimate("new", "DR", 0.7, 0.6, 0.8, 100, 40.0, 1.0, 9.0, 0.3, 0.9)
    >>> comparison = Comparison((row,), {"old": "the log is deterministic"}, 0.5)
    >>> comparison.to_frame().loc[("new", "DR"), ["value", "low", "high"]].tolist()
    [0.7, 0.6, 0.8]
    >>> print(str(comparison).splitlines()[-1])
    the log itself earned 0.500
    """

    rows: tuple[Estimate, ...]
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    logged: float = float("nan")
    left_out: int = 0

    def best(self, estimator: str = "DR") -> Estimate:
        """Return the policy with the highest value by an estimator.

        Parameters
        ----------
        estimator : str

        Returns
        -------
        Estimate

        Raises
        ------
        ValueError
            When there is no such estimator.
        """
        return max(self._by(estimator), key=lambda row: row.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-able data."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "refused": dict(self.refused),
            "logged": self.logged,
            "left_out": self.left_out,
        }

    def to_frame(self) -> DataFrame:
        """Return the estimates as a data frame.

        Returns
        -------
        DataFrame
            Indexed by policy and estimator, a column for each other attribute of
            :class:`Estimate`; NaN where there is no confidence sequence.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        frame = frame_of(self.rows).set_index(["policy", "estimator"])
        return frame.astype({"sequence_low": float, "sequence_high": float})

    def __str__(self) -> str:
        lines = [text_of(self.rows, _SHOWN)]
        lines += [f"{name}: refused, {why}" for name, why in self.refused.items()]
        if self.left_out:
            lines.append(
                f"{self.left_out} comparisons of two answers are left out: they do not "
                "say what an answer is worth"
            )
        return "\n".join([*lines, f"the log itself earned {self.logged:.3f}"])

    def plot(self, estimator: str = "DR", ax: Any = None) -> Any:
        """Draw the value and the interval of each policy by one estimator.

        Thick lines are intervals, thin ones confidence sequences.

        Parameters
        ----------
        estimator : str
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            When matplotlib is not installed.
        ValueError
            When there is no such estimator.
        """
        rows = self._by(estimator)[::-1]
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install 'braidbandit[plot]'"
            ) from error
        if ax is None:
            _, ax = plt.subplots(figsize=(6, 1 + 0.4 * len(rows)))
        places = list(range(len(rows)))
        for place, row in zip(places, rows, strict=True):
            ax.plot([row.low, row.high], [place, place], color="C0", linewidth=3)
            if row.sequence_low is not None:
                ends = [row.sequence_low, row.sequence_high]
                ax.plot(ends, [place, place], color="C0", linewidth=1, alpha=0.5)
            ax.plot(row.value, place, "o", color="C0")
        ax.axvline(self.logged, color="grey", linestyle="--", label="the log itself")
        ax.set_yticks(places, [row.policy for row in rows])
        ax.set_xlabel(f"mean reward by {estimator}")
        ax.legend(loc="lower right", fontsize="small")
        return ax

    def _by(self, estimator: str) -> list[Estimate]:
        rows = [row for row in self.rows if row.estimator == estimator]
        if not rows:
            known = sorted({row.estimator for row in self.rows})
            raise ValueError(
                f"unknown estimator {estimator!r}; the estimators are {known}"
            )
        return rows
