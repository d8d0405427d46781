"""Held-out texts and the texts to calibrate on, from a file or from the project."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import json_lines

Text = Mapping[str, str]
SPLITS = ("calibration", "test")
_KEYS = ("domain", "prompt", "reference", "split")


def packaged_texts() -> tuple[list[Text], list[Text]]:
    """The texts that come with the project.

    Returns
    -------
    calibration, held_out : list of dict
        With ``domain``, ``prompt`` and ``reference``.

    Raises
    ------
    ValueError
        Where ``braidbandit``, which has them, is not installed beside ``fusion``.
    """
    spec = importlib.util.find_spec("braidbandit")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the packaged texts are not installed; pass --texts FILE.jsonl"
        )
    data = Path(spec.submodule_search_locations[0]) / "tasks" / "data"
    rows = [row for _, row in json_lines(data / "tasks.jsonl")]
    held_out: list[Text] = [
        {**r, "domain": r["type"]} for r in rows if r["split"] == "test"
    ]
    return [row for _, row in json_lines(data / "calibration.jsonl")], held_out


def read_texts(path: Path) -> tuple[list[Text], list[Text]]:
    """The texts of a JSON-lines file.

    Parameters
    ----------
    path : Path
        Each line has ``domain``, ``split`` ("calibration" or "test"), ``prompt`` and
        ``reference``, all of them text; blank lines are passed over.

    Returns
    -------
    calibration, held_out : list of dict

    Raises
    ------
    ValueError
        On a line that has not all of these, or without texts of both splits.
    """
    rows = [_checked(f"{path}, line {number}", row) for number, row in json_lines(path)]
    calibration = [row for row in rows if row["split"] == "calibration"]
    held_out = [row for row in rows if row["split"] == "test"]
    if not calibration or not held_out:
        raise ValueError(
            f"{path} has {len(calibration)} texts with the split 'calibration' and "
            f"{len(held_out)} with 'test'; expected some of both"
            + passed_over(row["split"] for row in rows)
        )
    return calibration, held_out


def passed_over(splits: Iterable[str]) -> str:
    """The end of a message that names the splits which nothing is read of.

    Examples
    --------
    >>> passed_over(["test", "tset"]), passed_over(["test"])
    (". Passed over: other splits ['tset']", '')
    """
    others = sorted(set(splits) - set(SPLITS))
    return f". Passed over: other splits {others}" if others else ""


def _checked(where: str, row: Any) -> Text:
    if not isinstance(row, dict) or not set(_KEYS) <= set(row):
        raise ValueError(
            f"{where}: expected the keys {list(_KEYS)}, received "
            f"{sorted(row) if isinstance(row, dict) else row!r}"
        )
    for key in _KEYS:
        if not isinstance(row[key], str):
            raise ValueError(f"{where}: {key!r} is {row[key]!r}, expected text")
    return row


def first_of_each(texts: Sequence[Text], per_domain: int | None) -> list[Text]:
    """The first so many texts of each domain, in the order in which they came.

    Parameters
    ----------
    texts : sequence of dict
    per_domain : int or None
        None for all.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> texts = [{"domain": d} for d in ("code", "maths", "code")]
    >>> first_of_each(texts, 1)
    [{'domain': 'code'}, {'domain': 'maths'}]
    """
    if per_domain is None:
        return list(texts)
    counts: dict[str, int] = {}
    kept = []
    for text in texts:
        counts[text["domain"]] = counts.get(text["domain"], 0) + 1
        if counts[text["domain"]] <= per_domain:
            kept.append(text)
    return kept


def whole(text: Text) -> str:
    """Prompt and reference together, which is what is scored.

    Examples
    --------
    >>> whole({"prompt": "6 * 7?", "reference": "42"})
    '6 * 7?\\n42'
    """
    gap = "" if text["prompt"][-1:].isspace() else "\n"
    return text["prompt"] + gap + text["reference"]
