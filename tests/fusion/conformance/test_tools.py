"""What the checks compare with, tried on sums that are done by hand."""

import pytest
import tiny
import torch

from fusion.conformance import TEXTS, randomise, resegmented, sibling
from fusion.conformance.tools import (
    agree,
    cached_logits,
    expect,
    ids_of,
    logits_of,
    padded,
    prompt_of,
    readings,
    reported,
    same,
    ways,
)

NAN, INF = float("nan"), float("inf")


def rows(*values):
    return torch.tensor([[v] for v in values])


@pytest.mark.parametrize(
    ("got", "wanted", "says"),
    [
        (rows(0.0, 1.0), rows(0.0, 1.2), r"x: logits differ by 0.2 .*at position 1"),
        (rows(3.0, 1.0), rows(0.0, 1.2), r"differ by 3 \(allowed 0.1\).*position 0"),
        (rows(0.0), rows(0.0, 1.0), r"x: shapes \(1, 1\) and \(2, 1\) differ"),
        (rows(0.0, NAN), rows(0.0, 1.0), "x: logits are not finite"),
        (rows(0.0, INF), rows(0.0, INF), "x: logits are not finite"),
        (rows(0.0, 1.0), rows(0.0, NAN), "differ by nan .*first at position 1"),
        (rows(0.0, 1.0), rows(INF, 1.0), "differ by inf .*first at position 0"),
    ],
)
def test_logits_that_part_are_told_with_where_and_by_how_much(got, wanted, says):
    with pytest.raises(AssertionError, match=says):
        agree(got, wanted, 0.1, "x")


def test_logits_that_rounding_parts_agree():
    agree(rows(0.0, 1.0), rows(0.05, 0.95), 0.1, "x")


@pytest.mark.parametrize("wanted", [rows(1.0, 2.5), rows(1.0, 2.0 + 1e-6)])
def test_other_bits_are_not_the_same(wanted):
    with pytest.raises(AssertionError, match="x: the braid and its anchor differ by"):
        same(rows(1.0, 2.0), wanted, "x")
    same(wanted, wanted.clone(), "x")


def test_what_does_not_hold_is_said():
    expect(True, "unsaid")
    with pytest.raises(AssertionError, match="said"):
        expect(False, "said")


@pytest.mark.parametrize(
    "error", [ValueError("odd"), KeyError("odd"), RuntimeError("odd")]
)
def test_an_error_of_a_braid_is_reported_by_the_name_of_its_check(error):
    @reported
    def check_this(model):
        raise error

    with pytest.raises(AssertionError, match=f"this: raised {type(error).__name__}: "):
        check_this(None)


