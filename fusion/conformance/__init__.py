"""What every braid must satisfy, as checks that run on any `BraidedLLM`.

For braids of small or real strands alike, for new strategies and new architectures.
Each check raises AssertionError with what differed, where and by how much. Build a
braid, fill its fusers with noise (`randomise`: zeros would hide defects), put its
strands into a `Pool` and call `run_all`, or let pytest show every check by itself::

    @pytest.mark.parametrize("name", conformance.NAMES)
    def test_conforms(name, tmp_path):
        model = conformance.randomise(my_braid())
        conformance.checks(model, tmp_path, my_pool)[name]()

`parity` measures on your own pair and text what the checks test; `check_carrying`
returns, and `run_all` prints, how far an output mixture is from the exact one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..braid.model import BraidedLLM
from ..strands.pool import Pool
from .carrying import Carrying, check_carrying
from .parity import Parity, parity
from .reading import (
    check_batch,
    check_cache,
    check_causality,
    check_donors,
    check_padding,
    check_prompt,
)
from .tools import ATOL, TEXTS, randomise, resegmented, sibling
from .whole import check_concurrency, check_frozen, check_identity, check_save_load
from .writing import check_beams, check_greedy, check_sampling

_LOG = logging.getLogger(__name__)

__all__ = [
    "ATOL",
    "NAMES",
    "TEXTS",
    "Carrying",
    "Parity",
    "check_batch",
    "check_beams",
    "check_cache",
    "check_carrying",
    "check_causality",
    "check_concurrency",
    "check_donors",
    "check_frozen",
    "check_greedy",
    "check_identity",
    "check_padding",
    "check_prompt",
    "check_sampling",
    "check_save_load",
    "checks",
    "parity",
    "randomise",
    "resegmented",
    "run_all",
    "sibling",
]

NAMES = (
    "causality",
    "donors",
    "carrying",
    "cache",
    "prompt",
    "batch",
    "padding",
    "concurrency",
    "frozen",
    "greedy",
    "sampling",
    "beams",
    "save_load",
    "identity",
)


def _check_siblings(model: BraidedLLM, texts: Sequence[str], atol: float) -> None:
    """Share 0 is the anchor alone, and so is a braid before calibration."""
    if model.donors:
        alone = sibling(model, shares=[1.0] + [0.0] * len(model.donors))
        alone.load_state_dict(model.state_dict())
        check_identity(alone, texts, atol)
    if model.mixer is None:
        check_identity(sibling(model), texts, atol)


def checks(
    model: BraidedLLM,
    path: str | Path,
    pool: Pool,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
) -> dict[str, Callable[[], object]]:
    """Every check by name (`NAMES`), ready to be called.

    Parameters
    ----------
    model : BraidedLLM
        With fusers that do something; see `randomise`.
    path : path
        An empty folder to save into.
    pool : Pool
        Holds the model's strands by name.
    texts : sequence of str
        At least one must change how a donor cuts earlier text: code, emoji, CJK.
    atol : float
        Largest difference of logits that rounding may make.
    """
    return {
        "causality": partial(check_causality, model, texts, atol),
        "donors": partial(check_donors, model, texts[:2], atol),
        "carrying": partial(check_carrying, model, texts, atol),
        "cache": partial(check_cache, model, texts, atol),
        "prompt": partial(check_prompt, model, texts),
        "batch": partial(check_batch, model, texts, atol),
        "padding": partial(check_padding, model, texts, atol),
        "concurrency": partial(check_concurrency, model, texts, atol),
        "frozen": partial(check_frozen, model, texts),
        "greedy": partial(check_greedy, model, texts),
        "sampling": partial(check_sampling, model, texts),
        "beams": partial(check_beams, model, texts, atol),
        "save_load": partial(check_save_load, model, path, pool, texts),
        "identity": partial(_check_siblings, model, texts, atol),
    }


def run_all(
    model: BraidedLLM,
    path: str | Path,
    pool: Pool,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
) -> None:
    """Every check on one braid, with what it measured; parameters as of `checks`."""
    for name, check in checks(model, path, pool, texts, atol).items():
        found = check()
        if found is not None:
            _LOG.info("%s: %s", name, found)
