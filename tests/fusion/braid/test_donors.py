import contextlib

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from fusion.braid.cache import Row
from fusion.braid.donors import DonorPath, crop_layers, walk
from fusion.tokens.token_bytes import TokenBytes, token_tree
from fusion.tokens.vocabulary import reading


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_walk_cuts_again_and_forgets(family, at_once):
    gemma = tiny.tiny_strand(family)
    assert gemma.reads_trees
    gemma.reads_trees = at_once
    path = DonorPath()
    prefixes = [[2, 40], [2, 40, 41], [2, 42], [2, 42, 43]]
    states, tree = walk(gemma, path, prefixes, ["final", 1])
    # In this order: 2 40 | 41 | 42 43; tokens 40 and 41 were left behind.
    assert tree.seen == [[0, 1], [0, 1, 2], [0, 3], [0, 3, 4]]
    for prefix, where in zip(prefixes, tree.seen, strict=True):
        alone = gemma.run(torch.tensor([prefix]), taps=["final", 1])
        for tap in ("final", 1):
            torch.testing.assert_close(
                states[tap][where], alone[tap][0], atol=1e-4, rtol=1e-4
            )
    assert path.ids == prefixes[-1]
    assert path.cache.get_seq_length() == len(path.ids)
    # It goes on from there.
    states, tree = walk(gemma, path, [[2, 42, 43, 44]], ["final"])
    assert tree.seen == [[0, 1, 2, 3]]
    alone = gemma.run(torch.tensor([[2, 42, 43, 44]]), taps=["final"])["final"][0]
    torch.testing.assert_close(states["final"], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_trees_and_pieces_agree_on_real_cuts(family, strands):
    """From a cache, through whole texts, back into the text, at two taps."""
    anchor = strands["llama" if family == "gemma" else "gemma"]
    donor = tiny.tiny_strand(family)
    for text in tiny.SAMPLES.values():
        ids = anchor.tokens.encode(text)
        prefixes, _ = Row(ids=ids).prefixes(anchor, donor, len(ids))
        steps = [prefixes[:5], prefixes[5:], prefixes[3:4], prefixes[4:]]
        found = []
        for at_once in (True, False):
            donor.reads_trees = at_once
            path = DonorPath()
            found.append([walk(donor, path, s, ["final", 0]) for s in steps if s])
        for (whole, tree), (pieces, also) in zip(*found, strict=True):
            assert tree == also
            for tap in ("final", 0):
                torch.testing.assert_close(
                    whole[tap], pieces[tap], atol=1e-4, rtol=1e-4
                )


def test_a_window_goes_by_the_depth_in_the_tree(strands):
    gemma = strands["gemma"]
    window = gemma.model.config.sliding_window
    depth = torch.arange(window + 2)
    visible = torch.ones(1, window + 2, dtype=torch.bool)
    masks = gemma.tree_mask(visible, depth)
    assert (masks["sliding_attention"][0, 0, 0] == 0).sum() == window
    assert (masks["full_attention"] == 0).all()


def test_one_prefix_needs_no_tree(strands, monkeypatch):
    """A step of decoding that cuts the text again: crop, and run the tail."""
    gemma, path = strands["gemma"], DonorPath()
    walk(gemma, path, [[2, 40, 41]], ["final"])
    monkeypatch.setattr(DonorPath, "branch", lambda *a: pytest.fail("a tree"))
    states, tree = walk(gemma, path, [[2, 42, 43]], ["final"])
    alone = gemma.run(torch.tensor([[2, 42, 43]]), taps=["final"])["final"][0]
    torch.testing.assert_close(states["final"], alone, atol=1e-4, rtol=1e-4)
    assert tree.seen == [[0, 1, 2]]


def test_the_same_text_again_runs_nothing(strands, monkeypatch):
    gemma, path = strands["gemma"], DonorPath()
    walk(gemma, path, [[2, 40]], ["final"])
    monkeypatch.setattr(DonorPath, "extend", lambda *a: pytest.fail("ran again"))
    _, tree = walk(gemma, path, [[2, 40], [2, 40]], ["final"])
    assert tree.seen == [[0, 1], [0, 1]]


@pytest.mark.parametrize("step", [1, 3, 40])
def test_a_text_that_passes_the_turn_is_read_anew(step):
    """Each prefix as the donor's own model reads it, and back again when it shrinks."""
    strand, path = tiny.long_rope_strand(8), DonorPath()
    ids = list(range(20, 32))
    recut = [[*ids[:8], 50], [*ids[:7], 51], [*ids[:7], 51, 52], [*ids[:9], 53]]
    prefixes = [ids[: n + 1] for n in range(len(ids))] + recut
    for low in range(0, len(prefixes), step):
        part = prefixes[low : low + step]
        states, tree = walk(strand, path, part, ["final", 1])
        for prefix, tokens in zip(part, tree.seen, strict=True):
            with torch.no_grad():
                wanted = strand.model.base_model(torch.tensor([prefix]))
            torch.testing.assert_close(
                states["final"][tokens], wanted.last_hidden_state[0],
                atol=1e-4, rtol=1e-4,
            )  # fmt: skip
        assert path.ids == part[-1]
        assert path.long == (len(path.ids) > 8)


def test_a_step_that_was_stopped_does_not_forget_which_positions_it_had(monkeypatch):
    strand, path = tiny.long_rope_strand(8), DonorPath()
    ids = list(range(20, 32))
    monkeypatch.setattr(type(strand), "reads_trees", False)
    real, calls = DonorPath.extend, []

    def stop(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DonorPath, "extend", stop)
        with pytest.raises(KeyboardInterrupt):
            walk(strand, path, [ids, [*ids[:6], 50, 51, 52]], ["final"])
    assert path.ids == ids[:6]
    assert path.long
    states, tree = walk(strand, path, [ids[:7]], ["final"])
    with torch.no_grad():
        wanted = strand.model.base_model(torch.tensor([ids[:7]])).last_hidden_state[0]
    torch.testing.assert_close(
        states["final"][tree.seen[0]], wanted, atol=1e-4, rtol=1e-4
    )


# Readings of few different tokens, so that they often begin alike and part again.
READINGS = st.lists(st.lists(st.integers(40, 42), max_size=5), min_size=1, max_size=6)


@pytest.mark.parametrize("at_once", [True, False])
@settings(max_examples=12)
@given(steps=st.lists(READINGS, min_size=1, max_size=3))
def test_any_walk_sees_what_the_model_says_of_each_reading(strands, at_once, steps):
    """Forwards, back, down other branches, to nothing and from there again."""
    donor, path = strands["llama-2"], DonorPath()
    known, before = {}, donor.reads_trees
    donor.reads_trees = at_once
    try:
        for prefixes in steps:
            states, tree = walk(donor, path, prefixes, [1])
            for prefix, where in zip(prefixes, tree.seen, strict=True):
                assert len(where) == len(prefix)
                if not prefix:
                    continue
                key = tuple(prefix)
                if key not in known:
                    known[key] = donor.run(torch.tensor([prefix]), taps=[1])[1][0]
                torch.testing.assert_close(
                    states[1][where], known[key], atol=1e-4, rtol=1e-4
                )
            assert path.ids == prefixes[-1]
            assert path.cache.get_seq_length() == len(path.ids)
    finally:
        donor.reads_trees = before


def test_no_reading_at_all_gives_no_states(strands):
    gemma, path = strands["gemma"], DonorPath()
    states, tree = walk(gemma, path, [], ["final", 1])
    assert {tap: s.shape for tap, s in states.items()} == {
        "final": (0, gemma.width),
        1: (0, gemma.width),
    }
    assert (tree.seen, path.ids) == ([], [])


def test_a_donor_is_read_without_gradients(strands):
    gemma = strands["gemma"]
    for prefixes in ([[2, 40]], [[2, 41], [2, 42]]):  # in one go, and as a tree
        states, _ = walk(gemma, DonorPath(), prefixes, ["final"])
        assert not states["final"].requires_grad


@pytest.mark.parametrize("tap", ["final", 1])
@pytest.mark.parametrize("prefixes", [[[2, 40, 41, 42]], [[2, 40, 41], [2, 42, 43]]])
def test_a_walk_that_is_stopped_leaves_the_path_as_it_was(
    strands, monkeypatch, prefixes, tap
):
    """Stopped in the donor's third layer, when two have keys of the new tokens."""
    gemma, path = strands["gemma"], DonorPath()
    walk(gemma, path, [[2, 40]], [tap])
    before = path.states[tap].clone()

    def stop(*_):
        raise KeyboardInterrupt

    layer = 2 if tap == "final" else 1
    hook = gemma.body.layers[layer].mlp.register_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            walk(gemma, path, prefixes, [tap])
    finally:
        hook.remove()
    assert path.ids == [2, 40]
    assert torch.equal(path.states[tap], before)
    assert {layer.get_seq_length() for layer in path.cache.layers} <= {0, 2}
    states, tree = walk(gemma, path, prefixes, [tap])
    for prefix, where in zip(prefixes, tree.seen, strict=True):
        alone = gemma.run(torch.tensor([prefix]), taps=[tap])[tap][0]
        torch.testing.assert_close(states[tap][where], alone, atol=1e-4, rtol=1e-4)


def test_layers_that_are_not_equally_far_are_cropped_to_one_length():
    cache, keys = DynamicCache(), torch.zeros(1, 1, 5, 2)
    cache.update(keys, keys, 0)
    cache.update(keys[:, :, :3], keys[:, :, :3], 1)
    cache.update(keys[:, :, :1], keys[:, :, :1], 2)
    crop_layers(cache, 3)
    assert [layer.get_seq_length() for layer in cache.layers] == [3, 3, 1]
    crop_layers(cache, 9)
    assert [layer.get_seq_length() for layer in cache.layers] == [3, 3, 1]


@pytest.mark.parametrize("length", [0, 1, 3, 7])
def test_a_path_is_cropped_with_its_states_and_keys(strands, length):
    gemma, path = strands["gemma"], DonorPath()
    walk(gemma, path, [[2, 40, 41]], ["final", 0])
    states = {tap: s.clone() for tap, s in path.states.items()}
    path.crop(length)
    kept = min(length, 3)
    assert path.ids == [2, 40, 41][:kept]
    assert path.cache.get_seq_length() == kept
    for tap, found in path.states.items():
        assert torch.equal(found, states[tap][:kept])


def numbered(ways, tokens, donor, data, longest, spelling=()):
    """`reading` where the state of a token is its number."""
    states = torch.arange(len(tokens))[:, None]
    table, begins = donor.table, lambda rest: longer_tokens(table, rest)
    data = data[max(len(data) - longest, 0) :]
    return reading(ways, tokens, states, table, data, begins, spelling)


def longer_tokens(table, rest):
    return any(word.startswith(rest) and word != rest for word in table)


def shown(found):
    return [(int(n.state), n.parent, n.rest, n.last, n.ahead) for n in found.nodes]


# a b c _ ab bc abc _a are tokens 0 to 7.
LETTERS = TokenBytes(tiny.handmade("a b c _ ab bc abc _a"))


def test_a_reading_begins_where_no_longer_token_may_have_begun():
    """ "c|a|b|ab": of "abab", what is behind a token, "ab" may begin "abc"."""
    tokens = [2, 0, 1, 4]
    found = numbered([([0, 1, 2, 3], 0)], tokens, LETTERS, b"cabab", 3, (7,))
    assert shown(found) == [(2, -1, b"ab", True, False), (3, 0, b"", True, False)]
    assert [n.token for n in found.nodes] == [1, 4]
    assert found.spelling == (7,)
    # "a|b": "ab" may begin "abc", though behind the "a" nothing goes on.
    found = numbered([([0, 1, 2], 0)], [2, 0, 1], LETTERS, b"cab", 3)
    assert shown(found) == [
        (0, -1, b"ab", False, False),
        (1, 0, b"b", True, False),
        (2, 1, b"", True, False),
    ]


def test_a_reading_needs_no_more_than_its_end():
    """Behind "c|c|c" no token goes on from any part; one node tells it all.

    "c" begins no longer token, so nothing is to be weighed against it.
    """
    found = numbered([([0, 1, 2], 0)], [2, 2, 2], LETTERS, b"ccc", 3)
    assert shown(found) == [(2, -1, b"", True, False)]


def test_the_first_token_has_no_other_beside_it():
    """No state is before it, so it is taken as read; of nothing there is no reading."""
    found = numbered([([0], 0)], [0], LETTERS, b"a", 3)
    assert shown(found) == [(0, -1, b"", True, False)]
    assert numbered([([], 0)], [], LETTERS, b"", 3) is None
    assert numbered([([], 1), ([], 0)], [], LETTERS, b" ", 3) is None


def test_a_text_that_was_read_in_two_ways_is_one_tree():
    """ "c" and "c|_": the space may be a token, or the beginning of "_a"."""
    found = numbered([([0], 1), ([0, 1], 0)], [2, 3], LETTERS, b"c ", 3)
    assert shown(found) == [(0, -1, b" ", True, False), (1, 0, b"", True, False)]


def test_a_way_that_is_one_space_ahead_ends_ahead():
    """ "c|_" and, one space further, "c|__"; or "c|_|_", where they share two."""
    donor = TokenBytes(tiny.handmade("c _ __", words=False))
    found = numbered([([0, 1], 0), ([0, 2], -1)], [0, 1, 2], donor, b"c ", 2)
    assert shown(found) == [
        (0, -1, b" ", True, False),
        (1, 0, b"", True, False),
        (2, 0, b"", True, True),
    ]
    found = numbered([([0, 1], 0), ([0, 1, 2], -1)], [0, 1, 1], donor, b"c ", 2)
    assert shown(found) == [
        (0, -1, b" ", True, False),
        (1, 0, b"", True, False),
        (2, 1, b"", True, True),
    ]


def test_what_ways_do_not_share_cannot_be_weighed():
    """Read anew from the first token on: of two ways the first is left."""
    donor = TokenBytes(tiny.handmade("c _ __", words=False))
    found = numbered([([0, 1], 0), ([2, 3], -1)], [0, 1, 0, 2], donor, b"c ", 2)
    assert shown(found) == [(0, -1, b" ", True, False), (1, 0, b"", True, False)]
    found = numbered([([0], 1), ([1, 2], 0)], [0, 0, 1], donor, b"c ", 2)
    assert shown(found) == [(0, -1, b" ", True, False)]


TOKENS = {
    family: TokenBytes(tiny.tiny_tokenizer(family))
    for family in (*tiny.FAMILIES, *tiny.MORE_FAMILIES)
}
WORDS = "The dog|def f(x):\n    | |  |🎉|👩‍🚀|你好。|é| the".split("|")
PIECES = st.one_of(
    st.sampled_from(WORDS).map(str.encode), st.binary(min_size=1, max_size=3)
)
ANY = st.lists(PIECES, min_size=1, max_size=4).map(b"".join)


def text_of(tokens, way, table, n):
    return b"".join(table[tokens[i]] for i in way[: n + 1])


@pytest.mark.parametrize("d", TOKENS)
@pytest.mark.parametrize("a", ["llama", "gpt2", "neox"])
@settings(max_examples=10)
@given(data=ANY)
def test_readings_spell_the_text_from_where_nothing_longer_began(a, d, data):
    """By brute force, of any bytes, of each beginning of a text."""
    anchor, donor = TOKENS[a], TOKENS[d]
    if a == d:
        return
    ids = [anchor.table.index(bytes([b])) for b in data]
    with contextlib.suppress(UnicodeDecodeError):
        ids = anchor.encode(data.decode())
    rows, ways, _ = donor.of_growing_anchor(anchor, ids, len(ids))
    tree = token_tree([], rows, [False] * len(rows))
    tokens, table = tree.tokens, donor.table
    longest = max(map(len, table))
    space = b" " if donor.prepends_space else b""
    for t, mine in enumerate(ways):
        text = space + anchor.text(ids[: t + 1])
        read = [(tree.seen[row], behind) for row, behind in mine]
        found = numbered(read, tokens, donor, text, longest)
        if found is None:
            assert not any(way for way, _ in read)
            continue
        for n, node in enumerate(found.nodes):
            assert node.token == tokens[int(node.state)]
            assert node.parent < n
            assert (node.parent < 0) == (n == 0)
        check_nodes(found, read, tokens, table, text, longest)


def check_nodes(found, read, tokens, table, text, longest):
    first = int(found.nodes[0].state)
    places = {int(node.state): node for node in found.nodes}
    kept = [(way, behind) for way, behind in read if way and way[-1] in places]
    assert kept
    for way, behind in kept:
        begin = way.index(first)
        whole = text + b" " * -min(behind, 0)
        # Bytes that are no text are read as others: from there on nothing is compared.
        texts = [text_of(tokens, way, table, n) for n in range(len(way))]
        exact = [n for n, read in enumerate(texts) if whole.startswith(read)]
        for n in range(begin, len(way)):
            node = places[way[n]]
            if n > begin:
                assert int(found.nodes[node.parent].state) == way[n - 1]
            assert node.last == (n >= len(way) - 2) or len(kept) > 1
            if n in exact:
                spelt = texts[n] + node.rest
                assert spelt == (whole if node.ahead else text)
        for n in range(begin):
            rest = text[len(texts[n]) :]
            if len(exact) == len(way) and 0 < len(rest) <= longest:
                assert not longer_tokens(table, rest)
