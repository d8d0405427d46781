"""Which served models are out, and what was used for which decision."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from wayward_server import WHOLE, WaywardServer, in_turn, status, stream

from braidbandit import Braid, ModelCard
from braidbandit.agent.endpoint import EndpointError
from braidbandit.agent.served_model import ServedModel, Usage
from braidbandit.agent.servers import Servers

pytest.importorskip("openai", reason="needs the extra endpoints")

ARM = Braid("m")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def server():
    server = WaywardServer(stream(*WHOLE))
    yield server
    server.stop()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def served(server, clock):
    price = {"input": 0, "output": 0}
    cards = [ModelCard("local"), ModelCard("m", endpoint=server.url, price=price)]
    models = Servers(cards, clock)
    yield models
    models.close()


def fail(model):
    with pytest.raises(EndpointError):
        model.generate("Hi")


def test_local_models_are_passed_over(served):
    assert list(served.cards) == ["m"]
    assert isinstance(served.model(ARM, None, print), ServedModel)


def test_an_arm_is_out_for_a_minute_and_twice_as_long_the_next_time(
    served, server, clock
):
    gone = []
    model = served.model(ARM, "d", gone.append)
    server.does = status(401)
    fail(model)
    assert gone == ["d"]
    [reason] = served.out().values()
    assert "refuses" in reason or "wants a key" in reason
    assert reason.startswith("out until ")
    assert list(served.out()) == [ARM.id]
    for seconds in (60, 120, 240, 480, 960, 960):
        clock.now += seconds - 1
        assert served.out()
        clock.now += 1
        assert not served.out()
        fail(model)


def test_requests_that_fail_together_are_one_outage(served, server, clock):
    server.does = status(401)
    for _ in range(5):
        fail(served.model(ARM, None, print))
    clock.now += 60
    assert not served.out()


def test_an_answer_ends_an_outage(served, server, clock):
    server.does = in_turn(status(401), stream(*WHOLE), status(401))
    model = served.model(ARM, None, print)
    fail(model)
    model.generate("Hi")
    assert not served.out()
    fail(model)
    clock.now += 60
    assert not served.out()


def test_a_decision_that_was_answered_before_is_not_given_up(served, server):
    gone = []
    server.does = in_turn(stream(*WHOLE), status(401))
    model = served.model(ARM, "d", gone.append)
    model.generate("Hi")
    fail(model)
    assert served.out()
    assert gone == []


def test_threads_share_a_connection(served, server):
    def ask(number):
        return served.model(ARM, str(number % 4), print).generate("Hi")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == ["Hello"] * 24
    assert {used.tokens_read for used in served.used.values()} == {6 * 8}


def test_what_was_used_adds_up_per_decision(served):
    for decision_id in ("a", "b", "a"):
        served.model(ARM, decision_id, print).generate("Hi")
    served.model(ARM, None, print).generate("Hi")
    assert {key: used.tokens_read for key, used in served.used.items()} == {
        "b": 8,
        "a": 16,
    }


def test_the_newest_decisions_are_kept(served, monkeypatch):
    monkeypatch.setattr("braidbandit.agent.servers._MOST_USED", 2)
    for decision_id in "abc":
        served.model(ARM, decision_id, print).generate("Hi")
    assert list(served.used) == ["b", "c"]
    assert all(isinstance(used, Usage) for used in served.used.values())


def test_connections_are_shared_and_opened_again(served, server):
    first, second = (served.model(ARM, None, print) for _ in range(2))
    assert first.endpoint is second.endpoint
    first.generate("Hi")
    served.close()
    assert second.generate("Hi") == "Hello"
    served.after_fork()
    assert second.generate("Hi") == "Hello"
    assert len(server.bodies) == 3
