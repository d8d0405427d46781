import copy
import re
from itertools import pairwise

import numpy as np
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from fusion.tokens.token_bytes import (
    TokenBytes,
    common_prefix,
    complete_text,
    token_tree,
)

TOKENS = {
    family: TokenBytes(tiny.tiny_tokenizer(family))
    for family in (*tiny.FAMILIES, *tiny.MORE_FAMILIES)
}
FAMILY = pytest.mark.parametrize("family", tiny.FAMILIES)

# Any text: surrogates are no text, and U+2581 is the gemma family's own space.
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))


@FAMILY
@settings(max_examples=100)
@given(text=ANY)
def test_ends_follow_the_bytes_of_any_text(family, text):
    tokens = TOKENS[family]
    ids = tokens.encode(text)
    ends = tokens.ends(ids)
    assert tokens.text(ids) == text.encode()
    assert ends.dtype == np.int64
    assert len(ends) == len(ids)
    assert (np.diff(ends, prepend=0) >= 0).all()
    if len(ids):
        assert ends[-1] == len(text.encode())
    # End t is where the first t + 1 tokens stop writing.
    assert all(len(tokens.text(ids[: t + 1])) == end for t, end in enumerate(ends))


@FAMILY
@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
def test_samples_round_trip(family, text):
    tokens = TOKENS[family]
    assert tokens.text(tokens.encode(text)).decode() == text


def test_ends_by_hand():
    """café: gemma has no é and falls back to its two bytes."""
    tokens = TOKENS["gemma"]
    ids = tokens.encode("café")
    assert [tokens.table[i] for i in ids] == [b"", b"c", b"a", b"f", b"\xc3", b"\xa9"]
    assert tokens.ends(ids).tolist() == [0, 1, 2, 3, 4, 5]


def test_special_tokens_write_nothing():
    for family, tokens in TOKENS.items():
        for i in tiny.tiny_tokenizer(family).all_special_ids:
            assert tokens.table[i] == b""
    end = tiny.tiny_tokenizer("llama").eos_token_id
    a = TOKENS["llama"].encode("a")
    assert TOKENS["llama"].ends([*a, end]).tolist() == [1, 1]


def test_rows_beyond_the_vocabulary_write_nothing():
    """Heads are often padded to a round number of rows."""
    tokens = TOKENS["llama"]
    beyond = len(tokens.table) + 3
    assert tokens.join([beyond]) == b""
    assert tokens.ends([beyond]).tolist() == [0]


def test_nothing_has_no_ends():
    assert TOKENS["llama"].ends([]).tolist() == []
    assert TOKENS["llama"].encode_growing([]) == ([], None)


def test_a_space_the_tokenizer_writes_in_front_is_not_text():
    """Llama 2 style: the tokens of "a" are those of " a"."""
    tokens = in_front()
    assert tokens.prepends_space
    ids = tokens.encode("a b")
    assert tokens.text(ids) == b"a b"
    assert tokens.ends(ids)[-1] == 3
    assert (tokens.ends(ids) >= 0).all()


def _with_added(family, *added):
    """The family's tokenizer with more tokens, and how it cuts texts by bytes."""
    backend = Tokenizer.from_str(tiny.tiny_tokenizer(family).backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(list(added))
    return TokenBytes(tokenizer)


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("word", ["naïve", "é", "ÿ", "你好", "a b"])
def test_an_added_token_is_plain_text(family, normalized, word):
    """Byte-level BPE writes bytes with letters such as é: in an added token it is é."""
    tokens = _with_added(family, AddedToken(word, normalized=normalized))
    text = f"so {word}{word}!"
    ids = tokens.encode(text)
    number = tokens.tokenizer.convert_tokens_to_ids(word)
    assert ids.count(number) == 2
    assert tokens.table[number] == word.encode()
    assert tokens.ends(ids)[-1] == len(text.encode())


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_an_added_token_that_swallows_spaces_is_refused_beside_them(side):
    tokens = _with_added("llama", AddedToken("naïve", **{side: True}))
    assert tokens.text(tokens.encode("(naïve)")).decode() == "(naïve)"
    with pytest.raises(ValueError, match="cannot round-trip"):
        tokens.encode("so naïve so")


def test_a_tokenizer_that_is_not_made_of_bytes_is_refused():
    words = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="cannot read the tokens"):
        TokenBytes(PreTrainedTokenizerFast(tokenizer_object=words))


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(TypeError, match="no fast backend"):
        TokenBytes(object())


