"""What it costs to tell a donor's distribution in the anchor's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from tqdm import tqdm

from ..braid.configuration import BraidConfig
from ..braid.model import BraidedLLM
from ..judging.scoring import StateCache, scored_tokens, target_log_probs
from ..strands.pool import Pool
from ..strands.strand import Strand
from .held_out import Text, whole


@dataclass(frozen=True)
class Carrying:
    """One donor and anchor on the texts of one domain.

    Attributes
    ----------
    donor, anchor, domain : str
    itself, carried : float
        Bits per byte of the donor in its own tokens, and told in the anchor's (a braid
        in which the anchor has no share), over the bytes that both predict.
    inside : int
        Positions of the anchor that start inside a token of the donor.
    inside_anchor, inside_carried : float
        Bits there, of the anchor alone and of the carried donor; NaN where there are
        none.
    """

    donor: str
    anchor: str
    domain: str
    itself: float
    carried: float
    inside: int
    inside_anchor: float
    inside_carried: float

    @property
    def loss(self) -> float:
        """How much more bits it takes when it is carried, of the donor's own."""
        return self.carried / self.itself - 1.0


def carrying(
    pool: Pool, names: Sequence[str], texts: Sequence[Text], progress: bool = False
) -> list[Carrying]:
    """Carry each strand by each other one over texts.

    Parameters
    ----------
    pool : Pool
    names : sequence of str
        At least two.
    texts : sequence of dict
        With ``domain``, ``prompt`` and ``reference``.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of Carrying
        Of each pair, both ways, by domain. Texts without a byte that both predict count
        for nothing.
    """
    domains = list(dict.fromkeys(text["domain"] for text in texts))
    found = []
    pairs = list(permutations(names, 2))
    with tqdm(total=len(pairs) * len(texts), disable=not progress) as bar:
        for donor, anchor in pairs:
            recipe = BraidConfig(
                anchor, [donor], [0.0, 1.0], ["output"], "learned_weighted"
            )
            braid = BraidedLLM(recipe, [pool[anchor], pool[donor]])
            bar.set_description(f"{donor} carried by {anchor}")
            for domain in domains:
                sums = []
                for text in texts:
                    if text["domain"] == domain:
                        sums.append(_sums(braid, whole(text)))
                        bar.update()
                own, told, size, alone, inside, count = np.sum(sums, axis=0)
                found.append(
                    Carrying(
                        donor,
                        anchor,
                        domain,
                        own / size if size else math.nan,
                        told / size if size else math.nan,
                        int(count),
                        alone / count if count else math.nan,
                        inside / count if count else math.nan,
                    )
                )
    return found


def _sums(braid: BraidedLLM, text: str) -> np.ndarray:
    """Bits of the donor itself and carried, bytes; and where a position is inside.

    There the bits of the anchor, those carried, and how many such positions.
    """
    anchor, donor = braid.anchor, braid.donors[0]
    mine, theirs = _bits(anchor, anchor, text), _bits(donor, donor, text)
    told = _bits(anchor, braid, text)
    begins, ends = (tokens[0] for tokens in (mine, theirs))
    common = np.intersect1d(begins[:-1], ends[:-1])
    if not len(common):
        return np.zeros(6)
    start = common[0]
    inside = (begins[:-1] >= start) & ~np.isin(begins[:-1], ends)
    return np.array(
        [
            theirs[1][ends[:-1] >= start].sum(),
            told[1][begins[:-1] >= start].sum(),
            begins[-1] - start,
            mine[1][inside].sum(),
            told[1][inside].sum(),
            inside.sum(),
        ]
    )


def _bits(
    strand: Strand, model: BraidedLLM | Strand, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where scored tokens begin in bytes, and the last one ends; bits of each."""
    ids, start = scored_tokens(strand, "", text)
    ends = strand.tokens.ends(ids)[start - 1 :]
    logs = target_log_probs(model, ids, list(range(start, len(ids))), StateCache())
    return ends, -logs.cpu().numpy() / math.log(2)


def carrying_table(rows: Sequence[Carrying]) -> str:
    """The rows as text, with the mean loss of each pair.

    Examples
    --------
    >>> print(carrying_table([Carrying("a", "b", "code", 1.0, 1.01, 2, 3.0, 3.5)]))
    donor  anchor  domain  itself  carried   loss  inside  anchor there  carried there
    a      b       code    1.0000   1.0100  +1.0%       2          3.00           3.50
    a carried by b: mean loss +1.0%
    """
    heads = ["donor", "anchor", "domain", "itself", "carried", "loss", "inside"]
    heads += ["anchor there", "carried there"]
    lines = [heads]
    for row in rows:
        lines.append(
            [row.donor, row.anchor, row.domain]
            + [f"{row.itself:.4f}", f"{row.carried:.4f}", f"{row.loss:+.1%}"]
            + [str(row.inside)]
            + [f"{row.inside_anchor:.2f}", f"{row.inside_carried:.2f}"]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            word.ljust(width) if i < 3 else word.rjust(width)
            for i, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    pairs = dict.fromkeys((row.donor, row.anchor) for row in rows)
    for donor, anchor in pairs:
        mine = [row.loss for row in rows if (row.donor, row.anchor) == (donor, anchor)]
        mean = float(np.mean(mine))
        shown.append(f"{donor} carried by {anchor}: mean loss {mean:+.1%}")
    return "\n".join(shown)
