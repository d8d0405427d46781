"""Servers that do what they should not, over real connections."""

import builtins
import logging
import pickle
import socket
import sys
import time
import warnings
from contextlib import ExitStack

import pytest
from wayward_server import (
    WHOLE,
    WaywardServer,
    chunk,
    event,
    in_turn,
    status,
    stream,
    usage,
)

from braidbandit import ModelCard
from braidbandit.agent.endpoint import Endpoint, EndpointError
from braidbandit.agent.served_model import ServedModel

pytest.importorskip("openai", reason="needs the extra endpoints")

FREE = {"input": 0, "output": 0}
KEY = "sk-s3cret-0123456789"


@pytest.fixture
def serve(monkeypatch):
    """Start servers, and give a model at each; all are stopped in the end."""
    monkeypatch.setattr("braidbandit.agent.endpoint._FIRST_WAIT", 0.01)
    started = []

    def start(does, **card):
        server = WaywardServer(does)
        started.append(server)
        card = {"endpoint": server.url, "price": FREE, **card}
        return server, ServedModel(ModelCard("m", **card))

    yield start
    for server in started:
        server.stop()


def test_only_a_served_model_has_an_endpoint():
    with pytest.raises(ValueError, match="'m' has no endpoint; give one"):
        Endpoint(ModelCard("m"))


