"""A decision that was proposed and not yet made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from braidbandit.ledger.records import Decision


@dataclass(frozen=True)
class Proposal:
    """A decision that nothing knows of yet; see :meth:`BraidRecommender.propose`.

    Attributes
    ----------
    decision : Decision
    after : int
        How many decisions were committed before it.
    generator : Generator
        The one whose next numbers chose the braid.
    place : dict
        Where the generator will be once this is committed.
    first : Decision, optional
        The one in whose place a person made it.
    """

    decision: Decision
    after: int
    generator: np.random.Generator
    place: Mapping[str, Any]
    first: Decision | None = None
