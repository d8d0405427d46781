"""Fusion at the output: strands' next-token distributions, mixed.

    p = sum_i w_i T_i p_i,   w = softmax(log share_i + gate_i)

T_i carries a donor's distribution to the anchor's vocabulary (`vocabulary`), the
anchor's is the identity. Without a gate the share is the weight itself and nothing
is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..strands.strand import Strand
from ..tokens.vocabulary import VocabularyMap
from .fusers import unit_rms, zero_linear

BLOCK = 16  # rows of a vocabulary that stay in a processor's cache: twice as fast

_MAPS: WeakKeyDictionary[Strand, WeakKeyDictionary[Strand, dict[Any, VocabularyMap]]]
_MAPS = WeakKeyDictionary()


def vocabulary_map(anchor: Strand, donor: Strand) -> VocabularyMap:
    """How the donor's tokens are told in the anchor's vocabulary; made once a pair."""
    known = _MAPS.setdefault(anchor, WeakKeyDictionary()).setdefault(donor, {})
    # These follow the generation settings of both, which may be changed.
    pairs = tuple(special_pairs(anchor, donor))
    if pairs not in known:
        known[pairs] = VocabularyMap(
            # A tokenizer may name more tokens than its model has.
            anchor.tokens.table[: anchor.vocab_size],
            donor.tokens.table[: donor.vocab_size],
            anchor.vocab_size,
            donor.vocab_size,
            pairs,
        )
    return known[pairs]


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
        self.maps = nn.ModuleList(maps)
        self.adapters = nn.ModuleList(zero_linear(w, w) for w in donor_widths)
        self.gate: nn.Linear | None = None
        if gated:
            n = len(maps)
            self.gate = zero_linear(2 + 3 * n, n + 1)

    def adapt(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Each donor's final states (N, width_i), with its own adapter."""
        return [
            hidden + adapter(unit_rms(hidden))
            for adapter, hidden in zip(
                self.adapters, (h.float() for h in states), strict=True
            )
        ]

    @staticmethod
    def features(log_p: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
        """What the gate sees, (N, 2 + 3 n) of n + 1 strands.

        Entropy and largest log-probability of each, in its own vocabulary (``log_p``),
        and how much each carried distribution overlaps with the anchor's (log
        Bhattacharyya coefficient of ``parts``).
        """
        columns = []
        for log in log_p:
            finite = log.clamp(min=-1e4)  # 0 log 0 is 0
            columns += [-(finite.exp() * finite).sum(-1), finite.amax(-1)]
        for p in parts[1:]:
            # Clamped before the root: its slope at 0 is infinite.
            shared = (parts[0] * p).clamp(min=1e-30).sqrt().sum(-1)
            columns.append(shared.clamp(min=1e-12).log())
        return torch.stack(columns, dim=-1)

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
        self, anchor: Tensor, donors: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Distributions in the anchor's vocabulary, (N, V_a) each, and gate features.

        From logits (N, V_a) and (N, V_i).
        """
        log_p = [x.float().log_softmax(-1) for x in (anchor, *donors)]
        p = log_p[0].exp()
        carried = [
            carry(log.exp(), p) for carry, log in zip(self.maps, log_p[1:], strict=True)
        ]
        parts = [p, *carried]
        return parts, None if self.gate is None else self.features(log_p, parts)

    def forward(
        self,
        anchor: Tensor,
        donors: Sequence[Tensor],
        present: Sequence[Tensor],
        shares: Sequence[float],
    ) -> Tensor:
        """Mix logits (N, V_a) and (N, V_i) to log-probabilities (N, V_a)."""
        rows = []
        for low in range(0, max(len(anchor), 1), BLOCK):
            at = slice(low, low + BLOCK)
            parts, features = self.parts(anchor[at], [d[at] for d in donors])
            here = [p[at] for p in present]
            weights = self.log_weights(features, here, shares).exp()
            mixed = parts[0] * weights[:, :1]
            for i, p in enumerate(parts[1:], 1):
                mixed = torch.addcmul(mixed, p, weights[:, i : i + 1])
            rows.append(mixed.clamp(min=1e-30).log())
        return torch.cat(rows)
