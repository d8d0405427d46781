"""What it says of two qualities that somebody took one answer for the better one."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import log_ndtr

from braidbandit._checks import LEAST_WEIGHT

_LOG_ROOT = 0.5 * math.log(2.0 * math.pi)
# From here on the difference of two large numbers would have no digits left.
_FAR = -100.0
# A mistake of somebody's finger is not to set the noise of all.
_MOST_COUNTED = 10.0


class Seen(NamedTuple):
    """A choice as an observation of a difference.

    Attributes
    ----------
    value : float
    weight : float
        Precision, in units of that of two scores: at most 1.
    counted : float
        As how many rewards it counts where the noise is found: as many as its squared
        residual is worth, so that choices, which say nothing of it, leave it alone.
    """

    value: float
    weight: float
    counted: float


def seen_difference(
    mean: float, variance: float, noise: float, strength: float = 1.0
) -> Seen:
    """Return the observation of the difference that a choice amounts to.

    Who compares two answers sees the quality of each with a noise of its own and picks
    the one that looks better (Thurstone's model), so the better one is picked with
    probability ``Phi(difference / sqrt(noise))``. The observation ``value``, with
    ``weight`` as its precision, leads from what was believed of the difference to the
    mean and the variance that it has given the choice: equation (57), one step of
    assumed-density filtering.

    Parameters
    ----------
    mean, variance : float
        Of the quality of the better one minus that of the worse, as believed before.
    noise : float
        Variance of what the two qualities look like, twice that of one.
    strength : float in (0, 1]
        How much of a choice it is: the power that its likelihood is raised to.

    Returns
    -------
    Seen

    References
    ----------
    Thurstone (1927), *A law of comparative judgment*; Minka (2001), *Expectation
    propagation for approximate Bayesian inference*, section 3.2.

    Examples
    --------
    Nothing is known but that both are alike; the choice is worth 0.47 of a score of
    the difference:

    >>> seen = seen_difference(0.0, 1.0, 1.0)
    >>> round(seen.value, 3), round(seen.weight, 3), seen.counted
    (1.772, 0.467, 1.0)

    A choice that was expected says next to nothing:

    >>> round(seen_difference(5.0, 1.0, 1.0).weight, 4)
    0.0014
    """
    total = variance + noise
    z = mean / math.sqrt(total)
    if z < _FAR:
        tail = 1.0 / z**2  # the series of the tail
        steep = -(1.0 - 2.0 * tail + 10.0 * tail**2) / z
        slope = steep - z
    else:
        slope = math.exp(-0.5 * z * z - _LOG_ROOT - float(log_ndtr(z)))
        steep = max(z + slope, LEAST_WEIGHT)
    curvature = slope * steep / total
    precision = min(curvature / (1.0 - variance * curvature), 1.0 / noise)
    value = mean + math.sqrt(total) / steep
    weight = max(strength * precision * noise, LEAST_WEIGHT)
    return Seen(value, weight, strength * min(slope / steep, _MOST_COUNTED))
