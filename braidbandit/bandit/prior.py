"""Groups of parameters that have one prior scale each, and these scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number

# The arm's own parameters are in the last two, or where nothing says what an arm is
# made of, in "braid" and "interaction".
GROUPS = (
    "intercept",
    "task",
    "braid",
    "interaction",
    "knob",
    "knob_slope",
    "pair",
    "gain",
    "arm_intercept",
    "arm_slope",
)
"""Names of the groups, in the order in which arrays count them."""

# Group of the bias column and of the task columns of each kind of descriptor; None
# where the effect is taken to be the same for every task.
_GROUPS_OF: dict[str, tuple[str, str | None]] = {
    "bias": ("intercept", "task"),
    "share": ("braid", "interaction"),
    "anchor": ("knob", None),
    "cost": ("knob", None),
    "pair": ("pair", None),
    "gain": ("gain", None),
}
BLOCKS = ("letters", "types", "details")
"""Blocks of task features beside the embedding, as arrays count them from 1."""

USUAL_SPREAD = 0.5
"""Standard deviation of rewards that the default scales are for: 0 and 1, as often.

The defaults grow and shrink with the spread of the rewards that are seen.
"""

_KNOB: tuple[str, str | None] = ("knob", "knob_slope")


@dataclass(frozen=True)
class PriorScales:
    """Prior standard deviations of the groups of parameters, and of the noise.

    Parameters
    ----------
    mean : float
        Prior mean of the quality of every arm. The default is a little above what is
        expected, so that an arm that nobody tried looks worth a try.
    intercept, task : float
        The overall level, and how task features move all arms alike.
    braid, interaction : float
        How the share of a model moves quality, on every task and per task feature.
    knob, knob_slope : float
        The same for how the models are combined: layers, strategy, count, cost.
    pair, gain : float
        How two models work together, and what the probe tasks say about that.
    arm_intercept, arm_slope : float
        What the descriptors leave unexplained about one arm.
    noise : float
        Standard deviation of one reward around its mean.
    letters, types, details : float
        How much more a feature in this block of the task features says than one of the
        embedding: slopes on these have that many times the standard deviation.

    Raises
    ------
    ValueError
        When a scale is not finite, or not above 0; the mean may be any finite number.

    Examples
    --------
    >>> PriorScales(noise=0.1).noise
    0.1
    """

    mean: float = 0.7
    intercept: float = 0.3
    task: float = 0.05
    braid: float = 0.15
    interaction: float = 0.05
    knob: float = 0.05
    knob_slope: float = 0.02
    pair: float = 0.05
    gain: float = 0.05
    arm_intercept: float = 0.02
    arm_slope: float = 0.02
    noise: float = 0.25
    letters: float = 1.0
    types: float = 1.0
    details: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = check_number(f"prior scale {name}", value)
            if not np.isfinite(number) or (name != "mean" and number <= 0):
                raise ValueError(
                    f"prior scale {name} must be finite and above 0, received {value!r}"
                )

    def to_dict(self) -> dict[str, float]:
        """Return the scales by name, as JSON-able data."""
        return asdict(self)


def parameter_groups(names: Sequence[str], n_columns: int) -> NDArray[np.int64]:
    """Return which group of the prior each entry of ``W`` is in.

    Anchor, cost, pair and gain columns have no task slopes.

    Parameters
    ----------
    names : sequence of str, length m
        Descriptor columns, as given by ``Catalogue.descriptors``.
    n_columns : int
        Number of task features k; feature 0 is the bias.

    Returns
    -------
    groups : ndarray of shape (m, k)
        Index into ``GROUPS``; -1 where there is no parameter.

    Examples
    --------
    >>> parameter_groups(["bias", "share:a", "cost", "strands"], 2).tolist()
    [[0, 1], [2, 3], [4, -1], [4, 5]]
    """
    groups = np.full((len(names), n_columns), -1)
    for row, name in enumerate(names):
        level, slope = _GROUPS_OF.get(name.split(":", 1)[0], _KNOB)
        groups[row, 0] = GROUPS.index(level)
        if slope is not None:
            groups[row, 1:] = GROUPS.index(slope)
    return groups
