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
