"""Builds a braid of frozen language models as one real model."""

try:
    from transformers import AutoConfig, AutoModelForCausalLM
except ModuleNotFoundError as error:
    raise ImportError(
        "fusion needs torch and transformers: pip install 'braidbandit[full]'"
    ) from error

from .braid.cache import BraidCache
from .braid.configuration import BraidConfig
from .braid.model import BraidedLLM
from .calibration.calibrate import CalibrationReport, calibrate
from .judging.rewards import ExactMatch, UnitTests
from .judging.scoring import bits_per_byte, choose, multiple_choice
from .strands.pool import Pool
from .strands.strand import Strand
from .tokens.token_bytes import TokenBytes

# Modules that were shown under another name are found under it too.
__path__.append(f"{__path__[0]}/_former")

# So that `AutoModelForCausalLM.from_pretrained` and pipelines know saved braids.
AutoConfig.register(BraidConfig.model_type, BraidConfig, exist_ok=True)
AutoModelForCausalLM.register(BraidConfig, BraidedLLM, exist_ok=True)

__all__ = [
    "BraidCache",
    "BraidConfig",
    "BraidedLLM",
    "CalibrationReport",
    "ExactMatch",
    "Pool",
    "Strand",
    "TokenBytes",
    "UnitTests",
    "bits_per_byte",
    "calibrate",
    "choose",
    "multiple_choice",
]