def test_what_is_sent(serve, monkeypatch):
    """Nothing of this machine, nor of accounts elsewhere; no key if none is named."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-s3cret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: s3cret")
    server, model = serve(stream(*WHOLE), source="org/m")
    assert model.generate("Hi", max_new_tokens=3, do_sample=False) == "Hello"
    assert server.bodies == [
        {
            "model": "org/m",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 3,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    [headers] = server.headers
    assert "authorization" not in headers
    assert "s3cret" not in str(headers)
    assert not [name for name in headers if name.startswith(("x-", "openai"))]


def test_the_key_is_read_for_each_request(serve, monkeypatch):
    server, model = serve(stream(*WHOLE), api_key_env="MY_KEY")
    for key in (KEY, KEY + "-new", f" {KEY}\n"):
        monkeypatch.setenv("MY_KEY", key)
        model.generate("Hi")
    sent = [headers["authorization"] for headers in server.headers]
    assert sent == [f"Bearer {KEY}", f"Bearer {KEY}-new", f"Bearer {KEY}"]


def test_what_is_sent_to_openai(serve, monkeypatch):
    """Its accounts, and the newer name of the limit, which new models ask for."""
    monkeypatch.setattr("braidbandit.agent.endpoint.OPENAI", "127.0.0.1")
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    server, model = serve(stream(*WHOLE), api_key_env="MY_KEY")
    model.generate("Hi", max_new_tokens=3)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["openai-organization"] == "org-1"
    assert server.bodies[0]["max_completion_tokens"] == 3
    assert "max_tokens" not in server.bodies[0]


def test_only_openai_gets_its_key_unasked():
    own = ModelCard("m", endpoint="https://api.openai.com/v1", price=FREE)
    other = ModelCard("m", endpoint="https://api.openai.com.evil/v1", price=FREE)
    assert Endpoint(own).variable == "OPENAI_API_KEY"
    bare = ModelCard("m", endpoint="http://api.openai.com/v1", price=FREE)
    assert Endpoint(other).variable is Endpoint(bare).variable is None


@pytest.mark.parametrize("value", [None, "", "two words", "é", "line\nbreak"])
def test_a_key_that_is_none(serve, monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    server, model = serve(stream(*WHOLE), api_key_env="MY_KEY")
    with pytest.raises(EndpointError, match="needs a key.*MY_KEY") as caught:
        model.generate("Hi")
    assert server.headers == []
    assert not value or value not in str(caught.value)


HTML = b"<!doctype html><title>Welcome</title>"
WRONG = [
    (status(401, f"Incorrect key {KEY}"), r"refuses the key \(401\).*MY_KEY"),
    (status(403, f"Incorrect key {KEY}"), r"refuses the key \(403\)"),
    (status(404), r"or no model 'm' \(404\): most endpoints end in /v1"),
    (status(429, f"slow down {KEY}"), r"asks to wait \(429\): slow down \*\*\*"),
    (status(500, f"oh {KEY}"), r"failed \(500\): oh \*\*\*"),
    (status(503, "y" * 999), r"failed \(503\): y{200}$"),
    (stream(HTML, kind="text/html"), "answers text/html and no stream"),
    (stream(b'{"a": 1}', kind="application/json"), "answers application/json and no"),
    (stream(b"", kind=""), "answers something and no stream"),
    (stream(b"data: {not json\n\n"), "is no chat completion .*ends in /v1"),
    (stream(event({"hello": 1})), "is no chat completion"),
    (stream(), "stopped before the first word of its answer"),
    (stream(chunk("Hel")), "stopped in the middle of its answer"),
    (stream(chunk("Hel"), event("[DONE]")), "stopped in the middle of its answer"),
    (stream(chunk("Hel"), chunk(finish="error")), "broke off its answer"),
    (
        stream(chunk("Hel"), event({"error": {"message": f"out {KEY}"}})),
        r"broke off its answer: out \*\*\*",
    ),
]


@pytest.mark.parametrize(("does", "says"), WRONG)
def test_servers_that_give_no_answer(serve, monkeypatch, does, says):
    """The error names the URL and the remedy; never the key, nor in what led to it."""
    monkeypatch.setenv("MY_KEY", KEY)
    server, model = serve(does, api_key_env="MY_KEY")
    with pytest.raises(EndpointError, match=says) as caught:
        model.generate("Hi")
    error = caught.value
    assert str(error).startswith(server.url)
    assert KEY not in str(error) + repr(error)
    assert error.__cause__ is error.__context__ is None
    assert error.endpoint == server.url
    assert model.usage.tokens_written == 0


def test_what_came_before_a_cut_is_kept(serve):
    _, model = serve(stream(chunk("Hel"), chunk("lo")))
    pieces = []
    with pytest.raises(EndpointError) as caught:
        pieces.extend(model.stream("Hi"))
    assert caught.value.written == "Hello"
    assert pieces == ["Hel", "lo"]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.written, str(again)) == ("Hello", str(caught.value))


def test_a_redirect_is_not_followed(serve, monkeypatch):
    """The key would go along."""
    monkeypatch.setenv("MY_KEY", KEY)
    other, _ = serve(stream(*WHOLE))
    where = other.url.replace("http://", "http://me:s3cret@") + "?key=s3cret"
    for code in (301, 302, 307, 308):
        _, model = serve(status(code, Location=where), api_key_env="MY_KEY")
        with pytest.raises(EndpointError, match="is not followed") as caught:
            model.generate("Hi")
        assert f"sends to {other.url} ({code})" in str(caught.value)
        assert "s3cret" not in str(caught.value)
    assert other.headers == []


def test_a_request_that_the_server_refuses_is_the_callers_mistake(serve):
    server, model = serve(status(400, "the prompt is too long"))
    failed = []
    model = ServedModel(model.card, failed=failed.append)
    with pytest.raises(ValueError, match=r"does not take .*'m' \(400\): the prompt is"):
        model.generate("Hi")
    assert failed == []
    assert len(server.bodies) == 1


def test_a_server_that_is_busy_is_asked_three_times(serve):
    server, model = serve(in_turn(status(503), status(429), stream(*WHOLE)))
    assert model.generate("Hi") == "Hello"
    assert len(server.bodies) == 3
    server, model = serve(status(503))
    with pytest.raises(EndpointError):
        model.generate("Hi")
    assert len(server.bodies) == 3
    server, model = serve(status(401))
    with pytest.raises(EndpointError):
        model.generate("Hi")
    assert len(server.bodies) == 1


def test_a_server_may_say_how_long_to_wait_and_is_not_waited_for(serve):
    _, model = serve(in_turn(status(429, Retry_After="30"), stream(*WHOLE)))
    begun = time.monotonic()
    assert model.generate("Hi") == "Hello"
    assert time.monotonic() - begun < 10


def test_a_server_that_knows_no_stream_options(serve):
    refuses = status(422, "extra fields not permitted: stream_options")
    server, model = serve(in_turn(refuses, stream(*WHOLE[:3])))
    assert model.generate("Hi") == "Hello"
    assert ["stream_options" in body for body in server.bodies] == [True, False]
    assert model.usage.estimated


def test_a_server_that_is_not_there(serve):
    server, model = serve(stream(*WHOLE))
    server.stop()
    with pytest.raises(EndpointError, match="cannot be reached.*the server runs"):
        model.generate("Hi")


def test_a_server_that_takes_no_connection():
    """Its queue is full: a connection is neither taken nor refused."""
    with socket.socket() as full, ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        model = ServedModel(ModelCard("m", endpoint=url, price=FREE))
        with pytest.raises(EndpointError, match=r"cannot be reached \(ConnectTimeout"):
            model.generate("Hi", timeout=0.3)


def test_a_server_that_is_slow(serve):
    server, model = serve(stream(*WHOLE, pause=1.0))
    with pytest.raises(EndpointError, match=r"did not go on for 0.2 s") as caught:
        model.generate("Hi", timeout=0.2)
    assert caught.value.written == "Hel"
    assert len(server.bodies) == 1
    # A pause that a busy machine does not make longer than the timeout.
    drip = [chunk("x")] * 600
    _, model = serve(stream(*drip, pause=0.02))
    with pytest.raises(EndpointError, match=r"still writing after 9 s"):
        model.generate("Hi", timeout=0.3)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("m", "m"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("Smol", "/models/smol.gguf"),
        ("C:\\models\\smol.gguf", "smol"),
        ("org/smol", "smol"),
        ("qwen3", "qwen3:8b"),
        ("m", ""),
        ("m", None),
    ],
)
def test_names_of_one_model(asked, answered):
    card = ModelCard("m", source=asked, endpoint="http://h/v1", price=FREE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Endpoint(card).tell_of_model(answered)


def test_another_model_than_asked_for_is_told_once(serve):
    """The answer is given and counted all the same."""
    answer = [event({"model": "other", "choices": []}), *WHOLE]
    _, model = serve(stream(*answer), source="qwen3:8b")
    with pytest.warns(UserWarning, match=r"'qwen3:8b'.*'other' answered.*source='oth"):
        assert model.generate("Hi") == "Hello"
    assert model.usage.tokens_written == 2
    assert model.generate("Hi") == "Hello"


def test_no_log_has_the_key(serve, monkeypatch, caplog):
    """Not with every logger at its loudest, well or ill."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "braidbandit"):
        caplog.set_level(logging.DEBUG, name)
    monkeypatch.setenv("MY_KEY", KEY)
    for does in (stream(*WHOLE), status(401, KEY), status(500, KEY), stream()):
        _, model = serve(does, api_key_env="MY_KEY")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model.generate("Hi")
            except EndpointError:
                pass
        assert KEY not in repr(model) + repr(model.endpoint) + repr(model.card)
    assert caplog.records
    assert KEY not in caplog.text
    assert "s3cret" not in str([vars(record) for record in caplog.records])


def test_the_extra_is_named_where_the_client_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "openai":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "openai")
    monkeypatch.setattr(builtins, "__import__", without)
    model = ServedModel(ModelCard("m", endpoint="http://h/v1", price=FREE))
    with pytest.raises(ImportError, match=r"pip install 'braidbandit\[endpoints\]'"):
        model.generate("Hi")


def test_usage_is_what_the_server_says(serve):
    """8 tokens read at 2, and 2 written at 3 per million."""
    _, model = serve(stream(*WHOLE, usage(8, 2)), price={"input": 2, "output": 3})
    model.generate("Hi")
    assert model.usage.money == pytest.approx(22e-6)
