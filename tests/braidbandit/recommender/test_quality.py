import pytest

from braidbandit.recommender.objectives import (
    as_quality,
    quality_from_bits,
    quality_from_stars,
    utility,
)


@pytest.mark.parametrize(
    ("bits", "quality"), [(0.8, 0.5), (0.4, 1.0), (0.1, 1.0), (1.2, 0.0), (0.72, 0.6)]
)
def test_bits(bits, quality):
    """clip(1/2 + (0.8 - bits) / 0.8, 0, 1)"""
    assert quality_from_bits(bits, 0.8) == pytest.approx(quality)


def test_stars_and_utility():
    assert [quality_from_stars(n) for n in (1, 5)] == [0.2, 1.0]
    assert utility(0.8, 0.5, 0.1) == pytest.approx(0.75)


def test_feedback():
    assert as_quality(0.3) == 0.3
    assert as_quality(False) == 0.0
    assert as_quality(lambda task, output: output == task, "x", "x") == 1.0


@pytest.mark.parametrize("bad", ["0.5", b"0.5", None, [0.5]])
def test_what_is_no_number(bad):
    with pytest.raises(TypeError, match="a reward is a number"):
        as_quality(bad)


@pytest.mark.parametrize("bad", [1.2, -0.1, float("nan")])
def test_out_of_range(bad):
    with pytest.raises(ValueError, match="reward"):
        as_quality(bad)


def test_other_errors():
    with pytest.raises(TypeError, match="reward"):
        as_quality("good")
    with pytest.raises(ValueError, match="stars"):
        quality_from_stars(0)
    with pytest.raises(ValueError, match="reference"):
        quality_from_bits(1.0, 0.0)
    with pytest.raises(ValueError, match="bits"):
        quality_from_bits(float("nan"), 1.0)
    with pytest.raises(ValueError, match="price"):
        utility(0.5, 0.5, -1.0)
