"""What is told of models, decisions and tasks; and bodies that make no sense."""

import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braidbandit import Braid

HELLO = [{"role": "user", "content": "Hello there"}]
TASK = {"text": "Sort a list in Python.", "type": "code", "complexity": 0.3}


def test_models_have_a_status(server, http):
    listed = http.get("/v1/models").json()
    auto, *entries = listed["data"]
    assert (auto["id"], auto["status"]) == ("auto", {"value": "loaded"})
    catalogue = server.service.agent.catalogue
    assert [entry["arm"] for entry in entries] == list(catalogue.ids)
    by_arm = {entry["arm"]: entry for entry in entries}
    assert by_arm[Braid("llama").id]["id"] == "llama"
    for braid in catalogue:
        entry = by_arm[braid.id]
        assert entry["name"] == braid.label()
        unfit = braid.id in catalogue.unfit
        assert entry["status"]["value"] == ("unloaded" if unfit else "loaded")
        assert entry["status"].get("failed", False) == unfit
        assert http.get(f"/v1/models/{entry['id']}").json() == entry
    assert http.get("/v1/models/auto").json()["id"] == "auto"
    nobody = http.get("/v1/models/nobody")
    assert nobody.status_code == 404
    assert "/v1/models lists them" in nobody.json()["error"]["message"]


def test_ready_and_health(http):
    assert http.get("/health").json() == {"status": "ok"}
    told = http.get("/ready").json()
    assert told["ready"]
    assert told["building"]["done"] == told["building"]["total"]


def test_a_recommendation_writes_nothing(server, http):
    before = server.service.ledger.counts()
    told = http.post("/v1/recommend", json={"task": TASK, "top": 2}).json()
    assert server.service.ledger.counts() == before
    assert len(told["arms"]) == 2
    assert told["arm"] in server.service.agent.catalogue
    assert told["reason"]
    assert 0 <= told["probability"] <= 1
    text = http.post("/v1/recommend", json={"task": "Hello"}).json()
    assert text["model"] in {e["id"] for e in http.get("/v1/models").json()["data"]}


def test_a_decision_may_be_seen_first_and_acted_on(server, http):
    body = {"task": "Hello there", "decide": True}
    told = http.post("/v1/recommend", json=body).json()
    wishes = {key: told[key] for key in ("decision", "token")}
    body = {"messages": HELLO, "max_tokens": 2, "x_braidbandit": wishes}
    said = http.post("/v1/chat/completions", json=body).json()
    assert said["x_braidbandit"]["decision"] == told["decision"]
    assert said["model"] == told["model"]
    # Or on another arm than it has: then the decision is the caller's own.
    told = http.post("/v1/recommend", json={"task": "Hello there", "decide": True})
    wishes = {key: told.json()[key] for key in ("decision", "token")}
    other = "gemma" if told.json()["model"] == "llama" else "llama"
    overriding = {**body, "model": other, "x_braidbandit": wishes}
    said = http.post("/v1/chat/completions", json=overriding).json()
    made = server.service.ledger.decision(said["x_braidbandit"]["decision"])
    assert (said["model"], made.instead_of) == (other, wishes["decision"])
    assert http.post("/v1/chat/completions", json=overriding).status_code == 409
    wishes["token"] = "forged"
    body["x_braidbandit"] = wishes
    assert http.post("/v1/chat/completions", json=body).status_code == 403


def test_a_decision_is_explained(server, http):
    body = {"messages": HELLO, "max_tokens": 2}
    about = http.post("/v1/chat/completions", json=body).json()["x_braidbandit"]
    told = http.get(f"/v1/decisions/{about['decision']}").json()
    found = server.service.ledger.decision(about["decision"])
    assert told["arm"] == about["arm"] == found.braid.id
    assert told["propensity"] == found.propensity
    assert told["outcome"] is None
    assert told["token"] == about["token"]  # of a caller who may do everything
    assert len(told["arms"]) == len(server.service.agent.catalogue)
    why = told["explanation_now"]
    for row in why["rows"]:
        if row["score"] is not None:
            terms = row["mean"] + row["exploration"] + row["cost"]
            assert terms == pytest.approx(row["score"])
    assert http.get("/v1/decisions/nothing").status_code == 404


