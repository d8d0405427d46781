import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from braidbandit.evaluation.comparison import Comparison, Estimate

ROWS = tuple(
    Estimate(name, "DR", value, value - 0.1, value + 0.1, 9, 5.0, 1.0, 3.0, 0.1, 0.9)
    for name, value in (("old", 0.4), ("new", 0.6))
)
WITHOUT = replace(ROWS[0], estimator="IPS", sequence_low=None, sequence_high=None)


def test_best_by_value():
    assert Comparison(ROWS).best().policy == "new"
    with pytest.raises(ValueError, match="unknown estimator 'IPS'"):
        Comparison(ROWS).best("IPS")


def test_a_frame_has_what_the_records_have():
    frame = Comparison((*ROWS, WITHOUT)).to_frame()
    assert frame.index.tolist() == [("old", "DR"), ("new", "DR"), ("old", "IPS")]
    assert frame.loc[("new", "DR")].to_dict() == {
        "value": 0.6, "low": 0.5, "high": 0.7, "n": 9, "effective_n": 5.0,
        "mean_weight": 1.0, "largest_weight": 3.0, "sequence_low": 0.1,
        "sequence_high": 0.9,
    }  # fmt: skip
    assert np.isnan(frame.loc[("old", "IPS"), "sequence_low"])
    # Numbers even where no row has a sequence.
    assert Comparison((WITHOUT,)).to_frame()["sequence_low"].dtype == float


def test_what_is_printed():
    """A header, a line for each estimate and each refused policy, and the log."""
    text = str(Comparison((*ROWS, WITHOUT), {"odd": "never seen"}, 0.5))
    header, old, new, ips, refused, last = text.splitlines()
    assert header.split()[:4] == ["policy", "estimator", "value", "low"]
    assert old.split()[:3] == ["old", "DR", "0.400"]
    assert new.split()[-4:] == ["0.100", "0.900", "5.000", "9"]
    assert ips.split() == ["old", "IPS", "0.400", "0.300", "0.500", "5.000", "9"]
    assert refused == "odd: refused, never seen"
    assert last == "the log itself earned 0.500"


def test_without_pandas_records_are_printed_as_they_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    comparison = Comparison(ROWS, {}, 0.5)
    with pytest.raises(ImportError, match=r"braidbandit\[data\].*to_dict"):
        comparison.to_frame()
    assert str(comparison).splitlines()[:2] == [repr(row) for row in ROWS]
    assert comparison.to_dict()["rows"][1]["value"] == 0.6


def test_a_comparison_is_json():
    comparison = Comparison((*ROWS, WITHOUT), {"odd": "never seen"}, 0.5)
    data = json.loads(json.dumps(comparison.to_dict()))
    assert tuple(Estimate(**row) for row in data["rows"]) == comparison.rows
    assert (data["refused"], data["logged"]) == ({"odd": "never seen"}, 0.5)


def test_plot_draws_every_policy():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = Comparison(ROWS, {}, 0.5).plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["new", "old"]
    assert ax.get_xlabel() == "mean reward by DR"
    # An interval, a sequence and a point for each of two policies, and the log.
    assert len(ax.lines) == 7
    assert Comparison(ROWS).plot(ax=ax) is ax
    matplotlib.pyplot.close(ax.figure)


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"braidbandit\[plot\]"):
        Comparison(ROWS).plot()


@pytest.fixture
def axes():
    """Of a figure that is closed again; none other is left open."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    figure, ax = matplotlib.pyplot.subplots()
    yield ax
    matplotlib.pyplot.close(figure)
    assert matplotlib.pyplot.get_fignums() == []


def drawn(ax):
    """The lines of a plot: ends and height of the intervals, and the points."""
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in (
        line for line in ax.lines if not isinstance(line.get_xdata(), list)
    )]  # fmt: skip


def test_intervals_are_drawn_where_they_are(axes):
    """The first policy is on top; the log itself is a line across all of them."""
    Comparison(ROWS, {}, 0.5).plot(ax=axes)
    assert drawn(axes) == [
        ([0.5, 0.7], [0, 0]), ([0.1, 0.9], [0, 0]), ([0.6], [0]),
        ([pytest.approx(0.3), 0.5], [1, 1]), ([0.1, 0.9], [1, 1]), ([0.4], [1]),
    ]  # fmt: skip
    assert axes.lines[-1].get_xdata() == [0.5, 0.5]
    [label] = axes.get_legend().get_texts()
    assert label.get_text() == "the log itself"


def test_without_a_sequence_there_is_no_thin_line(axes):
    Comparison((*ROWS, WITHOUT), {}, 0.5).plot("IPS", axes)
    assert [line.get_linewidth() for line in axes.lines[:1]] == [3.0]
    assert len(axes.lines) == 3
    assert axes.get_xlabel() == "mean reward by IPS"


def test_an_unknown_estimator_draws_nothing(axes):
    message = r"unknown estimator 'dr'; the estimators are \['DR', 'IPS'\]"
    for call in (Comparison((*ROWS, WITHOUT)).best, Comparison((*ROWS, WITHOUT)).plot):
        with pytest.raises(ValueError, match=message):
            call("dr")
    with pytest.raises(ValueError, match=message):
        Comparison((*ROWS, WITHOUT)).plot("dr", axes)
    assert len(axes.lines) == 0


def test_the_first_of_equally_good_policies_is_the_best():
    twins = [replace(ROWS[1], policy=name) for name in ("b", "a")]
    assert Comparison((ROWS[0], *twins)).best().policy == "b"
    assert Comparison((*ROWS, WITHOUT)).best("IPS") is WITHOUT


def test_what_is_done_to_the_data_is_not_done_to_the_comparison():
    refused = {"odd": "never seen"}
    comparison = Comparison(ROWS, refused, 0.5)
    data = comparison.to_dict()
    data["refused"].clear()
    data["rows"][0]["value"] = 9.0
    frame = comparison.to_frame()
    frame["value"] = 9.0
    assert comparison == Comparison(ROWS, {"odd": "never seen"}, 0.5)


def test_values_outside_the_unit_interval_are_shown_as_they_are():
    """IPS may say that a policy earns more than there is."""
    row = replace(WITHOUT, value=1.25)
    comparison = Comparison((row,))
    assert comparison.best("IPS").value == 1.25
    assert "1.250" in str(comparison)
    assert comparison.to_frame()["value"].tolist() == [1.25]
