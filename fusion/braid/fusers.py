"""The trained parts of a braid: three strategies with one signature.

``fuser(hidden, sources, shares) -> hidden``, in the number type of the anchor's states
and computed in float32. At a decoder layer a fuser *pulls* the
residual stream towards the bridged donor states; after the final norm it *adds* them:

    pull    h + sum_i share_i w_i * (B_i a_i - h)      w starts at 0, B_i by ridge
    add     h + B_0 n(h) + sum_i B_i n(a_i)            all B start at 0; convex to train

n scales a state to root mean square 1, so that one learning rate suits every strand.
B_0 n(h) is the anchor's own adapter. A braid without donors keeps only that: the
matched control, the same fuser fed the anchor's own states.

A trained map has its own scale, so after the final norm a share only says whether its
donor takes part. Exactly one factor starts at zero, so an uncalibrated braid is its
anchor, bit for bit, and still has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class DonorStates:
    """A donor's states beside the positions of the anchor.

    Attributes
    ----------
    states : Tensor (B, S, width)
    last : Tensor (B, T), int64
        Index of the last donor token that position t may see; -1 where there is none.
    visible : Tensor (B, T, S), bool
        All donor tokens that position t may see, oldest first.
    """

    states: Tensor
    last: Tensor
    visible: Tensor

    def aligned(self) -> tuple[Tensor, Tensor]:
        """States gathered per anchor position (B, T, width), and a (B, T, 1) mask.

        In float32, as the fusers are; zero where there is none, so that nothing that
        looks at several donors sees a later token in its place.
        """
        present = self.last >= 0
        width = self.states.shape[2]
        if self.states.shape[1] == 0:
            zeros = torch.zeros(*self.last.shape, width, device=self.states.device)
            return zeros, present[..., None]
        index = self.last.clamp(min=0)[..., None].expand(-1, -1, width)
        found = self.states.gather(1, index).float()
        return found.masked_fill(~present[..., None], 0.0), present[..., None]


def unit_rms(x: Tensor) -> Tensor:
    """Scale states to root mean square 1: strands differ by orders of magnitude."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def zero_linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A linear map that starts as zero."""
    linear = nn.Linear(n_in, n_out, bias=bias)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


DROPOUT = 0.2  # of what is added, while it is trained: many weights, little text


class LearnedWeighted(nn.Module):
    """Bridged donor states with a learned weight per channel.

    Parameters
    ----------
    width : int
        Of the anchor.
    source_widths : sequence of int
        Of the sources, in the order they are passed to `forward`.
    add : bool
        True after the final norm, False at a decoder layer.
    """

    def __init__(self, width: int, source_widths: Sequence[int], add: bool) -> None:
        super().__init__()
        self.add = add
        self.bridges = nn.ModuleList(zero_linear(w, width) for w in source_widths)
        self.weight = nn.Parameter(torch.zeros(len(source_widths), width))
        # A model's own adapter, with half as many weights, does better without.
        self.dropout = nn.Dropout(DROPOUT if source_widths else 0.0).eval()
        self.own = zero_linear(width, width) if add else None
        if add:  # the bridges are the zero factor; the weights stay as they are
            self.weight.data.fill_(1.0)
            self.weight.requires_grad_(False)

    def gates(self, hidden: Tensor, aligned: Sequence[Tensor]) -> list[Tensor | float]:
        """A factor per source and position, of scaled states; constant here."""
        return [1.0 for _ in aligned]

    def forward(
        self, hidden: Tensor, sources: Sequence[DonorStates], shares: Sequence[float]
    ) -> Tensor:
        """Fuse: ``hidden`` (B, T, width) and each source's states, to (B, T, width)."""
        dtype, hidden = hidden.dtype, hidden.float()
        pairs = [source.aligned() for source in sources]
        scaled, own = [unit_rms(a) for a, _ in pairs], unit_rms(hidden)
        gates = self.gates(own, scaled)
        out = hidden
        if self.own is not None:
            out = hidden + self.own(self.dropout(own))
        for i, (bridge, (a, present)) in enumerate(
            zip(self.bridges, pairs, strict=True)
        ):
            if shares[i] == 0:
                continue
            if self.add:
                delta = bridge(self.dropout(scaled[i]))
            else:
                delta = bridge(a) - hidden
            scale = 1.0 if self.add else shares[i]
            delta = delta * self.weight[i] * (scale * gates[i])
            out = out + delta.masked_fill(~present, 0.0)
        return out.to(dtype)


