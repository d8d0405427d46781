"""One thread writes; jobs of one model together, and a broken one hurts nobody else."""

import asyncio
import threading
import time

import pytest

from braidbandit import Braid
from braidbandit.service.errors import ApiError
from braidbandit.service.wire.asking import ask_of_completion
from braidbandit.service.wire.bodies import CompletionBody
from braidbandit.service.writing.batch import Job
from braidbandit.service.writing.flow import Delta, Done, Failed, Flow
from braidbandit.service.writing.worker import LocalWorker


@pytest.fixture(scope="module")
def agent(make_agent):
    return make_agent()


@pytest.fixture
def run(agent):
    """Submit jobs to a worker all at once; return the events of each."""
    workers = []

    def run(jobs, model_of=agent.create_braided_model, batch=8, cancelled=()):
        worker = LocalWorker(model_of, batch)
        workers.append(worker)

        async def all_events():
            loop = asyncio.get_running_loop()
            flows = [Flow(loop) for _ in jobs]
            for n in cancelled:
                flows[n].cancel()
            for (name, prompt, said), flow in zip(jobs, flows, strict=True):
                worker.submit(job(name, prompt, flow, **said))

            async def events(flow):
                return [event async for event in flow.events()]

            return await asyncio.gather(*(events(flow) for flow in flows))

        return asyncio.run(asyncio.wait_for(all_events(), 60))

    yield run
    for worker in workers:
        worker.close(10)


def job(name, prompt, flow, seconds=60.0, most=6, **said):
    body = CompletionBody.model_validate({"prompt": prompt, "temperature": 0, **said})
    ask = ask_of_completion(body, {}, "desk")
    return Job(Braid(name), ask, most, time.monotonic() + seconds, flow)


def text(events):
    return whole("".join(e.text for e in events if isinstance(e, Delta)))


def whole(text):
    """Without a last character that was cut: its bytes are left out here."""
    return text.rstrip("\ufffd")


def test_many_jobs_of_two_models(agent, run):
    jobs = [(("llama", "gemma")[n % 2], f"text number {n}", {}) for n in range(21)]
    for (name, prompt, _), events in zip(jobs, run(jobs, batch=4), strict=True):
        model = agent.create_braided_model(Braid(name))
        expected = model.generate(prompt, max_new_tokens=6, do_sample=False)
        assert text(events) == whole(expected)
        assert isinstance(events[-1], Done)


def test_a_model_that_cannot_be_had(agent, run):
    def model_of(braid):
        if braid.anchor == "gemma":
            raise OSError("gone")
        return agent.create_braided_model(braid)

    broken, fine = run([("gemma", "a", {}), ("llama", "b", {})], model_of)
    assert isinstance(broken[-1], Failed)
    assert isinstance(broken[-1].error, OSError)
    assert isinstance(fine[-1], Done)


def test_a_model_that_breaks_while_it_writes(agent, run):
    class Broken:
        def __init__(self, model):
            self.model, self.calls = model, 0

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, **given):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("no more")
            return self.model(**given)

    model = Broken(agent.create_braided_model(Braid("llama")))
    [broken] = run([("llama", "a", {})], lambda _: model)
    assert isinstance(broken[-1], Failed)
    assert "no more" in str(broken[-1].error)


def test_nobody_waits_or_it_is_too_late(run):
    gone, late, fine = run(
        [("llama", "a", {}), ("llama", "b", {"seconds": -1.0}), ("llama", "c", {})],
        cancelled=[0],
    )
    assert gone[-1].tokens_written == 0
    assert isinstance(late[-1], Failed)
    assert late[-1].error.code == "deadline"
    assert isinstance(fine[-1], Done)


def test_what_is_begun_is_written_when_it_closes(agent):
    async def one():
        worker = LocalWorker(agent.create_braided_model, 8)
        flow = Flow(asyncio.get_running_loop())
        worker.submit(job("llama", "a", flow, most=40))
        await asyncio.to_thread(worker.close, 30)
        with pytest.raises(ApiError, match="stopping"):
            worker.submit(job("llama", "b", flow))
        return [event async for event in flow.events()]

    events = asyncio.run(one())
    assert isinstance(events[-1], Done)


def test_no_token_is_written_while_it_is_paused(agent):
    """A decision waits for the token that is being written, and the next for it."""
    written = []

    class Model:
        def __init__(self, model):
            self.model = model

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, *arguments, **said):
            written.append(time.monotonic())
            return self.model(*arguments, **said)

    worker = LocalWorker(lambda braid: Model(agent.create_braided_model(braid)), 1)

    async def begin():
        flow = Flow(asyncio.get_running_loop())
        worker.submit(job("llama", "a text", flow, most=60))
        while len(written) < 3:
            await asyncio.sleep(0.001)
        alone = 0
        # A busy machine takes longer for a token than it is waited for.
        while not alone:
            with worker.paused() as is_alone:
                count = len(written)
                await asyncio.sleep(0.2)
                alone += is_alone
                assert not is_alone or len(written) == count
        return [event async for event in flow.events()]

    try:
        events = asyncio.run(asyncio.wait_for(begin(), 60))
    finally:
        worker.close(10)
    assert isinstance(events[-1], Done)


def test_a_pause_does_not_wait_for_a_long_token(agent):
    started = threading.Event()
    go_on = threading.Event()

    def slow(braid):
        started.set()
        go_on.wait(30)
        return agent.create_braided_model(braid)

    worker = LocalWorker(slow, 1)
    try:

        async def begin():
            flow = Flow(asyncio.get_running_loop())
            worker.submit(job("llama", "a text", flow, most=2))
            started.wait(30)
            begun = time.monotonic()
            with worker.paused():
                assert time.monotonic() - begun < 10
            go_on.set()
            return [event async for event in flow.events()]

        events = asyncio.run(asyncio.wait_for(begin(), 60))
    finally:
        go_on.set()
        worker.close(10)
    assert isinstance(events[-1], Done)
