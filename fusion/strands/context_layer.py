"""Texts that a native strand has read, as a layer of a transformers cache.

A cache of transformers hands what happens to a batch, rows that are reordered, repeated
or cut, to its layers. Here there is one layer, and behind each of its rows a context of
llama.cpp that holds what all layers of the model keep.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from .llama import Context, Weights

R = TypeVar("R")

BRANCHES = 15  # ways to go on that are read at once
_SMALLEST = 512  # tokens, the room of a new context
_SPARE = 4  # contexts that are kept for the next text


class Contexts:
    """Contexts of one model, used again when a text is done with.

    Parameters
    ----------
    weights : Weights
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        # Threads take and give back; so does the collector of garbage, at any time.
        self._spare: deque[Context] = deque(maxlen=_SPARE)

    def take(self, size: int) -> Context:
        """An empty context with room for some tokens."""
        small: list[Context] = []
        with suppress(IndexError):
            while (found := self._spare.pop()).size < size:
                small.append(found)
            self.give_back(small)
            found.clear()
            return found
        self.give_back(small)
        room = _SMALLEST
        while room < size:
            room *= 2
        return Context(self.weights, room, BRANCHES + 1)

    def give_back(self, held: list[Context]) -> None:
        """Keep what a text held for another one."""
        self._spare.extend(held)
        held.clear()


def picked(
    rows: Sequence[R], indices: Sequence[int], copy: Callable[[R], R]
) -> list[R]:
    """Rows by number; the first to follow one keeps it, as a copy of it is dear."""
    taken: set[int] = set()
    found = []
    for i in indices:
        found.append(copy(rows[i]) if i in taken else rows[i])
        taken.add(i)
    return found


