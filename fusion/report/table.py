"""The rows of the report as a data frame and as text."""

from __future__ import annotations

from collections.abc import Sequence

try:
    import pandas as pd
except ModuleNotFoundError as error:
    raise ImportError(
        "the report needs pandas: pip install 'braidbandit[full,data]'"
    ) from error

from .rows import Row


def label(row: Row) -> str:
    """What a row is of, in words."""
    if not row["layers"]:
        return f"{row['anchor']} alone"
    if not row["donors"]:
        return f"{row['anchor']} calibrated alone (control)"
    places = "+".join(map(str, row["layers"]))
    return f"{row['anchor']} + {' + '.join(row['donors'])}, {row['strategy']}, {places}"


def is_braid(row: Row) -> bool:
    """Whether a row is of a braid with a donor of use: no strand alone, no control."""
    return bool(row["donors"]) and not row["control"]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The figures of all rows.

    Parameters
    ----------
    rows : sequence of Row
        All of the same domains.

    Returns
    -------
    DataFrame
        Indexed by `label`. Columns are the domains in bits per byte, then "mean",
        "spread", "tok/s", "MB" and "parity": how often decoding with caches takes the
        token that one forward over the whole text takes. NaN where nothing was
        measured.
    """
    columns = [
        {
            **row["bits_per_byte"],
            "mean": row["mean"],
            "spread": row["spread"],
            "tok/s": row["tokens_per_s"],
            "MB": row["memory_mb"],
            "parity": row["parity"]["same_choice"] if row["parity"] else None,
        }
        for row in rows
    ]
    index = pd.Index([label(row) for row in rows])
    return pd.DataFrame(columns, index=index, dtype=float)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, and the verdict where there is a braid.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    str
        Several lines.
    """
    shown = frame(rows)
    for column, form in (("tok/s", "{:.1f}"), ("MB", "{:.0f}"), ("parity", "{:.1%}")):
        shown[column] = shown[column].map(form.format, na_action="ignore")
    text = shown.rename_axis("braid", axis="columns").to_string(
        float_format="{:.4f}".format, na_rep=""
    )
    return f"{text}\n\n{verdict(rows)}" if any(map(is_braid, rows)) else text


def verdict(rows: Sequence[Row]) -> str:
    """The best braid against the best single strand of each domain.

    Parameters
    ----------
    rows : sequence of Row
        With a braid and a single strand among them.

    Returns
    -------
    str
        How much fewer bits per byte the braid takes, by domain and on average.
    """
    singles = frame([row for row in rows if not row["donors"]])
    best = min(filter(is_braid, rows), key=lambda row: row["mean"])
    bar = singles[list(best["bits_per_byte"])].min()
    gains = 1 - pd.Series(best["bits_per_byte"]) / bar
    mean = 1 - best["mean"] / bar.mean()
    return (
        f"best braid ({label(best)}) against the best single strand of each domain, "
        "calibrated or not:\n"
        + ", ".join(f"{domain} {gain:+.1%}" for domain, gain in gains.items())
        + f"; mean {mean:+.1%}"
    )