def test_a_text_the_tokenizer_changes_is_refused():
    """gemma writes its own space mark as a space: the text does not come back."""
    with pytest.raises(ValueError, match=r"byte 1 reads .* normalise the text"):
        TOKENS["gemma"].encode("a\u2581b")


@given(text=ANY, cut=st.integers(0, 40))
def test_complete_text_leaves_out_only_an_unfinished_character(text, cut):
    data = text.encode()[:cut]
    done = complete_text(data).encode()
    assert data.startswith(done)
    assert len(data) - len(done) <= 3
    assert text.startswith(complete_text(data))


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [
        ([], [], 0),
        ([1], [], 0),
        ([1, 2], [1, 2], 2),
        ([1, 2], [1, 3], 1),
        ([1], [2], 0),
    ],
)
def test_common_prefix(a, b, n):
    assert common_prefix(a, b) == common_prefix(b, a) == n


def in_front(family="gemma"):
    """A tokenizer that puts a space before the text (Llama 2 style)."""
    backend = Tokenizer.from_str(tiny.tiny_tokenizer(family).backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))


GROWING = {**TOKENS, "in front": in_front()}
# Words and all kinds of space, so that there is something to cut.
WORDS = st.lists(
    st.sampled_from([*"a é 好 🎉 ' 1 22 \n \t > the return".split(" "), " ", "  "]),
    max_size=30,
).map("".join)


@pytest.mark.parametrize("name", GROWING)
@settings(max_examples=60)
@given(text=WORDS, step=st.integers(1, 3))
def test_a_growing_text_is_cut_as_a_whole_one(name, text, step):
    tokens = GROWING[name]
    ends = [*range(0, len(text), step), len(text)]
    texts = [text[:end] for end in ends if text[:end][:1] != " "]
    wanted = [tokens.encode(t) for t in texts]
    assert tokens.encode_growing(texts)[0] == wanted
    head, one_by_one = None, []
    for t in texts:
        rows, head = tokens.encode_growing([t], head)
        one_by_one += rows
    assert one_by_one == wanted


@pytest.mark.parametrize("name", GROWING)
@settings(max_examples=60)
@given(text=WORDS, other=WORDS, at=st.integers(0, 60))
@example(text="the d returns", other="og", at=5)
@example(text="the dog returns", other=" ", at=7)
def test_a_text_that_is_taken_back_may_go_on_otherwise(name, text, other, at):
    """As in assisted generation, where words are proposed and refused."""
    tokens = GROWING[name]
    texts = [t for t in (text, text[:at] + other) if t[:1] != " "]
    head = None
    for t in texts:
        [found], head = tokens.encode_growing([t], head)
        assert found == tokens.encode(t)


@pytest.mark.parametrize("name", GROWING)
def test_the_beginning_of_a_growing_text_is_read_once(name, monkeypatch):
    tokens, read = GROWING[name], []
    piece = TokenBytes._piece

    def count(self, text, first, verify):
        read.append(len(text))
        return piece(self, text, first, verify)

    monkeypatch.setattr(TokenBytes, "_piece", count)
    text = "The other dog sleeps. " * 40
    texts = [text[:end] for end in range(1, len(text))]
    rows, head = tokens.encode_growing(texts)
    assert rows[-1] == tokens.encode(texts[-1])
    assert sum(read) < 20 * len(text)  # each on its own: 440 times
    # Another text than the one that was begun is read as such.
    assert tokens.encode_growing(["She sells"], head)[0] == [tokens.encode("She sells")]


def test_a_tokenizer_that_cannot_be_cut_reads_it_all():
    """Its own rules look back: the letter behind a space goes by what was before."""
    backend = Tokenizer.from_str(
        tiny.tiny_tokenizer("llama").backend_tokenizer.to_str()
    )
    backend.normalizer = normalizers.Replace(Regex("(?<=b) a"), "e")
    tokens = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    texts = ["b", "b a", "b a."]
    rows, head = tokens.encode_growing(texts, verify=False)
    assert rows == [backend.encode(t).ids for t in texts]
    assert head is None


@FAMILY
def test_who_pads_with_the_tokenizer_pads_nothing_here(family):
    """Padding is a setting of the one tokenizer that all threads share."""
    tokenizer = tiny.tiny_tokenizer(family)
    tokens = TokenBytes(tokenizer)
    wanted = [tokens.encode(text) for text in ("a", tiny.PROSE)]
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert [tokens.encode(text) for text in ("a", tiny.PROSE)] == wanted


