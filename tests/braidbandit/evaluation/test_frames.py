import sys
from dataclasses import dataclass

import pytest

from braidbandit.evaluation.frames import frame_of, text_of


@dataclass(frozen=True)
class Row:
    name: str
    value: float | None


ROWS = [Row("a", 0.25), Row("b", None), Row("c", 1.0)]


def test_one_row_for_each_record_in_their_order():
    frame = frame_of(ROWS)
    assert list(frame.columns) == ["name", "value"]
    assert frame["name"].tolist() == ["a", "b", "c"]
    assert frame["value"].isna().tolist() == [False, True, False]


def test_chosen_columns_with_three_decimals_and_gaps():
    lines = [line.split() for line in text_of(ROWS, ["value"]).splitlines()]
    assert lines == [["value"], ["0.250"], [], ["1.000"]]
    none = text_of([Row("b", None)], ["name", "value"]).splitlines()
    assert none[1].split() == ["b"]


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas"):
        frame_of(ROWS)
    assert text_of(ROWS, ["value"]).splitlines() == [repr(row) for row in ROWS]


@dataclass(frozen=True)
class Mixed:
    count: int
    sure: bool
    label: str | None
    inner: Row


def test_numbers_stay_whole_and_truth_values_truths():
    """So that 3 is printed as 3; what is nested is a dictionary."""
    frame = frame_of([Mixed(3, True, None, ROWS[0]), Mixed(4, False, "x", ROWS[1])])
    assert [frame[name].dtype.kind for name in ("count", "sure")] == ["i", "b"]
    assert frame["label"].isna().tolist() == [True, False]
    assert frame["inner"][0] == {"name": "a", "value": 0.25}
    text = text_of([Mixed(3, True, None, ROWS[0])], ["sure", "count"])
    assert [line.split() for line in text.splitlines()] == [
        ["sure", "count"],
        ["True", "3"],
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000"), (-0.0004, "-0.000"), (0.0005, "0.001"), (1234.5, "1234.500")],
)
def test_three_decimals_whatever_the_size(value, shown):
    assert text_of([Row("a", value)], ["value"]).split() == ["value", shown]


@pytest.mark.parametrize("count", [1, 2, 75])
def test_no_row_is_left_out_of_what_is_printed(count):
    """pandas by itself would print the first and the last only."""
    lines = text_of([Row(f"row {i}", i / 8) for i in range(count)], ["name"])
    assert [line.strip() for line in lines.splitlines()[1:]] == [
        f"row {i}" for i in range(count)
    ]


def test_a_column_that_no_record_has_is_an_error():
    with pytest.raises(KeyError, match="size"):
        text_of(ROWS, ["name", "size"])
