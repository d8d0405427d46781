import pytest
from servers_here import free_port, serving

from braidbandit.cli.machine.servers import Server, Unreachable, find_servers, models_at

MODELS = {"data": [{"id": "qwen3:8b"}, {"id": "nomic-embed-text:latest"}]}


def test_servers_at_some_ports():
    with serving(MODELS) as url, serving("hello") as other:
        ports = {int(u.split(":")[2].split("/")[0]): u for u in (url, other)}
        ports[free_port()] = "nobody"
        found = find_servers(ports)
    # What only embeds has no answer to a prompt.
    assert found == [Server(url, url, ("qwen3:8b",))]


def test_our_own_service_is_no_model_of_its_own():
    data = [{"id": "auto", "owned_by": "braidbandit"}]
    with serving({"data": data}) as url:
        assert models_at(url) == []
        assert find_servers({int(url.split(":")[2].split("/")[0]): "x"}) == []


def test_a_key_is_sent_only_if_there_is_one():
    seen = []
    with serving(MODELS, seen=seen) as url:
        models_at(url)
        models_at(url, "s3cret")
    assert [path for path, _ in seen] == ["/v1/models"] * 2
    sent = [headers.get("authorization") or headers.get("Authorization")
            for _, headers in seen]  # fmt: skip
    assert sent == [None, "Bearer s3cret"]


def test_no_proxy_and_no_redirect(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with serving(MODELS) as url:
        assert models_at(url)
        with serving("", status=302, location=f"{url}/models") as moved:
            with pytest.raises(Unreachable, match="status 302"):
                models_at(moved)


@pytest.mark.parametrize("rows", [[3, None], [{"id": 3}], [{"name": "x"}]])
def test_rows_that_make_no_sense_are_passed_over(rows):
    with serving({"data": rows}) as url:
        assert models_at(url) == []


def test_a_server_that_is_silent():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(Unreachable, match="did not answer within 0.2 s"):
            models_at(url, seconds=0.2)
