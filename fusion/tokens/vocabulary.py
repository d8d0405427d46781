"""One strand's next-token distribution, told in another strand's vocabulary.

Tokens are strings of bytes. A donor token u says "the text goes on with these bytes".
The anchor tokens that can be the first token of such a text are u's twin (the same
bytes) or, without a twin, the longest anchor token that u starts with; and every
anchor token longer than any donor token that it starts with, of which u is the
longest donor prefix. u's probability goes to them in proportion to the anchor's own
probabilities, so the donor decides between groups and the anchor within a group.
Tokens with the same bytes on both sides keep their probability to the last digit.
Several tokens with the same bytes count as one, split as the anchor splits them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 4  # rows: one by one is faster up to here, as in decoding


def _longest_prefix(token: bytes, index: dict[bytes, list[int]]) -> list[int]:
    for length in range(len(token), 0, -1):
        found = index.get(token[:length])
        if found is not None:
            return found
    return []


def _index(table: Sequence[bytes]) -> dict[bytes, list[int]]:
    """Tokens by their bytes; with byte fallback, "a" and <0x61> are the same bytes."""
    index: dict[bytes, list[int]] = {}
    for i, token in enumerate(table):
        if token:
            index.setdefault(token, []).append(i)
    return index


def _sums(rows: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
    """Sums of groups of rows: a sparse matrix of ones times a dense one."""
    return F.embedding_bag(index, rows, offsets, mode="sum", include_last_offset=True)


class VocabularyMap(nn.Module):
    """Carries a donor's distribution to the anchor's vocabulary.

    Parameters
    ----------
    anchor, donor : sequence of bytes
        What each token writes; special tokens write nothing and carry nothing.
    anchor_size, donor_size : int
        Rows of the LM heads (at least the number of tokens).
    pairs : sequence of (donor token, anchor token), optional
        Tokens to identify though they write nothing, such as the two ends of text.

    Attributes
    ----------
    n_twins : int
        Donor tokens with the same bytes in the anchor's vocabulary.
    """

    single_index: Tensor
    single_offsets: Tensor
    many_index: Tensor
    many_offsets: Tensor
    total_index: Tensor
    total_offsets: Tensor
    single_ends: Tensor
    many_ends: Tensor

    def __init__(
        self,
        anchor: Sequence[bytes],
        donor: Sequence[bytes],
        anchor_size: int,
        donor_size: int,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.anchor_size, self.donor_size = anchor_size, donor_size
        anchors, donors = _index(anchor), _index(donor)
        self.n_twins = sum(token in anchors for token in donors)
        edges = set(pairs)
        for token, us in donors.items():
            edges.update((u, v) for u in us for v in _longest_prefix(token, anchors))
        for token, vs in anchors.items():
            if token not in donors:
                us = _longest_prefix(token, donors)
                edges.update((u, v) for u in us for v in vs)
        table = torch.tensor(sorted(edges), dtype=torch.long).reshape(-1, 2)
        degree = torch.bincount(table[:, 0], minlength=donor_size)
        alone = degree[table[:, 0]] == 1
        single, many = table[alone], table[~alone]
        for name, ends, pick, size in (
            ("single", single[:, 1], single[:, 0], anchor_size),
            ("many", many[:, 1], many[:, 0], anchor_size),
            ("total", many[:, 0], many[:, 1], donor_size),
        ):
            order = torch.argsort(ends, stable=True)
            counts = torch.bincount(ends, minlength=size)
            offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
            self.register_buffer(f"{name}_index", pick[order], persistent=False)
            self.register_buffer(f"{name}_offsets", offsets, persistent=False)
            if name != "total":
                self.register_buffer(f"{name}_ends", ends[order], persistent=False)

    def forward(self, donor: Tensor, anchor: Tensor) -> Tensor:
        """Carry ``donor`` (N, V_d) to (N, V_a), given the anchor's own (N, V_a).

        Both are probabilities; so is the result. Mass on donor tokens that reach no
        anchor token (special tokens) is spread over the rest.
        """
        if 0 < len(donor) <= FEW:
            rows = [self._row(q, p) for q, p in zip(donor, anchor, strict=True)]
            return torch.stack(rows)
        p, q = anchor.T.contiguous(), donor.T.contiguous()
        out = _sums(q, self.single_index, self.single_offsets)
        if len(self.many_index):
            total = _sums(p, self.total_index, self.total_offsets)
            ratio = q / total.clamp(min=1e-30)
            out += p * _sums(ratio, self.many_index, self.many_offsets)
        return (out / out.sum(0).clamp(min=1e-30)).T

    def _row(self, q: Tensor, p: Tensor) -> Tensor:
        """The same for one position: sums of the edges, without bags around them."""
        carried = q.index_select(0, self.single_index)
        out = p.new_zeros(len(p)).scatter_add(0, self.single_ends, carried)
        if len(self.many_index):
            edges = p.index_select(0, self.many_ends)
            total = q.new_zeros(len(q)).scatter_add(0, self.many_index, edges)
            ratio = q / total.clamp(min=1e-30)
            edges = edges * ratio.index_select(0, self.many_index)
            out = out.scatter_add(0, self.many_ends, edges)
        return out / out.sum().clamp(min=1e-30)
