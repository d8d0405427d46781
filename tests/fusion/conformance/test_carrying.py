"""Carrying is exact where it can be, and each way to lose some of it is caught."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from fusion import conformance
from fusion.braid import output_mixture
from fusion.conformance import carrying, check_carrying
from fusion.conformance.futures import Chains, Futures
from fusion.tokens import vocabulary
from fusion.tokens.token_bytes import TokenBytes
from fusion.tokens.vocabulary import Node, Reading, SortedTokens, VocabularyMap

PAIRS = (
    ("llama", "gemma"),  # byte-level, SentencePiece
    ("gemma", "llama"),
    ("qwen2", "neox"),  # byte-level, SentencePiece with a space in front
    ("neox", "qwen2"),
    ("gpt2", "opt"),  # byte-level with a token in front of the text
    ("opt", "gpt2"),
)
# Of one token or two, begun with white space, or nothing else; cut inside a character.
SHORT = ("T", "th", " x", "\n\n a", "  ", "a   ", "é😀", "好", "The the")


@pytest.fixture
def mixed(braid):
    def build(*names):
        return braid(*names, layers=("output",))

    return build


@pytest.fixture
def model(mixed):
    return mixed("llama", "gemma")


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_what_is_carried_is_what_the_donor_says(mixed, names):
    found = check_carrying(mixed(*names), conformance.TEXTS)
    assert found.positions >= 8
    assert 0 < found.mean_gap < found.largest_gap < 1
    assert 0 <= found.unread < 0.5


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_short_texts_and_white_space_are_carried(mixed, names):
    assert check_carrying(mixed(*names), SHORT, positions=4).positions > 0


def test_every_donor_is_looked_at(mixed):
    text = conformance.TEXTS[:1]
    both = check_carrying(mixed("llama", "gemma", "gpt2"), text)
    alone = [check_carrying(mixed("llama", name), text) for name in ("gemma", "gpt2")]
    assert both.positions == sum(found.positions for found in alone)


def test_one_vocabulary_is_carried_as_it_is(mixed):
    found = check_carrying(mixed("llama", "llama-2"), conformance.TEXTS[:2])
    assert found.positions == 5  # two of each text, one of them behind a space
    assert found.largest_gap == found.unread == 0


@pytest.mark.parametrize("layers", [("final",), (1,)])
def test_a_braid_that_mixes_no_distributions_carries_nothing(braid, layers):
    assert check_carrying(braid("llama", "gemma", layers=layers)).positions == 0


def test_the_battery_prints_what_it_measured(model, strands, tmp_path, capsys):
    check = conformance.checks(model, tmp_path, strands, conformance.TEXTS[:1])
    assert str(check["carrying"]()).startswith("3 positions, the bytes that follow are")


def test_no_texts_prove_nothing(model):
    with pytest.raises(AssertionError, match="carrying: no texts prove nothing"):
        check_carrying(model, [])


# ------------------------------------------------------------------ by hand


def test_chains_are_longest_matches():
    """Of "a", "b", "ab" and "abb": "ab" is never written as "a" and "b"."""
    chains = Chains(SortedTokens([b"a", b"b", b"ab", b"abb"]))
    assert sorted(chains.cover(b"a")) == [
        (b"a", (b"ab",)),  # "a", unless "b" follows
        (b"ab", (b"abb",)),
        (b"abb", ()),
    ]
    # "ab" and then "b" would have been "abb".
    assert sorted(chains.cover(b"abb")) == [(b"abb", ())]


def test_a_later_token_may_not_make_an_earlier_one_longer():
    """Behind "a" and "b", "c" would make them "abc"; behind "b", "d" makes it "bd"."""
    chains = Chains(SortedTokens([b"a", b"b", b"c", b"d", b"abc", b"bd"]))
    assert (b"ab", (b"abc", b"abd")) in chains.cover(b"ab")


class Coin:
    """A donor that says "a", "b" or "ab", whatever it read: 1/2, 1/4 and 1/4."""

    said = torch.tensor([0.5, 0.25, 0.25]).log()

    def __init__(self):
        table = [b"a", b"b", b"ab"]
        self.vocab_size = 3
        self.tokens = SimpleNamespace(table=table)
        self.logits = None
        self.donors = [self]
        carrier = SimpleNamespace(of_donor=SortedTokens(table))
        self.mixer = SimpleNamespace(maps=[carrier], said=self.says)

    def run(self, ids, taps):
        return {"final": torch.zeros(*ids.shape, 1)}

    def says(self, number, voice):
        return [[self.said] for _ in voice.readings]


@pytest.mark.parametrize(
    ("rest", "string", "wanted"),
    [
        (b"", b"a", 3 / 4),  # "a" or "ab"
        (b"", b"b", 1 / 4),
        (b"", b"ab", 1 / 4 + 1 / 2 * 1 / 4),  # "ab", or "a" and "b"
        (b"a", b"b", (1 / 4 + 1 / 8) / (3 / 4)),
        (b"", b"c", 0.0),
    ],
)
def test_futures_are_sums_over_all_tokens(rest, string, wanted):
    futures = Futures(Coin(), 0, [0], rest, False)
    assert futures.begins([string])[string] == pytest.approx(wanted)
    assert futures.by_hand(string) == pytest.approx(wanted)


def test_a_donor_that_is_a_space_ahead_has_read_the_space():
    futures = Futures(Coin(), 0, [0], b"", True)
    assert futures.begins([b" b", b"a"]) == pytest.approx({b" b": 1 / 4, b"a": 0.0})
    assert futures.by_hand(b" ") == futures.by_hand(b"") == 1.0


def test_what_contradicts_the_cut_is_left_out():
    """Behind "a", "b" would have made it "ab": of 3/4 + 1/4 the 3/4 are left."""
    carrier = cut_otherwise(b"b", [b"a", b"b", b"ab"])
    futures = Futures(Coin(), 0, [0], b"", False)
    found = carrying._given_the_cut(carrier, futures, (0,), [b"a", b"b"])
    # "b" came true after all, so it is not known what contradicts.
    assert found == pytest.approx({b"a": 1.0})


def cut_otherwise(contrary, table):
    """A map of an anchor that cuts "a" otherwise where some bytes follow."""
    anchor = SimpleNamespace(
        join=lambda ids: b"a",
        behind=lambda before, word: -1 if word == contrary else 0,
        behind_each=lambda before, words: [-1 if w == contrary else 0 for w in words],
    )
    return SimpleNamespace(anchor=anchor, of_anchor=SortedTokens(table))


def test_what_is_cut_anew_though_no_token_is_that_long_is_left_out():
    """Of "a" with 3/4 the 3/8 of "ab" are out, and of all as well."""
    carrier = cut_otherwise(b"ab", [b"a", b"b"])
    futures = Futures(Coin(), 0, [0], b"", False)
    found = carrying._given_the_cut(carrier, futures, (0,), [b"a"], [b"ab"])
    assert found == pytest.approx({b"a": (3 / 4 - 3 / 8) / (1 - 3 / 8)})


def test_white_space_that_a_donor_may_add_at_once():
    where = Reading((Node(None, -1, 0, b" ", True), Node(None, 0, 0, b"", True, True)))
    donor = TokenBytes(tiny.tiny_tokenizer("llama"))
    carrier = VocabularyMap(
        TokenBytes(tiny.tiny_tokenizer("opt")), donor, 400, len(donor.table)
    )
    spaces = {w for w in donor.table if w[:1] == b" " and len(w) > 1 and w.isspace()}
    assert spaces
    assert carrying._spaces(carrier, where) == {space[1:] for space in spaces}


def test_a_string_of_too_many_chains_is_left_out(monkeypatch):
    monkeypatch.setattr("fusion.conformance.futures.MOST", 2)
    chains = Chains(SortedTokens([b"a", b"b", b"ab", b"abb"]))
    assert chains.cover(b"a") is None
    assert chains.cover(b"abb") is not None


def test_the_bounds_of_bytes_are_of_all_and_of_some():
    carrier = SimpleNamespace(
        anchor=SimpleNamespace(table=[b"a", b"ab", b"abc", b"b", b""]), anchor_size=5
    )
    p = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    # "ab" and "abc"; "a" as well, if "b" comes next.
    assert carrying._bounds(carrier, p, b"ab") == pytest.approx((0.5, 0.6))


# ------------------------------------------------------------------ planted faults


def read_as(monkeypatch, change):
    """Change each reading that donors are given."""
    real = vocabulary.reading

    def reading(*args):
        found = real(*args)
        return None if found is None else change(found)

    monkeypatch.setattr(vocabulary, "reading", reading)


def of_the_last_node(found):
    return Reading((found.nodes[-1]._replace(parent=-1),), found.spelling)


def of_each_node(change):
    def changed(found):
        return Reading(tuple(map(change, found.nodes)), found.spelling)

    return changed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            of_the_last_node,
            "begins too late; behind token .* is b'.*', which its token",
        ),
        (of_each_node(lambda n: n._replace(rest=b"")), "no such place"),
        (of_each_node(lambda n: n._replace(rest=n.rest[1:])), "no such place"),
        (of_each_node(lambda n: n._replace(rest=n.rest + b"x")), "no such place"),
        (of_each_node(lambda n: n._replace(token=n.token + 1)), "no such place"),
        (of_each_node(lambda n: n._replace(state=n.state + 1)), "state of node 0 is"),
    ],
)
def test_a_reading_that_is_none_of_the_text_is_caught(model, monkeypatch, change, says):
    read_as(monkeypatch, change)
    with pytest.raises(AssertionError, match=f"carrying, donor gemma, .*{says}"):
        check_carrying(model, ["The other", "The strand sleeps"], positions=4)


def test_a_later_node_that_is_none_of_the_text_is_caught(model, monkeypatch):
    def change(found):
        nodes = list(found.nodes)
        nodes[-1] = nodes[-1]._replace(rest=nodes[-1].rest + b"x" * (len(nodes) > 1))
        return Reading(tuple(nodes), found.spelling)

    read_as(monkeypatch, change)
    with pytest.raises(AssertionError, match="node 1 of the reading is behind"):
        check_carrying(model, ["The other strand sleeps"], positions=4)


@pytest.mark.parametrize(
    "names", [("llama", "gemma"), ("gemma", "llama")], ids="+".join
)
def test_lost_special_tokens_are_caught(mixed, monkeypatch, names):
    monkeypatch.setattr(output_mixture, "special_pairs", lambda anchor, donor: [])
    with pytest.raises(AssertionError, match="end of text has .* arrives at the"):
        check_carrying(mixed(*names), conformance.TEXTS[:2])


class OneLess:
    """Tokens whose spans end one too early."""

    def __init__(self, tokens):
        self.words, self.ids, self.equal = tokens.words, tokens.ids, tokens.equal
        self._span = tokens.span

    def span(self, prefix):
        low, high = self._span(prefix)
        return low, max(high - 1, low)


@pytest.mark.parametrize(
    ("side", "says"),
    [
        ("of_anchor", "goes on with .* by the donor's tokens and .* by the anchor's"),
        ("of_donor", "begins too late"),
    ],
)
def test_a_span_that_is_off_by_one_is_caught(model, monkeypatch, side, says):
    [carrier] = model.mixer.maps
    monkeypatch.setattr(carrier, side, OneLess(getattr(carrier, side)))
    with pytest.raises(AssertionError, match=says):
        check_carrying(model, conformance.TEXTS[:2])


def test_a_donor_s_span_that_is_off_by_one_differs_from_the_loop():
    coin = Coin()
    coin.mixer.maps[0].of_donor = OneLess(coin.mixer.maps[0].of_donor)
    futures = Futures(coin, 0, [0], b"", False)
    # Of "a", "ab" and "b", the first two begin with "a".
    assert futures.begins([b"a"])[b"a"] == pytest.approx(1 / 2)
    assert futures.by_hand(b"a") == pytest.approx(3 / 4)


def late(array):
    return array + 1


def later(array):
    return np.roll(array, 1)


def early(array):
    return np.maximum(array - 1, 0)


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("low", late, "of the anchor's tokens .* begin with"),
        ("low", early, "of the anchor's tokens .* begin with"),
        ("high", late, "of the anchor's tokens .* begin with"),
        ("high", early, "of the anchor's tokens .* begin with"),
        ("strings", early, "goes on with .*, the table has"),
        ("first", later, "does not begin with its first token"),
    ],
)
def test_a_table_that_is_off_by_one_is_caught(model, monkeypatch, table, change, says):
    [carrier] = model.mixer.maps
    monkeypatch.setattr(carrier, table, change(getattr(carrier, table)))
    with pytest.raises(AssertionError, match=says):
        check_carrying(model, conformance.TEXTS[:2])


def none_at_all(p):
    return p * float("nan")


def upside_down(p):
    return -p


def half(p):
    return p / 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (none_at_all, "not all numbers are finite"),
        (upside_down, "a probability is -"),
        (half, "probabilities sum to 0.5, expected 1"),
    ],
)
@pytest.mark.parametrize("donor", ["gemma", "llama-2"])
def test_what_is_no_distribution_is_caught(mixed, monkeypatch, change, says, donor):
    real = VocabularyMap.carry

    def carry(self, *args):
        found = real(self, *args)
        return found._replace(p=change(found.p))

    monkeypatch.setattr(VocabularyMap, "carry", carry)
    with pytest.raises(AssertionError, match=says):
        check_carrying(mixed("llama", donor), conformance.TEXTS[:1])


def test_mass_that_reaches_other_bytes_is_caught(model, monkeypatch):
    real = VocabularyMap.carry

    def carry(self, reading, log_q, p):
        found = real(self, reading, log_q, p)
        return found._replace(p=0.99 * found.p + 0.01 * found.p.roll(50))

    monkeypatch.setattr(VocabularyMap, "carry", carry)
    with pytest.raises(AssertionError, match=r"the donor's byte .* arrives at the"):
        check_carrying(model, conformance.TEXTS[:1])


def test_what_one_vocabulary_moves_is_caught(mixed, monkeypatch):
    real = VocabularyMap.carry

    def carry(self, *args):
        found = real(self, *args)
        return found._replace(p=found.p.roll(1))

    monkeypatch.setattr(VocabularyMap, "carry", carry)
    with pytest.raises(AssertionError, match=r"one vocabulary, but .* was moved"):
        check_carrying(mixed("llama", "llama-2"), conformance.TEXTS[:1])


def test_what_is_counted_twice_is_caught(model, monkeypatch):
    real = VocabularyMap.weigh

    def weigh(self, *args):
        *found, total = real(self, *args)
        return *found, total + 0.01

    monkeypatch.setattr(VocabularyMap, "weigh", weigh)
    with pytest.raises(AssertionError, match=r"the nodes have .*, weighed as"):
        check_carrying(model, conformance.TEXTS[:1])


def test_a_coarser_map_has_larger_gaps(model, monkeypatch):
    """Gaps are measured, whatever they are: they are no defect."""
    before = check_carrying(model, conformance.TEXTS[1:2])
    monkeypatch.setattr("fusion.tokens.vocabulary.UNTOLD", 0.5)
    monkeypatch.setattr(carrying, "UNTOLD", 0.5)
    assert check_carrying(model, conformance.TEXTS[1:2]).mean_gap > 2 * before.mean_gap
