"""A donor beside the anchor: its states, and its path through a growing text.

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

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..strands.strand import Strand, Tap
from ..tokens.alignment import common_prefix


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


def crop_layers(cache: DynamicCache, length: int) -> None:
    """Keep the first positions only, also where layers are not equally far."""
    for layer in cache.layers:
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() > length:
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
        ids = torch.tensor([list(new)], dtype=torch.long, device=strand.device)
        # A donor is only ever read, so gradients stop here.
        with torch.no_grad(), self._unless_stopped():
            out = strand.run(ids, taps=taps, cache=self.cache)
        for tap in taps:
            old = self.states.get(tap)
            self.states[tap] = (
                out[tap][0] if old is None else torch.cat([old, out[tap][0]])
            )
        self.ids = [*self.ids, *new]
        self.long = strand.is_long(len(self.ids))

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """After an error or an interrupt the cache is as long as the path again."""
        try:
            yield
        except BaseException:
            crop_layers(self.cache, len(self.ids))
            raise

    def crop(self, length: int) -> None:
        if length < len(self.ids):
            self.cache.crop(length - len(self.ids))
            self.states = {tap: s[:length] for tap, s in self.states.items()}
            self.ids = self.ids[:length]

    def branch(
        self,
        strand: Strand,
        tokens: Sequence[int],
        lineage: Sequence[Sequence[int]],
        taps: Sequence[Tap],
    ) -> dict[Tap, Tensor]:
        """Run a tree of tokens at once: each sees its lineage only.

        ``lineage[i]`` is where the ancestors of token i are, itself included, among the
        path's tokens followed by the new ones. The path then follows the last lineage.
        Returns the states of the path's old tokens followed by the new ones.
        """
        past = len(self.ids)
        visible = torch.zeros(len(tokens), past + len(tokens), dtype=torch.bool)
        for i, seen in enumerate(lineage):
            parent = seen[-2] if len(seen) > 1 else -1
            if parent < past:
                visible[i, : parent + 1] = True
            else:
                visible[i] = visible[parent - past]
            visible[i, past + i] = True
        depth = torch.tensor([*range(past), *(len(seen) - 1 for seen in lineage)])
        with torch.no_grad(), self._unless_stopped():
            out = strand.run(
                torch.tensor([list(tokens)], device=strand.device),
                taps=taps,
                cache=self.cache,
                attention_mask=strand.tree_mask(visible, depth),
                position_ids=depth[None, past:].to(strand.device),
            )
        flat = {
            tap: torch.cat([self.states[tap], out[tap][0]]) if past else out[tap][0]
            for tap in taps
        }
        self.follow(lineage[-1], [*self.ids, *tokens], flat)
        self.long = strand.is_long(len(self.ids))
        return flat

    def follow(
        self, where: Sequence[int], ids: Sequence[int], flat: Mapping[Tap, Tensor]
    ) -> None:
        """Keep these tokens only, in the cache too."""
        index = torch.tensor(list(where), dtype=torch.long)
        self.ids = [ids[i] for i in where]
        self.states = {tap: s[index.to(s.device)] for tap, s in flat.items()}
        for layer in self.cache.layers:
            # Layers above the deepest tap never ran.
            if isinstance(layer, DynamicLayer) and layer.is_initialized:
                assert layer.keys is not None  # for the type checker
                assert layer.values is not None
                layer.keys = layer.keys[:, :, index.to(layer.keys.device)]
                layer.values = layer.values[:, :, index.to(layer.values.device)]


def walk(
    strand: Strand, path: DonorPath, prefixes: Sequence[list[int]], taps: Sequence[Tap]
) -> tuple[dict[Tap, Tensor], list[list[int]]]:
    """Follow a donor through the tokenisations of a growing text.

    Where later text makes the donor cut earlier text anew, its tokens are a tree; it is
    run at once where the strand's attention allows that, else in pieces. Where a text
    passes the strand's `turn`, all of it is read anew.

    Returns
    -------
    states : dict of tap to Tensor (S, width)
        Every donor token that any prefix contains, in the order of their coming.
    seen : list of list of int
        For each prefix, which of the S tokens it consists of.
    """
    sides = [strand.is_long(len(prefix)) for prefix in prefixes]
    if prefixes:  # in decoding there is one: then nothing branches
        same = sides[0] == path.long
        path.crop(common_prefix(path.ids, prefixes[0]) if same else 0)
    past, ids, where = len(path.ids), path.ids, list(range(len(path.ids)))
    tokens: list[int] = []
    lineage: list[list[int]] = []
    seen: list[list[int]] = []
    for i, prefix in enumerate(prefixes):
        turned = i > 0 and sides[i] != sides[i - 1]
        keep = 0 if turned else common_prefix(ids, prefix)
        del where[keep:]
        for token in prefix[keep:]:
            where.append(past + len(tokens))
            tokens.append(token)
            lineage.append(list(where))
        ids = prefix
        seen.append(list(where))
    empty = torch.zeros(0, strand.width, dtype=strand.dtype, device=strand.device)
    if tokens and lineage[-1] != list(range(past + len(tokens))):
        if len(set(sides)) == 1 and strand.reads_trees:
            flat = path.branch(strand, tokens, lineage, taps)
        else:
            flat = _in_pieces(strand, path, tokens, lineage, taps)
    else:
        if tokens:
            path.extend(strand, tokens, taps)
        flat = {tap: path.states.get(tap, empty) for tap in taps}
    path.crop(len(where))  # the last prefix may be shorter than what was run
    return flat, seen


def _in_pieces(
    strand: Strand,
    path: DonorPath,
    tokens: Sequence[int],
    lineage: Sequence[Sequence[int]],
    taps: Sequence[Tap],
) -> dict[Tap, Tensor]:
    """The same as `DonorPath.branch`, one unbranched piece after the other."""
    past = len(path.ids)
    parts = {tap: [path.states[tap]] if past else [] for tap in taps}
    start = 0
    for i in range(1, len(tokens) + 1):
        if i < len(tokens) and len(lineage[i]) == len(lineage[i - 1]) + 1:
            continue  # token i goes on from token i - 1
        path.crop(len(lineage[start]) - 1)
        path.extend(strand, tokens[start:i], taps)
        for tap in taps:
            parts[tap].append(path.states[tap][start - i :])
        start = i
    return {tap: torch.cat(found) for tap, found in parts.items()}