@FAMILY
def test_tokens_are_the_tokenizers_own(family):
    tokenizer = tiny.tiny_tokenizer(family)
    tokens = TokenBytes(tokenizer)
    for text in tiny.SAMPLES.values():
        assert tokens.encode(text) == tokenizer(text)["input_ids"]


def test_a_special_token_that_is_written_out_is_text():
    tokens = TokenBytes(tiny.tiny_tokenizer("gemma"))
    ids = tokens.encode("a <eos> b")
    assert tokens.text(ids) == b"a <eos> b"
    assert tokens.tokenizer.eos_token_id not in ids


def test_a_prompt_is_read_with_its_special_tokens():
    tokens = TokenBytes(tiny.tiny_tokenizer("gemma"))
    bos, eos = tokens.specials["<bos>"], tokens.specials["<eos>"]
    words = tokens.encode("The rain")[1:]
    assert tokens.read("The rain") == [bos, *words]
    assert tokens.read("The rain<eos>") == [bos, *words, eos]
    # Written out already, it is not put in front once more; twice is as it was meant.
    assert tokens.read("<bos>The rain") == [bos, *words]
    assert tokens.read("<bos><bos>The rain") == [bos, bos, *words]


def test_what_a_tokenizer_puts_behind_a_text_is_not_doubled():
    tokenizer = copy.deepcopy(tiny.tiny_tokenizer("gemma"))
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A $B <eos>", special_tokens=[("<eos>", eos)]
    )
    tokens = TokenBytes(tokenizer)
    assert tokens.read("a <eos>") == tokens.read("a ")
    assert tokens.read("a <eos> b")[-1] == eos


@pytest.mark.parametrize("family", TOKENS)
@given(
    parts=st.lists(
        st.one_of(
            st.integers(0, 3),
            st.sampled_from(["The rain", " stays", " ", "\n", "é😀", "你好", "x  y"]),
        ),
        max_size=8,
    )
)
def test_ends_count_special_tokens_that_are_written_out(family, parts):
    tokens = TOKENS[family]
    names = sorted(tokens.specials)
    text = "".join(p if isinstance(p, str) else names[p % len(names)] for p in parts)
    ids, ends = tokens.read_with_ends(text)
    assert ids == tokens.read(text)
    assert (np.diff(ends, prepend=0) >= 0).all()
    assert (ends[-1] if len(ids) else 0) == len(text.encode())
    named = re.finditer("|".join(map(re.escape, names)), text)
    special = np.isin(ids, list(tokens.specials.values()))
    assert {*ends[special]} - {0} == {len(text[: m.end()].encode()) for m in named}


def test_an_unknown_character_is_no_special_token():
    """It is the special token <unk>, but the text does not say so."""
    words = Tokenizer(
        models.BPE({"<unk>": 0, "\u2581": 1, "a": 2}, [], unk_token="<unk>")
    )
    words.normalizer = normalizers.Replace(" ", "\u2581")
    words.decoder = decoders.Replace("\u2581", " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    tokens = TokenBytes(tokenizer)
    assert tokens.read_with_ends("a <unk>a")[1].tolist() == [1, 2, 7, 8]
    with pytest.raises(ValueError, match="cannot round-trip"):
        tokens.read_with_ends("a <unk>z")


def in_front_unless_there(kind):
    """A tokenizer that puts a space in front of a text without one."""
    if kind == "byte level":
        backend = tiny._byte_level(tiny.TEXTS["gpt2"])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        backend = tiny._sentence_piece(tiny.TEXTS["neox"], in_front=True)
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", kind)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<|turn|>"]
    )


@pytest.mark.parametrize("kind", ["byte level", "first", "always"])
@pytest.mark.parametrize("text", ["a dog", " a dog", "  a", " ", "\n a", " 你好"])
def test_a_space_in_front_of_a_space_is_told_apart(text, kind):
    """Such tokenizers leave theirs out before another."""
    tokenizer = in_front_unless_there(kind)
    tokens = TokenBytes(tokenizer)
    ids = tokens.encode(text)
    assert tokens.text(ids) == text.encode()
    assert tokens.ends(ids)[-1] == len(text.encode())
    rows, _ = tokens.encode_growing([text, f"{text} sleeps"])
    assert rows == [ids, tokens.encode(f"{text} sleeps")]
    if not text.startswith(" "):
        assert ids == tokenizer(text)["input_ids"]
    for chat in (f"{text}<|turn|>{text}", f"<|turn|> {text}<|turn|>"):
        ids, ends = tokens.read_with_ends(chat)
        assert ends[-1] == len(chat.encode())
        assert chat.startswith(" ") or ids == tokenizer(chat)["input_ids"]


