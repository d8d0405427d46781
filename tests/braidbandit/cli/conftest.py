"""Agents for the command line: a pool that needs no model, and the program itself."""

import json

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("pydantic_settings", reason="the extra cli is not installed")

from programs import POOL, run  # noqa: E402

SETTINGS = """\
[learning]
folder = "braid"
encoder = "words"
random_state = 0

[catalogue]
layer_sets = ["output"]

"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A folder with settings, where commands are run."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "braid.toml"
    cards = [
        "\n".join(f"{key} = {json.dumps(value)}" for key, value in card.items())
        for card in POOL
    ]
    file.write_text(SETTINGS + "".join(f"[[pool]]\n{card}\n\n" for card in cards))
    return file


@pytest.fixture
def folder(settings):
    """The folder of an agent that has decided four times and heard of three."""
    for number, rating in enumerate(("4/5", "up", "0.25", None)):
        decided = run("recommend", f"Task number {number} of some", "--type", "code")
        if rating is not None:
            run("feedback", decided["id"], rating)
    return settings.parent / "braid"
