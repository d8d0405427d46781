"""What the parts show, over a real service."""

import pytest

from braidbandit import Braid
from braidbandit.service.dashboard.findings import Found
from braidbandit.service.dashboard.moving import Moved
from braidbandit.service.dashboard.showing import (
    Labels,
    cost,
    newest,
    plot_data,
    status,
    warned,
)


@pytest.fixture(scope="module")
def service(server):
    return server.service


def test_arms_that_are_gone_are_called_by_their_id(service):
    label = Labels(service)
    braid = Braid("llama")
    assert label(braid.id) == "llama alone"
    assert label("gone") == "gone"


def test_the_newest_come_first_and_are_few(service):
    made = [service.agent.forward(f"Task {at}") for at in range(15)]
    service.agent.learn_from_feedback("Task 14", made[-1], 0.25)
    lines = newest(service)
    assert [line.id for line in lines] == [d.id for d in made[:-13:-1]]
    assert lines[0].reward == 0.25
    assert lines[1].reward is None
    assert lines[0].seconds is None  # no answer was given
    assert lines[0].label == made[-1].braid.label()


def test_status_and_cost(service):
    assert status(service)["ready"]
    assert status(service)["gauges"]["arms_ready"] == service.arms.counts()["ready"]
    spent = cost(service)
    assert spent["budget"] == 1.0
    assert spent["price"] == service.agent.recommender.price


def test_an_arm_that_moved_is_warned_of_by_its_label(service):
    moved = (Moved(Braid("llama").id, False, 3),)
    series = {"rating": [1.0], "reward": [0.5], "cost": [0.1]}
    found = Found(None, (), moved, None, series, 1)
    [drift] = [one for one in warned(service, found) if one.kind == "Drift"]
    assert drift.what.startswith("llama alone was rated worse than expected")
    assert "3 ratings since" in drift.what
    assert plot_data(found) == series
    assert not [one for one in warned(service, None) if one.kind == "Drift"]


def test_arms_that_could_not_be_built_are_warned_of(service):
    braid = next(iter(service.agent.catalogue))
    before = service.arms.state(braid)
    service.arms.set_state(braid, "failed")
    try:
        found = [one for one in warned(service, None) if one.kind == "Models"]
    finally:
        service.arms.set_state(braid, before)
    assert [one.what for one in found] == [f"{braid.label()} could not be built"]
