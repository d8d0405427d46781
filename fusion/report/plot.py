"""The rows of the report as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

try:
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ImportError(
        "a picture of the report needs matplotlib: pip install 'braidbandit[plot]'"
    ) from error

from .rows import Row
from .table import label

_COLOURS = {"strand alone": "tab:gray", "control": "tab:orange", "braid": "tab:blue"}


def _kind(row: Row) -> str:
    if row["control"]:
        return "control"
    return "braid" if row["donors"] else "strand alone"


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw the mean of every row: strands, controls and braids apart.

    Parameters
    ----------
    rows : sequence of Row
        In any order; the best one comes to stand at the top.
    file : Path
        A picture; its ending says which kind.
    """
    ordered = sorted(rows, key=lambda row: -row["mean"])
    figure = Figure(figsize=(10, 1 + 0.27 * len(rows)))
    axes = figure.subplots()
    for kind, colour in _COLOURS.items():
        at = [i for i, row in enumerate(ordered) if _kind(row) == kind]
        axes.errorbar(
            [ordered[i]["mean"] for i in at],
            at,
            xerr=[ordered[i]["spread"] or 0.0 for i in at],
            fmt="o",
            color=colour,
            label=kind,
        )
    axes.set_yticks(range(len(ordered)), [label(row) for row in ordered], fontsize=7)
    axes.set_xlabel("bits per byte of held-out text, mean of domains (less is better)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110, bbox_inches="tight")
