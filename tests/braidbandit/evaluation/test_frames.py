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
