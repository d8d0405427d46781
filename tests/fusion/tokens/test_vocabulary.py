import copy

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from fusion.tokens import vocabulary
from fusion.tokens.token_bytes import TokenBytes, token_tree
from fusion.tokens.vocabulary import (
    CONTRARY,
    LONGER,
    SHORTER,
    UNREAD,
    UNTOLD,
    Node,
    Reading,
    SortedTokens,
    VocabularyMap,
    reading,
)

FAMILIES = (*tiny.FAMILIES, *tiny.MORE_FAMILIES)
TOKENS = {family: TokenBytes(tiny.tiny_tokenizer(family)) for family in FAMILIES}
NOWHERE = torch.zeros(1)


def cut(tokens, words=True):
    return TokenBytes(tiny.handmade(tokens, words))


def mapped(anchor, donor, pairs=(), **options):
    a, d = len(anchor.table), len(donor.table)
    return VocabularyMap(anchor, donor, a, d, pairs, **options)


def logs(*p):
    return torch.tensor(p).log()


def node(rest=b"", parent=-1, token=0, last=True, ahead=False):
    return Node(NOWHERE, parent, token, rest, last, ahead)


def read(*nodes, spelling=()):
    return Reading(nodes, spelling)


def check(found, told, p, unread=0.0, inside=0.0):
    """What is told, as far as it is told; of the anchor's own a thousandth at least."""
    told = torch.tensor(told) + p * max(unread, UNTOLD)
    torch.testing.assert_close(found.p, told / told.sum(), atol=1e-6, rtol=1e-5)
    assert float(found.unread) == pytest.approx(unread, abs=1e-6)
    assert float(found.inside) == pytest.approx(inside, abs=1e-6)


# Anchor and donor have the same letters in another order where nothing else is said.


def test_a_twin_keeps_its_probability():
    carry = mapped(cut("a b c"), cut("c a b")).carry
    p = torch.tensor([0.1, 0.1, 0.8])
    check(carry(read(node()), [logs(0.2, 0.3, 0.5)], p), [0.3, 0.5, 0.2], p)


def test_a_text_that_ends_inside_a_token_of_the_donor():
    """It has read "a", which may have been the beginning of "ab" or "abc" as well.

    Behind what is before, "a" has 0.5, "ab" 0.2 and "abc" 0.1; behind "a", "b" has 0.7
    and "c" 0.3. All of 0.8: "b" comes next with 0.2 + 0.1 + 0.5 * 0.7, for "bc" is
    written with "b" first.
    """
    anchor, donor = cut("a b c"), cut("a b c ab abc")
    before, behind = logs(0.5, 0.1, 0.1, 0.2, 0.1), logs(0.0, 0.7, 0.3, 0.0, 0.0)
    p = torch.tensor([0.2, 0.3, 0.5])
    where = read(node(b"a"), node(b"", 0, 0))
    found = mapped(anchor, donor).carry(where, [before, behind], p)
    check(found, [0.0, 0.65 / 0.8, 0.15 / 0.8], p, inside=0.3 / 0.8)


def test_a_longer_token_of_the_anchor_gets_its_part_by_the_anchors_own():
    """The donor's "b" may be the anchor's "b" or "bc": 0.6 is parted 1 : 3."""
    carry = mapped(cut("a b c bc"), cut("c b a")).carry
    p = torch.tensor([0.1, 0.2, 0.1, 0.6])
    check(carry(read(node()), [logs(0.3, 0.6, 0.1)], p), [0.1, 0.15, 0.3, 0.45], p)


def test_a_token_belongs_to_the_donors_token_that_it_begins_with():
    """The donor writes "abb" as "ab" and "b".

    Yet what is likely has a little of all that go on from it, "a" of "ab" and "abb",
    and a very little of what it goes on from, "ab" of "a".
    """
    carry = mapped(cut("a b ab abb"), cut("b a ab")).carry
    p = torch.tensor([0.1, 0.3, 0.2, 0.4])
    # 0.5 of "a", 0.4 of "ab": how much of their p the tokens get.
    a = 0.5 / (0.1 + 0.7 * LONGER)
    ab = 0.4 / (0.6 + 0.6 * LONGER + 0.1 * SHORTER)
    told = [
        0.1 * (a * (1 + LONGER) + ab * SHORTER),
        0.1,
        0.2 * (a * LONGER + ab * (1 + LONGER)),
        0.4 * (a * LONGER + ab * (1 + LONGER)),
    ]
    check(carry(read(node()), [logs(0.1, 0.5, 0.4)], p), told, p)


