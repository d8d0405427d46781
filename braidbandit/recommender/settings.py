"""Settings of a recommender: how it learns, and checks of what people give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from braidbandit._checks import check_number
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.online_posterior import check_learning
from braidbandit.bandit.policies import Policy, check_policy
from braidbandit.bandit.prior import PriorScales
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.objectives import check_price
from braidbandit.tasks.encoder import TaskEncoder


@dataclass(frozen=True)
class LearningSettings:
    """How an :class:`ArmModel` learns; see :class:`BraidRecommender`."""

    policy: Policy | ConservativePolicy | None = None
    prior: PriorScales | None = None
    forgetting: float = 1.0
    max_parameters: int = 640
    drift: DriftMonitor | None = None


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse constructor arguments that a recommender could not go by.

    Parameters
    ----------
    given : dict
        Arguments of :class:`BraidRecommender`; its catalogue is checked elsewhere.

    Examples
    --------
    >>> from braidbandit import BraidRecommender
    >>> check_settings({**BraidRecommender().get_params(), "mean_cost": 2.0})
    Traceback (most recent call last):
    ValueError: mean_cost is a relative cost in [0, 1], received 2.0
    """
    policy, drift, encoder = given["policy"], given["drift"], given["encoder"]
    check_price(given["price"])
    check_learning(given["forgetting"], given["prior"], given["max_parameters"])
    if not isinstance(policy, ConservativePolicy):
        check_policy(policy)
    if drift is not None and not isinstance(drift, DriftMonitor):
        raise TypeError(f"drift is a DriftMonitor or None, received {drift!r}")
    if encoder is not None and not isinstance(encoder, TaskEncoder):
        raise TypeError(f"encoder is a TaskEncoder, received {encoder!r}")
    mean_cost = given["mean_cost"]
    if mean_cost is not None and not 0 <= check_number("mean_cost", mean_cost) <= 1:
        raise ValueError(
            f"mean_cost is a relative cost in [0, 1], received {mean_cost!r}"
        )
    cost = given["switching_cost"]
    if cost is not None and not 0 <= check_number("switching_cost", cost) < math.inf:
        raise ValueError(
            f"switching_cost is a quality of at least 0, or None; received {cost!r}"
        )
