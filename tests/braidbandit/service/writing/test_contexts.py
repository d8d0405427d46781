"""How much of a prompt models can read: counted only where it may be too much."""

from types import SimpleNamespace

import pytest

from braidbandit import Braid
from braidbandit.service.wire.asking import ask_of_completion
from braidbandit.service.wire.bodies import CompletionBody
from braidbandit.service.writing.contexts import Contexts, Room, room


class Words:
    """Cuts a text into words, and notes how often it was asked."""

    def __init__(self):
        self.asked = 0

    def read(self, text):
        self.asked += 1
        return text.split()


def strand(name, positions):
    return SimpleNamespace(
        name=name, positions=positions, tokenizer=None, tokens=Words()
    )


def ask(prompt):
    return ask_of_completion(CompletionBody(prompt=prompt), {}, "desk")


def pair(anchor, donor):
    return Braid(anchor, (donor,), (0.5, 0.5), ("output",), "router")


@pytest.mark.parametrize(
    ("positions", "counts", "left"),
    [
        ((10,), (9,), Room(1, "s0", 9, 10)),
        ((10,), (10,), Room(0, "s0", 10, 10)),
        # A donor that cuts the prompt into as many tokens may need half as many more.
        ((100, 40), (10, 10), Room(20, "s1", 10, 40)),
        ((20, 400), (10, 10), Room(10, "s0", 10, 20)),
        ((None, 40), (10, 10), Room(20, "s1", 10, 40)),
    ],
)
def test_the_strand_with_least_room_says_how_much_may_be_written(
    positions, counts, left
):
    strands = [strand(f"s{i}", n) for i, n in enumerate(positions)]
    assert room(strands, counts) == left


def test_a_model_without_a_limit_reads_everything():
    assert room([strand("s", None)], [10**6]).left > 10**9
    contexts = Contexts()
    contexts.note(strand("s", None))
    assert not contexts.is_long(ask("word " * 1000))


def test_braids_with_a_strand_that_is_too_short_are_too_short():
    contexts, short, long = Contexts(), strand("short", 100), strand("long", 1000)
    for one in (short, long):
        contexts.note(one)
    arms = [Braid("short"), Braid("long"), pair("long", "short"), Braid("unknown")]
    found = contexts.too_long(arms, ask("word " * 120))
    assert list(found) == [Braid("short").id, pair("long", "short").id]
    assert all("120 tokens, and short reads 100" in str(one) for one in found.values())
    # Counted once for a model, however many braids it is in; and not at all where the
    # bytes are few.
    assert (short.tokens.asked, long.tokens.asked) == (1, 1)
    assert not contexts.is_long(ask("word"))
    assert contexts.too_long(arms, ask("word")) == {}
    assert (short.tokens.asked, long.tokens.asked) == (1, 1)


@pytest.mark.parametrize("positions", [None, 10**6])
def test_a_donor_that_can_read_the_prompt_is_not_too_short(positions):
    contexts = Contexts()
    contexts.note(strand("anchor", positions))
    contexts.note(strand("donor", 100))
    assert contexts.is_long(ask("word " * 80))
    assert contexts.too_long([pair("anchor", "donor")], ask("word " * 80)) == {}
