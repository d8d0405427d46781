"""Asking for a rating: most often where it may change what is chosen.

Few answers are ever rated, and a person is asked for few. Equations (53) and (54).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number
from braidbandit.recommender.arm_model import ArmModel

Array = NDArray[np.float64]

# Nodes and weights of the expectation over a standard normal.
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(32)
# Asks that count for what a rating is usually worth.
_WINDOW = 50
# Of the rate, what is asked whatever a rating is worth: no answer is never asked about.
_EVENLY = 0.25


@dataclass(frozen=True)
class AskingPace:
    """What a rating was worth of late, so that the rate of asking is held.

    Parameters
    ----------
    n : int
        Answers that were considered.
    worth : float
        Mean worth of the newest of them.
    behind : float
        How many more should have been asked about than were likely to be.

    Examples
    --------
    >>> pace = AskingPace(n=9, worth=0.02)
    >>> pace.probability(0.02, rate=0.1), pace.probability(0.06, rate=0.1)
    (0.1, 0.25)
    """

    n: int = 0
    worth: float = 0.0
    behind: float = 0.0

    def after(self, asked: Mapping[str, Any]) -> AskingPace:
        """Return the pace after one more answer was considered.

        Parameters
        ----------
        asked : dict
            As :meth:`consider` returned it.
        """
        n, worth = self.n + 1, self.worth
        return AskingPace(
            n,
            worth + (asked["worth"] - worth) / min(n, _WINDOW),
            self.behind + asked["rate"] - asked["probability"],
        )

    def probability(self, worth: float, rate: float) -> float:
        """Return the probability of asking: the rate, more where it is worth more."""
        times = worth / self.worth if self.worth > 0 else 1.0
        likely = rate * (_EVENLY + (1.0 - _EVENLY) * times) + self.behind / _WINDOW
        return min(max(likely, rate * _EVENLY), 1.0) if rate else 0.0

    def consider(self, decision_id: str, worth: float, rate: float) -> dict[str, Any]:
        """Return what ``Decision.asked`` says of one answer."""
        probability = self.probability(worth, rate)
        return {
            "asked": drawn_from(decision_id) < probability,
            "probability": probability,
            "worth": worth,
            "rate": rate,
        }


def worth_of_rating(model: ArmModel, x: Array, row: int, cost_term: Array) -> float:
    """Return what one rating is expected to add to the score of the best arm.

    Parameters
    ----------
    model : ArmModel
    x : ndarray of shape (k,)
        The task.
    row : int
        The arm that was served.
    cost_term : ndarray of shape (A,)

    Returns
    -------
    float
        At least 0; for tasks like this one, in units of quality.
    """
    posterior = model.posterior
    belief = posterior.belief(model.descriptors, x)
    together = belief.covariance_with(row)
    noise = posterior.scales.noise
    step = together / math.sqrt(max(float(together[row]), 0.0) + noise**2)
    fit = model.catalogue.mask()
    score = (belief.mean + cost_term)[fit]
    best = (score[:, None] + step[fit][:, None] * _NODES).max(axis=0)
    return max(float(best @ _SHARES / _SHARES.sum()) - float(score.max()), 0.0)


def drawn_from(decision_id: str) -> float:
    """Return a number in [0, 1) that is the same whenever it is drawn for a decision.

    Examples
    --------
    >>> drawn_from("d1") == drawn_from("d1"), 0 <= drawn_from("d2") < 1
    (True, True)
    """
    digest = hashlib.sha256(f"ask {decision_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def check_rate(rate: float) -> float:
    """Return a share of answers, or say what is wrong with it."""
    if not 0.0 <= check_number("rate", rate) <= 1.0:  # also refuses NaN
        raise ValueError(
            f"rate is the share of answers to ask about, in [0, 1]; received {rate!r}"
        )
    return float(rate)
