import sys
from importlib import import_module

import pandas as pd
import pytest

from fusion.report.table import frame, is_braid, label, table, verdict


def test_a_row_is_named_by_its_recipe(rows):
    assert [label(row) for row in rows] == [
        "a alone",
        "b alone",
        "a calibrated alone (control)",
        "a + b, router, final+output",
        "b + a, router, final+output",
        "a + b (shuffled), router, final+output",
    ]
    assert [is_braid(row) for row in rows] == [False] * 3 + [True] * 2 + [False]


def test_the_frame_has_the_figures_as_they_are(rows):
    found = frame(rows)
    assert list(found.columns) == [
        "code", "a long domain", "mean", "spread", "tok/s", "MB", "parity"
    ]  # fmt: skip
    assert {str(dtype) for dtype in found.dtypes} == {"float64"}
    for row, (name, figures) in zip(rows, found.iterrows(), strict=True):
        assert name == label(row)
        assert figures["code"] == row["bits_per_byte"]["code"]
        assert figures["MB"] == row["memory_mb"]
    assert found["spread"].isna().tolist() == [False, True, *[False] * 4]
    assert found["parity"].isna().tolist() == [*[False] * 5, True]


def test_the_table_rounds_and_leaves_gaps(rows):
    head, *lines = table(rows).split("\n\n")[0].splitlines()
    assert head.split() == [
        "braid", "code", "a", "long", "domain", "mean", "spread", "tok/s", "MB",
        "parity",
    ]  # fmt: skip
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(label(row) + " ")
    pairs = zip(rows, lines, strict=True)
    figures = [line[len(label(row)) :].split() for row, line in pairs]
    same = ["12.3", "543", "99.5%"]
    assert figures[0] == ["2.0000", "1.0000", "1.5000", "0.0125", *same]
    assert figures[1] == ["1.0000", "2.0000", "1.5000", *same]
    assert figures[5] == ["0.1000", "0.1000", "0.1000", "0.0125", "12.3", "543"]


def test_the_best_braid_against_the_best_strand_of_each_domain(rows):
    """1 - 0.9 / 1.0, 1 - 0.84 / 0.8, and of the means 1 - 0.87 / 0.9.

    The calibrated strand counts among the single ones, the shuffled control does not
    count among braids.
    """
    assert verdict(rows) == (
        "best braid (a + b, router, final+output) against the best single strand of "
        "each domain, calibrated or not:\n"
        "code +10.0%, a long domain -5.0%; mean +3.3%"
    )
    assert table(rows).endswith(verdict(rows))


def test_without_a_braid_there_is_no_verdict(rows):
    assert "best" not in table(rows[:3])
    assert len(table(rows[:3]).splitlines()) == 4


def test_many_rows_and_long_names_are_shown_in_full(rows):
    name = "a-very-long-name-of-a-model" * 4
    many = [{**row, "anchor": name} for row in rows] * 20
    with pd.option_context("display.max_rows", 5, "display.max_colwidth", 10):
        shown = table(many)
    assert shown.count(f"{name} alone") == 40
    assert "..." not in shown


@pytest.mark.parametrize("missing", ["spread", "parity"])
def test_a_column_without_a_figure_is_empty(rows, missing):
    shown = table([{**row, missing: None} for row in rows])
    assert "nan" not in shown.lower()
    assert "None" not in shown


def test_without_pandas_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "fusion.report.table")
    with pytest.raises(ImportError, match=r"braidbandit\[full,data\]"):
        import_module("fusion.report.table")


@pytest.mark.parametrize(
    ("figures", "best", "gain"),
    [([0.5, 0.9], 0, "+50.0%"), ([0.9, 0.5], 1, "+50.0%"), ([2.0, 1.25], 1, "-25.0%")],
)
def test_the_best_braid_is_that_of_the_fewest_bits(rows, figures, best, gain):
    """A strand takes 1 bit; a braid that takes more loses, and says so."""
    strand = {**rows[0], "bits_per_byte": {"d": 1.0}, "mean": 1.0}
    braids = [
        {**row, "bits_per_byte": {"d": bits}, "mean": bits}
        for row, bits in zip(rows[3:5], figures, strict=True)
    ]
    said = verdict([strand, *braids])
    assert f"best braid ({label(braids[best])})" in said
    assert said.endswith(f"d {gain}; mean {gain}")
