"""What is found, beside everything else, and seldom enough."""

import asyncio
from dataclasses import replace

import pytest

from braidbandit import Braid, Decision, Outcome
from braidbandit.service.dashboard import findings
from braidbandit.service.dashboard.findings import Findings, find


@pytest.fixture(scope="module")
def service(make_agent, models):
    """Of which nothing is started: only its ledger is read."""
    from braidbandit.service import ServiceSettings
    from braidbandit.service.service import Service

    agent = make_agent()
    pool = [card.to_dict() for card in agent.catalogue.cards.values()]
    made = Service(ServiceSettings(pool=pool), agent)
    yield made
    made.stop()


def rate(service, text, reward):
    decision = service.agent.forward(text)
    service.agent.learn_from_feedback(text, decision, reward)
    return decision


def test_nothing_is_found_where_nothing_is(service):
    assert find(service).paying is None
    assert find(service)[1:4] == ((), (), None)


def test_running_means_by_hand(service):
    decisions = [rate(service, "a", 1.0), rate(service, "bb", 0.0)]
    service.agent.forward("ccc")
    found = find(service)
    assert found.series["rating"] == [1, 2]
    assert found.series["reward"] == [1.0, 0.5]
    costs = [decision.relative_cost for decision in decisions]
    assert found.series["cost"] == [costs[0], pytest.approx(sum(costs) / 2)]
    assert found.outcomes == 2
    assert found.cost.decisions == sum(kind.tasks for kind in found.kinds) == 3


def test_a_window_is_of_the_newest_twenty():
    braid = Braid("a")
    made = Decision(
        "d", "t", (1.0,), braid, 0.5, 0.0, (braid.id,), (0.0,), (True,), 0.5, 0.1, 0.0,
        {}, "Uniform", "c", "e",
    )  # fmt: skip
    pairs = [
        (replace(made, id=f"d{i}"), Outcome(f"d{i}", i >= 580)) for i in range(600)
    ]
    columns = findings._series(pairs)
    assert columns["rating"][0] == 101
    assert columns["rating"][-1] == 600
    assert columns["reward"][-1] == 1.0
    assert columns["reward"][-2] == pytest.approx(19 / 20)


def test_it_does_not_wait_and_finds_anew_only_what_changed(service, monkeypatch):
    made = []
    monkeypatch.setattr(findings, "_LEAST_PAUSE", 0.0)
    monkeypatch.setattr(findings, "_SHARE", 1e9)

    def counted(of):
        made.append(of)
        return find(of)

    monkeypatch.setattr(findings, "find", counted)

    async def watch():
        found = Findings(service)
        assert await found.newest() is None
        first = await later(found, lambda newest: newest is not None)
        for _ in range(20):
            await found.newest()
            await asyncio.sleep(0.01)
        assert len(made) == 1
        rate(service, "dddd", 0.5)
        await later(found, lambda newest: newest.outcomes == first.outcomes + 1)

    async def later(found, is_right):
        for _ in range(3000):
            newest = await found.newest()
            if is_right(newest):
                return newest
            await asyncio.sleep(0.01)
        raise AssertionError("nothing was found")

    asyncio.run(watch())


def test_what_fails_is_logged_and_the_page_stays(service, monkeypatch, caplog):
    def broken(_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(findings, "find", broken)

    async def watch():
        found = Findings(service)
        await found.newest()
        while not caplog.records:
            await asyncio.sleep(0.01)
        assert await found.newest() is None

    asyncio.run(asyncio.wait_for(watch(), 30))
    assert "could not be computed" in caplog.text