def test_metrics_are_told(http):
    text = http.get("/metrics").text
    assert "braidbandit_requests_total{" in text
    assert "braidbandit_arms_ready" in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/docs", 404),
    ],
)
def test_other_addresses(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# ---- bodies that make no sense ----

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.sampled_from(["user", "auto", "\ud800", "llama", "up"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "decision", "token"])
            | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = {
    "/v1/chat/completions": ["messages", "model", "stop", "stream", "max_tokens"],
    "/v1/completions": ["prompt", "model", "logprobs", "stop", "seed"],
    "/v1/feedback": ["decision", "token", "reward", "stars", "preferred_over", "id"],
    "/v1/recommend": ["task", "compute_budget", "preference", "top"],
}


@st.composite
def bodies(draw):
    """A path, and fields of which at least one is refused there."""
    path = draw(st.sampled_from(sorted(FIELDS)))
    fields = draw(st.dictionaries(st.sampled_from(FIELDS[path]), JSON, max_size=4))
    return path, {**fields, "x_braidbandit": draw(st.integers() | st.text())}


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies())
def test_no_body_breaks_it(server, http, one):
    path, body = one
    before = server.service.ledger.counts()
    answer = http.post(
        path,
        content=json.dumps(body).encode("utf-8", "surrogatepass"),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (400, 403, 404, 409), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert server.service.ledger.counts() == before


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FIELDS)), st.binary(max_size=300), st.booleans())
def test_no_bytes_break_it(http, path, body, typed):
    headers = {"Content-Type": "application/json"} if typed else {}
    answer = http.post(path, content=body, headers=headers)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"messages": NaN}',
        b'{"a":' * 5000,
        b"[" * 100_000,
        b'{"max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
    ],
)
def test_json_is_read_strictly(http, body):
    headers = {"Content-Type": "application/json"}
    answer = http.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "param", "told"),
    [
        ("feedback", '{"stars": NaN}', None, "line 1 column 11; JSON has no NaN"),
        ("feedback", '{"stars": 3,}', None, "no JSON: trailing comma at line 1"),
        ("feedback", "[]", None, "the body is a JSON object, received a list of 0"),
        ("feedback", "null", None, "the body is a JSON object, received null"),
        ("feedback", "", None, "the body is empty; send a JSON object"),
        (
            "feedback",
            '{"decision": "d", "token": "t", "stars": 9}',
            "stars",
            "less than or equal to 5, received 9",
        ),
        ("feedback", '{"decision": "d", "stars": 5}', "token", "Field required"),
        (
            "chat/completions",
            '{"messages": [{"role": "user", "content": "a"}], "max_tokens": -1}',
            "max_tokens",
            "greater than or equal to 1, received -1",
        ),
        (
            "chat/completions",
            '{"messages": [{"role": "user", "content": 5}]}',
            "messages.0.content",
            "messages.0.content: Input should be a valid string, received 5",
        ),
        (
            "completions",
            '{"prompt": ["a", "b"]}',
            "prompt",
            "prompt: one prompt is taken, as text; received a list of 2",
        ),
        ("completions", '{"prompt": 5}', "prompt", "valid string, received 5"),
        ("recommend", '{"task": {}}', "task", "valid string, received an object"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(http, path, body, param, told):
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/v1/{path}", content=body.encode(), headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert told in error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "x", ""])
def test_a_form_of_a_web_page_is_not_read(http, kind):
    body = json.dumps({"messages": HELLO}).encode()
    headers = {"Content-Type": kind}
    answer = http.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_odd_text_is_answered(http):
    for text in ("\x00", "\u202e", "😀" * 20, "<|end|>", "{{ 7 * 7 }}", "a" * 100):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 400), answer.text


def test_a_decision_that_does_not_exist_by_any_name(server):
    for name in ("%00", "a" * 5000, "..%2f..%2fetc", "%F0%9F%98%80"):
        answer = httpx2.get(f"{server.url}/decisions/{name}")
        assert answer.status_code in (400, 404)
