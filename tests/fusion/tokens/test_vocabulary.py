import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.tokens.token_bytes import TokenBytes
from fusion.tokens.vocabulary import FEW, VocabularyMap


def test_by_hand():
    """Anchor: a, ab, c. Donor: a, c, abd, x.

    a goes to a and to ab (whose longest donor prefix is a), 3 : 1 by the anchor's own
    probabilities; c to its twin; abd to ab; x reaches nothing, so the rest is scaled.
    """
    carry = VocabularyMap([b"a", b"ab", b"c"], [b"a", b"c", b"abd", b"x"], 3, 4)
    donor = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    anchor = torch.tensor([[0.6, 0.2, 0.2]])
    wanted = torch.tensor([[0.3, 0.1 + 0.2, 0.2]]) / 0.8
    torch.testing.assert_close(carry(donor, anchor), wanted)
    assert carry.n_twins == 2


def test_tokens_with_the_same_bytes_count_as_one():
    """Byte fallback: <0x61> comes first, "a" is what the model writes."""
    byte_and_a = [b"a", b"b", b"a"]
    to = VocabularyMap(byte_and_a, [b"a", b"b"], 3, 2)
    anchor = torch.tensor([[0.01, 0.5, 0.49]])
    wanted = torch.tensor([[0.6 * 0.02, 0.4, 0.6 * 0.98]])
    torch.testing.assert_close(to(torch.tensor([[0.6, 0.4]]), anchor), wanted)
    back = VocabularyMap([b"a", b"b"], byte_and_a, 2, 3)
    wanted = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(back(anchor, torch.tensor([[0.9, 0.1]])), wanted)


def test_ends_of_text_are_told_by_pairs():
    carry = VocabularyMap([b"", b"a"], [b"a", b""], 2, 2, pairs=[(1, 0)])
    donor, anchor = torch.tensor([[0.3, 0.7]]), torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(carry(donor, anchor), torch.tensor([[0.7, 0.3]]))


def test_same_vocabulary_changes_nothing():
    table = [b"", b"a", b"ab", b"b"]
    carry = VocabularyMap(table, table, 4, 4, pairs=[(0, 0)])
    donor = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(carry(donor, torch.full((1, 4), 0.25)), donor / donor.sum())


def test_an_anchor_that_gives_a_group_nothing_does_not_divide_by_zero():
    carry = VocabularyMap([b"a", b"ab", b"c"], [b"a", b"c"], 3, 2)
    out = carry(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.isfinite(out).all()


TABLE = st.lists(st.binary(min_size=0, max_size=3), min_size=1, max_size=12)


def targets(token, anchor, donor):
    """The anchor tokens that a donor token leads to, straight from the definition."""

    def longest(of, table):
        fits = [t for t in table if t and of.startswith(t)]
        return max(fits, key=len, default=None)

    found = {longest(token, anchor)} - {None}
    for other in anchor:
        if other and other not in donor and longest(other, donor) == token:
            found.add(other)
    return found


@settings(max_examples=200)
@given(anchor=TABLE, donor=TABLE, seed=st.integers(0, 99), extra=st.integers(0, 3))
def test_carries_probability(anchor, donor, seed, extra):
    g = torch.Generator().manual_seed(seed)
    carry = VocabularyMap(anchor, donor, len(anchor) + extra, len(donor) + extra)
    p = torch.rand(2, len(anchor) + extra, generator=g).double() + 0.01
    q = torch.rand(2, len(donor) + extra, generator=g).double() + 0.01
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    out = carry(q, p)
    many = carry(q.repeat(FEW, 1), p.repeat(FEW, 1))  # sums another way
    torch.testing.assert_close(many, out.repeat(FEW, 1))
    wanted = torch.zeros_like(p)
    for u, token in enumerate(donor):
        leads = targets(token, anchor, donor) if token else ()
        to = [v for v, other in enumerate(anchor) if other in leads]
        if to:
            part = p[:, to] / p[:, to].sum(-1, keepdim=True)
            wanted[:, to] += q[:, [u]] * part
    total = wanted.sum(-1, keepdim=True)
    if not (total > 0).all():
        assert (out == 0).all()  # nothing can be told in the anchor's words
        return
    torch.testing.assert_close(out, wanted / total)
    torch.testing.assert_close(out.sum(-1), torch.ones(2, dtype=torch.float64))


@settings(max_examples=100)
@given(table=st.lists(st.binary(min_size=1, max_size=3), min_size=2, unique=True))
def test_twins_keep_their_probability(table):
    """Same tokens in another order: every probability moves to its twin."""
    other = table[::-1]
    carry = VocabularyMap(table, other, len(table), len(table))
    q = torch.rand(2, len(table)).softmax(-1)
    torch.testing.assert_close(carry(q, torch.rand(2, len(table))), q.flip(-1))
    assert carry.n_twins == len(table)


@pytest.mark.parametrize("anchor", tiny.FAMILIES)
@pytest.mark.parametrize("donor", tiny.FAMILIES)
def test_real_vocabularies(anchor, donor):
    """All 256 bytes are tokens of every family, so every text token is carried."""
    a, d = (TokenBytes(tiny.tiny_tokenizer(f)).table for f in (anchor, donor))
    carry = VocabularyMap(a, d, len(a), len(d))
    q = torch.eye(len(d))[[i for i, token in enumerate(d) if token]]
    p = torch.rand(1, len(a)).softmax(-1).expand(len(q), -1)
    out = carry(q, p)
    torch.testing.assert_close(out.sum(-1), torch.ones(len(q)))
    assert carry.n_twins >= 256


def test_gradients_are_right():
    """The map has its own backward pass."""
    carry = VocabularyMap([b"a", b"ab", b"c"], [b"a", b"c", b"abd", b"x"], 3, 4)
    carry = carry.double()
    g = torch.Generator().manual_seed(0)
    q = torch.rand(2, 4, generator=g, dtype=torch.float64).add(0.1).requires_grad_()
    p = torch.rand(2, 3, generator=g, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(carry, (q, p))
    many = [x.detach().repeat(FEW, 1).requires_grad_() for x in (q, p)]
    assert torch.autograd.gradcheck(carry, many)