def test_a_space_belongs_to_no_word_that_the_donor_begins_with_it():
    """The donor has said "_", and would have said "_a" otherwise: no "_a", "_b" is."""
    carry = mapped(cut("a b _ _a _b"), cut("b a _ _a")).carry
    p = torch.tensor([0.1, 0.2, 0.1, 0.4, 0.2])
    # Of "_b" the donor says "_", and then "b".
    told = [0.1, 0.1, 0.6 / 3, 0.2, 0.6 * 2 / 3]
    check(carry(read(node()), [logs(0.1, 0.1, 0.6, 0.2)], p), told, p)


def test_behind_a_rest_a_token_belongs_to_the_longest_string_that_it_goes_on_from():
    """Behind "x", "xa" and "xab" say "a" and "ab"; "abb" goes on from "ab"."""
    anchor, donor = cut("a b x ab abb"), cut("b a x xa xab")
    p = torch.tensor([0.1, 0.3, 0.0, 0.2, 0.4])
    where = read(node(b"x"))
    found = mapped(anchor, donor).carry(where, [logs(0.1, 0.0, 0.0, 0.5, 0.4)], p)
    a = 5 / 9 / (0.1 + 0.7 * LONGER)
    ab = 4 / 9 / (0.6 + 0.6 * LONGER + 0.1 * SHORTER)
    told = [
        0.1 * (a * (1 + LONGER) + ab * SHORTER),
        0.0,
        0.0,
        0.2 * (a * LONGER + ab * (1 + LONGER)),
        0.4 * (a * LONGER + ab * (1 + LONGER)),
    ]
    check(found, told, p, inside=1.0)


def test_behind_a_rest_what_the_anchor_began_otherwise_has_little_left():
    """It wrote "a"; of "abc" it would have written "ab", of "ac" the "a"."""
    anchor, donor = cut("a b c ab"), cut("a b c abc ac")
    p = torch.tensor([0.1, 0.4, 0.4, 0.1])
    log_q = [logs(0.0, 0.0, 0.0, 0.75, 0.25)]
    found = mapped(anchor, donor).carry(read(node(b"a"), spelling=(0,)), log_q, p)
    # As it is likely it is also spelt behind "a", which tells the same once more.
    check(found, [0.0, 0.75 * CONTRARY**2, 0.25, 0.0], p, inside=1.0)


def test_behind_spaces_of_a_donor_that_leaves_one_to_a_word_comes_one():
    """Of "x___a" it says "x__" and "_a"; the anchor says "x", "___" and "a".

    So its "x__" is the anchor's "__" or "___", though it has "x___" as well.
    """
    anchor, donor = cut("a x _ __ ___", words=False), cut("a x _ _a x__ x___")
    assert (anchor.leaves_space, donor.leaves_space) == (False, True)
    p = torch.tensor([0.0, 0.0, 0.0, 0.25, 0.75])
    log_q = [logs(0.0, 0.0, 0.0, 0.0, 0.6, 0.4)]
    found = mapped(anchor, donor).carry(read(node(b"x")), log_q, p)
    check(found, [0.0, 0.0, 0.0, 0.6 * 0.25, 0.6 * 0.75 + 0.4], p, inside=1.0)


def test_an_anchor_that_gives_a_string_nothing_leaves_it_to_its_first_token():
    carry = mapped(cut("a b c bc"), cut("c b a")).carry
    p = torch.tensor([1.0, 0.0, 0.0, 0.0])
    found = carry(read(node()), [logs(0.3, 0.6, 0.1)], p)
    check(found, [0.1, 0.6, 0.3, 0.0], p)


