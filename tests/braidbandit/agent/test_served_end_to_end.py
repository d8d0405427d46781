"""The loop over one local model and two servers, one of which is killed."""

import logging
import warnings
from datetime import datetime, timezone

import numpy as np
import pytest
from llama_server import MISSING, LlamaServer
from toy_embedder import embed
from wayward_server import (
    WHOLE,
    WaywardServer,
    chunk,
    in_turn,
    status,
    stream,
)

from braidbandit import Braid, Catalogue, MetaBraider, ModelCard, TaskEncoder
from braidbandit.agent.endpoint import EndpointError
from braidbandit.agent.served_model import ServedModel

tiny = pytest.importorskip("tiny")
pytest.importorskip("openai", reason="needs the extra endpoints")

real = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
TASK = {"type": "code", "complexity": 0.7}
TEXTS = [f"The dog number {i} sleeps beside {i + 1} strands." for i in range(12)]
KEY = "sk-s3cret-0123456789"
FREE = {"input": 0.0, "output": 0.0}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    return {"model_name": "llama", "source": str(tiny.tiny_folder("llama", folder))}


@pytest.fixture
def make(local):
    """Open agents on a local model and served ones; all are closed in the end."""
    opened = []

    def open_agent(*served, folder=None, **options):
        options.setdefault("encoder", TaskEncoder(embedder=embed, n_components=4))
        agent = MetaBraider(
            [local, *served],
            folder=folder,
            calibration_texts=TEXTS,
            random_state=0,
            **options,
        )
        opened.append(agent)
        return agent

    yield open_agent
    for agent in opened:
        agent.close()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("braidbandit.agent.endpoint._FIRST_WAIT", 0.01)
    started = []

    def start(does, name="m", **card):
        server = WaywardServer(does)
        started.append(server)
        card = {"endpoint": server.url, "price": FREE, "source": "m", **card}
        return server, {"model_name": name, **card}

    yield start
    for server in started:
        server.stop()


def arm(name):
    return Braid(name).id