# Texts of few different tokens, so that they often begin alike.
BEGINNINGS = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=6)


@given(known=st.lists(st.integers(0, 2), max_size=6), data=BEGINNINGS, turns=st.data())
def test_a_tree_spells_every_beginning_of_the_text(known, data, turns):
    anew = [turns.draw(st.booleans()) for _ in data]
    tree = token_tree(known, data, anew)
    tokens = [*known[: tree.past], *tree.tokens]
    assert [[tokens[i] for i in seen] for seen in tree.seen] == data
    # Each new token goes on from what stands before it in some beginning.
    for i, lineage in enumerate(tree.lineage):
        assert lineage[-1] == tree.past + i
        assert any(seen[: len(lineage)] == lineage for seen in tree.seen)
    for before, now, keep in zip([[], *tree.seen], tree.seen, tree.kept, strict=False):
        assert common_prefix(before, now) == keep
    assert tree.length == (len(data[-1]) if data else len(known))


def test_a_text_that_only_grows_does_not_branch():
    assert not token_tree([1], [[1, 2], [1, 2, 3]], [False, False]).branches
    assert token_tree([1], [[1, 2], [1, 3]], [False, False]).branches
    # Read anew from a point on, it is another branch.
    assert token_tree([1], [[1, 2], [1, 2, 3]], [False, True]).branches
    assert not token_tree([1], [], []).branches


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MORE_FAMILIES)
@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
def test_what_is_written_behind_a_prompt_is_the_rest_of_the_text(family, text):
    tokens = TokenBytes(tiny.tiny_tokenizer(family))
    ids = tokens.encode(text)
    for cut in range(1, len(ids)):
        before = tokens.text(ids[:cut])
        behind = tokens.written_behind(ids[:cut], ids)
        if complete_text(before).encode() == before:
            assert before.decode() + behind == text


@given(parts=st.lists(st.one_of(st.binary(max_size=3), ANY.map(str.encode))))
def test_bytes_of_no_character_hide_no_unfinished_one(parts):
    """Whatever stands before: an unfinished last character is no text yet."""
    data = b"".join(parts)
    for last in ("é", "好", "😀"):
        whole = last.encode()
        for cut in range(1, len(whole)):
            told = complete_text(data + b"." + whole[:cut])
            assert told == complete_text(data + b".")
        assert complete_text(data + b"." + whole) == told + last


@given(data=st.binary(max_size=12))
def test_a_text_is_told_byte_by_byte_without_taking_anything_back(data):
    told = [complete_text(data[:end]) for end in range(len(data) + 1)]
    for before, now in pairwise(told):
        assert now.startswith(before)
    whole = data.decode(errors="replace")
    assert whole.rstrip("\ufffd") == told[-1].rstrip("\ufffd")
    assert whole.startswith(told[-1])


@pytest.mark.parametrize("word", ["<0xyz>", "<0xG1>", "<0x >a", "<0x1>>"])
def test_a_word_that_looks_like_a_byte_is_a_word(word):
    tokens = _with_added("gemma", AddedToken(word, normalized=False))
    assert tokens.text(tokens.encode(f"a{word}b")) == f"a{word}b".encode()


