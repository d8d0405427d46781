"""Texts to calibrate on, and the store of a call."""

import pytest
import tiny

from fusion.calibration.store import CalibrationStore


@pytest.fixture(scope="session")
def texts():
    return tiny.CALIBRATION_TEXTS


@pytest.fixture
def store(texts):
    """In memory, so that every part is trained."""
    return CalibrationStore(texts, None, 0, False)