def test_tokens_with_the_same_bytes_are_told_as_the_anchor_writes_them():
    """Byte fallback: <0x61> comes first, "a" is what gemma writes; "ay" goes on.

    The donor's "a" is 0.02 : 0.48 : 0.5 of these.
    """
    anchor, donor = TOKENS["gemma"], cut("a b")
    number = anchor.tokenizer.convert_tokens_to_ids(["<0x61>", "a", "ay", "b"])
    assert [anchor.table[i] for i in number] == [b"a", b"a", b"ay", b"b"]
    p = torch.zeros(len(anchor.table))
    p[number] = torch.tensor([0.01, 0.24, 0.25, 0.5])
    found = mapped(anchor, donor).carry(read(node()), [logs(0.6, 0.4)], p)
    told = torch.zeros(len(p))
    told[number] = torch.tensor([0.6 * 0.02, 0.6 * 0.48, 0.6 * 0.5, 0.4])
    check(found, told.tolist(), p)


def test_tokens_of_the_donor_with_the_same_bytes_count_as_one():
    anchor, donor = cut("a b"), TOKENS["gemma"]
    number = donor.tokenizer.convert_tokens_to_ids(["<0x61>", "a", "b"])
    log_q = torch.full((len(donor.table),), -torch.inf)
    log_q[number] = logs(0.1, 0.4, 0.5)
    p = torch.tensor([0.9, 0.1])
    check(mapped(anchor, donor).carry(read(node()), [log_q], p), [0.5, 0.5], p)


def test_ends_of_text_are_told_by_pairs():
    """One that stands for both ends of the anchor is parted as the anchor has them."""
    anchor, donor = cut("<e> a <f>"), cut("a <e> <x>")
    p = torch.tensor([0.1, 0.5, 0.4])
    log_q = [logs(0.3, 0.5, 0.2)]
    carry = mapped(anchor, donor, [(1, 0)]).carry
    # What has no twin is left out: 0.3 : 0.5.
    check(carry(read(node()), log_q, p), [0.5, 0.3, 0.0], p)
    carry = mapped(anchor, donor, [(1, 0), (1, 2), (2, 0)]).carry
    check(carry(read(node()), log_q, p), [0.1 + 0.2, 0.3, 0.4], p)


def test_what_is_not_read_is_the_anchors_own():
    """The donor has read "ab". Had it read "a" alone, nobody knows how that goes on."""
    anchor, donor = cut("a b"), cut("b a ab")
    where = read(node(b"ab"), node(b"", 0, 2))
    p = torch.tensor([0.2, 0.8])
    before, behind = logs(0.25, 0.5, 0.25), logs(0.4, 0.6, 0.0)
    found = mapped(anchor, donor).carry(where, [before, behind], p)
    total = 0.25 + 0.5 * UNREAD
    told = [0.6 * 0.25 / total, 0.4 * 0.25 / total]
    check(found, told, p, unread=0.5 * UNREAD / total)


def test_what_is_not_read_counts_near_the_end_only():
    anchor, donor = cut("a b"), cut("b a ab")
    where = read(node(b"ab", last=False), node(b"", 0, 2))
    p = torch.tensor([0.2, 0.8])
    log_q = [logs(0.25, 0.5, 0.25), logs(0.4, 0.6, 0.0)]
    check(mapped(anchor, donor).carry(where, log_q, p), [0.6, 0.4], p)


def test_where_nothing_is_read_the_anchor_has_its_own():
    """No token of the donor begins with an é, and the é with no token."""
    p = torch.tensor([0.2, 0.8])
    where = read(node("é".encode()))
    found = mapped(cut("a b"), cut("b a")).carry(where, [logs(0.4, 0.6)], p)
    assert torch.equal(found.p, p)
    assert (float(found.inside), float(found.unread)) == (0.0, 1.0)


