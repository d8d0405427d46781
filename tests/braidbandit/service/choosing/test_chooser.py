"""Which arm is chosen: by name, by deadline, by conversation."""

import time

import pytest

from braidbandit import Braid
from braidbandit.service.choosing.arms import Arms
from braidbandit.service.choosing.chooser import Chooser
from braidbandit.service.choosing.timing import Timing
from braidbandit.service.errors import ApiError
from braidbandit.service.live import Live
from braidbandit.service.ratings.signing import Signer
from braidbandit.service.wire.asking import ask_of_chat
from braidbandit.service.wire.bodies import ChatBody

FREE = {"input": 0.0, "output": 0.0}
FAR = {"model_name": "far", "endpoint": "http://127.0.0.1:9/v1", "price": FREE}


@pytest.fixture
def desk(make_agent):
    """A chooser over two local models, all of whose arms are ready, and one far."""

    class Desk:
        agent = make_agent(FAR)
        arms, timing, live = Arms(agent), Timing(), Live()
        signer, backlog = Signer(b"0" * 32), 0.0

        def __init__(self):
            for braid in self.agent.catalogue:
                self.arms.set_state(braid, "ready")
            self.chooser = Chooser(
                self.agent, self.arms, self.timing, self.live, self.signer,
                lambda: self.backlog, 1.0,
            )  # fmt: skip

        def choose(self, text="Hello", seconds=100.0, avoid=(), **body):
            said = [{"role": "user", "content": text}]
            whole = ChatBody.model_validate({"messages": said, **body})
            ask = ask_of_chat(whole, {}, "desk")
            reasons = dict.fromkeys(avoid, "it was tried")
            return self.chooser.choose(ask, seconds, reasons).decision

    return Desk()


def test_one_that_is_named(desk):
    for braid in desk.agent.catalogue:
        decision = desk.choose(model=braid.id)
        assert decision.braid == braid
        assert decision.propensity == 1.0
    assert len(desk.live.decision_seconds) == len(desk.agent.catalogue)


def test_those_that_are_not_ready_are_left_out(desk):
    for braid in desk.agent.catalogue:
        if braid.anchor != "gemma" or not braid.is_single:
            desk.arms.set_state(braid, "loading")
    found = {desk.choose(f"task {n}").braid.anchor for n in range(20)}
    assert found <= {"gemma", "far"}
    with pytest.raises(ApiError) as refused:
        desk.choose(model="llama")
    assert refused.value.status == 503


def test_only_endpoints_take_tools(desk):
    for n in range(5):
        assert desk.choose(f"{n}", tools=[{"type": "function"}]).braid.anchor == "far"
    with pytest.raises(ApiError) as refused:
        desk.choose(tools=[{"type": "function"}], avoid=[Braid("far").id])
    assert refused.value.status == 503  # there is one, but not now
    with pytest.raises(ApiError) as refused:
        desk.choose(model="llama", tools=[{"type": "function"}])
    assert (refused.value.status, refused.value.param) == (400, "tools")


def test_a_deadline_leaves_out_what_is_slow(desk):
    for braid in desk.agent.catalogue:
        seconds = 5.0 if braid.is_single and braid.anchor == "llama" else 50.0
        desk.timing.note(braid.id, first=1.0, seconds=seconds, tokens=10)
    for n in range(10):
        assert desk.choose(f"{n}", 10.0).braid == Braid("llama")
    # Where every arm is too slow, the one that is least so.
    assert desk.choose("x", 2.0).braid == Braid("llama")
    assert len({desk.choose(f"y {n}", 100.0).braid.id for n in range(20)}) > 1
    # Local ones wait for what was asked before.
    desk.timing.note(Braid("far").id, first=0.0, seconds=0.0, tokens=1)
    desk.timing.note(Braid("far").id, first=0.0, seconds=0.0, tokens=1)
    desk.backlog = 60.0
    assert desk.choose("z", 45.0).braid == Braid("far")


def test_a_budget_that_nothing_meets_is_the_callers_mistake(desk):
    desk.arms.set_state(Braid("llama"), "waiting")
    with pytest.raises(ApiError) as refused:
        desk.choose(x_braidbandit={"preference": {"beauty": 1.0}})
    assert (refused.value.status, refused.value.param) == (400, "x_braidbandit")
    with pytest.raises(ApiError) as refused:
        desk.choose(x_braidbandit={"type": "no such type"})
    assert refused.value.status == 400


def test_nothing_is_decided_where_something_is_refused(desk):
    before = desk.agent.ledger.counts()
    for body in (
        {"model": "nobody"},
        {"x_braidbandit": {"decision": "d", "token": "t"}},
    ):
        with pytest.raises(ApiError):
            desk.choose(**body)
    assert desk.agent.ledger.counts() == before


def test_how_long_it_took_is_measured_inside(desk):
    begun = time.perf_counter()
    desk.choose()
    assert 0 < desk.live.decision_seconds[-1] <= time.perf_counter() - begun