class Text:
    """One row: what was read, column by column.

    Parameters
    ----------
    contexts : Contexts

    Attributes
    ----------
    real : list of bool
        Which columns are tokens; the others are padding.
    count : int
        How many are.
    """

    def __init__(self, contexts: Contexts) -> None:
        self.contexts = contexts
        self.real: list[bool] = []
        self.count = 0
        self._held: list[Context] = []
        # Behind a tree: the sequence of its last token, and how many came before it.
        self._tip: tuple[int, int] | None = None
        weakref.finalize(self, contexts.give_back, self._held)

    def copy(self) -> Text:
        """Another row that has read the same."""
        found = Text(self.contexts)
        found.real, found.count = list(self.real), self.count
        if self._held:
            context = self.contexts.take(self._held[0].size)
            context.copy(self._held[0])
            found._held.append(context)
        return found

    def context(self, more: int) -> Context:
        """Its context, with room for more tokens."""
        size = self.count + more
        if not self._held:
            self._held.append(self.contexts.take(size))
        elif self._held[0].size < size:
            larger = self.contexts.take(size)
            larger.copy(self._held[0])
            self.contexts.give_back(self._held)
            self._held.append(larger)
        return self._held[0]

    def read(self, tokens: Sequence[int], real: Sequence[bool]) -> Tensor:
        """Go on with new columns; states (n, width) of those that are tokens."""
        start, context = self.count, self.context(len(tokens))
        try:
            states = context.decode(
                tokens, range(start, start + len(tokens)), [[0]] * len(tokens)
            )
        except BaseException:
            context.remove(0, start)
            raise
        self.real += real
        self.count += len(tokens)
        return states

    def read_tree(self, tokens: Sequence[int], visible: Tensor) -> Tensor:
        """Go on in several ways at once; states (m, width).

        Parameters
        ----------
        tokens : sequence of int
        visible : Tensor (m, n), bool
            Which of all n tokens each new one sees; of the old ones the first few.

        Notes
        -----
        The last of the tokens is where the text goes on; see `keep`.
        """
        old, context = self.count, self.context(len(tokens))
        seen, behind = visible[:, :old].sum(1).tolist(), visible[:, old:]
        lineages = [row.nonzero()[:, 0].tolist() for row in behind]
        within = {i for lineage in lineages for i in lineage[:-1]}
        roots: dict[int, list[int]] = {}
        for i, lineage in enumerate(lineages):
            if i not in within:
                roots.setdefault(lineage[0], []).append(i)
        # Several small trees at once, that of the last token at the end.
        order = sorted(roots.values(), key=lambda leaves: len(tokens) - 1 in leaves)
        groups: list[list[int]] = [[]]
        for leaves in order:
            if len(leaves) > BRANCHES:
                raise RuntimeError(f"a text branches {len(leaves)} times at one place")
            if len(groups[-1]) + len(leaves) > BRANCHES:
                groups.append([])
            groups[-1] += leaves
        states: Tensor | None = None
        try:
            for group in groups:
                self._forget_branches(context, old)
                found, nodes = self._read_group(context, tokens, seen, lineages, group)
                if states is None:
                    states = found.new_empty(len(tokens), found.shape[1])
                states[nodes] = found
        except BaseException:
            self._forget_branches(context, old)
            raise
        self._tip = groups[-1].index(len(tokens) - 1) + 1, old
        self.real += [True] * len(tokens)
        self.count += len(tokens)
        assert states is not None  # for the type checker
        return states

    def _read_group(
        self,
        context: Context,
        tokens: Sequence[int],
        seen: Sequence[int],
        lineages: Sequence[Sequence[int]],
        leaves: Sequence[int],
    ) -> tuple[Tensor, list[int]]:
        """Read the lineages of some leaves, each as a sequence of its own."""
        owners: dict[int, list[int]] = {}
        for number, leaf in enumerate(leaves, 1):
            context.branch(0, number, 0, seen[leaf])
            for node in lineages[leaf]:
                owners.setdefault(node, []).append(number)
        nodes = sorted(owners)
        places = [seen[node] + len(lineages[node]) - 1 for node in nodes]
        found = context.decode(
            [tokens[node] for node in nodes], places, [owners[node] for node in nodes]
        )
        return found, nodes

    def _forget_branches(self, context: Context, old: int) -> None:
        for number in range(1, BRANCHES + 1):
            context.remove(number, 0)
        context.remove(0, old)
        self._tip = None

    def keep(self, where: Sequence[int]) -> None:
        """Of all tokens, those of a tree too, keep these only: a lineage of it."""
        context = self._held[0]
        if self._tip is not None:
            tip, old = self._tip
            shared = sum(i < old for i in where)
            if shared < len(where):
                context.remove(0, shared)
                context.branch(tip, 0, shared, len(where))
        self._forget_branches(context, len(where))
        self.real, self.count = [True] * len(where), len(where)

    def crop(self, columns: int) -> None:
        """Take back the last columns."""
        kept = max(len(self.real) - columns, 0)
        gone = sum(self.real[kept:])
        if gone:
            self._forget_branches(self._held[0], self.count - gone)
        self.real, self.count = self.real[:kept], self.count - gone


class ContextLayer(CacheLayerMixin):
    """What a native strand has read of a batch.

    Parameters
    ----------
    contexts : Contexts
    rows : int
        Of the batch.
    """

    is_croppable = True

    def __init__(self, contexts: Contexts, rows: int) -> None:
        super().__init__()
        self.contexts = contexts
        self.rows = [Text(contexts) for _ in range(rows)]

    def get_seq_length(self) -> int:
        return max((len(row.real) for row in self.rows), default=0)

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: contexts are made when they are read into."""

    def update(self, *_args: Any, **_options: Any) -> Any:
        raise TypeError("this cache is of a model that llama.cpp runs")

    def reset(self) -> None:
        self.rows = []

    def crop(self, tokens_to_remove: int) -> None:
        for row in self.rows:
            row.crop(-tokens_to_remove)

    def keep(self, where: Sequence[int]) -> None:
        """Of the one row's tokens keep a lineage, see `Text.keep`."""
        self.rows[0].keep(where)

    def _pick(self, indices: Sequence[int]) -> None:
        self.rows = picked(self.rows, indices, Text.copy)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._pick(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._pick([i for i in range(len(self.rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        self._pick(torch.arange(len(self.rows))[indices.cpu()].tolist())

    def __deepcopy__(self, _memo: Any) -> ContextLayer:
        found = ContextLayer(self.contexts, 0)
        found.rows = [row.copy() for row in self.rows]
        return found
