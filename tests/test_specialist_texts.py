"""Texts to make specialists of: what is tested is in no other part."""

import pytest
import specialist_texts


@pytest.fixture(scope="module")
def texts():
    return specialist_texts.specialist_texts()


def test_texts_of_specialists_fill_every_part(texts):
    for kind in ("python", "manual", "c++"):
        for part, n in specialist_texts.PARTS.items():
            found = [t for t in texts if (t["kind"], t["part"]) == (kind, part)]
            assert len(found) == n, (kind, part)
    assert len({text["id"] for text in texts}) == len(texts)
    for text in texts:
        assert len(text["prompt"]) > 100
        assert len(text["reference"]) > 90
        whole = text["prompt"] + text["reference"]
        assert len(whole) <= specialist_texts.LONGEST


def test_texts_of_the_test_are_not_those_that_were_trained_on(texts):
    """No passage of a test text was read before, so none of it is in another part."""
    groups = specialist_texts.groups
    for kind in ("python", "manual", "c++"):
        of = {part: set() for part in specialist_texts.PARTS}
        for text in texts:
            if text["kind"] == kind:
                of[text["part"]] |= groups(f"{text['prompt']}\n{text['reference']}")
        both = of["test"] & of["adapter"]
        assert len(both) < 0.1 * len(of["test"]), kind


def test_a_passage_that_was_read_is_left_out():
    licence = (
        "Permission is granted to anyone to use this software for any purpose. " * 8
    )
    text = f"{licence}\n\nA second passage of some length that says another thing here."
    read = set()
    assert list(specialist_texts.joined([licence], read)) == [licence]
    assert list(specialist_texts.joined(text.split("\n\n"), read)) == []
