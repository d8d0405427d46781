"""Texts that are written together are what each would be alone."""

import asyncio
import time

import pytest

from braidbandit import Braid
from braidbandit.service.errors import ApiError
from braidbandit.service.wire.asking import ask_of_completion
from braidbandit.service.wire.bodies import CompletionBody
from braidbandit.service.writing.batch import Job, Writing
from braidbandit.service.writing.flow import Delta, Done, Failed, Flow

PROMPTS = ["Hello there", "The dog", "def add(a, b):\n    return a + b\n", "x"]


@pytest.fixture(scope="module")
def agent(make_agent):
    return make_agent()


@pytest.fixture(params=["alone", "braid"])
def braid(request, agent):
    alone = request.param == "alone"
    return next(b for b in agent.catalogue if b.is_single == alone)


def job(braid, prompt, most=9, seconds=60.0, **said):
    said.setdefault("temperature", 0)
    body = CompletionBody.model_validate({"prompt": prompt, **said})
    ask = ask_of_completion(body, {}, "desk")
    return Job(braid, ask, most, time.monotonic() + seconds, None)


def run(agent, *jobs):
    """Write jobs together; the events of each."""
    loop = asyncio.new_event_loop()
    for one in jobs:
        one.flow = Flow(loop)
    writing = Writing(agent.create_braided_model(jobs[0].braid), jobs)
    while writing.step():
        pass

    async def events(flow):
        return [event async for event in flow.events()]

    found = [loop.run_until_complete(events(one.flow)) for one in jobs]
    loop.close()
    return found


def text(events):
    return whole("".join(e.text for e in events if isinstance(e, Delta)))


def whole(text):
    """Without a last character that was cut: its bytes are left out here."""
    return text.rstrip("\ufffd")


def test_together_and_alone(agent, braid):
    model = agent.create_braided_model(braid)
    together = run(agent, *(job(braid, p, 5 + n) for n, p in enumerate(PROMPTS)))
    for n, prompt in enumerate(PROMPTS):
        expected = model.generate(prompt, max_new_tokens=5 + n, do_sample=False)
        assert text(together[n]) == whole(expected)
        end = together[n][-1]
        assert isinstance(end, Done)
        assert end.tokens_written <= 5 + n
        assert end.tokens_read == len(model.anchor.tokens.read(prompt))
        assert 0 < end.first <= end.seconds


def test_one_that_is_refused_leaves_the_others(agent, braid):
    long, fine = run(agent, job(braid, "a " * 900), job(braid, "Hello"))
    [failed] = long
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ApiError)
    assert failed.error.code == "context_length_exceeded"
    assert isinstance(fine[-1], Done)


def test_no_more_is_written_than_the_strands_can_read(agent, braid):
    model = agent.create_braided_model(braid)
    prompt = "the dog and the cat " * 15
    [events] = run(agent, job(braid, prompt, 5000))
    end = events[-1]
    assert isinstance(end, Done)
    assert end.tokens_read + end.tokens_written <= model.anchor.positions


def test_a_deadline_and_a_client_that_is_gone(agent, braid):
    [events] = run(agent, job(braid, "Hello", seconds=-1.0))
    assert events[-1].cut == "the deadline has passed"
    assert events[-1].tokens_written == 0


def test_the_sampler_follows_top_k_top_p_and_min_p(agent, braid):
    [greedy] = run(agent, job(braid, "Hello"))
    for said in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        [drawn] = run(agent, job(braid, "Hello", temperature=3.0, **said))
        assert text(drawn) == text(greedy)


def test_what_stops_may_be_spread_over_tokens(agent, braid):
    [written] = run(agent, job(braid, "The dog", 20))
    said = text(written)
    for width in (1, 3, 6):
        for at in range(0, max(len(said) - width, 0), 3):
            stop = said[at : at + width]
            [cut] = run(agent, job(braid, "The dog", 20, stop=[stop]))
            assert text(cut) == whole(said[: said.index(stop)])
            assert cut[-1].finish == "stop"


def test_jobs_go_together():
    one, other = (job(Braid("a"), "x") for _ in range(2))
    assert one.goes_with(other)
    assert not one.goes_with(job(Braid("b"), "x"))
    assert not one.goes_with(job(Braid("a"), "x", seed=1))
