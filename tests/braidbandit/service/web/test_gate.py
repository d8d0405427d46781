"""Names, origins, keys, rates and sizes, over real HTTP."""

import base64
import json
import socket

import httpx2
import pytest

from braidbandit.service.keys import hash_key, new_key
from braidbandit.service.web.gate import Rates, role_for

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def locked(serve, make_agent, models):
    """A service with a key for each role, and small limits."""
    keys = {role: new_key() for role in ("generate", "feedback", "admin")}
    listed = [
        {"name": f"{role}-key", "hash": hash_key(key), "roles": [role]}
        for role, key in keys.items()
    ]
    server = {
        "most_bytes": 2000,
        "requests_per_minute": 8,
        "origins": ["http://pages.example"],
        "hosts": ["braids.lan"],
    }
    return serve(make_agent(local=models[:1]), keys=listed, server=server), keys


def get(server, path, **headers):
    return httpx2.get(server.root + path, headers=headers, timeout=60)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8321", "", "a b"]
)
def test_a_foreign_name_is_refused(server, host):
    for path in ("/health", "/v1/models", "/nowhere"):
        answer = get(server, path, Host=host)
        assert answer.status_code in (400, 403)
        if answer.status_code == 403:
            assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"])
def test_names_of_this_machine_are_known(server, host):
    assert get(server, "/health", Host=host).status_code == 200


def test_a_name_that_is_listed(locked):
    assert get(locked[0], "/health", Host="braids.lan:80").status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1"]
)
def test_a_page_of_another_origin_is_refused(server, origin):
    answer = httpx2.post(
        server.url + "/chat/completions", json=HELLO, headers={"Origin": origin}
    )
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


def test_its_own_pages_may_ask(server):
    assert get(server, "/v1/models", Origin=server.root).status_code == 200


def test_a_listed_origin_may_ask_and_read(locked):
    server, keys = locked
    origin = "http://pages.example"
    asked = httpx2.options(
        server.url + "/chat/completions",
        headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
    )
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == origin
    headers = {"Origin": origin, "Authorization": f"Bearer {keys['admin']}"}
    answer = get(server, "/v1/models", **headers)
    assert answer.headers["access-control-allow-origin"] == origin


def test_who_may_do_what(locked):
    server, keys = locked
    paths = {"generate": "/v1/models", "feedback": "/v1/feedback", "admin": "/metrics"}
    for path in paths.values():
        assert get(server, path).status_code == 401
        assert get(server, path, Authorization="Bearer nobody").status_code == 401
    for mine, key in keys.items():
        for role, path in paths.items():
            found = get(server, path, Authorization=f"Bearer {key}").status_code
            if mine in (role, "admin"):
                assert found in (200, 405)
            else:
                assert found == 403
    assert get(server, "/health").status_code == 200
    assert get(server, "/ready").status_code == 200


def test_a_browser_may_give_the_key_as_a_password(locked):
    server, keys = locked
    asked = get(server, "/metrics")
    assert asked.headers["www-authenticate"].startswith("Basic")
    given = base64.b64encode(f"anybody:{keys['admin']}".encode()).decode()
    assert get(server, "/metrics", Authorization=f"Basic {given}").status_code == 200
    for junk in ("Basic !!", "Basic", "Basic /w==", "Digest x", b"\xff"):
        assert get(server, "/metrics", Authorization=junk).status_code == 401


def test_no_error_tells_a_key(locked):
    server, keys = locked
    key = keys["generate"]
    answer = get(server, "/metrics", Authorization=f"Bearer {key}")
    assert key not in answer.text
    assert hash_key(key) not in answer.text


def test_large_requests_are_refused(locked):
    server, keys = locked
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    text = "x" * 3000
    body = {**HELLO, "messages": [{"role": "user", "content": text}]}
    url = server.url + "/chat/completions"
    answer = httpx2.post(url, json=body, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"

    def pieces():  # without a length
        yield json.dumps(body).encode()

    headers["Content-Type"] = "application/json"
    answer = httpx2.post(url, content=pieces(), headers=headers)
    assert answer.status_code == 413


def test_a_key_that_asks_too_often_waits(locked):
    server, keys = locked
    headers = {"Authorization": f"Bearer {keys['generate']}"}
    found = [get(server, "/v1/models", **headers) for _ in range(12)]
    assert found[-1].status_code == 429
    assert found[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(found[-1].headers["retry-after"]) <= 60
    # Others are not held up.
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    assert get(server, "/metrics", **headers).status_code == 200


def test_every_answer_has_an_id_and_is_not_kept(server):
    first, second = get(server, "/health"), get(server, "/nowhere")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    for answer in (first, second):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9e9\r\n\r\n",
        b"POST /v1/feedback HTTP/1.1\r\nHost: [::1\r\nContent-Length: 0\r\n\r\n",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET //evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
def test_what_is_hardly_http(server, raw):
    host, port = server.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        said = connection.recv(4096)
    assert b" 500 " not in said.partition(b"\r\n")[0]
    assert get(server, "/health").status_code == 200


def test_rates():
    rates = Rates({"a": (2, 60.0), "b": (0, 60.0)})
    assert [rates.wait("x", "a") > 0 for _ in range(3)] == [False, False, True]
    assert rates.wait("y", "a") == 0
    assert not any(rates.wait("x", "b") or rates.wait("x", "c") for _ in range(9))


def test_unknown_paths_are_for_administrators():
    for path in (
        "/",
        "/dashboard",
        "/openapi.json",
        "/v1",
        "/V1/models",
        "//v1/models",
    ):
        assert role_for(path) == "admin"
