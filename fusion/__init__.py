"""Builds a braid of frozen language models as one real model."""

from .alignment import TokenBytes
from .cache import BraidCache
from .calibration import CalibrationReport, calibrate
from .configuration import BraidConfig
from .modeling import BraidedLLM
from .pool import Pool
from .scoring import bits_per_byte
from .strand import Strand

__all__ = [
    "BraidCache",
    "BraidConfig",
    "BraidedLLM",
    "CalibrationReport",
    "Pool",
    "Strand",
    "TokenBytes",
    "bits_per_byte",
    "calibrate",
]