def test_where_the_anchor_would_have_cut_the_text_otherwise_little_is_left():
    """Behind its "a" no "b" comes: the anchor writes "ab".

    It does so, too, where the donor's "a" comes next.
    """
    carry = mapped(cut("a b c ab"), cut("c b a")).carry
    p = torch.tensor([0.25, 0.25, 0.25, 0.25])
    log_q = [logs(0.3, 0.6, 0.1)]
    found = carry(read(node(), spelling=(0,)), log_q, p)
    check(found, [0.05, 0.6 * CONTRARY, 0.3, 0.05], p)
    # Not so behind "b", nor where the tokens are not how the anchor cuts their bytes.
    for spelling in ((1,), (0, 1)):
        found = carry(read(node(), spelling=spelling), log_q, p)
        check(found, [0.05, 0.6, 0.3, 0.05], p)


def test_what_is_one_space_ahead_is_told_with_that_space():
    """The anchor leaves the last space to a word: behind "a ", " a" comes.

    The donor reads "a| " and "a|  ", which has 0.3 and 0.5: of 0.8, 3/8 and 5/8.
    """
    anchor, donor = cut("a _ _a"), cut("a _ __", words=False)
    assert (anchor.leaves_space, donor.leaves_space) == (True, False)
    where = read(node(b" "), node(b"", 0, 1), node(b"", 0, 2, ahead=True))
    log_q = [logs(0.2, 0.3, 0.5), logs(0.6, 0.4, 0.0), logs(0.7, 0.2, 0.1)]
    p = torch.tensor([0.5, 0.2, 0.3])
    a, space = 3 / 8 * 0.6, 3 / 8 * 0.4
    spaced_a, spaces = 5 / 8 * 0.7, 5 / 8 * 0.3
    # What the donor says is a space may be the beginning of the anchor's "_a".
    told = [a, spaces + 0.4 * space, spaced_a + 0.6 * space]
    check(mapped(anchor, donor).carry(where, log_q, p), told, p)


def test_what_is_told_further_ahead_is_not_told_twice():
    """A second space is a token behind the first: it is told by what comes behind it.

    0.6 of what comes behind "a " is "a"; 0.4 is a space, and behind that all is "b".
    """
    anchor, donor = cut("a _ _a b _b"), cut("b a _", words=False)
    assert (anchor.leaves_space, donor.leaves_space) == (True, False)
    where = read(node(b""), node(b"", 0, 2, ahead=True))
    log_q = [logs(0.0, 0.6, 0.4), logs(1.0, 0.0, 0.0)]
    p = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    check(mapped(anchor, donor).carry(where, log_q, p), [0.6, 0, 0, 0, 0.4], p)


def test_one_tokenizer_tells_the_very_same_numbers():
    tokens = TOKENS["llama"]
    log_q, p = torch.randn(2, len(tokens.table)).log_softmax(-1)
    found = mapped(tokens, tokens).carry(read(node(), node()), [p, log_q], p.exp())
    assert torch.equal(found.p, log_q.exp())
    assert (float(found.inside), float(found.unread)) == (0.0, 0.0)


def test_heads_of_one_tokenizer_may_have_rows_to_spare():
    tokens = cut("a b")
    more, fewer = torch.tensor([0.2, 0.2, 0.6]), torch.tensor([0.25, 0.75])
    carry = VocabularyMap(tokens, tokens, 3, 2).carry
    found = carry(read(node()), [fewer.log()], more)
    assert found.p.tolist() == [0.25, 0.75, 0.0]
    carry = VocabularyMap(tokens, tokens, 2, 3).carry
    found = carry(read(node()), [more.log()], fewer)
    torch.testing.assert_close(found.p, torch.tensor([0.5, 0.5]))


def test_words_that_only_the_anchors_tokenizer_has_are_never_told():
    """Added to it and not to its model: behind "a" it would write one of these."""
    tokenizer = copy.deepcopy(tiny.handmade("a b ab"))
    tokenizer.add_tokens([AddedToken(w, normalized=False) for w in ("bb", "ba")])
    anchor, donor = TokenBytes(tokenizer), cut("b a ba")
    carry = VocabularyMap(anchor, donor, 3, 3).carry
    p = torch.tensor([0.3, 0.3, 0.4])
    found = carry(read(node(), spelling=(0,)), [logs(0.0, 0.1, 0.9)], p)
    check(found, [0.1 * 3 / 7, 0.9, 0.1 * 4 / 7], p)


