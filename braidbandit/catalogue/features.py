"""Braid descriptors: the row ``z_a`` that lets related braids share what is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from braidbandit._named import in_columns
from braidbandit.catalogue.braid import STRATEGIES, Braid
from braidbandit.catalogue.cards import ModelCard

Array = NDArray[np.float64]

DENSE_LAYERS = 9
"""Fusion layers of the densest named layer set; density is counted in these."""
PATTERNS = 3
"""Principal components of the gains over the probe tasks that are kept."""
_KNOBS = ("strands", "layers", "strategy", "control")


def describe(
    braids: Sequence[Braid], cards: Mapping[str, ModelCard], costs: Array
) -> tuple[Array, list[str]]:
    """Describe every braid as one row of numbers.

    The name of a column begins with its block: "bias", "share:<model>" (share minus
    the equal share, so that the bias is the quality of an even mix),
    "anchor:<model>", "pair:<a>+<b>" (4 times the product of the shares, 1 for an
    even pair), "strands" (count minus 2), "layers:<flag>", "strategy:<name>",
    "control" and "cost" (log cost, centred). Columns that are the same for every
    braid, or that repeat another one, say nothing and are left out. So are shares,
    anchors and pairs where no braid has donors: what sets one model apart is learnt by
    the parameters that each arm has of its own.

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
    >>> pair = Braid("a", ("b",), (0.5, 0.5), ("output",), "router")
    >>> Z, names = describe([Braid("a"), Braid("b"), pair], cards, np.ones(3))
    >>> names[:3], Z[0, :3].tolist()
    (['bias', 'share:a', 'share:b'], [1.0, 0.5, -0.5])
    """
    models = list(cards)
    costs = in_columns(costs, [braid.id for braid in braids], "costs")
    shares = np.zeros((len(braids), len(models)))
    for row, braid in enumerate(braids):
        for strand, share in zip(braid.strands, braid.shares, strict=True):
            shares[row, models.index(strand)] = share

    columns: dict[str, Array] = {}
    if any(braid.donors for braid in braids):
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
    return _stack({"bias": np.ones(len(braids)), **columns})


def with_gains(
    Z: Array,
    names: Sequence[str],
    braids: Sequence[Braid],
    models: Sequence[str],
    signatures: Array,
) -> tuple[Array, list[str]]:
    """Add what probe tasks, scored on the single models, say about their braids.

    A braid can be better than the mean of its strands where these are good at
    different tasks. Its gain on a probe task is the best of its strands' scores
    minus their mean by share. The columns are "gain:mean" (over the tasks) and
    "gain:pattern0", ... (principal components over the tasks), each alone and times
    every column that says how strands are combined, as that may decide how much of
    the gain is reached.

    Parameters
    ----------
    Z, names
        From :func:`describe`.
    braids : sequence of Braid, length A
    models : sequence of str, length M
    signatures : ndarray of shape (n, M)
        Score of every single model on every probe task.

    Returns
    -------
    Z : ndarray of shape (A, m)
    names : list of str, length m

    Examples
    --------
    Two models, each right where the other is wrong: an even pair may gain 1/2.

    >>> cards = {name: ModelCard(name) for name in ("a", "b")}
    >>> pair = Braid("a", ("b",), (0.5, 0.5), ("output",), "router")
    >>> braids = [Braid("a"), Braid("b"), pair]
    >>> Z, names = describe(braids, cards, np.ones(3))
    >>> Z, names = with_gains(Z, names, braids, list(cards), np.eye(2))
    >>> Z[:, names.index("gain:mean")].tolist()
    [0.0, 0.0, 1.0]
    """
    signatures = in_columns(signatures, list(models), "signatures")
    gains = np.zeros((len(signatures), len(braids)))
    for row, gain in enumerate(_gains(braids, models, signatures)):
        gains[:, row] = gain
    sources = {"gain:mean": gains.mean(axis=0)}
    _, s, patterns = np.linalg.svd(gains - sources["gain:mean"], full_matrices=False)
    for j in range(min(PATTERNS, len(s))):
        # The sign of a component is arbitrary; fixed for reproducible columns.
        sign = np.sign(patterns[j, np.abs(patterns[j]).argmax()])
        sources[f"gain:pattern{j}"] = sign * s[j] * patterns[j]
    knobs = {n: Z[:, j] for j, n in enumerate(names) if block_of(n) in _KNOBS}
    if not gains.any():
        return Z, list(names)
    columns: dict[str, Array] = {}
    for name, gain in sources.items():
        gain = gain / (np.abs(sources["gain:mean"]).max() or 1.0)
        columns[name] = gain
        columns |= {f"{name}*{knob}": gain * c for knob, c in knobs.items()}
    for knob, column in knobs.items():
        if knob != "strands" and "strands" in knobs:
            columns[f"gain:strands*{knob}"] = knobs["strands"] * column
    gain_columns, gain_names = _stack(columns)
    return np.hstack([Z, gain_columns]), [*names, *gain_names]


def extend_descriptors(
    Z: Array,
    columns: Sequence[str],
    braids: Sequence[Braid],
    described: tuple[Array, Sequence[str]],
    newcomers: Sequence[Braid],
    probed: tuple[Sequence[str], Array] | None = None,
) -> tuple[Array, tuple[str, ...]]:
    """Describe more arms, and leave the rows of those that are there as they are.

    Were a larger catalogue simply described afresh, columns would be centred anew and
    some that were constant would appear, and what was learnt would refer to other
    numbers. Instead each column of the newcomers is shifted to fit the arms that are
    there; a column that is new is zero for those.

    Parameters
    ----------
    Z : ndarray of shape (A, m)
    columns : sequence of str, length m
    braids : sequence of Braid, length A
    described : tuple of ndarray (A + B, n) and names
        Fresh descriptors of the larger catalogue, newcomers last.
    newcomers : sequence of Braid, length B
    probed : tuple of names (M,) and ndarray (n, M), optional
        The single models' scores on the probe tasks of the warm start.

    Returns
    -------
    Z : ndarray of shape (A + B, m')
    columns : tuple of str, length m'
        Those that are new come last.
    """
    fresh = dict(zip(described[1], described[0].T, strict=True))
    gains = (
        {} if probed is None else _gains_of_new(Z, columns, braids, newcomers, *probed)
    )
    n = len(braids)
    shared = [*columns, *(name for name in described[1] if name not in columns)]
    out = np.zeros((n + len(newcomers), len(shared)))
    for j, name in enumerate(shared):
        if name in columns:
            out[:n, j] = Z[:, columns.index(name)]
        if name == "bias":
            out[n:, j] = 1.0
        elif name in fresh:
            out[n:, j] = fresh[name][n:] - (fresh[name][:n] - out[:n, j]).mean()
        elif name in gains:
            out[n:, j] = gains[name]
        else:
            # Nothing is known of a newcomer here: it takes the average.
            out[n:, j] = out[:n, j].mean()
    # Products of a gain with a knob follow from both.
    for j, name in enumerate(shared):
        gain, star, knob = name.partition("*")
        if star and gain in shared and knob in shared:
            out[n:, j] = out[n:, shared.index(gain)] * out[n:, shared.index(knob)]
        elif star and gain == "gain:strands" and {"strands", knob} <= set(shared):
            strands = out[n:, shared.index("strands")]
            out[n:, j] = strands * out[n:, shared.index(knob)]
    return out, tuple(shared)


def block_of(name: str) -> str:
    """Return the block of a column name.

    Examples
    --------
    >>> block_of("share:gemma"), block_of("cost")
    ('share', 'cost')
    """
    return name.split(":", 1)[0]


def _gains(
    braids: Sequence[Braid], models: Sequence[str], signatures: Array
) -> list[Array]:
    """Gain of every braid on every probe task: its best strand minus the mean."""
    place = {model: j for j, model in enumerate(models)}
    gains = []
    for braid in braids:
        scores = signatures[:, [place[strand] for strand in braid.strands]]
        gains.append(scores.max(axis=1) - scores @ np.array(braid.shares))
    return gains


def _gains_of_new(
    Z: Array,
    columns: Sequence[str],
    braids: Sequence[Braid],
    newcomers: Sequence[Braid],
    models: Sequence[str],
    signatures: Array,
) -> dict[str, Array]:
    """Gain columns of newcomers, on the scale of those of the arms that are there.

    Every gain column is linear in an arm's gains on the probe tasks; least squares on
    the arms that are there finds the weights.
    """
    known = set(models)
    if not newcomers or not all(known >= set(braid.strands) for braid in newcomers):
        return {}
    # Models may have come since the probe, and braids of them.
    rows = [row for row, braid in enumerate(braids) if known >= set(braid.strands)]
    there = np.array(_gains([braids[row] for row in rows], models, signatures))
    new = np.array(_gains(newcomers, models, signatures))
    return {
        name: new @ np.linalg.lstsq(there, Z[rows, j], rcond=None)[0]
        for j, name in enumerate(columns)
        if name.startswith("gain:") and "*" not in name
    }


def _depth(braid: Braid, anchor: ModelCard) -> float:
    """Mean relative depth of the numbered fusion layers; 0 without any."""
    if not braid.mid_layers:
        return 0.0
    layers = anchor.layers or max(braid.mid_layers) + 1
    return float(np.mean([(layer + 1) / layers for layer in braid.mid_layers]))


def _stack(
    columns: Mapping[str, NDArray[np.generic]],
) -> tuple[Array, list[str]]:
    """Leave out what is constant, and knobs that repeat an earlier column.

    Shares and pairs stay even then: they come as a set that treats models alike.
    """
    kept: dict[str, Array] = {}
    directions: list[Array] = []
    for name, values in columns.items():
        column = values.astype(np.float64)
        centred = column - column.mean()
        size = float(np.linalg.norm(centred))
        if name != "bias" and size <= 1e-9 * max(1.0, float(np.linalg.norm(column))):
            continue
        direction = centred / (size or 1.0)
        repeats = any(abs(float(direction @ d)) > 1 - 1e-9 for d in directions)
        if repeats and block_of(name) not in ("share", "pair"):
            continue
        directions.append(direction)
        kept[name] = column
    return np.column_stack(list(kept.values())), list(kept)
