"""Fusion at the output: strands' next-token distributions, mixed.

    p = sum_i w_i T_i p_i,   w = softmax(log share_i + gate_i)

T_i carries a donor's distribution to the anchor's vocabulary (`vocabulary`), the
anchor's is the identity. A donor hears the anchor: an adapter fuses the anchor's final
state beside each of its tokens with its own. Without a gate the share is the weight
itself and nothing is trained.
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
from ..tokens.vocabulary import Carried, Node, VocabularyMap
from .fusers import DonorStates, LearnedWeighted, zero_linear

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
    beside : ndarray (N,) of Tensor (n, width), or None
        The anchor's final states at the tokens of each text; None for a donor that
        does not hear the anchor.
    """

    readings: np.ndarray
    logits: Callable[[Tensor], Tensor]
    said: Said | None = None
    beside: np.ndarray | None = None

    def of(self, at: slice) -> Voice:
        """The same beside some of the positions."""
        beside = None if self.beside is None else self.beside[at]
        return self._replace(readings=self.readings[at], beside=beside)

    def places(self) -> dict[tuple[int, int], tuple[Tensor, Tensor | None]]:
        """The donor's state and the anchor's beside it, at each node of each reading.

        Once, as a place in the text is a node of several readings.
        """
        found: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        for i, reading in enumerate(self.readings):
            states = None if self.beside is None else self.beside[i]
            for node in () if reading is None else reading.nodes:
                beside = None
                if states is not None and node.beside >= 0:
                    beside = states[node.beside]
                found[_place(node)] = (node.state, beside)
        return found


def _place(node: Node) -> tuple[int, int]:
    """Which of a donor's states this is, and which of the anchor's is beside it."""
    return node.state.data_ptr(), node.beside


def _bytes(state: Tensor | None) -> bytes:
    return b"" if state is None else state.detach().float().cpu().numpy().tobytes()


def _beside(
    states: Sequence[Tensor | None], width: int, device: torch.device
) -> DonorStates:
    """The state beside each of N positions, where there is one."""
    heard = [state for state in states if state is not None]
    there = torch.tensor([state is not None for state in states], device=device)
    last = (there.cumsum(0) - 1).where(there, -1)
    found = torch.stack(heard) if heard else torch.zeros(0, width, device=device)
    visible = torch.zeros(1, len(states), len(found), dtype=torch.bool, device=device)
    return DonorStates(found[None], last[None], visible)


class OutputMixer(nn.Module):
    """Mixes the anchor's distribution with its donors'.

    Parameters
    ----------
    width : int
        Of the anchor.
    donor_widths : sequence of int
    maps : sequence of VocabularyMap
    fuser : type of LearnedWeighted
        Of each donor's adapter: it fuses the donor's own final state with the anchor's
        beside it, as a braid with the two changed round does; zero until calibrated.
    gated : bool
        A gate per token beside the shares; zero until calibrated.
    """

    def __init__(
        self,
        width: int,
        donor_widths: Sequence[int],
        maps: Sequence[VocabularyMap],
        fuser: type[LearnedWeighted],
        gated: bool,
    ) -> None:
        super().__init__()
        self.width, self.maps = width, list(maps)
        self.adapters = nn.ModuleList(fuser(w, [width], True) for w in donor_widths)
        self.gate: nn.Linear | None = None
        if gated:
            n = len(maps)
            self.gate = zero_linear(2 + 5 * n, n + 1)

    def said(self, donor: int, voice: Voice) -> list[list[Tensor]]:
        """What a donor says (V_i,) at each node of each reading: log-probabilities."""
        adapter = self.adapters[donor]
        places = voice.places()
        known: dict[tuple[int, int], Tensor] = {}
        keys: dict[tuple[int, int], Any] = {}
        if voice.said is not None and len(places) <= FEW:
            version = [p._version for p in adapter.parameters()]
            keys = {
                at: (donor, *version, *map(_bytes, pair)) for at, pair in places.items()
            }
            known = {at: voice.said[k] for at, k in keys.items() if k in voice.said}
        new = [at for at in places if at not in known]
        if new:
            hidden = torch.stack([places[at][0] for at in new]).float()
            beside = _beside([places[at][1] for at in new], self.width, hidden.device)
            hidden = adapter(hidden[None], [beside], [1.0])[0]
            logs = voice.logits(hidden).float().log_softmax(-1)
            known.update(zip(new, logs, strict=True))
        if voice.said is not None:
            for key in [key for key in voice.said if key[0] == donor]:
                del voice.said[key]
            voice.said.update({key: known[at].detach() for at, key in keys.items()})
        return [
            [] if r is None else [known[_place(node)] for node in r.nodes]
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
            columns += [-(p @ log), p.amax().clamp(min=1e-30).log()]
        for carried in told:
            # Clamped before the root: its slope at 0 is infinite.
            shared = (parts[0] * carried.p).clamp_(min=1e-30).sqrt_().sum()
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
            at = slice(low, low + BLOCK)
            here = [voice.of(at) for voice in voices]
            said = [self.said(i, voice) for i, voice in enumerate(here)]
            for n, log_p in enumerate(anchor[at].float().log_softmax(-1)):
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
        rows = [
            self.mixed(parts, seen, there, shares)
            for parts, seen, there in self.parts(anchor, voices)
        ]
        if len(rows) == 1:
            return rows[0][None]  # a copy of it would be one pass more
        return torch.stack(rows) if rows else anchor.float()

    def mixed(
        self,
        parts: Sequence[Tensor],
        seen: Tensor | None,
        there: Sequence[bool],
        shares: Sequence[float],
    ) -> Tensor:
        """Log-probabilities (V_a,) at one position, of what `parts` says of it."""
        present = [torch.tensor([here], device=parts[0].device) for here in there]
        features = None if seen is None else seen[None]
        weights = self.log_weights(features, present, shares)[0].exp()
        mixed = parts[0] * weights[0]
        for p, weight in zip(parts[1:], weights[1:], strict=True):
            mixed.addcmul_(p, weight)
        return mixed.clamp_(min=1e-30).log_()
