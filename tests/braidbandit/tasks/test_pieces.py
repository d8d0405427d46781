import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.tasks.pieces import MOST_PIECES, joined, pieces_of


def test_paragraphs_stay_apart_and_long_ones_are_cut_at_sentences():
    text = "One. Two is longer. Three.\n\n" + "a sentence of words. " * 3
    assert pieces_of(text.strip(), 45) == [
        "One. Two is longer. Three.",
        "a sentence of words.",
        "a sentence of words. a sentence of words.",
    ]


@given(st.text(max_size=3000), st.integers(100, 400))
def test_pieces_are_short_and_few_and_hold_both_ends(text, window):
    found = pieces_of(text, window)
    if len(text) <= window:
        assert found == [text]
        return
    assert len(found) <= MOST_PIECES
    assert all(piece and len(piece) <= window for piece in found)
    if text.strip():
        assert text.strip().startswith(found[0])
        assert text.strip().endswith(found[-1])


@pytest.mark.parametrize("blank", [" ", "\n", "\n\n \t"])
def test_white_space_takes_no_place(blank):
    wide = blank * 9000
    assert pieces_of(wide + "sort this" + wide, 800) == ["sort this"]
    found = pieces_of("Be kind." + wide + "sort this" + wide, 800)
    assert found == ["Be kind.", "sort this"]
    assert pieces_of(wide, 800) == [wide[:800]]


def test_the_last_piece_weighs_half_and_the_first_a_quarter():
    rows = np.eye(4)
    found = joined(rows)
    np.testing.assert_allclose(found / found.sum(), [0.25, 0.125, 0.125, 0.5])
    assert np.linalg.norm(found) == pytest.approx(1.0)
    np.testing.assert_allclose(joined(np.eye(2)) @ [2, -1], 0.0, atol=1e-12)
    assert joined(np.array([[1.0, 0.0], [-0.5, 0.0]])).tolist() == [0.0, 0.0]