# Emoji of several parts, marks that combine, code: where cuts move most.
MIXED = st.lists(
    st.sampled_from(["👩‍🚀", "e\u0301", "ñ", "日本", "\tx", "x+=1", " the", "🏳️‍🌈"]),
    min_size=1, max_size=6,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("donor", TOKENS)
@settings(max_examples=20)
@given(text=MIXED, new=st.integers(0, 8))
def test_a_donor_reads_a_growing_text_as_it_reads_each_beginning(donor, text, new):
    """Of another tokenizer's tokens, as many at a time as there are.

    In every way: what is behind of the text, or one space more than it has.
    """
    mine = TOKENS[donor]
    for anchor in (TOKENS["llama"], TOKENS["gpt2"]):
        ids = anchor.encode(text)
        n = min(new, len(ids)) or len(ids)
        rows, ways, _ = mine.of_growing_anchor(anchor, ids, n)
        assert [way.row for found in ways for way in found] == list(range(len(rows)))
        assert len(ways) == n
        for t, found in enumerate(ways, len(ids) - n):
            read = anchor.text(ids[: t + 1])
            for row, behind in found:
                if mine.key == anchor.key:
                    assert rows[row] == ids[: t + 1]
                    assert behind == 0
                    continue
                data = read + b" " if behind < 0 else read[: len(read) - behind]
                assert rows[row] == mine.encode(data.decode())
            # One of the ways has all that is text.
            whole = mine.of_anchor(anchor, ids[: t + 1])
            assert whole in [rows[way.row] for way in found]


def told(anchor, donor, text):
    """The texts that a donor reads beside each token of an anchor."""
    anchor, donor = TOKENS[anchor], TOKENS[donor]
    ids = anchor.encode(text)
    rows, ways, _ = donor.of_growing_anchor(anchor, ids, len(ids))
    return [[(donor.text(rows[row]), behind) for row, behind in mine] for mine in ways]


def test_a_text_that_ends_in_white_space_is_read_in_two_ways():
    """llama may leave its last character to a word; gpt2, which does not, goes ahead.

    llama has "\n   ", "  " and " a"; gpt2 reads spaces one by one.
    """
    assert told("gpt2", "llama", "a \u2003\n") == [
        [(b"a", 0)],
        [(b"a", 1), (b"a ", 0)],
        # Of a character of three bytes one is read, and two, and it is white space.
        [(b"a", 2), (b"a ", 1)],
        [(b"a", 3), (b"a ", 2)],
        [(b"a ", 3), (b"a \xe2\x80\x83", 0)],
        [(b"a \xe2\x80\x83", 1), (b"a \xe2\x80\x83\n", 0)],
    ]
    assert told("qwen2", "gpt2", "a  é \n") == [
        [(b"a", 0)],
        [(b"a ", 0), (b"a  ", -1)],
        [(b"a  ", 0), (b"a   ", -1)],
        [(b"a  ", 1)],  # behind half a character no space can follow
        [("a  é".encode(), 0)],
        [("a  é ".encode(), 0), ("a  é  ".encode(), -1)],
        [("a  é \n".encode(), 0)],  # a line's end is the same to both
    ]


def test_white_space_that_is_the_whole_text_is_read_in_one_way():
    """There is no text without it: a donor without tokens would say nothing."""
    assert told("gpt2", "llama", " a") == [[(b" ", 0)], [(b" a", 0)]]
    assert told("gpt2", "gemma", "  ") == [[(b" ", 0)], [(b" ", 1), (b"  ", 0)]]


def test_where_both_cut_spaces_alike_a_text_is_read_in_one_way():
    assert told("opt", "gpt2", "a ")[1:] == [[(b"a", 0)], [(b"a ", 0)]]


LETTERS = TokenBytes(tiny.handmade("a b c _ _a ab <e>"))
A, B, C, SPACE, SPACE_A, AB, END = range(7)


def test_who_leaves_the_last_of_several_spaces_to_a_word():
    leaves = {family for family, tokens in TOKENS.items() if tokens.leaves_space}
    assert leaves == {"llama", "gemma", "qwen2", "neox"}
    assert LETTERS.leaves_space
    # Cut without a rule for words, it goes by what is put together first.
    one = TokenBytes(tiny.handmade("a _ _a __ ____", words=False))
    other = TokenBytes(tiny.handmade("a _ __ ____ _a", words=False))
    assert (one.leaves_space, other.leaves_space) == (True, False)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        # "ab", " ab" and "  b", of which the second space is within what begins there.
        ([AB, SPACE_A, B], [[AB], [SPACE_A], [SPACE_A, B]]),
        ([A, SPACE, SPACE, B], [[A], [SPACE], [SPACE] * 2, [SPACE, SPACE, B]]),
        # A token that writes nothing is no part of a word.
        ([A, END, B, C], [[A], [], [B], [B, C]]),
        ([END, SPACE_A], [[], [SPACE_A]]),
        # So is one that only a model has, whose head has rows to spare.
        ([99, A], [[], [A]]),
    ],
)
def test_a_spelling_goes_back_to_where_a_word_begins(ids, wanted):
    found = [LETTERS.spelling(ids, t) for t in range(len(ids))]
    assert found == [tuple(row) for row in wanted]


def test_a_spelling_of_what_has_no_words_goes_back_a_little():
    assert LETTERS.spelling([C] * 100, 99) == (C,) * 33
    assert LETTERS.spelling([AB] * 100, 99) == (AB,) * 17


