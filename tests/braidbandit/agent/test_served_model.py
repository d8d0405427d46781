"""A served model writes as a braid does; on a real llama.cpp server."""

import threading

import pytest
from llama_server import MISSING, LlamaServer
from wayward_server import WHOLE, WaywardServer, chunk, stream, usage

from braidbandit import ModelCard
from braidbandit.agent.endpoint import EndpointError
from braidbandit.agent.served_model import ServedModel, Usage

pytest.importorskip("openai", reason="needs the extra endpoints")

real = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
PRICE = {"input": 1, "output": 2}
CARD = ModelCard("m", endpoint="http://127.0.0.1:9/v1", price=PRICE)


@pytest.fixture(scope="module")
def llama():
    server = LlamaServer("smol")
    yield server
    server.kill()


def smol(llama, **more):
    return ServedModel(ModelCard("smol", endpoint=llama.url, price=PRICE), **more)


@real
def test_an_answer_of_a_real_server(llama):
    seen = []
    model = smol(llama, answered=seen.append)
    text = model.generate("What is the capital of France?", max_new_tokens=8)
    assert isinstance(text, str)
    assert text
    [used] = seen
    assert used == model.usage
    assert not used.estimated
    assert 1 <= used.tokens_written <= 8
    assert used.tokens_read > 5
    assert used.seconds > 0
    money = (used.tokens_read + 2 * used.tokens_written) / 1e6
    assert used.money == pytest.approx(money)


@real
def test_it_streams_in_pieces_that_make_the_whole(llama):
    model = smol(llama)
    pieces = list(model.stream("Count to five.", max_new_tokens=6, do_sample=False))
    assert len(pieces) > 1
    whole = model.generate("Count to five.", max_new_tokens=6, do_sample=False)
    assert "".join(pieces) == whole
    cut = model.generate(
        "Count to five.", max_new_tokens=6, do_sample=False, stop_strings=whole[-1]
    )
    assert cut == whole[: whole.index(whole[-1])]


@real
def test_streamers_of_transformers(llama, capsys):
    transformers = pytest.importorskip("transformers")
    model = smol(llama)
    shown = transformers.TextStreamer(model.tokenizer)
    text = model.generate("Say hello.", streamer=shown, max_new_tokens=4)
    assert capsys.readouterr().out == text + "\n"
    queue = transformers.TextIteratorStreamer(model.tokenizer, timeout=60)
    writing = threading.Thread(
        target=model.generate,
        args=("Say hello.", queue),
        kwargs={"max_new_tokens": 4, "do_sample": False},
    )
    writing.start()
    pieces = list(queue)
    writing.join()
    again = model.generate("Say hello.", max_new_tokens=4, do_sample=False)
    assert "".join(pieces) == again


@real
def test_a_server_that_is_killed_in_the_middle():
    server = LlamaServer("smol")
    failed = []
    model = smol(server, failed=failed.append)
    pieces = model.stream("Tell me a long story.", max_new_tokens=400)
    first = next(pieces)
    server.kill()
    with pytest.raises(EndpointError, match="stopped in the middle") as caught:
        list(pieces)
    assert caught.value.written.startswith(first)
    assert failed == [caught.value]
    assert model.usage == Usage()


@pytest.fixture
def serve():
    started = []

    def start(*events, **more):
        server = WaywardServer(stream(*events))
        started.append(server)
        return ServedModel(ModelCard("m", endpoint=server.url, price=PRICE), **more)

    yield start
    for server in started:
        server.stop()


@pytest.mark.parametrize("said", [(), (usage(0, 0),)])
def test_tokens_are_counted_here_where_the_server_does_not(serve, said):
    """9 bytes read and 5 written, a quarter of that rounded up: 3 and 2."""
    model = serve(*WHOLE[:3], *said)
    model.generate("123456789")
    used = model.usage
    assert (used.tokens_read, used.tokens_written, used.estimated) == (3, 2, True)
    assert used.money == pytest.approx((3 + 2 * 2) / 1e6)


def test_usage_adds_up(serve):
    model = serve(*WHOLE)
    model.generate("Hi")
    model.generate("Hi")
    assert (model.usage.tokens_read, model.usage.tokens_written) == (16, 4)


def test_whoever_stops_early_has_what_came_counted(serve):
    seen = []
    model = serve(*WHOLE, answered=seen.append)
    pieces = model.stream("12345678")
    assert next(pieces) == "Hel"
    pieces.close()
    assert [(used.tokens_read, used.tokens_written) for used in seen] == [(2, 1)]
    assert seen[0].estimated


def test_a_streamer_is_told_of_the_end_also_when_the_server_fails(serve):
    class Streamer:
        def __init__(self):
            self.got = []

        def on_finalized_text(self, text, stream_end=False):
            self.got.append((text, stream_end))

    streamer = Streamer()
    with pytest.raises(EndpointError):
        serve(chunk("Hel")).generate("Hi", streamer)
    assert streamer.got == [("Hel", False), ("", True)]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((" ",), {}, ValueError, "the prompt is empty"),
        ((["Hi"],), {}, TypeError, "takes a text, received list"),
        (("Hi", print), {}, TypeError, "gives text to a streamer"),
        (("Hi",), {"max_new_tokens": 0}, ValueError, "a whole number from 1"),
        (("Hi",), {"max_new_tokens": True}, ValueError, "received True"),
        (("Hi",), {"timeout": 0}, ValueError, "timeout is seconds above 0"),
        (("Hi",), {"num_beams": 2}, TypeError, "num_beams"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(arguments, options, error, says):
    failed = []
    model = ServedModel(CARD, failed=failed.append)
    with pytest.raises(error, match=says):
        model.generate(*arguments, **options)
    if "streamer" not in says:
        with pytest.raises(error, match=says):
            model.stream(*arguments, **options)  # also without a word being read
    assert failed == []


def test_a_whole_request_is_handed_on():
    server = WaywardServer(stream(*WHOLE))
    try:
        model = ServedModel(ModelCard("m", endpoint=server.url, price=PRICE))
        said = [{"role": "system", "content": "Be brief."}]
        request = {"messages": said, "tools": [{"a": 1}], **model.limited(7)}
        chunks = list(model.chat(request))
        text = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(text) == "Hello"
        [body] = server.bodies
        assert (body["messages"], body["tools"]) == (said, [{"a": 1}])
        assert body["max_tokens"] == 7
        assert (model.usage.tokens_read, model.usage.tokens_written) == (8, 2)
    finally:
        server.stop()
