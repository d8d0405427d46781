import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.cli.decisions.stars import read_rating


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("4/5", 0.8),
        (" 3 / 4 ", 0.75),
        ("80%", 0.8),
        ("0", 0.0),
        ("1", 1.0),
        (".5", 0.5),
        ("Up", 1.0),
        ("no", 0.0),
        ("+1", 1.0),
        ("-1", 0.0),
    ],
)
def test_ratings_as_people_type_them(text, reward):
    assert read_rating(text) == reward


_REFUSED = ["", "5/4", "4", "nan", "inf/inf", "3/0", "101%", "four", "1e999", "-0.1"]
_REFUSED += [
    "-4/-5",
    "4/inf",
    "1_0/2_0",
    "-0",
    "-0%",
    "0/-5",
    "1_0%",
    "4/1e999",
    "4/5/1",
]


@pytest.mark.parametrize("text", _REFUSED)
def test_all_else_is_refused(text):
    with pytest.raises(ValueError, match="a rating is such as"):
        read_rating(text)


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_is_what_it_says(stars):
    given_, most = stars
    assert read_rating(f"{given_}/{most}") == given_ / most


@given(st.text(max_size=12))
def test_whatever_is_typed_is_a_reward_or_a_value_error(text):
    try:
        assert 0 <= read_rating(text) <= 1
    except ValueError as error:
        assert "a rating is such as" in str(error)  # noqa: PT017