@real
def test_the_walk_with_a_server_that_is_killed(make, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOL_KEY", KEY)
    first, second = LlamaServer("one", KEY), LlamaServer("two")
    price = {"input": 10, "output": 20}
    one = {"model_name": "one", "endpoint": first.url, "price": price}
    two = {"model_name": "two", "endpoint": second.url, "price": FREE}
    pool = ({**one, "api_key_env": "SMOL_KEY"}, two)
    agent = make(*pool, folder=tmp_path)
    labels = [braid.label() for braid in agent.catalogue]
    own = "llama fed its own states, learned_weighted after the final norm"
    assert labels == ["llama alone", own, "one alone", "two alone"]

    assert list(agent.strands.sources) == ["llama"]  # nothing else is ever loaded

    # It learns, and what an answer took is measured by itself.
    for name in ("one", "two", "llama", "one"):
        decision = agent.forward(TASK, eligible=[arm(name)])
        model = agent.create_braided_model(decision)
        assert isinstance(model, ServedModel) == (name != "llama")
        text = model.generate("Hi there", max_new_tokens=3)
        assert isinstance(text, str)
        agent.learn_from_feedback(TASK, decision, 0.9 if name == "one" else 0.2)
        outcome = agent.ledger.said_before(decision.id, 10**9)
        if name == "llama":
            assert (outcome.latency_ms, outcome.compute) == (None, None)
            continue
        used = model.usage
        assert outcome.latency_ms == pytest.approx(1000 * used.seconds)
        assert outcome.compute == pytest.approx(used.money)
        assert (outcome.compute > 0) == (name == "one")
    assert agent.recommender.n_updates_ == 4
    why = agent.explain(TASK)
    best = max(why.rows, key=lambda row: row.mean)
    assert best.label == "one alone"

    # It survives a server that is killed in the middle of an answer.
    decision = agent.forward(TASK, eligible=[arm("one")])
    pieces = agent.create_braided_model(decision).stream("A story", max_new_tokens=400)
    next(pieces)
    first.kill()
    with pytest.raises(EndpointError, match="stopped in the middle"):
        list(pieces)
    assert agent.ledger.counts() == {"decisions": 5, "outcomes": 4, "pending": 0}
    assert list(agent.ledger.expired()) == [decision.id]
    [reason] = [row.reason for row in agent.explain(TASK).rows if row.reason]
    assert "out until" in reason
    assert first.url in reason
    assert "out until" in str(agent.explain(TASK))
    for _ in range(5):
        decision = agent.forward(TASK)
        assert decision.braid.anchor != "one"
        assert not decision.eligible[agent.catalogue.index(arm("one"))]
    decision = agent.forward(TASK, eligible=[arm("two")])
    agent.create_braided_model(decision).generate("Hi", max_new_tokens=2)
    agent.learn_from_feedback(TASK, decision, 0.5)

    # It resumes, also where a server is at another port.
    mean = agent.recommender.posterior_.mean.copy()
    agent.close()
    third = LlamaServer("one", KEY)
    moved = {**pool[0], "endpoint": third.url}
    again = make(moved, two, folder=tmp_path)
    np.testing.assert_array_equal(again.recommender.posterior_.mean, mean)
    assert again.catalogue.cards["one"].endpoint == third.url
    decision = again.forward(TASK, eligible=[arm("one")])
    assert again.create_braided_model(decision).generate("Hi", max_new_tokens=2)
    again.learn_from_feedback(TASK, decision, 1.0)
    again.close()
    second.kill()
    third.kill()
    assert_nowhere(KEY, tmp_path)


def assert_nowhere(secret, folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert secret.encode() not in file.read_bytes(), file


def test_no_secret_gets_out(make, serve, tmp_path, monkeypatch, caplog):
    """Not into files, logs, reprs, explanations or errors, whatever the server does."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "braidbandit")
    monkeypatch.setenv("SMOL_KEY", KEY)
    server, card = serve(stream(*WHOLE), api_key_env="SMOL_KEY")
    agent = make(card, folder=tmp_path, keep_text=True)
    told = []
    for does in (
        stream(*WHOLE),
        status(401, f"wrong key {KEY}"),
        status(500, f"crash with {KEY}"),
        status(400, f"bad request of {KEY}"),
        status(307, Location="http://me:s3cret@elsewhere/v1?key=s3cret"),
        stream(chunk("Hel")),
        stream(b"<html>", kind="text/html"),
    ):
        server.does = does
        agent._served.outages.clear()
        decision = agent.forward(TASK, eligible=[arm("m")])
        model = agent.create_braided_model(decision)
        try:
            agent.learn_from_feedback(TASK, decision, len(model.generate("Hi")) / 5)
        except (EndpointError, ValueError) as error:
            told += [str(error), repr(error), str(vars(error))]
        told += [str(agent.explain(TASK)), str(agent.explain(TASK).to_dict())]
        told += [repr(model), repr(model.endpoint), str(decision), repr(decision)]
    told += [repr(agent), repr(agent.catalogue), repr(agent.catalogue.cards)]
    agent.close()
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert "s3cret" not in "\n".join(told)  # which is a part of the key
    assert KEY not in caplog.text
    assert_nowhere(KEY, tmp_path)


def test_a_failed_answer_is_no_reward(make, serve):
    server, card = serve(status(500))
    agent = make(card)
    decision = agent.forward(TASK, eligible=[arm("m")])
    with pytest.raises(EndpointError):
        agent.create_braided_model(decision).generate("Hi")
    with pytest.raises(KeyError, match="expired before its outcome"):
        agent.learn_from_feedback(TASK, decision, 0.0)
    assert agent.recommender.n_updates_ == 0
    assert agent.recommender.pending_ == {}
    assert agent.recommender.feedback_counts_["expired"] == 1


def test_a_request_that_is_refused_lets_the_decision_wait(make, serve):
    """The server is well: another prompt may go through."""
    server, card = serve(in_turn(status(400, "too long"), stream(*WHOLE)))
    agent = make(card)
    decision = agent.forward(TASK, eligible=[arm("m")])
    model = agent.create_braided_model(decision)
    with pytest.raises(ValueError, match="too long"):
        model.generate("Hi")
    assert not agent._served.outages
    model.generate("Hi")
    agent.learn_from_feedback(TASK, decision, 1.0)
    assert agent.ledger.counts()["outcomes"] == 1


def test_when_every_arm_is_out_it_is_said_why(make, serve):
    _, card = serve(status(401))
    agent = make(card)
    decision = agent.forward(TASK, eligible=[arm("m")])
    with pytest.raises(EndpointError):
        agent.create_braided_model(decision).generate("Hi")
    before = agent.ledger.counts()
    for call in (agent.forward, agent.explain):
        with pytest.raises(ValueError, match=r"no arm is left.*Excluded: out until"):
            call(TASK, eligible=[arm("m")])
        others = [arm_id for arm_id in agent.catalogue.ids if arm_id != arm("m")]
        with pytest.raises(ValueError, match=r"no arm is left.*Excluded: out until"):
            call(TASK, excluded=others)
        with pytest.raises(TypeError, match="received text"):
            call(TASK, excluded="m")
    assert agent.ledger.counts() == before


def test_the_callers_measurements_come_first(make, serve):
    _, card = serve(stream(*WHOLE), price={"input": 1e6, "output": 0})
    agent = make(card)

    def answered(**given):
        decision = agent.forward(TASK, eligible=[arm("m")])
        agent.create_braided_model(decision).generate("Hi")
        agent.learn_from_feedback(TASK, decision, 0.5, **given)
        return decision, agent.ledger.said_before(decision.id, 10**9)

    _, outcome = answered(latency_ms=5.0)
    assert (outcome.latency_ms, outcome.compute) == (5.0, 8.0)
    _, outcome = answered(compute=3.0)
    assert outcome.compute == 3.0
    assert outcome.latency_ms > 0
    assert set(agent.recommender.arm_model_.costs) == {"latency", "compute"}


def test_the_same_feedback_twice_counts_once_also_after_a_restart(
    make, serve, tmp_path
):
    """What the answers took is known in one process only."""
    _, card = serve(stream(*WHOLE))
    agent = make(card, folder=tmp_path)
    decision = agent.forward(TASK, eligible=[arm("m")])
    model = agent.create_braided_model(decision)
    model.generate("Hi")
    agent.learn_from_feedback(TASK, decision, 0.5)
    model.generate("Hi")  # once more, which takes longer
    agent.learn_from_feedback(TASK, decision, 0.5)
    with pytest.raises(ValueError, match="has an outcome already"):
        agent.learn_from_feedback(TASK, decision, 0.6)
    agent.close()
    again = make(card, folder=tmp_path)
    again.learn_from_feedback(TASK, decision, 0.5)
    assert again.ledger.counts()["outcomes"] == 1
    later = again.forward(TASK, eligible=[arm("m")])
    again.learn_from_feedback(TASK, later, 0.5)  # it was shown elsewhere
    assert again.ledger.counts()["outcomes"] == 2


def test_an_arm_without_a_decision(make, serve):
    """It writes, and no decision is waited for; its outage counts all the same."""
    server, card = serve(in_turn(stream(*WHOLE), status(401)))
    agent = make(card)
    waits = agent.forward(TASK, eligible=[arm("m")])
    model = agent.create_braided_model(arm("m"))
    assert model.generate("Hi") == "Hello"
    with pytest.raises(EndpointError):
        model.generate("Hi")
    assert list(agent._served.out()) == [arm("m")]
    assert list(agent.recommender.pending_) == [waits.id]
    assert agent.calibrate(arm("m")) is None


def test_servers_only_need_no_model_here(make, serve, tmp_path):
    _, one = serve(stream(*WHOLE), "one")
    _, two = serve(stream(*WHOLE), "two", price={"input": 1, "output": 1})
    encoder = TaskEncoder(embedder=embed, n_components=4)
    with MetaBraider([two, one], folder=tmp_path, encoder=encoder) as agent:
        assert [braid.label() for braid in agent.catalogue] == [
            "two alone",
            "one alone",
        ]
        decision = agent.forward(TASK, compute_budget=0.0)
        assert decision.braid.anchor == "one"
        assert agent.create_braided_model(decision).generate("Hi") == "Hello"
        agent.learn_from_feedback(TASK, decision, 1)
    assert agent.recommender.n_updates_ == 1


def test_another_price_is_told_and_counts_from_now_on(make, serve, tmp_path):
    _, card = serve(stream(*WHOLE), price={"input": 1e6, "output": 0})
    make(card, folder=tmp_path).close()
    dearer = {**card, "price": {"input": 2e6, "output": 0}}
    with pytest.warns(UserWarning, match=r"prices of \['m'\] are others"):
        agent = make(dearer, folder=tmp_path)
    decision = agent.forward(TASK, eligible=[arm("m")])
    agent.create_braided_model(decision).generate("Hi")
    agent.learn_from_feedback(TASK, decision, 0.5)
    assert agent.ledger.said_before(decision.id, 10**9).compute == 16.0
    assert agent.catalogue.cards["m"].price.input == 1e6


def test_a_served_model_may_come_later(make, serve):
    _, first = serve(stream(*WHOLE), "m")
    _, second = serve(stream(*WHOLE), "late")
    agent = make(first)
    agent.recommender.add_arms([Braid("late")], [ModelCard.from_dict(second)])
    decision = agent.forward(TASK, eligible=[arm("late")])
    assert agent.create_braided_model(decision).generate("Hi") == "Hello"


def test_pool_and_catalogue_agree_on_what_is_served(make, serve, local):
    _, card = serve(stream(*WHOLE))
    catalogue = Catalogue.build([local, "m"], layer_sets=("output",))
    with pytest.raises(ValueError, match="'m' has an endpoint in the model pool or"):
        make(card, catalogue=catalogue)


def test_after_the_agent_is_closed(make, serve, tmp_path):
    """A model that is still held fails as before, and nothing is written."""
    server, card = serve(status(500))
    agent = make(card, folder=tmp_path)
    decision = agent.forward(TASK, eligible=[arm("m")])
    model = agent.create_braided_model(decision)
    agent.close()
    with pytest.raises(EndpointError, match="500"):
        model.generate("Hi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make(card, folder=tmp_path)
    assert list(again.recommender.pending_) == [decision.id]
    assert again.expire(decision) == 1
    assert again.expire(datetime.now(timezone.utc)) == 0
