"""How noisy each source of judgements is, from answers that several have judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

Repeats = Mapping[str, Mapping[str, tuple[int, int]]]
"""By source and other source: how many pairs of answers both judged, and otherwise."""

# So many judgements of a usual source are added to each source's own, and so many that
# agree three times in four to those of all.
_SHRINK, _USUAL = 20.0, 0.25
# Who always agrees may have been lucky; who agrees half of the time only guesses.
_LEAST, _MOST = 0.02, 0.48
# A source counts at most twice, and at least a twentieth, of what is usual.
_BOUNDS = (0.5, 20.0)


def variance_ratio(repeats: Repeats, source: str) -> float:
    """Return the noise variance of a source, in units of what is usual.

    Two sources that see the difference of two answers, each with noise of its own,
    agree on its sign the more often the less noisy they are: equation (58). How often a
    source disagrees is shrunk toward how often all do, so that few judgements change
    little.

    Parameters
    ----------
    repeats : mapping from source to mapping from source to (int, int)

    source : str

    Returns
    -------
    float
        1 for a source that never judged what another did. With two sources it is the
        same for both: nobody can say which one errs.

    Examples
    --------
    >>> a, b = {"b": (200, 20), "coin": (200, 100)}, {"a": (200, 20), "coin": (200, 90)}
    >>> repeats = {"a": a, "b": b, "coin": {"a": (200, 100), "b": (200, 90)}}
    >>> [round(variance_ratio(repeats, who), 1) for who in ("a", "b", "coin", "new")]
    [0.5, 0.5, 20.0, 1.0]
    """
    if not repeats.get(source):
        return 1.0
    every = [cell for row in repeats.values() for cell in row.values()]
    usual = math.sqrt(_correlation(_apart(every, _USUAL)))
    share = usual**2
    above, below = _SHRINK * usual * share, _SHRINK * share
    for other, (n, apart) in repeats[source].items():
        theirs = _correlation(_apart(repeats[other].values(), _apart(every, _USUAL)))
        reliable = min(theirs / usual, 1.0)
        above += n * reliable * _correlation(apart / n)
        below += n * reliable**2
    # Two who are alike correlate with the truth by the root of how they do together.
    mine = min(above / below, math.sqrt(_correlation(_LEAST)))
    ratio = (1.0 / mine**2 - 1.0) / (1.0 / share - 1.0)
    return min(max(ratio, _BOUNDS[0]), _BOUNDS[1])


def _apart(cells: Iterable[tuple[int, int]], usual: float) -> float:
    """Return how often sources disagree, shrunk toward what is usual."""
    n, apart = (sum(numbers) for numbers in zip(*cells, strict=True))
    return (apart + _SHRINK * usual) / (n + _SHRINK)


def _correlation(apart: float) -> float:
    """Return how strongly two views correlate whose signs differ so often."""
    return math.sin(math.pi * (0.5 - min(max(apart, _LEAST), _MOST)))
