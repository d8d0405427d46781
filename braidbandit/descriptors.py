"""Braid descriptors: the row ``z_a`` that lets related braids share what is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from braidbandit.braid import STRATEGIES, Braid, ModelCard

DENSE_LAYERS = 9
"""Fusion layers of the densest named layer set; density is counted in these."""


def describe(
    braids: Sequence[Braid], cards: Mapping[str, ModelCard], costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[str]]:
    """Describe every braid as one row of numbers.

    Columns carry the prefix of their block: "bias", "share:<model>" (share minus
    the equal share, so that the bias is the quality of an even mix),
    "anchor:<model>", "pair:<a>+<b>" (4 times the product of the shares, 1 for an
    even pair), "strands" (count minus 2), "layers:<flag>", "strategy:<name>",
    "control", "cost" (log cost, centred) and "arm:<id>". Columns that are the
    same for every braid say nothing beyond the bias and are left out.

    Parameters
    ----------
    braids : sequence of Braid, length A
    cards : mapping from name to ModelCard
    costs : ndarray of shape (A,)
        Cost of each braid, above zero.

    Returns
    -------
    Z : ndarray of shape (A, m)
    names : list of str, length m

    Examples
    --------
    >>> cards = {name: ModelCard(name) for name in ("a", "b")}
    >>> Z, names = describe([Braid("a"), Braid("b")], cards, np.ones(2))
    >>> names[:3], Z[0, :3].tolist()
    (['bias', 'share:a', 'share:b'], [1.0, 0.5, -0.5])
    """
    models = list(cards)
    shares = np.zeros((len(braids), len(models)))
    for row, braid in enumerate(braids):
        for strand, share in zip(braid.strands, braid.shares, strict=True):
            shares[row, models.index(strand)] = share

    columns: dict[str, NDArray[np.float64]] = {}
    for j, model in enumerate(models):
        columns[f"share:{model}"] = shares[:, j] - 1.0 / len(models)
    for model in models:
        columns[f"anchor:{model}"] = np.array([b.anchor == model for b in braids])
    for (i, left), (j, right) in combinations(enumerate(models), 2):
        columns[f"pair:{left}+{right}"] = 4.0 * shares[:, i] * shares[:, j]
    columns["strands"] = np.array([len(b.strands) - 2 for b in braids])
    for place in ("output", "final"):
        columns[f"layers:{place}"] = np.array(
            [place in b.fusion_layers for b in braids]
        )
    columns["layers:mid"] = np.array([bool(b.mid_layers) for b in braids])
    columns["layers:density"] = np.array(
        [len(b.mid_layers) / DENSE_LAYERS for b in braids]
    )
    columns["layers:depth"] = np.array([_depth(b, cards[b.anchor]) for b in braids])
    for strategy in STRATEGIES:
        columns[f"strategy:{strategy}"] = np.array(
            [b.strategy == strategy for b in braids]
        )
    columns["control"] = np.array([b.is_control for b in braids])
    columns["cost"] = np.log(costs) - np.log(costs).mean()

    kept = {name: c for name, c in columns.items() if np.ptp(c.astype(float)) > 0}
    names = ["bias", *kept, *(f"arm:{braid.id}" for braid in braids)]
    blocks = [np.ones(len(braids)), *kept.values()]
    return np.column_stack([*blocks, np.eye(len(braids))]).astype(np.float64), names


def block_of(name: str) -> str:
    """Return the block of a column name.

    Examples
    --------
    >>> block_of("share:gemma"), block_of("cost")
    ('share', 'cost')
    """
    return name.split(":", 1)[0]


def _depth(braid: Braid, anchor: ModelCard) -> float:
    """Mean relative depth of the numbered fusion layers; 0 without any."""
    if not braid.mid_layers:
        return 0.0
    layers = anchor.layers or max(braid.mid_layers) + 1
    return float(np.mean([(layer + 1) / layers for layer in braid.mid_layers]))
