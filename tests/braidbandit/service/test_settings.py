"""The file of settings: what it takes, and what it refuses."""

import pytest

from braidbandit.service.keys import hash_key, new_key
from braidbandit.service.settings import KEY_VARIABLE, ServiceSettings, is_loopback

POOL = '[[pool]]\nmodel_name = "a"\nsource = "models/a"\n'
WHOLE = f"""
{POOL}
[[pool]]
model_name = "b"
endpoint = "http://127.0.0.1:11434/v1"
price = {{input = 0.5, output = 1.5}}
api_key_env = "B_KEY"
[catalogue]
layer_sets = ["output"]
shares = [[0.75, 0.25]]
[learning]
price = 0.02
folder = "kept"
random_state = 3
[server]
port = 9000
queue = 5
[[keys]]
name = "desk"
hash = "{hash_key("k" * 40)}"
roles = ["generate", "feedback"]
[openwebui]
url = "http://127.0.0.1:3000"
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def read(text):
        (tmp_path / "braid.toml").write_text(text)
        return ServiceSettings.read(tmp_path / "braid.toml")

    return read


def test_a_whole_file(read, tmp_path):
    (tmp_path / "models" / "a").mkdir(parents=True)
    settings = read(WHOLE)
    a, b = settings.cards
    assert a.source == str(tmp_path / "models" / "a")  # beside the file
    assert (b.endpoint, b.price.output) == ("http://127.0.0.1:11434/v1", 1.5)
    assert settings.learning.folder == tmp_path / "kept"
    assert settings.catalogue.shares == [(0.75, 0.25)]
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 9000)
    assert settings.keys[0].roles == ["generate", "feedback"]
    assert settings.openwebui.key_env == "OPENWEBUI_API_KEY"


def test_what_a_source_names_elsewhere_stays(read):
    assert read(POOL).cards[0].source == "models/a"  # a hub id, as nothing is there
    assert read(POOL).server.port == 8321


def test_the_environment_goes_first(read, monkeypatch):
    monkeypatch.setenv("BRAIDBANDIT_SERVER__PORT", "77")
    settings = read(WHOLE)
    assert (settings.server.port, settings.server.queue) == (77, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "server.prot: is no key that is known"),
        ("[sever]\nport = 1", "sever: is no key that is known"),
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nport =", "is no TOML"),
        ("[learning]\nprice = -1", "learning.price"),
        ("[learning]\nprice = nan", "learning.price"),
        ("[[keys]]\nname = 'x'\nhash = 'plain'\nroles = ['admin']", "keys.0.hash"),
        ("[[pool]]\nmodel_name = 'c'\nwidht = 3", "widht"),
        ("[[pool]]\nmodel_name = 'a'", "model names must differ"),
        ("[[pool]]\nmodel_name = 'c'\nendpoint = 'http://x/v1'", "price"),
        ("[server]\nhost = '0.0.0.0'", "there is no key"),
        ("[server]\ndefault_tokens = 9\nmost_tokens = 8", "default_tokens is 9"),
        ("[openwebui]\nurl = 'http://me:secret@x'", "openwebui.url"),
    ],
)
def test_mistakes_are_named(read, text, said):
    with pytest.raises(ValueError, match="braid.toml") as refused:
        read(f"{POOL}{text}\n")
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_another_address_needs_a_key(read, monkeypatch):
    key = f"[[keys]]\nname = 'x'\nhash = '{hash_key(new_key())}'\nroles = ['admin']"
    text = f"{POOL}[server]\nhost = '0.0.0.0'\n"
    assert read(f"{text}{key}\n").server.host == "0.0.0.0"
    monkeypatch.setenv(KEY_VARIABLE, new_key())
    assert read(text).server.host == "0.0.0.0"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="braidbandit init"):
        ServiceSettings.read(tmp_path / "braid.toml")


def test_a_hash_is_not_shown(read):
    assert hash_key("k" * 40) not in repr(read(WHOLE))


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback(host, is_so):
    assert is_loopback(host) == is_so
