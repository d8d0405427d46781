"""Chunks and messages in OpenAI's form."""

import json

from hypothesis import given
from hypothesis import strategies as st

from braidbandit.service.web.forms import Form, logprobs_of, message_of
from braidbandit.service.writing.flow import Delta, Done

ABOUT = {"decision": "d", "token": "t", "arm": "a", "reason": "chosen – for\nné"}


def form(**more):
    given = {"is_chat": True, "shows_usage": False, "about": ABOUT, **more}
    return Form("chatcmpl-d", "m", **given)


def data(chunk):
    return [
        json.loads(part.removeprefix("data: "))
        for part in chunk.decode().split("\n\n")
        if part and part != "data: [DONE]"
    ]


def test_headers_are_plain_text():
    headers = form().headers
    assert headers["X-Braidbandit-Decision"] == "d"
    reason = headers["X-Braidbandit-Reason"]
    assert reason.isascii()
    assert reason.isprintable()
    assert reason.startswith("chosen ")


def test_the_end_of_a_stream():
    done = Done("stop", 3, 2, 0.1, 0.2)
    [end] = data(form().closing(done))
    assert end["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert "usage" not in end
    end, usage = data(form(shows_usage=True).closing(done))
    assert end["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5


def test_a_text_completion_has_text():
    whole = form(is_chat=False).whole(
        [Delta({"content": "a"})], Done("stop", 1, 1, 0, 0)
    )
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == "a"
    [piece] = data(form(is_chat=False).piece(Delta({"content": "b"})))
    assert piece["object"] == "text_completion"
    assert piece["choices"][0]["text"] == "b"


def test_why_an_answer_was_cut_is_told():
    done = Done("length", 1, 1, 0, 0, None, "the deadline has passed")
    assert form().whole([], done)["x_braidbandit"]["cut"] == "the deadline has passed"


@given(st.lists(st.text()))
def test_pieces_add_up(texts):
    message = message_of([Delta({"content": text}) for text in texts])
    assert message["content"] == "".join(texts)
    message = message_of([Delta({"reasoning_content": text}) for text in texts])
    assert message.get("reasoning_content", "") == "".join(texts)


def test_two_calls_of_tools_at_once():
    pieces = [
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}],
        [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "["}}],
        [
            {"index": 0, "function": {"arguments": "}"}},
            {"index": 1, "function": {"arguments": "]"}},
        ],
    ]
    message = message_of([Delta({"tool_calls": piece}) for piece in pieces])
    assert message["content"] is None
    calls = [(c["id"], c["function"]["arguments"]) for c in message["tool_calls"]]
    assert calls == [("a", "{}"), ("b", "[]")]


def test_logprobs_are_joined():
    assert logprobs_of([Delta({})]) is None
    parts = [Delta({}, {"content": [n], "refusal": None}) for n in (1, 2)]
    assert logprobs_of(parts) == {"content": [1, 2]}
