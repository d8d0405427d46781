"""Braids for tasks: decide, learn how it turned out, explain."""

from __future__ import annotations

from braidbandit.recommender.drift import DriftMonitor, DriftWarning
from braidbandit.recommender.explanation import Explanation
from braidbandit.recommender.recommender import BraidRecommender

__all__ = ["BraidRecommender", "DriftMonitor", "DriftWarning", "Explanation"]
