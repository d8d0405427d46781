"""A finding: what one check found, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        What was checked.
    level : "ok", "warning" or "error"
    found : str
        What is so.
    fix : str
        What to do; empty where nothing is wrong.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, fix: str) -> Finding:
    """Return a finding of something that works worse than it could."""
    return Finding(name, "warning", found, fix)


def error(name: str, found: str, fix: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(name, "error", found, fix)
