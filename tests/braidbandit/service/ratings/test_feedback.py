"""Feedback counts once, for decisions of this service only."""

import httpx2
import pytest
from toy_embedder import embed

from braidbandit import MetaBraider, ModelCard, TaskEncoder

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def quiet(serve, make_agent, models):
    server = {"changes_per_decision": 4}
    return serve(make_agent(local=models[:1]), server=server)


@pytest.fixture
def http(quiet):
    with httpx2.Client(base_url=quiet.root, timeout=60) as client:
        yield client


@pytest.fixture
def about(http):
    """What is told of a new answer."""
    body = {"messages": HELLO, "max_tokens": 2}
    said = http.post("/v1/chat/completions", json=body).json()["x_braidbandit"]
    return {key: said[key] for key in ("decision", "token")}


def rate(http, about, **said):
    return http.post("/v1/feedback", json={**about, **said})


def rewards(server):
    return {d.id: o.reward for _, d, o in server.service.ledger.pairs()}


@pytest.mark.parametrize(
    ("said", "reward"),
    [
        ({"reward": 0.3}, 0.3),
        ({"stars": 4}, 0.8),
        ({"thumbs": "up"}, 1.0),
        ({"thumbs": "down"}, 0.0),
    ],
)
def test_what_is_said_is_learnt(quiet, http, about, said, reward):
    answer = rate(http, about, **said, source="judge")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"decision": about["decision"], "result": "learnt"}
    assert rewards(quiet)[about["decision"]] == pytest.approx(reward)
    settled = quiet.service.agent.recommender.settled_
    assert settled[about["decision"]] == pytest.approx(reward)
    ledger = quiet.service.ledger
    outcome = ledger.said_before(about["decision"], ledger.last_sequence() + 1)
    assert outcome.source == "judge"
    assert outcome.latency_ms > 0  # measured by the service
    told = http.get(f"/v1/decisions/{about['decision']}").json()
    assert told["outcome"]["reward"] == pytest.approx(reward)


def test_the_same_twice_counts_once(quiet, http, about):
    before = quiet.service.ledger.last_sequence()
    results = [rate(http, about, reward=0.7).json()["result"] for _ in range(3)]
    assert results == ["learnt", "known", "known"]
    assert quiet.service.ledger.last_sequence() == before + 1


def test_another_reward_must_be_meant(http, about):
    rate(http, about, reward=0.7)
    refused = rate(http, about, reward=0.2)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "already_rated"
    assert rate(http, about, reward=0.2, revise=True).json()["result"] == "revised"
    assert rate(http, about, retract=True).json()["result"] == "retracted"
    assert rate(http, about, retract=True).json()["result"] == "known"
    assert rate(http, about, reward=0.9).json()["result"] == "learnt"
    # It was changed four times: that is enough.
    refused = rate(http, about, reward=0.1, revise=True)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "too_many_changes"
    assert rate(http, about, reward=0.9).json()["result"] == "known"


def test_a_signal_with_an_id_may_change_its_mind(quiet, http, about):
    assert rate(http, about, thumbs="up", id="s1").json()["result"] == "learnt"
    assert rate(http, about, thumbs="up", id="s1").json()["result"] == "known"
    assert rate(http, about, thumbs="down", id="s1").json()["result"] == "revised"
    assert rewards(quiet)[about["decision"]] == 0.0


def test_an_id_is_for_one_decision(quiet, http, about):
    rate(http, about, thumbs="up", id="s2")
    body = {"messages": HELLO, "max_tokens": 2}
    said = http.post("/v1/chat/completions", json=body).json()["x_braidbandit"]
    other = {key: said[key] for key in ("decision", "token")}
    refused = rate(http, other, thumbs="up", id="s2")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "id_used"
    assert other["decision"] not in rewards(quiet)


