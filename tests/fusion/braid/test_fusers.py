import pytest
import torch

from fusion.braid.fusers import (
    FUSERS,
    CrossAttention,
    DonorStates,
    LearnedWeighted,
    Router,
    unit_rms,
)

STRATEGY = pytest.mark.parametrize("strategy", FUSERS)
ADD = pytest.mark.parametrize("add", [False, True], ids=["pull", "add"])


def source(states, last, visible=None):
    """A donor's states (S, width), and the newest token of each position."""
    states = torch.tensor(states, dtype=torch.float32)
    if visible is None:
        visible = [[s <= t for s in range(len(states))] for t in last]
    return DonorStates(
        states[None],
        torch.tensor([last]),
        torch.tensor(visible).reshape(1, len(last), -1),
    )


def random_source(width=3, tokens=4, positions=5):
    states = torch.randn(tokens, width, generator=torch.Generator().manual_seed(1))
    return source(states.tolist(), [-1, 0, 0, 2, 3][:positions])


def noisy(module):
    g = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.3
    return module


def test_pull_by_hand():
    """h + share * w * (B a - h): 1 + 0.5 * 0.5 * (3 * 2 - 1) = 2.25."""
    fuser = LearnedWeighted(1, [1], add=False)
    fuser.bridges[0].weight.data.fill_(3.0)
    fuser.weight.data.fill_(0.5)
    out = fuser(torch.tensor([[[1.0]]]), [source([[2.0]], [0])], [0.5])
    assert out.tolist() == [[[2.25]]]


def test_add_by_hand():
    """h + own n(h) + B n(a): 2 + 0.5 * 1 + 3 * 1 = 5.5, whatever the share is."""
    fuser = LearnedWeighted(1, [1], add=True)
    fuser.bridges[0].weight.data.fill_(3.0)
    fuser.own.weight.data.fill_(0.5)
    for share in (0.1, 0.9):
        out = fuser(torch.tensor([[[2.0]]]), [source([[5.0]], [0])], [share])
        torch.testing.assert_close(out, torch.tensor([[[5.5]]]))


def test_gate_by_hand():
    """The gate is 2 sigmoid(G [h, a]), and both states have root mean square 1."""
    fuser = Router(1, [1], add=True)
    fuser.bridges[0].weight.data.fill_(3.0)
    fuser.routes[0].weight.data = torch.tensor([[0.0, 2.0]])
    out = fuser(torch.tensor([[[1.0]]]), [source([[5.0]], [0])], [1.0])
    wanted = 1 + 3 * 1 * 2 * torch.sigmoid(torch.tensor(2.0))
    torch.testing.assert_close(out, wanted.reshape(1, 1, 1))


def test_attention_by_hand():
    """With Q zero the softmax is the lag bias alone: 3 : 1 for the newest token."""
    fuser = CrossAttention(1, [1], add=False)
    fuser.query.weight.data.zero_()
    fuser.values[0].weight.data.fill_(1.0)
    fuser.outputs[0].weight.data.fill_(1.0 / fuser.outputs[0].in_features)
    fuser.lag.data[0, :, 0] = torch.tensor(3.0).log()
    # States have root mean square 1 before they are read: 5 and -2 are 1 and -1.
    out = fuser(torch.zeros(1, 1, 1), [source([[-2.0], [5.0]], [1])], [0.5])
    wanted = torch.tensor([[[0.5 * (0.75 * 1 + 0.25 * -1)]]])
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)


@STRATEGY
@ADD
def test_starts_as_the_identity_and_still_learns(strategy, add):
    fuser = FUSERS[strategy](2, [3], add)
    hidden = torch.randn(1, 5, 2)
    out = fuser(hidden, [random_source()], [0.5])
    assert torch.equal(out, hidden)
    out.square().sum().backward()
    grads = [p.grad for p in fuser.parameters() if p.grad is not None]
    assert any(g.abs().max() > 0 for g in grads)


@STRATEGY
@ADD
def test_a_share_of_zero_leaves_the_donor_out(strategy, add):
    fuser = noisy(FUSERS[strategy](2, [3], add))
    hidden = torch.randn(1, 5, 2)
    one, other = random_source(), random_source()
    other.states = other.states * 7
    got = [fuser(hidden, [s], [0.0]) for s in (one, other)]
    assert torch.equal(got[0], got[1])


@STRATEGY
@ADD
def test_a_position_that_sees_nothing_gets_nothing(strategy, add):
    """Position 0 comes before the donor's first token."""
    fuser = noisy(FUSERS[strategy](2, [3], add))
    hidden = torch.randn(1, 5, 2)
    out = fuser(hidden, [random_source()], [0.5])
    alone = hidden
    if add:
        own = fuser.own if isinstance(fuser, LearnedWeighted) else fuser.aligned.own
        alone = hidden + own(unit_rms(hidden))
    torch.testing.assert_close(out[:, 0], alone[:, 0])
    assert not torch.allclose(out[:, 1], alone[:, 1])
    empty = source(torch.zeros(0, 3).tolist(), [-1] * 5, [[]] * 5)
    empty.states = torch.zeros(1, 0, 3)
    torch.testing.assert_close(fuser(hidden, [empty], [0.5]), alone)


