"""The report on tasks as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .paired import Difference


def tasks_table(found: Mapping[str, Any]) -> str:
    """What `tasks.report` returns, in lines of text.

    Parameters
    ----------
    found : dict

    Returns
    -------
    str
        Accuracies in percent, then the differences in points with their intervals.
    """
    rule, counts = found["rule"], found["questions"]
    sets = list(found["arms"][0]["test"][rule])
    lines = [["right, in %", *sets, "mean", "when picked"]]
    for arm in found["arms"]:
        test, picking = arm["test"][rule], arm["picking"]
        shown = [f"{100 * test[name]:.1f}" for name in sets]
        seen = "" if picking is None else f"{100 * _mean(picking):.1f}"
        lines.append([arm["label"], *shown, f"{100 * _mean(test):.1f}", seen])
    heads = ["", *sets, "mean"]
    differences = [[f"{found['braid']} less"], heads]
    for row in found["differences"]:
        shown = [Difference(**row["sets"][name]).told for name in sets]
        mean = Difference(**row["mean"]).told
        differences.append([row["against"], *shown, mean])
    picked = [f"{name}: {arm}" for name, arm in found["strand of each set"].items()]
    return "\n".join(
        [
            f"{counts['test']} test questions, by {rule}; calibrated on "
            f"{counts['calibration']}, picked on {counts['picking']} others",
            "",
            *_aligned(lines),
            "",
            differences[0][0],
            *_aligned(differences[1:]),
            "",
            f"best calibrated strand of each set: {'; '.join(picked)}",
            f"{found['questions per minute and arm']:.0f} questions per minute and arm",
        ]
    )


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            word.rjust(width) if i else word.ljust(width)
            for i, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
