"""The README's lines with the official client, against a real server."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["README.md", "docs/service.md"])
def test_its_lines_run(server, page, capsys):
    text = (ROOT / page).read_text("utf-8")
    [code] = re.findall(r"```py\n(from openai.*?)```", text, re.S)
    code = code.replace("http://127.0.0.1:8321/v1", server.url)
    code = code.replace("messages=said", "messages=said, max_tokens=8")
    before = server.service.ledger.counts()["outcomes"]
    exec(code, names := {})  # noqa: S102
    names["client"].close()
    assert capsys.readouterr().out
    assert server.service.ledger.counts()["outcomes"] == before + 1
    assert len(code.strip().splitlines()) <= 12
