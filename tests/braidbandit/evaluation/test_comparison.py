import pytest

from braidbandit.evaluation.comparison import Comparison, Estimate

ROWS = tuple(
    Estimate(name, "DR", value, value - 0.1, value + 0.1, 9, 5.0, 1.0, 3.0, 0.1, 0.9)
    for name, value in (("old", 0.4), ("new", 0.6))
)


def test_best_by_value():
    assert Comparison(ROWS).best().policy == "new"
    with pytest.raises(ValueError, match="unknown estimator 'IPS'"):
        Comparison(ROWS).best("IPS")


def test_plot_draws_every_policy():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = Comparison(ROWS, {}, 0.5).plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["new", "old"]
    assert ax.get_xlabel() == "mean reward by DR"
    matplotlib.pyplot.close(ax.figure)
