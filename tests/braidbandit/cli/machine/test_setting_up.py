import json
import sqlite3
from contextlib import closing

import pytest
from programs import POOL, invoke, process, run
from servers_here import free_port, serving

from braidbandit.cli.machine import servers
from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.shell.place import place_of

MODELS = {"data": [{"id": "qwen3:8b"}, {"id": "coder:1b"}]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_finds_a_server_and_what_it_writes_can_be_used(here):
    with serving(MODELS) as url:
        done = run("init", "--yes", "--only-look", "--server", url)
    assert [card["model_name"] for card in done["pool"]] == ["qwen3:8b", "coder:1b"]
    place = place_of(None, None)
    assert place.folder == here / "braid"
    assert {card.endpoint for card in place.settings.cards} == {url}


def test_init_looks_at_the_usual_ports_and_folders(here, monkeypatch):
    (here / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(here))
    with serving(MODELS) as url:
        monkeypatch.setattr(servers, "USUAL", {int(url[17:-3]): "Ollama"})
        done = run("init", "--yes", "--server", url)
    names = [card["model_name"] for card in done["pool"]]
    assert names[-3:] == ["a", "qwen3:8b", "coder:1b"]  # each once


def test_init_asks(here):
    for name in ("a", "b"):
        (here / f"{name}.gguf").write_bytes(b"GGUF")
    options = ["--only-look", "--look", str(here)]
    done = invoke("init", *options, input="n\ny\n")
    assert done.exit_code == Exit.DONE, done.output
    assert "Take a (file" in done.output
    (card,) = place_of(None, None).settings.cards
    assert card.source == str(here / "b.gguf")
    again = run("init", "--yes", *options, code=Exit.REFUSED)
    assert "--overwrite" in again["error"]["message"]
    nothing = invoke("init", "--overwrite", *options, input="n\nn\n")
    assert nothing.exit_code == Exit.REFUSED
    assert len(place_of(None, None).settings.cards) == 1


def test_init_where_there_is_nothing(here):
    found = run("init", "--only-look", "--yes", code=Exit.NOT_FOUND)
    assert "ollama serve" in found["error"]["message"]
    assert not (here / "braid.toml").exists()
    missing = run("init", "--look", here / "no", "--yes", code=Exit.NOT_FOUND)
    assert "no folder" in missing["error"]["message"]
    url = f"http://127.0.0.1:{free_port()}/v1"
    closed = run("init", "--server", url, "--yes", code=Exit.NO_ANSWER)
    assert url in closed["error"]["message"]


def findings(code=Exit.DONE):
    found = run("doctor", code=code)
    assert found["healthy"] == (code == Exit.DONE)
    return {f["name"]: f for f in found["findings"]}


@pytest.fixture
def served(settings):
    """Settings of one model behind a port at which nobody listens."""
    text = settings.read_text().partition("[[pool]]")[0]
    card = {"model_name": "qwen", "endpoint": f"http://127.0.0.1:{free_port()}/v1"}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in card.items())
    price = "price = { input = 0.0, output = 0.0 }"
    settings.write_text(f"{text}[[pool]]\n{lines}\n{price}\n")
    return settings


def test_doctor_of_an_unreachable_endpoint(served):
    found = findings(Exit.FAILED)["model qwen"]
    assert found["level"] == "error"
    assert "cannot be reached" in found["found"]


def test_doctor_of_a_ledger_of_a_newer_version(folder):
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '99'")
    found = findings(Exit.FAILED)["ledger"]
    assert found["fix"] == "pip install --upgrade braidbandit"
    said = invoke("doctor").output
    assert "ERROR    ledger" in said
    assert "fix: pip install --upgrade braidbandit" in said


def test_doctor_of_settings_with_a_mistake_or_none(settings):
    settings.write_text(settings.read_text() + "colour = 1\n")
    found = findings(Exit.FAILED)
    assert "colour" in found["settings"]["found"]
    assert "ledger" in found  # and all else is checked too
    settings.unlink()
    assert findings(Exit.FAILED)["settings"]["fix"] == "braidbandit init"


def test_doctor_of_a_folder_alone(folder, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = run("doctor", "--folder", folder)
    models = [f["name"] for f in found["findings"] if f["name"][:5] == "model"]
    # The pool of the saved policy; these two are nowhere.
    assert models == [f"model {card['model_name']}" for card in POOL]


def test_where_the_settings_are_listed(here):
    said = " ".join(invoke("serve", "--help").stdout.split())
    assert "below [server]; docs/service.md" in said
    (here / "a.gguf").write_bytes(b"GGUF")
    run("init", "--yes", "--only-look", "--look", here)
    assert "docs/service.md" in (here / "braid.toml").read_text()


def test_serve_without_its_packages_says_how_to_get_them(settings):
    try:
        from braidbandit.service import run as _  # noqa: F401
    except ImportError:
        found = run("serve", code=Exit.NO_PACKAGE)
        assert "braidbandit[serve]" in found["error"]["message"]
    else:
        pytest.skip("the service is installed")


def test_a_whole_session_from_init(here):
    """init --yes, recommend, feedback, explain, table: in processes of their own."""

    def call(*arguments):
        done = process(*arguments, where=here)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with serving(MODELS) as url:
        call("init", "--yes", "--only-look", "--server", url, "--encoder", "words")
    # Choosing asks no server; this one is gone.
    chosen = json.loads(call("recommend", "Sort a list", "--json"))
    assert chosen["label"] in ("qwen3:8b alone", "coder:1b alone")
    for arguments in (["feedback", "last", "5/5"], ["explain", "last"], ["table"]):
        assert chosen["label"] in call(*arguments)