def test_an_interrupt_is_no_report():
    @reported
    def check_this(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_this(None)


@pytest.mark.parametrize("how", ["by place", "by name"])
def test_a_check_without_texts_proves_nothing_and_says_so(how):
    @reported
    def check_this(model, texts=TEXTS):
        ran.append(texts)

    ran = []
    with pytest.raises(AssertionError, match="this: no texts prove nothing"):
        check_this(None, []) if how == "by place" else check_this(None, texts=())
    check_this(None)
    assert ran == [TEXTS]


def test_noise_is_the_same_for_one_seed_and_fills_every_parameter(braid):
    model = braid("llama", "gemma", layers=(1, "final", "output"))
    before = [p.clone() for p in model.parameters()]
    assert all(bool(p.any()) for p in before)
    randomise(model, seed=1)
    assert not any(map(torch.equal, before, model.parameters()))
    assert randomise(model, seed=0) is model
    assert all(map(torch.equal, before, model.parameters()))


def test_a_sibling_has_the_recipe_and_the_strands_and_nothing_that_was_learnt(braid):
    model = braid("llama", "gemma", layers=(1, "final"))
    before = [p.clone() for p in model.parameters()]
    twin = sibling(model, shares=[1, 0])
    assert twin.config.shares == [1.0, 0.0]
    assert model.config.shares == [0.6, 0.4]
    assert (twin.anchor, twin.donors) == (model.anchor, model.donors)
    assert not twin.fusers["final"].own.weight.any()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(
    ("side", "extra", "filled", "mask"),
    [
        ("left", 0, [[7, 8], [9, 5]], [[1, 1], [0, 1]]),
        ("right", 0, [[7, 8], [5, 9]], [[1, 1], [1, 0]]),
        ("left", 1, [[9, 7, 8], [9, 9, 5]], [[0, 1, 1], [0, 0, 1]]),
        ("right", 1, [[7, 8, 9], [5, 9, 9]], [[1, 1, 0], [1, 0, 0]]),
    ],
)
def test_rows_are_filled_up_on_either_side(braid, side, extra, filled, mask):
    found, real = padded(braid("llama"), [[7, 8], [5]], side, 9, extra)
    assert found == filled
    assert real.tolist() == mask


def test_the_prompt_is_the_first_half_and_at_least_one_token(braid):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    lengths = [prompt_of(model, n)["prompt_length"] for n in (1, 2, 3, 9)]
    assert lengths == [1, 1, 1, 4]
    assert prompt_of(braid("llama", "gemma"), 9) == {}


@pytest.mark.parametrize("fuse", ["always", "prompt"])
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_pieces_of_any_size_give_a_logit_for_each_token(braid, fuse, size):
    model = braid("llama", "gemma", layers=(1,), fuse=fuse)
    ids = ids_of(model, tiny.EMOJI)
    got = cached_logits(model, ids, lambda i: size)
    whole = logits_of(model, [ids], **prompt_of(model, len(ids)))
    torch.testing.assert_close(got, whole, atol=1e-4, rtol=1e-4)


def texts_of(strand, found):
    return [
        [strand.tokens.text(row).decode(errors="replace") for row in mine]
        for mine in found
    ]


def test_white_space_at_the_end_is_read_in_two_ways(strands):
    """llama has a token " a", so its spaces may go on; gpt2 has no such token."""
    llama, gpt2, qwen2 = strands["llama"], strands["gpt2"], strands["qwen2"]
    ids = qwen2.tokens.encode("x  y")
    assert [qwen2.tokens.table[i] for i in ids] == [b"x", b" ", b" ", b"y"]
    # llama may leave the last space to a word; to begin with, there is no other text.
    found = ways(qwen2, llama, ids)
    assert texts_of(llama, found) == [["x"], ["x", "x "], ["x ", "x  "], ["x  y"]]
    # gpt2 has the spaces before a word where qwen2 has one less.
    found = ways(qwen2, gpt2, ids)
    assert texts_of(gpt2, found) == [["x"], ["x ", "x  "], ["x  ", "x   "], ["x  y"]]
    ids = gpt2.tokens.encode(" é ")
    assert texts_of(llama, ways(gpt2, llama, ids)) == [
        [" "], [" "], [" é"], [" é", " é "],
    ]  # fmt: skip
    # Where neither leaves a space to a word, and where both have the same tokens.
    opt = strands["opt"]
    ids = opt.tokens.encode("a ")
    assert texts_of(gpt2, ways(opt, gpt2, ids)) == [[""], ["a"], ["a "]]
    ids = llama.tokens.encode("a ")
    assert ways(llama, strands["llama-2"], ids) == [[ids[:1]], [ids]]


def test_what_stands_beside_a_position_is_the_first_way_that_has_tokens(strands):
    """Beside the token that opt has in front of a text, llama has none to show."""
    llama, opt = strands["llama"], strands["opt"]
    ids = opt.tokens.encode("a ")
    assert ways(opt, llama, ids)[0] == [[]]
    assert readings(opt, llama, ids) == [[], *[llama.tokens.encode("a")] * 2]


@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
def test_readings_end_with_the_whole_text_as_the_donor_cuts_it(strands, text):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = llama.tokens.encode(text)
    found, every = readings(llama, gemma, ids), ways(llama, gemma, ids)
    assert len(found) == len(every) == len(ids)
    assert every[-1][-1] == gemma.tokens.encode(text)
    assert [mine[0] for mine in every] == found
    # White space at the end of the code may belong to a word that follows.
    ends_blank = text[-1].isspace()
    assert found[-1] == gemma.tokens.encode(text[:-1] if ends_blank else text)
    # With one tokenizer nothing is ever cut anew.
    assert readings(llama, strands["llama-2"], ids)[-1] == ids
    assert resegmented(llama, strands["llama-2"], ids) == []
    for t in resegmented(llama, gemma, ids):
        assert found[t] != every[-1][-1][: len(found[t])]