# A special case, not a part: with no routes it is the learned weighting, whose every
# parameter it has.
class Router(LearnedWeighted):
    """The same, with a gate per token and source that sees both states.

    The gate is ``2 sigmoid(G [h, a_i])`` with G at zero: it starts as learned_weighted.
    """

    def __init__(self, width: int, source_widths: Sequence[int], add: bool) -> None:
        super().__init__(width, source_widths, add)
        self.routes = nn.ModuleList(zero_linear(width + w, 1) for w in source_widths)

    def gates(self, hidden: Tensor, aligned: Sequence[Tensor]) -> list[Tensor | float]:
        return [
            2.0 * torch.sigmoid(route(torch.cat([hidden, a], dim=-1)))
            for route, a in zip(self.routes, aligned, strict=True)
        ]


class CrossAttention(nn.Module):
    """The anchor looks at every donor token that its text so far completes.

    ``h + sum_i share_i O_i softmax(Q h . K_i a + lag) V_i a``, with a zero O and a
    learned bias for the most recent donor tokens. After the final norm the aligned
    state is added as well (`LearnedWeighted`), so attention only has to learn what
    earlier tokens bring. A position that may see nothing gets nothing.
    """

    RANK = 64  # per head: a low-rank bottleneck does better than full maps here
    HEADS = 4
    LAGS = 16

    def __init__(self, width: int, source_widths: Sequence[int], add: bool) -> None:
        super().__init__()
        self.aligned = LearnedWeighted(width, source_widths, add) if add else None
        size = self.RANK * self.HEADS
        self.query = nn.Linear(width, size, bias=False)
        self.keys = nn.ModuleList(nn.Linear(w, size, bias=False) for w in source_widths)
        self.values = nn.ModuleList(
            nn.Linear(w, size, bias=False) for w in source_widths
        )
        self.outputs = nn.ModuleList(
            zero_linear(size, width, bias=False) for _ in source_widths
        )
        self.lag = nn.Parameter(torch.zeros(len(source_widths), self.HEADS, self.LAGS))

    def _attend(self, i: int, hidden: Tensor, source: DonorStates) -> Tensor:
        B, T, _ = hidden.shape
        S = source.states.shape[1]
        heads = (self.HEADS, self.RANK)
        a = unit_rms(source.states.float())
        q = self.query(unit_rms(hidden)).view(B, T, *heads).transpose(1, 2)
        # How many visible tokens lie between: 0 for the newest one.
        seen = source.visible.long()
        lag = (seen.flip(-1).cumsum(-1).flip(-1) - 1).clamp(0, self.LAGS - 1)
        bias = self.lag[i][:, lag].transpose(0, 1)  # (B, heads, T, S)
        # A row that may see nothing must not be all -inf: its output is masked after.
        some = source.visible.any(-1, keepdim=True)
        mask = (source.visible | ~some)[:, None]
        bias = bias.masked_fill(~mask, float("-inf")).to(q.dtype)
        key, value = (m[i].get_parameter("weight") for m in (self.keys, self.values))
        if T < self.RANK:
            # Few queries, as in decoding: (K'q) a is cheaper than q (K a) for every a.
            at = a[:, None]
            query = q @ key.view(*heads, -1)
            scores = query @ at.transpose(-1, -2) / math.sqrt(self.RANK) + bias
            mixed = scores.softmax(-1) @ at @ value.view(*heads, -1).transpose(-1, -2)
        else:
            k = F.linear(a, key).view(B, S, *heads).transpose(1, 2)
            v = F.linear(a, value).view(B, S, *heads).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = self.outputs[i](mixed.transpose(1, 2).reshape(B, T, -1))
        return out.masked_fill(~some, 0.0)

    def forward(
        self, hidden: Tensor, sources: Sequence[DonorStates], shares: Sequence[float]
    ) -> Tensor:
        """Fuse: ``hidden`` (B, T, width) and each source's states, to (B, T, width)."""
        dtype, hidden = hidden.dtype, hidden.float()
        out = hidden if self.aligned is None else self.aligned(hidden, sources, shares)
        for i, source in enumerate(sources):
            if shares[i] != 0 and source.states.shape[1] > 0:
                scale = 1.0 if self.aligned is not None else shares[i]
                out = out + scale * self._attend(i, hidden, source)
        return out.to(dtype)


FUSERS: dict[str, type[LearnedWeighted] | type[CrossAttention]] = {
    "learned_weighted": LearnedWeighted,
    "router": Router,
    "attention": CrossAttention,
}
# What fuses a donor's own final state with the anchor's beside it, for each strategy.
ADAPTERS: dict[str, type[LearnedWeighted]] = {
    "learned_weighted": LearnedWeighted,
    "router": Router,
    "attention": LearnedWeighted,
}
