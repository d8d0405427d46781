"""Running means by hand."""

import pytest

from braidbandit.service.choosing.timing import Timing


def test_means():
    timing = Timing()
    assert timing.mean() == 1.0
    assert timing.expected("a") is None
    timing.note("a", first=1.0, seconds=2.0, tokens=11)  # 0.1 a token
    assert timing.expected("a") == pytest.approx(2.0)
    assert timing.expected("a", most_tokens=1) == pytest.approx(1.0)
    assert timing.expected("a", most_tokens=100) == pytest.approx(2.0)
    timing.note("a", first=2.0, seconds=2.0, tokens=1)
    # 1.2 s to the first, 0.08 a token, 9 tokens
    assert timing.expected("a") == pytest.approx(1.2 + 0.08 * 8)
    timing.note("b", first=0.0, seconds=0.0, tokens=0)
    assert timing.mean() == pytest.approx((1.2 + 0.64) / 2)
