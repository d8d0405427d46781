"""A donor beside the anchor: its path through a growing text.

The donor's view of anchor position t is defined by the text so far and nothing else:
the donor tokenises the bytes that the anchor has completed at t. Later text may make
it tokenise the same bytes differently; then its cache is cropped to the common prefix
and the changed tail is run again. A full forward walks the same way as cached
decoding does, so the two agree, and no later token can reach back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..strands.context_layer import ContextLayer
from ..strands.strand import Strand, Tap
from ..tokens.token_bytes import TokenTree, token_tree


def crop_layers(cache: DynamicCache, length: int) -> None:
    """Keep the first positions only, also where layers are not equally far."""
    for layer in cache.layers:
        known = isinstance(layer, DynamicLayer | ContextLayer)
        if known and layer.get_seq_length() > length:
            layer.crop(length - layer.get_seq_length())


@dataclass
class DonorPath:
    """One donor's tokens for one row, with their states and the cache behind them.

    ``long`` is whether they were read as those of a long text (`Strand.turn`).
    """

    ids: list[int] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)
    states: dict[Tap, Tensor] = field(default_factory=dict)  # tap -> (len(ids), width)
    long: bool = False

    def extend(self, strand: Strand, new: Sequence[int], taps: Iterable[Tap]) -> None:
        """Read tokens that go on from the path."""
        ids = torch.tensor([list(new)], dtype=torch.long)
        # A donor is only ever read, so gradients stop here.
        with torch.no_grad(), self._unless_stopped():
            out = strand.run(ids, taps=taps, cache=self.cache)
        for tap in taps:
            old = self.states.get(tap)
            self.states[tap] = (
                out[tap][0] if old is None else torch.cat([old, out[tap][0]])
            )
        self.ids = [*self.ids, *new]
        self.long = len(self.ids) > strand.turn

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """After an error or an interrupt the cache is as long as the path again."""
        try:
            yield
        except BaseException:
            crop_layers(self.cache, len(self.ids))
            raise

    def crop(self, length: int) -> None:
        """Keep the first tokens only."""
        if length < len(self.ids):
            self.cache.crop(length - len(self.ids))
            self.states = {tap: s[:length] for tap, s in self.states.items()}
            self.ids = self.ids[:length]

    def branch(
        self, strand: Strand, tree: TokenTree, taps: Sequence[Tap]
    ) -> dict[Tap, Tensor]:
        """Run a tree of tokens: each sees its lineage only.

        The path then follows the last lineage. Returns the states of the path's old
        tokens followed by the new ones.
        """
        past, lineage = len(self.ids), tree.lineage
        # Most of a text that begins here is one lineage, and a mask makes it slow.
        trunk = [] if past else lineage[-1]
        beside = sorted({*range(past, past + len(tree.tokens))}.difference(trunk))
        order = [*range(past), *trunk, *beside]
        place = {i: n for n, i in enumerate(order)}
        start = len(order) - len(beside)
        visible = torch.zeros(len(beside), len(order), dtype=torch.bool)
        for n, i in enumerate(beside):
            seen = lineage[i - past]
            parent = place[seen[-2]] if len(seen) > 1 else -1
            if parent < start:
                visible[n, : parent + 1] = True
            else:
                visible[n] = visible[parent - start]
            visible[n, start + n] = True
        long = [*range(past), *(len(seen) - 1 for seen in lineage)]
        depth = torch.tensor([long[i] for i in order])
        tokens = [*self.ids, *tree.tokens]
        ids = [tokens[i] for i in order]
        found = {tap: [self.states[tap]] if past else [] for tap in taps}
        with torch.no_grad(), self._unless_stopped():
            for new in filter(None, (trunk, beside)):
                masked: dict[str, Any] = {}
                if new is beside:
                    masked["attention_mask"] = strand.tree_mask(visible, depth)
                    masked["position_ids"] = depth[None, start:]
                row = torch.tensor([[tokens[i] for i in new]])
                out = strand.run(row, taps=taps, cache=self.cache, **masked)
                for tap in taps:
                    found[tap].append(out[tap][0])
        flat = {tap: torch.cat(parts) for tap, parts in found.items()}
        self.follow([place[i] for i in lineage[-1]], ids, flat)
        self.long = len(self.ids) > strand.turn
        back = torch.tensor([place[i] for i in range(len(order))])
        return {tap: states[back.to(states.device)] for tap, states in flat.items()}

    def branch_in_pieces(
        self, strand: Strand, tree: TokenTree, taps: Sequence[Tap]
    ) -> dict[Tap, Tensor]:
        """The same as `branch`, one unbranched piece after the other."""
        tokens, lineage = tree.tokens, tree.lineage
        parts = {tap: [self.states[tap]] if self.ids else [] for tap in taps}
        start = 0
        for i in range(1, len(tokens) + 1):
            if i < len(tokens) and len(lineage[i]) == len(lineage[i - 1]) + 1:
                continue  # token i goes on from token i - 1
            self.crop(len(lineage[start]) - 1)
            self.extend(strand, tokens[start:i], taps)
            for tap in taps:
                parts[tap].append(self.states[tap][start - i :])
            start = i
        return {tap: torch.cat(found) for tap, found in parts.items()}

    def states_at(self, tap: Tap, strand: Strand) -> Tensor:
        """The states of the path (len(ids), width), which may be none."""
        found = self.states.get(tap)
        if found is None:
            empty = (0, strand.width)
            found = torch.zeros(empty, dtype=strand.dtype, device=strand.device)
        return found

    def follow(
        self, where: Sequence[int], ids: Sequence[int], flat: Mapping[Tap, Tensor]
    ) -> None:
        """Keep these tokens only, in the cache too."""
        index = torch.tensor(list(where), dtype=torch.long)
        self.ids = [ids[i] for i in where]
        self.states = {tap: s[index.to(s.device)] for tap, s in flat.items()}
        for layer in self.cache.layers:
            if isinstance(layer, ContextLayer):
                layer.keep(where)
            # Layers above the deepest tap never ran.
            if isinstance(layer, DynamicLayer) and layer.is_initialized:
                assert layer.keys is not None  # for the type checker
                assert layer.values is not None  # for the type checker
                layer.keys = layer.keys[:, :, index.to(layer.keys.device)]
                layer.values = layer.values[:, :, index.to(layer.values.device)]


def walk(
    strand: Strand, path: DonorPath, prefixes: Sequence[list[int]], taps: Sequence[Tap]
) -> tuple[dict[Tap, Tensor], TokenTree]:
    """Follow a donor through the tokenisations of a growing text.

    Where later text makes the donor cut earlier text anew, its tokens are a tree; it is
    run at once where the strand's attention allows that, else in pieces. Where a text
    passes the strand's `turn`, all of it is read anew.

    Parameters
    ----------
    strand : Strand
    path : DonorPath
        Where the donor is; it goes on to the last prefix.
    prefixes : sequence of list of int
        The donor's tokens of each beginning of the text, shortest first.
    taps : sequence of int or "final"

    Returns
    -------
    states : dict of tap to Tensor (S, width)
        Every donor token that any prefix contains, in the order of their coming.
    tree : TokenTree
        Which of the S tokens each prefix consists of.
    """
    long = [len(prefix) > strand.turn for prefix in prefixes]
    turns = [now != before for before, now in pairwise([path.long, *long])]
    tree = token_tree(path.ids, prefixes, turns)
    path.crop(tree.past)
    if tree.branches:
        at_once = not any(turns[1:]) and strand.reads_trees
        flat = (path.branch if at_once else path.branch_in_pieces)(strand, tree, taps)
    else:
        if tree.tokens:
            path.extend(strand, tree.tokens, taps)
        flat = {tap: path.states_at(tap, strand) for tap in taps}
    path.crop(tree.length)  # the last prefix may be shorter than what was run
    return flat, tree
