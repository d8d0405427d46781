"""What can be chosen: model cards, braids, and the catalogue with costs and limits."""

from __future__ import annotations

from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard, as_cards
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.limits import Budget, Limits

__all__ = ["Braid", "Budget", "Catalogue", "Limits", "ModelCard", "as_cards"]