@pytest.mark.parametrize("anchor", FAMILIES)
@pytest.mark.parametrize("donor", FAMILIES)
def test_real_vocabularies(anchor, donor):
    """Whatever a donor is sure of, the anchor writes a token of these bytes next."""
    a, d = TOKENS[anchor], TOKENS[donor]
    carrier = mapped(a, d)
    p = torch.rand(len(a.table), generator=torch.Generator().manual_seed(0))
    p = p.softmax(-1)
    for u in range(0, len(d.table), 7):
        log_q = torch.full((len(d.table),), -1e4)
        log_q[u] = 0.0
        found = carrier.carry(read(node()), [log_q], p).p
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)
        word = d.table[u]
        if not word or a.key == d.key:
            continue
        fits = [
            word.startswith(other) or other.startswith(word) if other else False
            for other in a.table
        ]
        assert float(found[fits].sum()) > 1 - 2 * UNTOLD


# Of any text, and of bytes that are none.
WORDS = "The dog|def f(x):\n    |return |  |\t|🎉|👩‍🚀|你好|。|café| the|x=1".split("|")
PIECES = st.one_of(
    st.sampled_from(WORDS).map(str.encode), st.binary(min_size=1, max_size=3)
)
DATA = st.lists(PIECES, min_size=1, max_size=4).map(b"".join)


def anchored(anchor, data):
    """The tokens of a text; of bytes that are no text, one for each byte."""
    try:
        return anchor.encode(data.decode())
    except (UnicodeDecodeError, ValueError):
        return [anchor.table.index(bytes([b])) for b in data]


def readings(anchor, donor, carrier, data):
    """What stands beside each token of a text; a state is the number of a token."""
    ids = anchored(anchor, data)
    rows, ways, _ = donor.of_growing_anchor(anchor, ids, len(ids))
    tree = token_tree([], rows, [False] * len(rows))
    states = torch.arange(len(tree.tokens))[:, None]
    space = b" " if donor.prepends_space else b""
    for t, mine in enumerate(ways):
        text = space + anchor.text(ids[: t + 1])
        found = reading(
            [(tree.seen[way.row], way.behind) for way in mine],
            tree.tokens,
            states,
            donor.table,
            text[max(len(text) - carrier.longest, 0) :],
            carrier.begins,
            anchor.spelling(ids, t),
        )
        if found is not None:
            yield found


OTHERS = [(a, d) for a in FAMILIES for d in FAMILIES if a != d]
MAPS = {(a, d): mapped(TOKENS[a], TOKENS[d]) for a, d in OTHERS}


