"""Prior scales of the blocks of parameters, and which parameter is in which block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

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
# Default scales are for rewards that spread like this around their mean (0 or 1, about
# as often); they grow and shrink with the spread of the rewards that are seen.
USUAL_SPREAD = 0.5
_KNOB: tuple[str, str | None] = ("knob", "knob_slope")


@dataclass(frozen=True)
class PriorScales:
    """Prior standard deviations of the blocks of parameters, and of the noise.

    Parameters
    ----------
    mean : float
        Prior mean of the quality of every arm. A little above what is expected:
        an arm nobody tried then looks worth a try.
    intercept, task : float
        Overall level, and how task features move every arm alike.
    braid, interaction : float
        How the share of a model moves quality, for every task and per task feature.
    knob, knob_slope : float
        The same for how the models are combined: layers, strategy, count, cost.
    pair, gain : float
        How two models work together, and what the probe tasks say about it.
    arm_intercept, arm_slope : float
        For one arm only: what the descriptors do not explain.
    noise : float
        Standard deviation of one reward around its mean.

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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or (name != "mean" and value <= 0):
                raise ValueError(
                    f"prior scale {name} must be finite and above 0, received {value!r}"
                )

    def to_dict(self) -> dict[str, float]:
        """Return the scales as JSON-able data."""
        return asdict(self)


def parameter_groups(names: Sequence[str], n_columns: int) -> NDArray[np.int64]:
    """Say which block of the prior each entry of ``W`` belongs to.

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
