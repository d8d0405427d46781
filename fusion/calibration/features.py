"""Features: what a strand makes of calibration texts, computed once as it is frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..braid.cache import Row, certain
from ..braid.donors import DonorPath, walk
from ..braid.fusers import DonorStates
from ..strands.strand import Strand, Tap

BATCH = 2048  # tokens that a strand reads at once


@dataclass
class TextFeatures:
    """What one strand makes of one text of T tokens.

    Attributes
    ----------
    ids : Tensor (T,), int64
        The tokens.
    ends : ndarray (T,), int64
        How many bytes of the text are complete after each token.
    hidden : Tensor (T, width)
        The states after the final norm.
    """

    ids: Tensor
    ends: np.ndarray
    hidden: Tensor

    @property
    def targets(self) -> Tensor:
        """The tokens (T - 1,) to be predicted: all but the first."""
        return self.ids[1:]


def pack(texts: Sequence[TextFeatures]) -> dict[str, Tensor]:
    """Features of several texts as the few tensors that a file holds."""
    return {
        "length": torch.tensor([len(f.ids) for f in texts]),
        "ids": torch.cat([f.ids for f in texts]),
        "ends": torch.cat([torch.from_numpy(f.ends) for f in texts]),
        "hidden": torch.cat([f.hidden for f in texts]),
    }


def unpack(tensors: Mapping[str, Tensor], device: torch.device) -> list[TextFeatures]:
    """Undo `pack`; ids and states come to lie on ``device``."""
    lengths = tensors["length"].tolist()
    ids, hidden = (tensors[k].to(device).split(lengths) for k in ("ids", "hidden"))
    ends = (e.numpy() for e in tensors["ends"].split(lengths))
    return [TextFeatures(*of_text) for of_text in zip(ids, ends, hidden, strict=True)]


def _batches(strand: Strand, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts that are read together: of about one length, short ones first.

    Texts for which the strand counts positions in different ways are kept apart.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch:
            too_many = (len(batch) + 1) * lengths[i] > BATCH
            apart = {lengths[j] > strand.turn for j in (i, batch[0])}
            if too_many or len(apart) > 1:
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()
def compute_features(
    strand: Strand,
    texts: Sequence[str],
    *,
    anchor: Strand | None = None,
    label: str = "",
    progress: bool = False,
) -> list[TextFeatures]:
    """Let a strand read texts, in batches of about the same length.

    Parameters
    ----------
    strand : Strand
    texts : sequence of str
    anchor : Strand, optional
        If the strand is a donor of this one: it then reads what the anchor's tokens
        write, as in serving, so no names of the anchor's special tokens.
    label : str
        Of the progress bar.
    progress : bool
        Whether to show one.

    Returns
    -------
    list of TextFeatures
        One for each text, the same as if it were read alone.
    """
    encoded = [(anchor or strand).tokens.read_with_ends(text)[0] for text in texts]
    if anchor is not None:
        encoded = [strand.tokens.of_anchor(anchor.tokens, ids) for ids in encoded]
    found: dict[int, TextFeatures] = {}
    with tqdm(total=len(texts), desc=label, disable=not progress, leave=False) as bar:
        for batch in _batches(strand, [len(ids) for ids in encoded]):
            rows = [torch.tensor(encoded[i], device=strand.device) for i in batch]
            # Padding on the right: a causal model reads what comes before it as ever.
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            hidden = strand.run(padded, taps=["final"])["final"]
            for i, ids, states in zip(batch, rows, hidden, strict=True):
                ends = strand.tokens.ends(encoded[i])
                found[i] = TextFeatures(ids, ends, states[: len(ids)].clone())
            bar.update(len(batch))
    return [found[i] for i in range(len(texts))]


@torch.no_grad()
def read_layers(
    strand: Strand, texts: Sequence[TextFeatures], taps: Sequence[Tap]
) -> list[dict[Tap, Tensor]]:
    """The strand's states at some of its layers.

    Parameters
    ----------
    strand : Strand
    texts : sequence of TextFeatures
        Of this strand.
    taps : sequence of int or "final"

    Returns
    -------
    list of dict
        For each text the states (T, width) at each tap.
    """
    return [
        {tap: s[0] for tap, s in strand.run(t.ids[None], taps=taps).items()}
        for t in texts
    ]


@torch.no_grad()
def read_cuts(
    anchor: Strand, donor: Strand, mine: TextFeatures, other: TextFeatures
) -> tuple[Tensor, Tensor]:
    """Where serving reads a text so far otherwise than its tokens in the whole text.

    Parameters
    ----------
    anchor, donor : Strand
    mine, other : TextFeatures
        What each makes of the whole text, of T and T_d tokens.

    Returns
    -------
    at : Tensor (K,), int64
        The anchor's positions beside which the donor's last token is another one.
    states : Tensor (K, width)
        The donor's states there.
    """
    rows, ways = Row(mine.ids.tolist()).prefixes(anchor, donor, len(mine.ids))
    here = [certain(rows, of_text) for of_text in ways]
    seen = (donor_view(mine, other, other.hidden).last[0] + 1).tolist()
    tokens = other.ids.tolist()
    at = [
        t for t, row in enumerate(here) if rows[row] and rows[row] != tokens[: seen[t]]
    ]
    if not at:
        return torch.zeros(0, dtype=torch.long), other.hidden[:0]
    states, tree = walk(donor, DonorPath(), rows, ["final"])
    last = [tree.seen[here[t]][-1] for t in at]
    return torch.tensor(at), states["final"][last]


def donor_view(
    anchor: TextFeatures, donor: TextFeatures, states: Tensor
) -> DonorStates:
    """A donor's states beside the anchor's positions, both having read a whole text.

    Cheaper than following the growing text as serving does (`cache.walk`), and the
    same but for the few positions where later text changes the donor's tokens.

    Parameters
    ----------
    anchor, donor : TextFeatures
        Of one text, of T and T_d tokens.
    states : Tensor (T_d, width)
        The donor's states at some layer.

    Returns
    -------
    DonorStates
        A batch of one text. At each position of the anchor the donor's tokens that end
        by then are visible, none that ends later.
    """
    last = np.searchsorted(donor.ends, anchor.ends, side="right") - 1
    index = torch.from_numpy(last).to(states.device)
    visible = torch.arange(len(donor.ids), device=states.device) <= index[:, None]
    return DonorStates(states[None], index[None], visible[None])