@pytest.mark.parametrize(("a", "d"), OTHERS)
@settings(max_examples=10)
@given(data=DATA, seed=st.integers(0, 99), sharp=st.sampled_from([0.1, 3.0, 30.0]))
def test_what_is_told_is_a_distribution(a, d, data, seed, sharp):
    """Flat or sharp, of whatever text; and what is learnt from it is a number."""
    carrier, g = MAPS[a, d], torch.Generator().manual_seed(seed)
    found = list(readings(TOKENS[a], TOKENS[d], carrier, data))
    for where in found[-4:]:
        mine = torch.randn(carrier.anchor_size, generator=g) * sharp
        theirs = torch.randn(len(where.nodes), carrier.donor_size, generator=g) * sharp
        mine.requires_grad_()
        theirs.requires_grad_()
        own, said = mine.softmax(-1), list(theirs.log_softmax(-1))
        p, inside, unread = carrier.carry(where, said, own)
        assert float(p.detach().sum()) == pytest.approx(1, abs=1e-5)
        assert bool(((p >= 0) & (p <= 1 + 1e-6)).all())
        for part in (inside, unread):
            assert 0 <= float(part.detach()) <= 1
        # As in training: each token in turn may be the one that comes next.
        mixed = (p + own).clamp(min=1e-30).log()
        (mixed[:: carrier.anchor_size // 7].sum() + inside + unread).backward()
        assert bool(torch.isfinite(mine.grad).all())
        if theirs.grad is not None:
            assert bool(torch.isfinite(theirs.grad).all())


def test_gradients_are_right():
    """What is told by hand above, by differences."""
    anchor, donor = cut("a b c bc ab"), cut("c b a ab abc")
    carrier = mapped(anchor, donor)
    where = read(node(b"a"), node(b"", 0, 2), spelling=(0,))
    g = torch.Generator().manual_seed(0)
    q, p = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (2, 1))

    def told(q, p):
        return tuple(carrier.carry(where, list(q.log_softmax(-1)), p[0].softmax(-1)))

    assert torch.autograd.gradcheck(told, (q.requires_grad_(), p.requires_grad_()))


TABLE = st.lists(st.binary(max_size=3), max_size=12)


@given(table=TABLE, prefix=st.one_of(st.binary(max_size=3), st.just(b"\xff\xff")))
def test_a_prefix_is_a_span_of_sorted_tokens(table, prefix):
    tokens = SortedTokens(table)
    written = [i for i, word in enumerate(table) if word]
    assert sorted(tokens.ids) == written
    assert [table[i] for i in tokens.ids] == tokens.words == sorted(tokens.words)
    low, high = tokens.span(prefix)
    wanted = [i for i in written if table[i].startswith(prefix)]
    assert sorted(tokens.ids[low:high]) == wanted
    low, high = tokens.equal(prefix)
    assert sorted(tokens.ids[low:high]) == [i for i in written if table[i] == prefix]


@given(table=TABLE, rest=st.binary(min_size=1, max_size=3))
def test_what_longer_tokens_begin_with(table, rest):
    carrier = copy.copy(mapped(cut("a b"), cut("b a")))
    carrier.of_donor = SortedTokens(table)
    longer = [word for word in table if word.startswith(rest) and word != rest]
    assert carrier.begins(rest) == bool(longer)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder for maps, also of small vocabularies, and how often one was made."""
    monkeypatch.setattr(vocabulary, "LARGE", 1)
    real, calls = VocabularyMap._cut, []

    def count(self, *given):
        calls.append(self)
        return real(self, *given)

    monkeypatch.setattr(VocabularyMap, "_cut", count)
    return tmp_path / "maps", calls


def alike(one, other):
    names = ("first", "low", "high")
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def test_maps_are_kept_and_found_again(kept):
    folder, calls = kept
    llama, gemma = TOKENS["llama"], TOKENS["gemma"]
    first = mapped(llama, gemma, folder=folder)
    [file] = folder.iterdir()
    assert len(calls) == 1
    assert alike(mapped(llama, gemma, folder=folder), first)
    assert len(calls) == 1
    # Another direction, another size and another tokenizer are other maps.
    mapped(gemma, llama, folder=folder)
    VocabularyMap(llama, gemma, 405, len(gemma.table), folder=folder)
    mapped(llama, TOKENS["neox"], folder=folder)
    assert len(list(folder.iterdir())) == len(calls) == 4
    assert file.is_file()


def test_small_maps_are_not_kept(tmp_path):
    mapped(TOKENS["llama"], TOKENS["gemma"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-40])


def emptied(file):
    file.write_bytes(b"")


def something_else(file):
    file.write_bytes(b"PK\x03\x04 not numbers at all")


def of_another_shape(file):
    np.save(file, np.load(file)[:-1])


def of_another_kind(file):
    np.save(file, np.load(file).astype(np.float64) + 0.5)


@pytest.mark.parametrize(
    "damage", [cut_off, emptied, something_else, of_another_shape, of_another_kind]
)
def test_a_map_that_is_damaged_is_made_anew(kept, damage):
    folder, calls = kept
    llama, gemma = TOKENS["llama"], TOKENS["gemma"]
    first = mapped(llama, gemma, folder=folder)
    [file] = folder.iterdir()
    good = file.read_bytes()
    damage(file)
    assert alike(mapped(llama, gemma, folder=folder), first)
    assert len(calls) == 2
    assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_to_does_no_harm(kept):
    folder, _ = kept
    folder.write_text("a file")
    made = mapped(TOKENS["llama"], TOKENS["gemma"], folder=folder / "maps")
    assert alike(made, mapped(TOKENS["llama"], TOKENS["gemma"]))
