"""What a request asks for, and in which conversation."""

import pytest
from pydantic import ValidationError

from braidbandit.service.errors import ApiError
from braidbandit.service.wire.asking import ask_of_chat, ask_of_completion
from braidbandit.service.wire.bodies import ChatBody, CompletionBody

SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
]
MORE = [
    *SAID,
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
]


def chat(messages=SAID, headers=None, caller="desk", **body):
    whole = ChatBody.model_validate({"messages": messages, **body})
    return ask_of_chat(whole, headers or {}, caller)


def test_the_task_is_what_the_user_said_last():
    assert chat().task == {"text": "Hello"}
    assert chat(MORE).task == {"text": "And now?"}
    wishes = {"type": "code", "complexity": 0.5, "capabilities": ["sql"]}
    assert chat(x_braidbandit=wishes).task == {"text": "Hello", **wishes}
    with pytest.raises(ApiError, match="no message of a user"):
        chat([{"role": "assistant", "content": "Hi"}])
    with pytest.raises(ApiError, match="no message of a user"):
        chat([{"role": "user", "content": "  "}])


def test_all_turns_of_a_conversation_share_their_opening():
    first, second = chat(), chat(MORE)
    assert first.conversation == second.conversation
    assert (first.goes_on, second.goes_on) == (False, True)
    assert chat(caller="other").conversation != first.conversation
    other = [SAID[0], {"role": "user", "content": "Goodbye"}]
    assert chat(other).conversation != first.conversation
    assert "Hello" not in first.conversation


def test_a_conversation_that_is_named():
    header = chat(headers={"x-session-id": "s"}).conversation
    assert header == chat(MORE, headers={"x-session-id": "s"}).conversation
    assert header == chat(metadata={"session_id": "s"}).conversation
    assert header == chat(user="s").conversation
    both = chat(headers={"x-session-id": "s"}, user="another").conversation
    assert both == header
    unfilled = {"x-openwebui-chat-id": "{{CHAT_ID}}"}
    assert chat(headers=unfilled).conversation == chat().conversation


def test_what_open_webui_asks_on_its_own():
    headers = {"x-openwebui-chat-id": "c", "x-openwebui-message-id": "m"}
    ask = chat(headers=headers)
    assert (ask.chat_id, ask.message_id, ask.in_background) == ("c", "m", False)
    title = chat(headers={**headers, "x-openwebui-task": "title_generation"})
    assert title.in_background
    assert title.conversation is None
    task = [{"role": "user", "content": "### Task:\nGenerate a title."}]
    assert chat(task).in_background


def test_what_needs_an_endpoint():
    assert chat().endpoints_only is None
    assert chat(tools=[{}]).endpoints_only == "tools"
    assert chat(tools=[], logprobs=False, n=1).endpoints_only is None
    picture = [
        {"role": "user", "content": [{"type": "image_url"}, *MORE[3]["content"]]}
    ]
    assert chat(picture).endpoints_only == "messages.0"
    assert chat(logit_bias={"5": 1}).endpoints_only == "logit_bias"


def test_what_an_endpoint_is_sent():
    ask = chat(
        temperature=0.5, stop="x", top_k=5, tools=[{"a": 1}], mirostat=2, user="u"
    )
    assert ask.request == {
        "messages": SAID,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [{"a": 1}],
        "extra_body": {"top_k": 5, "mirostat": 2},
    }
    assert ask.ignored == ("mirostat",)
    assert chat().request == {"messages": SAID}


def test_how_many_tokens():
    assert chat(max_tokens=3).most_tokens == 3
    assert chat(max_tokens=3, max_completion_tokens=4).most_tokens == 4
    assert chat().most_tokens is None


def test_a_completion():
    ask = ask_of_completion(CompletionBody(prompt=["Once"], stop=["."]), {}, "desk")
    assert (ask.prompt, ask.stops, ask.task) == ("Once", (".",), {"text": "Once"})
    assert not ask.is_chat
    for field, value in (("echo", True), ("logprobs", 1), ("suffix", "x"), ("n", 2)):
        body = CompletionBody.model_validate({"prompt": "a", field: value})
        with pytest.raises(ApiError) as refused:
            ask_of_completion(body, {}, "desk")
        assert refused.value.param == field


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "king", "content": "x"}]},
        {"temperature": float("nan")},
        {"temperature": -1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"stream": "yes"},
        {"stop": ["x"] * 17},
        {"x_braidbandit": {"nobody": 1}},
        {"x_braidbandit": {"compute_budget": 2}},
    ],
)
def test_what_is_refused(wrong):
    with pytest.raises(ValidationError):
        chat(**{"messages": SAID, **wrong})
