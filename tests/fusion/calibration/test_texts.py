import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.calibration.texts import (
    HELD_OUT_EVERY,
    MIN_TEXTS,
    plain_text,
    plain_texts,
    split,
    within_budget,
)


@given(st.integers(MIN_TEXTS, 200), st.integers(0, 2**31))
def test_every_text_is_trained_on_or_held_out(count, seed):
    training, held_out = split(count, seed)
    assert sorted(training + held_out) == list(range(count))
    assert len(held_out) == -(-count // HELD_OUT_EVERY)
    assert (training, held_out) == split(count, seed)


def test_another_seed_is_another_split():
    assert len({tuple(split(30, seed)[1]) for seed in range(5)}) == 5


def test_a_text_may_be_a_dict():
    assert plain_text("a") == "a"
    assert plain_text({"prompt": "a", "reference": "b", "type": "c"}) == "a\nb"
    with pytest.raises(KeyError, match=r"received \['reference', 'text'\]"):
        plain_text({"text": "a", "reference": "b"})
    with pytest.raises(TypeError, match="received 7"):
        plain_text(7)


def test_texts_are_a_list_of_twelve_at_least():
    assert plain_texts(["a"] * MIN_TEXTS) == ["a"] * MIN_TEXTS
    with pytest.raises(ValueError, match="received 11 calibration texts"):
        plain_texts(["a"] * (MIN_TEXTS - 1))
    with pytest.raises(TypeError, match="texts is a str; give a list"):
        plain_texts("a" * MIN_TEXTS)
    with pytest.raises(ValueError, match="text 12 is empty"):
        plain_texts([*["a"] * MIN_TEXTS, " \t\n"])


@given(st.data())
def test_a_budget_is_kept(strands, data):
    texts = data.draw(st.lists(st.sampled_from(["a", "a b", "a b c d"]), min_size=12))
    llama = strands["llama"]
    tokens = [len(llama.tokens.read(text)) for text in texts]
    budget = data.draw(
        st.integers(len(texts) * max(tokens), 2 * len(texts) * max(tokens))
    )
    chosen = within_budget(texts, llama, budget)
    assert sum(len(llama.tokens.read(text)) for text in chosen) <= budget
    rest = iter(texts)
    assert all(text in rest for text in chosen)  # in the order in which they came
    if budget >= sum(tokens):
        assert chosen == texts


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_a_budget_is_at_least_1(strands, budget):
    with pytest.raises(ValueError, match="give at least 1"):
        within_budget(["a"] * 12, strands["llama"], budget)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ({f"text {i}": i for i in range(MIN_TEXTS)}, "dict"),
        ({f"text {i}" for i in range(MIN_TEXTS)}, "set"),
        (b"text of many letters", "bytes"),
    ],
)
def test_what_has_no_order_or_no_texts_is_no_list_of_them(texts, kind):
    """The keys of a dict are not the texts, and a set has another order every time."""
    with pytest.raises(TypeError, match=f"texts is a {kind}; give a list"):
        plain_texts(texts)


@pytest.mark.parametrize("missing", ["prompt", "reference"])
def test_a_task_without_an_answer_is_not_learnt_as_none(missing):
    task = {"prompt": "6 * 7?", "reference": "42", missing: None}
    with pytest.raises(TypeError, match=f"'{missing}' is None"):
        plain_text(task)


def test_keys_of_any_kind_are_named():
    with pytest.raises(KeyError, match=r"received \['3', 'text'\]"):
        plain_text({"text": "a", 3: "b"})


@pytest.mark.parametrize(
    "make", [tuple, np.array, pd.Series], ids=["tuple", "array", ""]
)
def test_texts_may_come_in_any_sequence(make):
    assert plain_texts(make(["a b"] * MIN_TEXTS)) == ["a b"] * MIN_TEXTS


@pytest.mark.parametrize("short", [0, 1])
def test_a_budget_that_pays_for_twelve_texts_and_no_token_less(strands, short):
    texts = ["The dog sleeps."] * MIN_TEXTS
    tokens = MIN_TEXTS * len(strands["gemma"].tokens.read(texts[0]))
    if short:
        with pytest.raises(ValueError, match="pays for 11 of 12 texts"):
            within_budget(texts, strands["gemma"], tokens - 1)
    else:
        assert within_budget(texts, strands["gemma"], tokens) == texts


@given(st.integers(MIN_TEXTS, 60), st.integers(0, 10**6))
def test_halves_of_the_held_out_texts_are_never_empty(count, seed):
    """One is for gates, the other to judge by."""
    _, held_out = split(count, seed)
    assert held_out[::2]
    assert held_out[1::2]
