"""Absolute limits of one decision."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Absolute limits for one decision; None, or infinity, means no limit.

    Parameters
    ----------
    flops : float, optional
        Most operations per token written (see :meth:`Catalogue.costs`).
    memory : float, optional
        Most bytes of weights (see :meth:`Catalogue.memory`).
    latency_ms : float, optional
        Longest expected time to answer. Only a recommender can tell, and only once
        it was told some latencies; until then every arm is within this limit.
    """

    flops: float | None = None
    memory: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for key, value in dict(vars(self)).items():
            if value is None:
                continue
            if not value > 0:
                raise ValueError(f"{key} must be above 0 or None, received {value!r}")
            # Plain numbers, as a decision records them in JSON, which has no infinity.
            limit = None if math.isinf(value) else float(value)
            object.__setattr__(self, key, limit)

    def to_dict(self) -> dict[str, float | None]:
        """Return the limits as JSON-able data."""
        return dict(vars(self))