def test_first_tokens_by_hand():
    """White space is cut as before a word, but for one space: that is a token."""
    wanted = {
        b"ab": AB,
        b"abc": AB,
        b"ba": B,
        b" ab": SPACE_A,
        b" b": SPACE,
        b" ": SPACE,
        b"  ": SPACE,
        # No token writes these bytes: the longest that they begin with.
        b"abz": AB,
        b"z": -1,
        b"ab\xc3": AB,
        b"\xc3": -1,
    }
    found = LETTERS.first_tokens(list(wanted), 7)
    assert dict(zip(wanted, found.tolist(), strict=True)) == wanted
    # Of a model that has "a" to " a" only.
    assert LETTERS.first_tokens([b"ab", b"abc", b" ab"], 5).tolist() == [A, A, SPACE_A]
    assert LETTERS.first_tokens([], 7).tolist() == []


def test_inside_a_text_no_space_is_written_in_front():
    """neox would cut "the" as " the": here it is the middle of a word."""
    neox = TOKENS["neox"]
    found = neox.first_tokens([b"the", b" the", b" ", b"\xe2\x82"], len(neox.table))
    assert [neox.table[i] for i in found] == [b"the", b" the", b" ", b"\xe2"]


def test_of_tokens_with_the_same_bytes_the_first_is_the_one_that_is_written():
    """Gemma has <0x20> and <0x61>, too; of what is no text, the longest token."""
    gemma = TOKENS["gemma"]
    [space, letter] = (gemma.tokenizer.convert_tokens_to_ids(t) for t in ("▁", "a"))
    found = gemma.first_tokens([b" ", b"a", b"a\xff", b" \xff"], len(gemma.table))
    assert found.tolist() == [space, letter, letter, space]


@pytest.mark.parametrize("family", TOKENS)
@given(
    words=st.lists(st.one_of(st.binary(min_size=1, max_size=6), ANY.map(str.encode)))
)
def test_a_string_begins_with_its_first_token(family, words):
    """All 256 bytes are tokens of every family."""
    tokens = TOKENS[family]
    words = [word for word in words if word]
    for word, i in zip(words, tokens.first_tokens(words, 400).tolist(), strict=True):
        token = tokens.table[i]
        # Of one that is white space, a word may follow.
        assert word.startswith(token) or (word.isspace() and token.startswith(word))


@pytest.mark.parametrize(
    ("before", "word", "wanted"),
    [
        ([A], b"c", C),
        ([A], b"b", -1),  # "ab" is one token
        ([A], b"bc", -1),
        ([B], b"abc", AB),
        ([SPACE_A], b"b", B),
        ([SPACE], b" a", SPACE_A),
        ([SPACE], b"a", -1),
        ([SPACE, SPACE_A], b"c", C),
        ([A, B], b"c", None),  # "ab" is not cut so, whatever follows
        ([A], b"\xc3", None),
        ([A], b"z", None),  # what no token writes
        ([], b"ab", AB),
    ],
)
def test_the_token_behind_others_by_hand(before, word, wanted):
    assert LETTERS.behind(tuple(before), word) == wanted


def test_in_a_text_with_a_space_in_front_a_word_begins_with_it():
    neox = TOKENS["neox"]
    the, other = neox.encode("the"), neox.encode("the other")
    assert neox.behind(tuple(the), b" other") == other[len(the)]
    assert neox.behind((neox.table.index(b"the"),), b" other") is None


@pytest.mark.parametrize("family", TOKENS)
@given(text=WORDS, more=WORDS)
def test_the_token_behind_a_word_is_that_of_the_text(family, text, more):
    """Where it is told, it is what the tokenizer writes when all is there."""
    tokens = TOKENS[family]
    ids = tokens.encode(text)
    before = tokens.spelling(ids, len(ids) - 1) if ids else ()
    found = tokens.behind(before, more.encode())
    if found is None or found < 0 or tokens.join(before) != text.encode():
        return
    whole = tokens._cut_inside((text + more).encode())
    assert whole[: len(before)] == list(before)
    assert whole[len(before)] == found


def test_what_cannot_be_written_is_refused_with_the_byte_where_it_parts():
    tokens = GROWING["in front"]
    with pytest.raises(ValueError, match=r"byte 1 reads b'\\xe2\\x96\\x81b', its"):
        tokens.encode("a\u2581b")
