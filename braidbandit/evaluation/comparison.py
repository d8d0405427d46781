"""What policies are estimated to earn: records, a table, a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """One policy's mean reward by one estimator.

    Attributes
    ----------
    policy, estimator : str
    value : float
        IPS and DR may leave [0, 1].
    low, high : float in [0, 1]
        Interval: by empirical likelihood for DR, by the bootstrap for the others.
    n : int
        Rows of the log.
    effective_n : float
        Rows of its own that would say as much; rows of one cluster count as one.
    mean_weight, largest_weight : float
        Of target probability over propensity; the mean should be near 1.
    sequence_low, sequence_high : float in [0, 1], optional
        Confidence sequence: holds at any time, and where the log learnt as it went.
        None where the rows cannot be in the order in which they were decided.
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
    refused : dict of str
        Policies on which the log cannot answer, and why.
    logged : float
        Mean reward of the log itself.

    Examples
    --------
    >>> row = Estimate("new", "DR", 0.7, 0.6, 0.8, 100, 40.0, 1.0, 9.0, 0.3, 0.9)
    >>> print(Comparison((row,), {}, 0.5))
    policy  estimator     value  interval           at any time         rows' worth
    new     DR            0.700  [0.600, 0.800]     [0.300, 0.900]         40 / 100
    the log itself earned 0.500
    """

    rows: tuple[Estimate, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    logged: float = float("nan")

    def best(self, estimator: str = "DR") -> Estimate:
        """Return the policy with the highest value by an estimator."""
        rows = self._by(estimator)
        return max(rows, key=lambda row: row.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-able data."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "refused": dict(self.refused),
            "logged": self.logged,
        }

    def __str__(self) -> str:
        names = [row.policy for row in self.rows]
        width = max(len(name) for name in [*names, "policy"])
        lines = [
            f"{'policy':{width}}  {'estimator':12}  value  {'interval':18} "
            f"{'at any time':18}  rows' worth"
        ]
        for row in self.rows:
            always = ""
            if row.sequence_low is not None:
                always = f"[{row.sequence_low:.3f}, {row.sequence_high:.3f}]"
            interval = f"[{row.low:.3f}, {row.high:.3f}]"
            lines.append(
                f"{row.policy:{width}}  {row.estimator:12}  {row.value:.3f}  "
                f"{interval:18} {always:18}  {row.effective_n:5.0f} / {row.n}"
            )
        lines += [f"{name}: refused, {why}" for name, why in self.refused.items()]
        return "\n".join([*lines, f"the log itself earned {self.logged:.3f}"])

    def plot(self, estimator: str = "DR", ax: Any = None) -> Any:
        """Draw each policy's value and interval by an estimator; returns the axes.

        Raises
        ------
        ImportError
            When matplotlib is not installed.
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
