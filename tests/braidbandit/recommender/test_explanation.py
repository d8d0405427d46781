"""An explanation is a record, a table and a picture."""

import json

import pytest

from braidbandit import Explanation
from braidbandit.ledger.records import dumps


def test_explanation_round_trips_exactly(agent):
    gone = agent.catalogue.ids[0]
    explanation = agent.explain("x", compute_budget=0.9, excluded=[gone])
    again = Explanation.from_dict(json.loads(dumps(explanation)))
    assert again == explanation
    assert again.rows[0].score == float("-inf")


def test_table_shows_the_chosen_arm(agent):
    explanation = agent.explain("x")
    text = str(explanation)
    assert explanation.sentence in text
    assert "\n> " in text
    assert explanation.chosen in explanation.rows


def test_plot(agent):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = agent.explain("x").plot()
    assert len(axes.patches) == 15
    plt.close(axes.figure)
