"""Notice that an arm is no longer what it was: a sum of surprises per arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number

Array = NDArray[np.float64]


class DriftWarning(UserWarning):
    """The rewards of an arm have moved away from what was learnt about it."""


@dataclass(frozen=True)
class DriftMonitor:
    """Two-sided cumulative sums of standardised surprises, one pair per arm.

    A surprise is a reward minus what was expected, in standard deviations. While
    nothing changes, surprises have mean 0 and variance 1 and the sums stay low: a
    false alarm comes about once in 180,000 rewards of an arm. A shift of half a
    standard deviation is noticed after about 90.

    Parameters
    ----------
    slack : float
        Mean surprise that is tolerated.
    threshold : float
        Sum at which the alarm is given; the sums of the arm then start again.
    widen : float in [0, 1)
        On an alarm, how much of the way to the prior's the arm's own variance goes.

    References
    ----------
    Page (1954), *Continuous inspection schemes*.

    Examples
    --------
    >>> monitor = DriftMonitor(slack=0.5, threshold=2.0)
    >>> sums = np.zeros((2, 1))
    >>> for surprise in (1.5, 1.5, 1.5):
    ...     sums, alarm = monitor.watch(sums, 0, surprise)
    ...     print(sums[0, 0], alarm)
    1.0 False
    2.0 False
    0.0 True
    """

    slack: float = 0.15
    threshold: float = 30.0
    widen: float = 0.9

    def __post_init__(self) -> None:
        slack, threshold, widen = (check_number(*item) for item in vars(self).items())
        if not (slack >= 0 and threshold > 0 and 0 <= widen < 1):
            raise ValueError(
                "slack is at least 0, threshold above 0 and widen in [0, 1); received "
                f"{self}"
            )

    def watch(self, sums: Array, arm: int, surprise: float) -> tuple[Array, bool]:
        """Return the sums (2, A) after one surprise, and whether it is an alarm."""
        sums = sums.copy()
        moved = sums[:, arm] + np.array([surprise, -surprise]) - self.slack
        alarm = bool(moved.max() > self.threshold)
        sums[:, arm] = 0.0 if alarm else np.maximum(moved, 0.0)
        return sums, alarm
