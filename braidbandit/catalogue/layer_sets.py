"""Layer sets: the places where strands are fused, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LAYER_SETS = ("output", "final", "final+output", "sparse", "dense")
"""Names of layer sets that a catalogue can be built of."""
USUAL_LAYER_SETS = LAYER_SETS[:3]
"""Without decoder layers, where fusers cost the most to train and helped the least."""

_DEEPEST = 0.97  # the last layer of "sparse", as a part of the depth


def layers_of(name: str, depth: int) -> tuple[int | str, ...] | None:
    """Return the fusion layers of a named set; None if there are too few layers.

    Parameters
    ----------
    name : str
        One of ``LAYER_SETS``.
    depth : int
        Decoder layers of the anchor.

    Examples
    --------
    >>> layers_of("sparse", 30), layers_of("final+output", 30)
    ((20, 24, 28), ('final', 'output'))
    >>> layers_of("dense", 6) is None
    True
    """
    if name not in ("sparse", "dense"):
        return tuple(name.split("+"))
    if name == "sparse":
        wanted = [round(depth * part) - 1 for part in (0.7, 0.83, _DEEPEST)]
    else:
        wanted = [round(at) for at in np.linspace(depth / 3, depth - 2, 9)]
    distinct = sorted({layer for layer in wanted if layer >= 0})
    return tuple(distinct) if len(distinct) == len(wanted) else None


def name_of(layers: Sequence[int | str]) -> str:
    """Return the name of fusion layers: "plain" without any, "custom" without a name.

    Numbered layers have a name where they are the set of an anchor of some depth.

    Examples
    --------
    >>> name_of((20, 24, 28)), name_of((0, 1, 2)), name_of(("final", "output"))
    ('sparse', 'custom', 'final+output')
    """
    words = [layer for layer in layers if isinstance(layer, str)]
    if not layers:
        return "plain"
    if len(words) == len(layers):
        return "+".join(words)
    if words:
        return "custom"
    last = max(layer for layer in layers if isinstance(layer, int))
    if layers_of("dense", last + 2) == tuple(layers):
        return "dense"
    about = round((last + 1) / _DEEPEST)
    depths = range(max(about - 1, 1), about + 3)
    found = any(layers_of("sparse", depth) == tuple(layers) for depth in depths)
    return "sparse" if found else "custom"