def test_only_decisions_that_were_signed_are_rated(quiet, http, about):
    before = quiet.service.ledger.last_sequence()
    other = quiet.service.agent.forward("a task of somebody else")
    for wrong in (
        {**about, "token": "forged"},
        {**about, "decision": other.id},
        {"decision": other.id, "token": "é" * 9},
    ):
        answer = rate(http, wrong, reward=1.0)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "bad_token"
    unknown = {"decision": "x", "token": quiet.service.signer.token("x")}
    assert rate(http, unknown, reward=1.0).status_code == 404
    assert quiet.service.ledger.last_sequence() == before


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"reward": 1.01},
        {"reward": "1"},
        {"reward": True},
        {"stars": 5.5},
        {"thumbs": "sideways"},
        {"reward": 0.5, "stars": 3},
        {"reward": 0.5, "retract": True},
        {"reward": 0.5, "unknown": 1},
        {"reward": 0.5, "source": "two words"},
        {"preferred_over": {"decision": "d"}},
    ],
)
def test_what_makes_no_sense_is_refused(quiet, http, about, said):
    before = quiet.service.ledger.last_sequence()
    answer = rate(http, about, **said)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert quiet.service.ledger.last_sequence() == before


def test_expired_decisions_are_not_rated(quiet, http, about):
    quiet.service.agent.expire(about["decision"])
    answer = rate(http, about, reward=1.0)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "expired"


def test_feedback_after_a_restart(serve, make_agent, models, tmp_path):
    """Another process with the same folder takes the token, and learns it."""
    agent = make_agent(local=models[:1], folder=tmp_path)
    first = serve(agent)
    with httpx2.Client(base_url=first.root, timeout=60) as http:
        body = {"messages": HELLO, "max_tokens": 2}
        said = http.post("/v1/chat/completions", json=body).json()["x_braidbandit"]
    first.stop()
    agent.close()
    second = serve(make_agent(local=models[:1], folder=tmp_path))
    about = {key: said[key] for key in ("decision", "token")}
    with httpx2.Client(base_url=second.root, timeout=60) as http:
        assert rate(http, about, stars=5).json()["result"] == "learnt"
        told = http.get(f"/v1/decisions/{about['decision']}").json()
    assert told["outcome"]["reward"] == 1.0
    assert told["outcome"]["latency_ms"] > 0
    assert told["explanation_now"] is None  # the text of the task is nowhere kept


def test_a_key_gives_only_so_much_feedback(serve, make_agent, models):
    server = serve(make_agent(local=models[:1]), server={"feedback_per_hour": 3})
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        about = {"decision": "d", "token": "t"}
        found = [rate(http, about, reward=1.0).status_code for _ in range(5)]
    assert found == [403, 403, 403, 429, 429]


def test_one_answer_is_preferred_over_another(http, about):
    body = {"messages": HELLO, "max_tokens": 2}
    said = http.post("/v1/chat/completions", json=body).json()["x_braidbandit"]
    worse = {key: said[key] for key in ("decision", "token")}
    forged = {**worse, "token": "forged"}
    refused = rate(http, about, preferred_over=forged)
    assert refused.json()["error"]["param"] == "preferred_over.token"
    answers = [rate(http, about, preferred_over=worse) for _ in range(2)]
    if answers[0].status_code == 200:
        assert [a.json()["result"] for a in answers] == ["learnt", "known"]
    else:  # of the same arm: there is nothing to compare
        assert about["decision"] != worse["decision"]
        assert answers[0].status_code == 409


def test_what_is_said_of_an_unfit_arm_is_ignored(tmp_path):
    """Its anchor may have answered in its place."""
    from braidbandit.service.live import Live
    from braidbandit.service.ratings.feedback import Feedback
    from braidbandit.service.ratings.memory import Memory
    from braidbandit.service.wire.bodies import FeedbackBody

    price = {"input": 1.0, "output": 2.0}
    cards = [ModelCard(n, endpoint="http://host/v1", price=price) for n in "ab"]
    encoder = TaskEncoder(embedder=embed, n_components=4)
    with MetaBraider(cards, encoder=encoder, folder=tmp_path) as agent:
        feedback = Feedback(agent, Memory(":memory:"), Live(), 1)
        one, other = (agent.forward("x", eligible=[arm]) for arm in agent.catalogue.ids)
        unfit = agent.catalogue.with_unfit(other.braid.id, "worse")
        agent.recommender.set_params(catalogue=unfit).start()
        about = {"decision": other.id, "token": "t"}
        said = [
            FeedbackBody(**about, reward=0.5),
            FeedbackBody(**about, preferred_over={"decision": one.id, "token": "t"}),
            FeedbackBody(decision=one.id, token="t", preferred_over=about),
        ]
        for body in said * 2:  # which is no change of what was said, either
            assert feedback.take(body, "me") == "ignored"
        assert agent.ledger.last_sequence() == 0
