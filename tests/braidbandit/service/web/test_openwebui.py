"""Open WebUI's wire format, replayed: models, chats, titles, ratings.

The shapes are those of its version 0.11: what it sends to a server with
``ENABLE_FORWARD_USER_INFO_HEADERS``, and what its export of feedback holds.
"""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx2
import pytest

from braidbandit.service.settings import OpenWebUISettings
from braidbandit.service.web.openwebui import Poller, rating_of

KEY = "sk-0123456789abcdef0123456789abcdef"
CHAT, MESSAGE = "0b7a7e6e-chat", "5f0e3c1d-message"


@pytest.fixture(scope="module")
def quiet(serve, make_agent, models):
    return serve(make_agent(local=models[:1]))


def forwarded(message=MESSAGE, **more):
    return {
        "Authorization": "Bearer sk-anything-that-was-typed-in",
        "X-OpenWebUI-User-Name": "Ada",
        "X-OpenWebUI-User-Id": "8a4f",
        "X-OpenWebUI-User-Email": "ada@example.org",
        "X-OpenWebUI-User-Role": "user",
        "X-OpenWebUI-Chat-Id": CHAT,
        "X-OpenWebUI-Message-Id": message,
        **more,
    }


def chat(server, text="Why is the sky blue?", headers=None, **more):
    body = {
        "stream": True,
        "model": "auto",
        "messages": [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": text},
        ],
        "stream_options": {"include_usage": True},
        "max_tokens": 6,
        **more,
    }
    url = server.url + "/chat/completions"
    answer = httpx2.post(url, json=body, headers=headers or {}, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    pieces = (c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    return chunks[0]["x_braidbandit"]["decision"], "".join(pieces)


def feedback(rating=1, chat_id=CHAT, message=MESSAGE, text=None, details=None, **more):
    """An entry of the export, as ``/evaluations/feedbacks/all/export`` has it."""
    data = {
        "rating": rating,
        "model_id": "auto",
        "sibling_model_ids": None,
        "reason": "accurate_information",
        "comment": "",
        "tags": [],
        "details": details or {},
    }
    history = {
        "currentId": message,
        "messages": {
            message: {
                "id": message,
                "parentId": "u1",
                "childrenIds": [],
                "role": "assistant",
                "content": text or "something else",
                "model": "auto",
                "done": True,
            }
        },
    }
    return {
        "id": "f-" + message,
        "user_id": "8a4f",
        "version": 0,
        "type": "rating",
        "data": data,
        "meta": {
            "model_id": "auto",
            "message_id": message,
            "message_index": 2,
            "chat_id": chat_id,
            "arena": False,
        },
        "snapshot": {"chat": {"id": chat_id, "chat": {"history": history}}},
        "created_at": 1790000000,
        "updated_at": 1790000000,
        "user": {"id": "8a4f", "name": "Ada"},
        **more,
    }


@pytest.fixture
def export():
    """An Open WebUI that exports what it is told to."""

    def does(handler):
        body = json.dumps(web.entries).encode()
        allowed = handler.headers.get("authorization") == f"Bearer {KEY}"
        right = handler.path == "/api/v1/evaluations/feedbacks/all/export"
        handler.send_response(200 if allowed and right else 401)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            does(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = SimpleNamespace(entries=[], root=f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield web
    server.shutdown()
    server.server_close()


def look(server, export, *entries, key=KEY):
    export.entries = list(entries)
    settings = OpenWebUISettings(url=export.root)
    return asyncio.run(Poller(server.service, settings, key).look())


def reward(server, decision):
    ledger = server.service.ledger
    outcome = ledger.said_before(decision, ledger.last_sequence() + 1)
    return outcome and outcome.reward


def test_models_are_listed_as_it_reads_them(quiet):
    listed = httpx2.get(quiet.url + "/models", headers=forwarded()).json()
    assert listed["object"] == "list"
    for entry in listed["data"]:
        assert {"id", "object", "created", "owned_by", "name"} <= set(entry)
    assert listed["data"][0]["id"] == "auto"


def test_a_rating_finds_its_message_by_its_ids(quiet, export):
    decision, _ = chat(quiet, headers=forwarded("by-ids"))
    assert look(quiet, export, feedback(message="by-ids")) == {"learnt": 1}
    assert reward(quiet, decision) == 1.0
    # The same export again changes nothing; a rating that was changed does.
    assert look(quiet, export, feedback(message="by-ids")) == {"known": 1}
    assert look(quiet, export, feedback(-1, message="by-ids")) == {"revised": 1}
    assert reward(quiet, decision) == 0.0
    assert look(quiet, export, feedback(None, message="by-ids")) == {"retracted": 1}
    assert reward(quiet, decision) is None


def test_a_rating_finds_its_message_by_its_text(quiet, export):
    decision, text = chat(quiet, "Tell me of strands", seed=7, temperature=2.0)
    entry = feedback(message="by-text", text=f"{text}\n", details={"rating": 7})
    assert look(quiet, export, entry) == {"learnt": 1}
    assert reward(quiet, decision) == pytest.approx(6 / 9)


def test_a_title_does_not_take_the_messages_place(quiet, export):
    decision, _ = chat(quiet, headers=forwarded("titled"))
    task = "### Task:\nGenerate a concise, 3-5 word title with an emoji."
    chat(
        quiet, task, headers=forwarded("titled"), stream_options={"include_usage": True}
    )
    chat(quiet, "A title", headers=forwarded("titled", **{"X-OpenWebUI-Task": "title"}))
    look(quiet, export, feedback(message="titled"))
    assert reward(quiet, decision) == 1.0


def test_what_cannot_be_matched_is_counted_once(quiet, export):
    before = quiet.service.memory.unmatched()
    entry = feedback(message="of-another-model")
    assert look(quiet, export, entry) == {"unmatched": 1}
    assert look(quiet, export, entry) == {"known": 1}
    assert quiet.service.memory.unmatched() == before + 1
    assert (
        "braidbandit_unmatched_signals 1.0" in httpx2.get(quiet.root + "/metrics").text
    )


def test_turns_of_a_chat_are_one_conversation(quiet):
    first, _ = chat(quiet, headers=forwarded("one"))
    second, _ = chat(quiet, "And then?", headers=forwarded("two"))
    found = [quiet.service.ledger.decision(d).conversation for d in (first, second)]
    assert found[0]["id"] == found[1]["id"]


def test_a_wrong_key_or_answer_is_said(quiet, export):
    with pytest.raises(httpx2.HTTPError):
        look(quiet, export, key="wrong")
    export.entries = {"detail": "no"}
    settings = OpenWebUISettings(url=export.root)
    with pytest.raises(ValueError, match="list"):
        asyncio.run(Poller(quiet.service, settings, KEY).look())
    assert KEY not in repr(Poller(quiet.service, settings, KEY))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"type": "note"},
        {"type": "rating"},
        {"type": "rating", "data": None, "meta": None},
        {"type": "rating", "data": {"rating": 5}, "meta": {"chat_id": 1}},
        feedback("maybe"),
        feedback(3),
    ],
)
def test_what_is_no_rating_is_passed_over(entry):
    assert rating_of(entry) is None


def test_ratings_may_be_text():
    assert rating_of(feedback("1")).reward == 1.0
    assert rating_of(feedback("-1", details={"rating": 1})).reward == 0.0


def test_it_is_polled_while_the_service_runs(
    serve, make_agent, models, export, monkeypatch
):
    from serving import wait_until

    monkeypatch.setenv("OPENWEBUI_API_KEY", KEY)
    settings = {"url": export.root, "poll_seconds": 0.05}
    server = serve(make_agent(local=models[:1]), openwebui=settings)
    decision, _ = chat(server, headers=forwarded())
    export.entries = [feedback()]
    wait_until(lambda: reward(server, decision) == 1.0)
