"""Every marked number of README and docs is the one that is on record."""

import re
from pathlib import Path

import evidence

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"(\S*?)(?:\*\*)?<!-- ([a-z0-9-]+) (\S+) -->")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def marks(text):
    """What stands before each mark, its claim, and the name of its value."""
    return [
        (said.strip("*|("), claim, name) for said, claim, name in MARK.findall(text)
    ]


def test_marked_numbers_are_on_record():
    known = evidence.recorded()
    found = [(page, mark) for page in PAGES for mark in marks(page.read_text("utf-8"))]
    wrong = [
        f"{page.name}: {said} of {claim} {name}, on record {known.get((claim, name))}"
        for page, (said, claim, name) in found
        if known.get((claim, name)) != said
    ]
    assert not wrong, "\n".join(wrong)
    assert found, "README has no marked number"


def test_another_number_is_seen():
    text = (
        "**+0.031**<!-- specialists low-budget-gain --> and 3.4<!-- decoding times -->"
    )
    assert marks(text) == [
        ("+0.031", "specialists", "low-budget-gain"),
        ("3.4", "decoding", "times"),
    ]


def test_nothing_is_no_negative_zero():
    gain = {"mean": -0.0004, "low": -0.02, "high": 0.0}
    told = {"a-mean": "+0.0", "a-low": "-2.0", "a-high": "+0.0"}
    assert evidence._gain("a", gain, 100, "+.1f") == told


def test_every_record_is_of_a_claim_as_it_is_now():
    for name, section in evidence.read_page().items():
        claim = evidence.CLAIMS[name]
        assert f"`python {claim.command}`" in section, f"{name} was measured otherwise"
        assert claim.says in section
        assert re.search(
            r"- Measured: \d{4}-\d\d-\d\d, [\d.]+ minutes; torch ", section
        )


def test_a_record_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    page = tmp_path / "evidence.md"
    monkeypatch.setattr(evidence, "PAGE", page)
    record = {
        "name": "memory",
        "date": "2026-01-02",
        "minutes": 1.5,
        "versions": {"torch": "2.13.0"},
        "values": {"native-weights": "526"},
    }
    evidence.write(record)
    evidence.write({**record, "name": "decoding", "values": {"times": "3.4"}})
    evidence.write({**record, "values": {"native-weights": "500"}})
    assert evidence.recorded() == {
        ("memory", "native-weights"): "500",
        ("decoding", "times"): "3.4",
    }
    assert list(evidence.read_page()) == ["decoding", "memory"]
    assert page.read_text().count("## What is not claimed") == 1


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    runs = []
    claim = evidence.Claim(
        says="It counts.",
        command="-c \"print('{out}'.count('count'))\"",
        control="",
        spread="",
        read=lambda printed, out: {"n": printed.strip()},
        minutes=0,
    )
    run = evidence.subprocess.run
    monkeypatch.setattr(
        evidence.subprocess, "run", lambda *a, **k: runs.append(a) or run(*a, **k)
    )
    options = type("Options", (), {"keep": tmp_path, "data": tmp_path})
    first = evidence.measured("count", claim, options, anew=False)
    assert first["values"] == {"n": "1"}
    assert evidence.measured("count", claim, options, anew=False) == first
    assert len(runs) == 1
    evidence.measured("count", claim, options, anew=True)
    other = claim._replace(command='-c "print(7)"')
    assert evidence.measured("count", other, options, anew=False)["values"]["n"] == "7"
    assert len(runs) == 3