@STRATEGY
@ADD
def test_sees_only_what_is_visible(strategy, add):
    fuser = noisy(FUSERS[strategy](2, [3], add))
    hidden = torch.randn(1, 5, 2)
    s = random_source()
    before = fuser(hidden, [s], [0.5])
    s.states[0, 3] = 100.0  # only the last position sees token 3
    after = fuser(hidden, [s], [0.5])
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_few_queries_attend_as_many_do():
    """Decoding one position multiplies in another order; the result is the same."""
    fuser = noisy(CrossAttention(2, [3], add=False))
    T = fuser.RANK + 6
    g = torch.Generator().manual_seed(2)
    visible = torch.rand(1, T, 4, generator=g) < 0.7
    last = torch.full((1, T), 3)
    s = DonorStates(random_source().states, last, visible)
    hidden = torch.randn(1, T, 2, generator=g)
    together = fuser(hidden, [s], [1.0])
    for t in (0, 1, T // 2, T - 1):
        at = slice(t, t + 1)
        one = DonorStates(s.states, s.last[:, at], s.visible[:, at])
        torch.testing.assert_close(
            fuser(hidden[:, at], [one], [1.0]), together[:, at], atol=1e-5, rtol=1e-5
        )


def test_attention_forgets_tokens_that_were_cut_again():
    """Visible is not a prefix: the donor cut its text again after token 1."""
    fuser = noisy(CrossAttention(2, [3], add=False))
    s = random_source(positions=1)
    s.visible = torch.tensor([[[True, False, True, True]]])
    short = DonorStates(
        s.states[:, [0, 2, 3]], torch.tensor([[2]]), torch.ones(1, 1, 3).bool()
    )
    hidden = torch.randn(1, 1, 2)
    torch.testing.assert_close(fuser(hidden, [s], [1.0]), fuser(hidden, [short], [1.0]))


def test_without_donors_only_the_own_adapter_is_left():
    fuser = noisy(LearnedWeighted(2, [], add=True))
    hidden = torch.randn(1, 3, 2)
    torch.testing.assert_close(
        fuser(hidden, [], []), hidden + fuser.own(unit_rms(hidden))
    )


def test_unit_rms():
    x = torch.tensor([[3.0, 4.0]]) * 1000
    torch.testing.assert_close(unit_rms(x).square().mean(), torch.tensor(1.0))
    assert torch.isfinite(unit_rms(torch.zeros(2, 3))).all()


def test_aligned_by_hand():
    states = torch.tensor([[[1.0], [2.0], [3.0]]])
    last = torch.tensor([[-1, 0, 2]])
    found, present = DonorStates(states, last, torch.ones(1, 3, 3).bool()).aligned()
    assert found[0, :, 0].tolist() == [0.0, 1.0, 3.0]
    assert present[0, :, 0].tolist() == [False, True, True]


def test_aligned_without_any_token():
    empty = DonorStates(
        torch.zeros(1, 0, 2), torch.tensor([[-1]]), torch.zeros(1, 1, 0).bool()
    )
    found, present = empty.aligned()
    assert found.shape == (1, 1, 2)
    assert not present.any()


@STRATEGY
@ADD
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_come_back_in_their_own_type_and_shape(strategy, add, dtype):
    fuser = noisy(FUSERS[strategy](4, [3, 3], add))
    hidden = torch.ones(1, 5, 4, dtype=dtype)
    out = fuser(hidden, [random_source(), random_source()], [0.3, 0.2])
    assert (out.dtype, out.shape) == (dtype, hidden.shape)


@STRATEGY
@ADD
def test_no_position_looks_at_another_position_of_the_anchor(strategy, add):
    """What the anchor says later, or said earlier, is its own attention's matter."""
    fuser = noisy(FUSERS[strategy](4, [3], add))
    hidden = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(2))
    whole = fuser(hidden, [random_source()], [0.5])
    for t in range(5):
        changed = hidden.clone()
        changed[:, t] += 1
        moved = (fuser(changed, [random_source()], [0.5]) != whole).any(-1)[0]
        assert moved.nonzero().flatten().tolist() == [t]


@STRATEGY
@ADD
def test_rows_of_a_batch_are_fused_as_each_alone(strategy, add):
    fuser = noisy(FUSERS[strategy](4, [3], add))
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))
    one = random_source()
    states = one.states * torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    last, visible = one.last.expand(3, -1), one.visible.expand(3, -1, -1)
    together = fuser(hidden, [DonorStates(states, last, visible)], [0.5])
    for b in range(3):
        alone = DonorStates(states[b : b + 1], one.last, one.visible)
        wanted = fuser(hidden[b : b + 1], [alone], [0.5])
        torch.testing.assert_close(together[b : b + 1], wanted)


@STRATEGY
@ADD
def test_the_order_of_donors_goes_with_the_order_of_their_shares(strategy, add):
    fuser = noisy(FUSERS[strategy](4, [3, 3], add))
    hidden, one = torch.ones(1, 5, 4), random_source()
    other = DonorStates(one.states.flip(1) * 2, one.last, one.visible)
    first = fuser(hidden, [one, other], [0.5, 0.0])
    assert not torch.equal(first, fuser(hidden, [one, other], [0.0, 0.5]))
    assert torch.equal(first, fuser(hidden, [one, random_source()], [0.5, 0.0]))
