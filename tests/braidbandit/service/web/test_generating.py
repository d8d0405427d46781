"""Answers over real HTTP, streamed and not, and with the official client."""

import json
import threading

import httpx2
import openai
import pytest
from serving import wait_until
from wayward_server import WHOLE, WaywardServer, chunk, event, status, stream

from braidbandit import Braid

FREE = {"input": 0.0, "output": 0.0}
HELLO = [{"role": "user", "content": "Hello there"}]


def ask(http, path="/v1/chat/completions", **body):
    if "completions" in path and "prompt" not in body:
        body.setdefault("messages", HELLO)
    body.setdefault("max_tokens", 8)
    body.setdefault("temperature", 0)
    return http.post(path, json=body)


def events(answer):
    """The events of a stream, as data."""
    parts = answer.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    data = [part.removeprefix("data: ") for part in parts]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none-is-needed") as client:
        yield client


def arms(server):
    return list(server.service.agent.catalogue)


# ---- whole answers ----


def test_an_answer_says_which_arm_gave_it_and_why(server, http):
    answer = ask(http, model="auto")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    about = said["x_braidbandit"]
    decision = server.service.ledger.decision(about["decision"])
    assert said["model"] == server.service.arms.name_of(decision.braid)
    assert about["arm"] == decision.braid.id == answer.headers["x-braidbandit-arm"]
    assert about["reason"].startswith(decision.sentence)
    assert answer.headers["x-braidbandit-decision"] == decision.id
    assert answer.headers["x-braidbandit-token"] == about["token"]
    assert said["object"] == "chat.completion"
    [choice] = said["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    used = said["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert used["completion_tokens"] <= 8


@pytest.mark.parametrize("which", ["alone", "braid"])
def test_a_local_arm_writes_what_generate_writes(server, http, which):
    service = server.service
    braid = next(b for b in arms(server) if b.is_single == (which == "alone"))
    name = service.arms.name_of(braid)
    model = service.agent.create_braided_model(braid)
    expected = model.generate("Hello there", max_new_tokens=8, do_sample=False)
    said = ask(http, "/v1/completions", model=name, prompt="Hello there").json()
    # A last character that was cut is left out.
    assert said["choices"][0]["text"] == expected.rstrip("\ufffd")
    assert said["model"] == name
    assert said["object"] == "text_completion"


def test_an_arm_is_called_by_name_id_or_label(server, http):
    for name in ("llama", Braid("llama").id, "llama alone"):
        assert ask(http, model=name).json()["model"] == "llama"
    unknown = ask(http, model="nobody")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert unknown.json()["error"]["param"] == "model"


def test_a_seed_gives_the_same_answer_again(http):
    drawn = {"model": "llama", "temperature": 5, "top_p": 0.95}
    texts = [
        ask(http, seed=seed, **drawn).json()["choices"][0]["message"]["content"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_writing_stops_at_a_text(http):
    whole = ask(http, model="llama", max_tokens=12).json()["choices"][0]
    text = whole["message"]["content"]
    assert len(text) > 4
    stop = text[3:5]
    cut = ask(http, model="llama", max_tokens=12, stop=[stop, "never"]).json()
    [choice] = cut["choices"]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    streamed = events(ask(http, model="llama", max_tokens=12, stop=stop, stream=True))
    pieces = [e["choices"][0]["delta"].get("content", "") for e in streamed[:-1]]
    assert "".join(pieces) == text[: text.index(stop)]


# ---- streams ----


def test_a_stream_keeps_its_id_and_model(http):
    whole = ask(http, model="llama").json()
    answer = ask(http, model="llama", stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer)
    assert done == "[DONE]"
    assert len({(c["id"], c["model"], c["created"]) for c in chunks}) == 1
    assert chunks[0]["id"]
    assert chunks[0]["model"] == "llama"
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["x_braidbandit"]["decision"]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    ends = [c["choices"][0]["finish_reason"] for c in chunks]
    assert ends[:-1] == [None] * (len(ends) - 1)
    assert ends[-1] in ("stop", "length")
    assert not any("usage" in c for c in chunks)  # it was not asked for


def test_usage_is_a_chunk_without_choices_where_it_is_asked_for(http):
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events(ask(http, model="llama", **asked))
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert all(c["usage"] is None for c in chunks)
    text = events(ask(http, "/v1/completions", prompt="Hello", **asked))
    assert text[-2]["choices"] == []
    assert text[0]["object"] == "text_completion"


def test_the_official_client(server, client):
    assert [m.id for m in client.models.list()][:2] == ["auto", "llama"]
    whole = client.chat.completions.create(
        model="auto", messages=HELLO, max_tokens=6, temperature=0
    )
    assert whole.choices[0].message.content is not None
    assert whole.model_extra["x_braidbandit"]["token"]
    pieces = client.chat.completions.create(
        model=whole.model,
        messages=HELLO,
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, used = "", None
    for piece in pieces:
        used = piece.usage or used
        for choice in piece.choices:
            text += choice.delta.content or ""
    assert text == whole.choices[0].message.content
    assert used == whole.usage
    old = client.completions.create(model="llama", prompt="Hello", max_tokens=3)
    assert old.choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert refused.value.code == "model_not_found"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("frequency_penalty", 0.5),
        ("n", 2),
    ],
)
@pytest.mark.parametrize("model", ["auto", "llama"])
def test_what_local_models_cannot_do_is_refused_by_name(http, field, value, model):
    before = http.get("/metrics").text
    answer = ask(http, model=model, **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    decisions = [
        next(s for s in text.splitlines() if s.startswith("braidbandit_ledger_dec"))
        for text in (before, http.get("/metrics").text)
    ]
    assert decisions[0] == decisions[1]


def test_fields_that_change_nothing_are_let_pass_and_unknown_ones_told(http):
    said = ask(http, model="llama", tools=[], logprobs=False, store=True, mirostat=2)
    assert said.status_code == 200
    assert said.json()["x_braidbandit"]["ignored"] == ["mirostat"]


def test_a_prompt_that_is_too_long_is_refused(http):
    answer = ask(
        http, model="llama", messages=[{"role": "user", "content": "a " * 900}]
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "llama reads 512" in error["message"]
    assert "ask for a model that reads more" in error["message"]


@pytest.fixture(scope="module")
def uneven(serve, make_agent, tmp_path_factory):
    """A service of two models, of which one reads eight times as many tokens."""
    import tiny

    folder, local = tmp_path_factory.mktemp("uneven"), []
    for family, name, positions in (("llama", "short", 512), ("gemma", "long", 4096)):
        source = tiny.tiny_folder(family, folder / name)
        config = json.loads((source / "config.json").read_text())
        config["max_position_embeddings"] = positions
        (source / "config.json").write_text(json.dumps(config))
        local.append({"model_name": name, "source": str(source)})
    return serve(make_agent(local=local))


def test_auto_chooses_among_the_models_that_can_read_the_prompt(uneven):
    with httpx2.Client(base_url=uneven.root, timeout=60) as http:
        long = [{"role": "user", "content": "a " * 900}]
        for number in range(8):
            answer = ask(http, messages=long, max_tokens=1, user=str(number))
            assert answer.status_code == 200, answer.text
            told = answer.json()["x_braidbandit"]
            decision = uneven.service.ledger.decision(told["decision"])
            arms = zip(decision.arm_ids, decision.eligible, strict=True)
            readable = [uneven.service.braid_of(i) for i, eligible in arms if eligible]
            assert {braid.strands for braid in readable} == {("long",)}
            assert told["arm"] in [braid.id for braid in readable]
        names = {ask(http, user=f"u{n}").json()["model"] for n in range(20)}
        assert "short" in names  # with a short prompt


def test_a_prompt_that_no_model_can_read_is_refused_before_a_choice(uneven):
    before = uneven.service.ledger.counts()
    with httpx2.Client(base_url=uneven.root, timeout=60) as http:
        answer = ask(http, messages=[{"role": "user", "content": "a " * 9000}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "long reads 4096" in error["message"]
    assert "no model here reads more" in error["message"]
    assert uneven.service.ledger.counts() == before


def test_a_conversation_is_told_to_the_agent(server, http):
    def turn_of(said):
        decision = server.service.ledger.decision(said["x_braidbandit"]["decision"])
        return decision.conversation

    turns = [{"role": "user", "content": "Tell me of the strands of the dog"}]
    first = turn_of(ask(http, messages=turns).json())
    for n in range(3):
        turns += [
            {"role": "assistant", "content": f"answer {n}"},
            {"role": "user", "content": f"and then, number {n}?"},
        ]
        assert turn_of(ask(http, messages=turns).json())["id"] == first["id"]
    # Another that begins alike is another.
    assert turn_of(ask(http, messages=turns[:1]).json())["id"] != first["id"]
    named = [turn_of(ask(http, user="the same").json())["id"] for _ in range(2)]
    assert named[0] == named[1] != first["id"]


# ---- models behind URLs ----


@pytest.fixture
def behind(serve, make_agent, models, monkeypatch):
    """A service over one local model and one behind a URL."""
    monkeypatch.setattr("braidbandit.agent.endpoint._FIRST_WAIT", 0.01)
    servers = []

    def start(does, **options):
        upstream = WaywardServer(does)
        servers.append(upstream)
        card = {"model_name": "far", "endpoint": upstream.url, "price": FREE}
        agent = make_agent({**card, "source": "m"}, local=models[:1])
        return upstream, serve(agent, **options)

    yield start
    for upstream in servers:
        upstream.stop()


def test_tools_are_passed_through_to_an_endpoint(behind):
    call = {"index": 0, "id": "c1", "type": "function"}
    pieces = [
        {**call, "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a": '}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    chunks = [
        event(
            {
                "id": "up",
                "model": "m",
                "choices": [{"index": 0, "delta": {"tool_calls": [p]}}],
            }
        )
        for p in pieces
    ]
    upstream, server = behind(stream(*chunks, chunk(finish="tool_calls")))
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    with openai.OpenAI(base_url=server.url, api_key="x") as client:
        said = client.chat.completions.create(
            model="auto", messages=HELLO, tools=tools, max_tokens=5
        )
    assert upstream.bodies[-1]["tools"] == tools
    assert upstream.bodies[-1]["messages"] == HELLO
    assert upstream.bodies[-1]["max_tokens"] == 5
    assert said.model == "far"
    [made] = said.choices[0].message.tool_calls
    assert (made.id, made.function.name) == ("c1", "add")
    assert json.loads(made.function.arguments) == {"a": 1}
    assert said.choices[0].finish_reason == "tool_calls"


def test_a_stream_of_an_endpoint_has_our_id_and_model(behind):
    _, server = behind(stream(*WHOLE))
    with httpx2.Client(base_url=server.root) as http:
        *chunks, done = events(ask(http, model="far", stream=True, top_k=3))
    assert done == "[DONE]"
    assert {c["model"] for c in chunks} == {"far"}
    assert len({c["id"] for c in chunks}) == 1
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "Hello"
    assert not any(c.get("usage") for c in chunks)


def test_another_arm_answers_where_an_endpoint_fails(behind):
    _, server = behind(status(500))
    service = server.service
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        models = {ask(http, user=str(n)).json()["model"] for n in range(4)}
        asked = ask(http, model="far")
    assert "far" not in models
    assert asked.status_code == 503
    # It was tried before, and is out for a while.
    assert asked.json()["error"]["code"] in ("endpoint_failed", "model_not_ready")
    assert "127.0.0.1" not in asked.text
    # Decisions that got no answer are not waited for.
    waiting = {d.braid.anchor for d in service.ledger.pending()}
    assert waiting == {"llama"}


def test_an_arm_that_is_out_is_said_to_be(behind):
    _, server = behind(status(500))
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        first, second = (ask(http, model="far") for _ in range(2))
        listed = {e["id"]: e["status"] for e in http.get("/v1/models").json()["data"]}
    assert first.json()["error"]["code"] == "endpoint_failed"
    assert second.status_code == 503
    assert second.json()["error"]["code"] == "model_not_ready"
    assert int(second.headers["retry-after"]) >= 1
    assert listed["far"]["failed"]
    assert server.service.arms.counts()["out"] == 1


def test_a_stream_that_breaks_off_says_so(behind):
    _, server = behind(stream(chunk("Hel")))
    with httpx2.Client(base_url=server.root) as http:
        *_, last = events(ask(http, model="far", stream=True))
    assert last["error"]["code"] == "endpoint_failed"


# ---- hanging up, deadlines, queues ----


def test_a_client_that_hangs_up_stops_the_writing(server, http):
    service = server.service
    before = service.live.answers.copy()
    body = {"model": "llama", "messages": HELLO, "stream": True, "max_tokens": 400}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    wait_until(lambda: service.live.in_flight == 0, 20)
    gone = service.live.answers - before
    [((arm, finish), count)] = gone.items()
    assert (arm, finish, count) == (Braid("llama").id, "gone", 1)
    assert service.live.newest[-1].tokens_written < 390
    wait_until(lambda: service.gauges()["writing"] == 0, 5)


def test_a_deadline_cuts_an_answer(http):
    wishes = {"deadline_seconds": 0.15}
    said = ask(http, model="llama", max_tokens=4000, x_braidbandit=wishes)
    if said.status_code == 200:
        [choice] = said.json()["choices"]
        assert choice["finish_reason"] == "length"
    else:
        assert said.json()["error"]["code"] == "deadline"


def test_a_full_queue_says_when_to_come_again(serve, make_agent, models):
    agent = make_agent(local=models[:1])
    server = serve(agent, server={"queue": 1, "batch": 1})
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        answers = []

        def one():
            answers.append(ask(http, max_tokens=60))

        threads = [threading.Thread(target=one) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [answer.status_code for answer in answers]
    assert set(found) == {200, 429}
    full = next(a for a in answers if a.status_code == 429)
    assert int(full.headers["retry-after"]) >= 1
    assert full.json()["error"]["code"] == "queue_full"
    assert server.service.live.full == found.count(429)
    # What was refused left nothing behind.
    assert agent.ledger.counts()["decisions"] == found.count(200)


def test_a_full_queue_reads_no_body(serve, make_agent, models):
    server = serve(make_agent(local=models[:1]), server={"queue": 1, "batch": 1})
    server.service.live.in_flight = 2
    try:
        with httpx2.Client(base_url=server.root, timeout=60) as http:
            answer = http.post("/v1/chat/completions", content=b"{ no JSON")
            assert answer.status_code == 429
            assert http.post("/v1/recommend", content=b"{ no JSON").status_code == 400
    finally:
        server.service.live.in_flight = 0
