"""Fusion at the output: strands' next-token distributions, mixed.

    p = sum_i w_i T_i p_i,   w = softmax(log share_i + gate_i)

T_i carries a donor's distribution to the anchor's vocabulary (`vocabulary`), the
anchor's is the identity. Without a gate the share is the weight itself and nothing
is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..strands.pool import default_cache
from ..strands.strand import Strand
from ..tokens.vocabulary import Carried, VocabularyMap
from .fusers import unit_rms, zero_linear

BLOCK = 32  # positions whose distributions are in memory at once
FEW = 32  # places of a step of which what donors said is kept

_MAPS: WeakKeyDictionary[Strand, WeakKeyDictionary[Strand, dict[Any, VocabularyMap]]]
_MAPS = WeakKeyDictionary()


def vocabulary_map(anchor: Strand, donor: Strand) -> VocabularyMap:
    """How the donor's tokens are told in the anchor's vocabulary; made once a pair."""
    known = _MAPS.setdefault(anchor, WeakKeyDictionary()).setdefault(donor, {})
    # These follow the generation settings of both, which may be changed.
    pairs = tuple(special_pairs(anchor, donor))
    if pairs not in known:
        known[pairs] = VocabularyMap(
            anchor.tokens,
            donor.tokens,
            anchor.vocab_size,
            donor.vocab_size,
            pairs,
            _folder(),
        )
    return known[pairs]


def _folder() -> Path | None:
    """Where maps are kept; nowhere for a user without a home."""
    try:
        return default_cache() / "vocabularies"
    except RuntimeError:
        return None


def special_pairs(anchor: Strand, donor: Strand) -> list[tuple[int, int]]:
    """Donor and anchor tokens that write nothing but mean the same.

    Those of the same name; a donor's end without such a twin among the anchor's ends
    is any of these, as the anchor splits them.
    """
    ends, donor_ends = anchor.ends, donor.ends
    pairs = []
    for name, token in donor.tokens.specials.items():
        twin = anchor.tokens.specials.get(name, anchor.vocab_size)
        if token >= donor.vocab_size:
            continue  # a tokenizer may name more than its model has
        if token in donor_ends and twin not in ends:
            pairs += [(token, end) for end in sorted(ends)]
        elif twin < anchor.vocab_size:
            pairs.append((token, twin))
    return pairs


# What donors said at some places: by donor, adapter and state.
Said: TypeAlias = dict[Any, Tensor]


class Voice(NamedTuple):
    """What a donor says beside N positions.

    Attributes
    ----------
    readings : ndarray (N,) of Reading or None
        None where the donor is not there.
    logits : callable
        From its final states (n, width) to its logits (n, V).
    said : dict or None
        Kept from step to step while a text is written.
    """

    readings: np.ndarray
    logits: Callable[[Tensor], Tensor]
    said: Said | None = None


class OutputMixer(nn.Module):
    """Mixes the anchor's distribution with its donors'.

    Parameters
    ----------
    donor_widths : sequence of int
        Each donor gets an adapter on its own final state, zero until calibrated.
    maps : sequence of VocabularyMap
    gated : bool
        A gate per token beside the shares; zero until calibrated.
    """

    def __init__(
        self, donor_widths: Sequence[int], maps: Sequence[VocabularyMap], gated: bool
    ) -> None:
        super().__init__()
        self.maps = list(maps)
        self.adapters = nn.ModuleList(zero_linear(w, w) for w in donor_widths)
        self.gate: nn.Linear | None = None
        if gated:
            n = len(maps)
            self.gate = zero_linear(2 + 5 * n, n + 1)

    def said(self, donor: int, voice: Voice) -> list[list[Tensor]]:
        """What a donor says (V_i,) at each node of each reading: log-probabilities."""
        adapter = self.adapters[donor]
        nodes = [node for r in voice.readings if r is not None for node in r.nodes]
        # A place in the text is a node of several readings.
        places = {node.state.data_ptr(): node.state for node in nodes}
        known: dict[int, Tensor] = {}
        keys: dict[int, Any] = {}
        if voice.said is not None and len(places) <= FEW:
            version = [p._version for p in adapter.parameters()]
            keys = {
                at: (donor, *version, state.float().cpu().numpy().tobytes())
                for at, state in places.items()
            }
            known = {at: voice.said[k] for at, k in keys.items() if k in voice.said}
        new = [at for at in places if at not in known]
        if new:
            hidden = torch.stack([places[at] for at in new]).float()
            hidden = hidden + adapter(unit_rms(hidden))
            logs = voice.logits(hidden).float().log_softmax(-1)
            known.update(zip(new, logs, strict=True))
        if voice.said is not None:
            for key in [key for key in voice.said if key[0] == donor]:
                del voice.said[key]
            voice.said.update({key: known[at].detach() for at, key in keys.items()})
        return [
            [] if r is None else [known[node.state.data_ptr()] for node in r.nodes]
            for r in voice.readings
        ]

    @staticmethod
    def features(parts: Sequence[Tensor], told: Sequence[Carried]) -> Tensor:
        """What the gate sees at a position, (2 + 5 n,) of n + 1 strands.

        Entropy and largest log-probability of each distribution (V,); of each carried
        one also how much it overlaps with the anchor's (log Bhattacharyya coefficient),
        and how much of it is inside a token or unread.
        """
        columns = []
        for p in parts:
            log = p.clamp(min=1e-30).log_()
            columns += [-(p @ log), log.amax()]
        for carried in told:
            # Clamped before the root: its slope at 0 is infinite.
            shared = (parts[0] * carried.p).clamp(min=1e-30).sqrt().sum()
            columns.append(shared.clamp(min=1e-12).log())
            columns += [carried.inside, carried.unread]
        return torch.stack(columns)

    def log_weights(
        self,
        features: Tensor | None,
        present: Sequence[Tensor],
        shares: Sequence[float],
    ) -> Tensor:
        """Log mixing weights (N, n + 1); a donor that is not there weighs nothing."""
        base = torch.tensor([math.log(s) if s > 0 else -math.inf for s in shares])
        mask = torch.stack([torch.ones_like(present[0]), *present], dim=-1)
        scores = base.to(mask.device).expand(mask.shape)
        if self.gate is not None and features is not None:
            scores = scores + self.gate(features)
        scores = scores.masked_fill(~mask, -math.inf)
        # Before a donor's first token, an anchor with share 0 speaks all the same.
        alone = scores.isneginf().all(-1)
        scores[..., 0] = scores[..., 0].masked_fill(alone, 0.0)
        return scores.log_softmax(-1)

    def parts(
        self, anchor: Tensor, voices: Sequence[Voice]
    ) -> Iterator[tuple[list[Tensor], Tensor | None, list[bool]]]:
        """What is mixed, of the anchor's logits (N, V_a) and what donors say.

        For each position the distributions (V_a,) of all strands, what the gate sees of
        them, and which donors are there.
        """
        for low in range(0, len(anchor), BLOCK):
            here = [v._replace(readings=v.readings[low : low + BLOCK]) for v in voices]
            said = [self.said(i, voice) for i, voice in enumerate(here)]
            for n, log_p in enumerate(
                anchor[low : low + BLOCK].float().log_softmax(-1)
            ):
                p = log_p.exp()
                readings = [voice.readings[n] for voice in here]
                told = [
                    Carried(p, p.new_zeros(()), p.new_ones(()))
                    if reading is None
                    else carrier.carry(reading, logs[n], p)
                    for reading, carrier, logs in zip(
                        readings, self.maps, said, strict=True
                    )
                ]
                parts = [p, *(carried.p for carried in told)]
                seen = None if self.gate is None else self.features(parts, told)
                yield parts, seen, [reading is not None for reading in readings]

    def forward(
        self, anchor: Tensor, voices: Sequence[Voice], shares: Sequence[float]
    ) -> Tensor:
        """Mix logits (N, V_a) with what donors say to log-probabilities (N, V_a)."""
        rows = []
        for parts, seen, there in self.parts(anchor, voices):
            present = [torch.tensor([here], device=anchor.device) for here in there]
            features = None if seen is None else seen[None]
            weights = self.log_weights(features, present, shares)[0].exp()
            mixed = parts[0] * weights[0]
            for p, weight in zip(parts[1:], weights[1:], strict=True):
                mixed = torch.addcmul(mixed, p, weight)
            rows.append(mixed.clamp(min=1e-30).log())
        return torch.stack(rows) if rows else anchor.float()
