"""Braids that are wrong in a known way."""

import pytest

from fusion.braid.model import BraidedLLM


@pytest.fixture
def planted(monkeypatch):
    """Plant a defect: ``planted(change)`` calls ``change(out, options)``.

    After each forward of any braid, with what it returns and what it was given.
    """

    def plant(change):
        real = BraidedLLM.forward

        def forward(self, *args, **options):
            out = real(self, *args, **options)
            change(out, options)
            return out

        monkeypatch.setattr(BraidedLLM, "forward", forward)

    return plant
