"""What a request remembers: the anchor's keys and values, and each donor's path."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ..strands.context_layer import picked
from ..strands.strand import Strand, Tap
from ..tokens.token_bytes import Head, TokenTree, Way
from ..tokens.vocabulary import VocabularyMap
from .donors import DonorPath, crop_layers, walk
from .fusers import DonorStates


@dataclass
class Row:
    """One sequence of a batch: the text that donors read, and their paths.

    Attributes
    ----------
    ids : list of int
        The anchor's tokens, as far as donors read.
    hidden : Tensor (len(ids), width) or None
        The anchor's states there after the final norm, where donors hear it.
    donors : dict of str to DonorPath
    heads : dict of str to Head or None
        For each donor, the beginning of the text that it need not tokenise again.
    prompt : int or None
        How many columns donors read; None for all.
    beyond : int
        How many tokens came after those.
    shift : int
        How far the anchor's positions are ahead of the count of tokens.
    padding : list of int
        Which columns so far are padding.
    """

    ids: list[int] = field(default_factory=list)
    hidden: Tensor | None = None
    donors: dict[str, DonorPath] = field(default_factory=dict)
    heads: dict[str, Head | None] = field(default_factory=dict)
    prompt: int | None = None
    beyond: int = 0
    shift: int = 0
    padding: list[int] = field(default_factory=list)

    def prefixes(
        self, anchor: Strand, donor: Strand, new: int
    ) -> tuple[list[list[int]], list[list[Way]]]:
        """The donor's tokens for the text up to each of the last ``new`` positions.

        And for each of these positions, which of them are of its text.
        """
        if not new:
            return [], []
        rows, ways, self.heads[donor.name] = donor.tokens.of_growing_anchor(
            anchor.tokens, self.ids, new, self.heads.get(donor.name)
        )
        return rows, ways

    def extend(
        self,
        ids: Sequence[int],
        real: Sequence[bool],
        positions: Sequence[int] | None,
        prompt: int | None,
        start: int,
    ) -> tuple[list[int], list[int]]:
        """Append new columns, the first of which is column ``start`` of the text.

        Returns the columns that donors read, and those behind that part; padding, where
        ``real`` is False, is in neither.
        """
        stop = len(ids) if prompt is None else prompt - start
        columns = [c for c, is_real in enumerate(real) if is_real]
        if positions is not None:
            self._count([positions[c] for c in columns])
        empty = (start + c for c, is_real in enumerate(real) if not is_real)
        self.padding = [*self.padding, *empty]
        read, after = (
            [c for c in columns if c < stop],
            [c for c in columns if c >= stop],
        )
        self.prompt = prompt
        self.ids = [*self.ids, *(ids[c] for c in read)]
        self.beyond += len(after)
        return read, after

    def _count(self, positions: Sequence[int]) -> None:
        """Refuse positions of new tokens that do not go on one by one from here."""
        seen = len(self.ids) + self.beyond
        shifts = [position - seen - i for i, position in enumerate(positions)]
        known = shifts[0] if shifts and not seen else self.shift
        wrong = next((i for i, shift in enumerate(shifts) if shift != known), None)
        if wrong is not None:
            raise ValueError(
                f"position_ids has {positions[wrong]} where {known + seen + wrong} "
                "comes next; donors read a row as one text, from its first token on: "
                "give each text a row of its own, and leave position_ids out"
            )
        self.shift = known

    def hear(self, hidden: Tensor) -> None:
        """Append the anchor's states (n, width) at the last tokens that donors read."""
        known = [] if self.hidden is None else [self.hidden]
        self.hidden = torch.cat([*known, hidden])

    def crop(self, count: int) -> None:
        """Take back the last ``count`` columns; donors follow at the next step."""
        left = len(self.ids) + self.beyond + len(self.padding) - count
        # Padding among what is taken back is no token of the text.
        padding = [column for column in self.padding if column < left]
        tokens = max(left - len(padding), 0)
        self.beyond = max(tokens - len(self.ids), 0)
        self.ids, self.padding = self.ids[:tokens], padding
        self.hidden = None if self.hidden is None else self.hidden[:tokens]


class BraidCache(DynamicCache):
    """All state of running requests: pass it in, get it back, share nothing.

    The anchor's keys and values are this cache itself; ``rows`` holds the rest.
    ``prompt_length`` is for rows that are not begun yet, as in `BraidedLLM.forward`;
    ``long`` is whether the anchor read them as long texts (`Strand.turn`); ``said`` is
    what donors said at the places that the last step looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.said: dict[Any, Tensor] = {}
        self.prompt_length: int | Tensor | None = None
        self.long = False

    def expect(self, prompt_length: int | Tensor | None) -> None:
        """Say how long the prompts are of rows that are not begun yet."""
        self.prompt_length = prompt_length

    def restore(self, rows: list[Row], length: int) -> None:
        """Take back a step that was refused or stopped: it has not been read."""
        self.rows = rows
        crop_layers(self, length)

    def restart(self) -> None:
        """Begin again with the whole text, of which the prompts stay the same part."""
        prompts = [row.prompt for row in self.rows]
        self.reset()
        if None not in prompts:
            self.expect(torch.tensor(prompts))

    def _pick(self, indices: Sequence[int]) -> None:
        self.rows = picked(self.rows, indices, copy.deepcopy)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._pick(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._pick([i for i in range(len(self.rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        # A mask of the rows does as well as their numbers.
        self._pick(torch.arange(len(self.rows))[indices.cpu()].tolist())

    def reset(self) -> None:
        super().reset()
        self.rows, self.prompt_length, self.long = [], None, False
        self.said = {}

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        for row in self.rows if tokens_to_remove < 0 else ():
            row.crop(-tokens_to_remove)


@dataclass
class Step:
    """New columns of a batch: which of them donors read, and which come after.

    Attributes
    ----------
    rows : list of Row
        Each already ends with its new tokens.
    columns : per row, the columns that donors read
    after : per row, the columns behind the part that donors read
        Padding is in neither.
    length : int
        T, all columns.
    position_ids : Tensor (B, T) or None
        Where the anchor reads them; None for one after the other.
    reads : bool
        Whether donors read anything now, or there is nothing they should not.
    key : tuple of int
        What, beside the text, a donor's states depend on.
    """

    rows: list[Row]
    columns: list[list[int]]
    after: list[list[int]]
    length: int
    position_ids: Tensor | None
    reads: bool = field(init=False)
    key: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.reads = any(self.columns) or not any(self.after)
        self.key = tuple(map(len, self.columns))


def advance(
    anchor: Strand,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: BraidCache | None = None,
    *,
    fuse: str = "always",
    prompt_length: int | Tensor | None = None,
    followed: bool = False,
) -> Step:
    """Append this step's real tokens to each row; say which columns they are.

    Parameters
    ----------
    anchor : Strand
    input_ids : Tensor (B, T)
        The new columns.
    attention_mask : Tensor (B, n), optional
        Of all columns, those in the cache too.
    position_ids : Tensor (B, T) or (1, T), optional
    cache : BraidCache, optional
    fuse : {"always", "prompt"}
    prompt_length : int or Tensor (B,), optional
        As in `BraidedLLM.forward`.
    followed : bool
        Whether a donor follows the text, so that positions have to count its tokens.

    Raises
    ------
    ValueError
        On an empty batch, a cache of other rows or another prompt, prompts of other
        rows, padding between tokens that the anchor would count, short and long texts
        together where the anchor reads these with other positions, and positions that
        do not count the tokens of a row one by one.
    """
    B, T = input_ids.shape
    if B == 0 or T == 0:
        raise ValueError(
            f"received input_ids of shape {tuple(input_ids.shape)}; give at least "
            "one row with one token"
        )
    start = 0 if cache is None else cache.get_seq_length()
    places = _places(position_ids if followed else None, B, T)
    real = torch.ones(B, T, dtype=torch.bool)
    if attention_mask is not None:
        if attention_mask.shape != (B, start + T):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; expected "
                f"{(B, start + T)}: a row for each text, a column for each token, "
                "those in the cache too"
            )
        _refuse_gaps(attention_mask, anchor)
        real = attention_mask[:, -T:].bool().cpu()
        if position_ids is None:
            # Padding must not shift a token: positions count real tokens only.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
    long = _is_long(anchor, start + T, position_ids)
    if start and cache is not None and cache.long != long:
        raise ValueError(
            f"the cache holds {start} tokens; {anchor.name} reads texts of more than "
            f"{anchor.turn} tokens with other positions from the first token on; give "
            "the whole text with a new cache, as generate does"
        )
    rows = _rows(cache, B)
    if cache is not None and prompt_length is None and not cache.rows:
        prompt_length = cache.prompt_length
    prompts = _prompts(rows, start, T, fuse, prompt_length)
    new = zip(prompts, input_ids.tolist(), real.tolist(), places, strict=True)
    added = [
        row.extend(ids, mask, at, prompt, start)
        for row, (prompt, ids, mask, at) in zip(rows, new, strict=True)
    ]
    if cache is not None:
        cache.rows, cache.long = rows, long
    columns, after = [c for c, _ in added], [a for _, a in added]
    return Step(rows, columns, after, T, position_ids)


def _rows(cache: BraidCache | None, count: int) -> list[Row]:
    """Copies of the rows of before, which stay what they were, or as many new ones."""
    if cache is None or not cache.rows:
        return [Row() for _ in range(count)]
    if len(cache.rows) != count:
        raise ValueError(f"the cache holds {len(cache.rows)} rows, received {count}")
    return [replace(row) for row in cache.rows]


def _refuse_gaps(mask: Tensor, anchor: Strand) -> None:
    """Refuse padding between tokens where the anchor would count its columns.

    It would see less of the text, or take it for further away.
    """
    real = mask.long()
    # A column of padding with tokens on both sides of it.
    between = (real.cumsum(-1) > 0) & (real.flip(-1).cumsum(-1).flip(-1) > 0)
    if not bool((between & (real == 0)).any()):
        return
    if anchor.window is not None and mask.shape[1] > anchor.window:
        does = f"sees {anchor.window} columns back and would miss text"
    elif anchor.counts_columns:
        does = "counts columns, and would take what is before it for further away"
    else:
        return
    raise ValueError(
        f"attention_mask has padding between tokens; {anchor.name} {does}; pad on the "
        "left: tokenizer.padding_side = 'left'"
    )


def _is_long(anchor: Strand, length: int, position_ids: Tensor | None) -> bool:
    """Whether texts are long for the anchor (`Strand.turn`); refuse what is mixed."""
    if anchor.turn == math.inf:
        return False
    lengths = [length]
    if position_ids is not None:
        lengths = (position_ids.amax(-1) + 1).tolist()
    long = {length > anchor.turn for length in lengths}
    if len(long) > 1:
        raise ValueError(
            f"rows of {min(lengths)} to {max(lengths)} tokens in one batch: "
            f"{anchor.name} reads texts of more than {anchor.turn} tokens with other "
            "positions, and all rows alike; give longer and shorter texts apart"
        )
    return long.pop()


def _places(position_ids: Tensor | None, rows: int, new: int) -> list[Any]:
    """The position of each column, per row; None where they are not given."""
    if position_ids is None:
        return [None] * rows
    if position_ids.ndim != 2 or position_ids.shape not in ((1, new), (rows, new)):
        raise ValueError(
            f"position_ids has shape {tuple(position_ids.shape)}; expected "
            f"{(rows, new)}: one position for each token"
        )
    return position_ids.expand(rows, new).tolist()  # type: ignore[no-any-return]


def _prompts(
    rows: Sequence[Row], start: int, new: int, fuse: str, given: int | Tensor | None
) -> list[int | None]:
    """How many columns donors read, per row; None for all."""
    if fuse == "always":
        return [None] * len(rows)
    begun = [row.prompt for row in rows]
    if given is None:
        return [start + new if prompt is None else prompt for prompt in begun]
    lengths = torch.as_tensor(given)
    if lengths.shape not in ((), (1,), (len(rows),)):
        raise ValueError(
            f"prompt_length has shape {tuple(lengths.shape)}; expected one number, or "
            f"one for each of {len(rows)} rows"
        )
    prompts = lengths.expand(len(rows)).tolist()
    if min(prompts) < 1:
        raise ValueError(f"prompt_length is {given}; a prompt has at least one column")
    if start > 0 and begun != prompts:
        raise ValueError(
            f"the cache was begun with prompts of {begun} columns, received "
            f"prompt_length {given}; go on with the same, or with none"
        )
    return prompts


@dataclass
class Gathered:
    """What one donor makes of a step.

    Attributes
    ----------
    states : dict of Tap to DonorStates
    readings : ndarray (B, T) of Reading or None
        What its distribution is told by; None where it has no state beside a position.
        Empty where it is not asked for.
    """

    states: dict[Tap, DonorStates]
    readings: np.ndarray


def gather_rows(
    step: Step,
    anchor: Strand,
    donor: Strand,
    taps: Sequence[Tap],
    carrier: VocabularyMap | None = None,
) -> Gathered:
    """Advance one donor in every row and batch what the anchor may see of it.

    A position behind the part that donors read has no donor state beside it, and may
    look at all of that part. With a ``carrier`` the donor's distribution is asked for.
    """
    device, B, T = anchor.device, len(step.rows), step.length
    walked: list[dict[Tap, Tensor]] = []
    trees: list[tuple[TokenTree, list[list[Way]]]] = []
    readings = np.full((B, T) if carrier else (0, 0), None, dtype=object)
    for b, (row, columns) in enumerate(zip(step.rows, step.columns, strict=True)):
        path = row.donors.setdefault(donor.name, DonorPath())
        prefixes, ways = row.prefixes(anchor, donor, len(columns))
        known = list(path.ids)
        states, tree = walk(donor, path, prefixes, taps)
        walked.append(states)
        trees.append((tree, ways))
        if carrier is not None and columns:
            ids = [*known[: tree.past], *tree.tokens]
            read = _readings(row, anchor, donor, carrier, tree, ways, ids, states)
            readings[b, columns] = read
    size = max((states[taps[0]].shape[0] for states in walked), default=0)
    last = torch.full((B, T), -1, dtype=torch.long)
    visible = torch.zeros(B, T, size, dtype=torch.bool)
    for b, (tree, ways) in enumerate(trees):
        _mark(tree, ways, step.columns[b], step.after[b], last[b], visible[b])
    last, visible = last.to(device), visible.to(device)
    result = {}
    for tap in taps:
        padded = pad_sequence([states[tap] for states in walked], batch_first=True)
        result[tap] = DonorStates(padded.to(device), last, visible)
    return Gathered(result, readings)


def gather_branches(
    rows: Sequence[Row],
    counts: Sequence[int],
    anchor: Strand,
    donor: Strand,
    taps: Sequence[Tap],
    carrier: VocabularyMap | None = None,
) -> Gathered:
    """What one donor makes of the last positions of several texts with one beginning.

    The donor reads that beginning once. What comes back is of N positions, those of
    all texts one after the other, as of one row.

    Parameters
    ----------
    rows : sequence of Row
        A text each, which no donor has read.
    counts : sequence of int
        At how many of its last positions each is asked for.
    anchor, donor : Strand
    taps, carrier
        As in `gather_rows`.
    """
    prefixes: list[list[int]] = []
    ways: list[list[list[Way]]] = []
    for row, count in zip(rows, counts, strict=True):
        mine, of_text = row.prefixes(anchor, donor, count)
        first = len(prefixes)
        ways.append([[w._replace(row=w.row + first) for w in way] for way in of_text])
        prefixes += mine
    states, tree = walk(donor, DonorPath(), prefixes, taps)
    size, total = len(states[taps[0]]), sum(counts)
    readings = np.full((1, total) if carrier else (0, 0), None, dtype=object)
    last = torch.full((1, total), -1, dtype=torch.long)
    visible = torch.zeros(1, total, size, dtype=torch.bool)
    low = 0
    for row, count, of_text in zip(rows, counts, ways, strict=True):
        at = slice(low, low + count)
        _mark(tree, of_text, range(count), [], last[0, at], visible[0, at])
        if carrier is not None:
            readings[0, at] = _readings(
                row, anchor, donor, carrier, tree, of_text, tree.tokens, states
            )
        low += count
    last, visible = last.to(anchor.device), visible.to(anchor.device)
    found = {
        tap: DonorStates(states[tap][None].to(anchor.device), last, visible)
        for tap in taps
    }
    return Gathered(found, readings)


def _readings(
    row: Row,
    anchor: Strand,
    donor: Strand,
    carrier: VocabularyMap,
    tree: TokenTree,
    ways: Sequence[Sequence[Way]],
    ids: Sequence[int],
    states: dict[Tap, Tensor],
) -> np.ndarray:
    """How the donor may have read the text up to each of the last positions, (n,)."""
    first = len(row.ids) - len(ways)
    # Some tokenizers write a space before the text.
    space = b" " if donor.tokens.prepends_space else b""
    data = space + anchor.tokens.text(row.ids)
    every = (anchor.tokens.ends(row.ids) + len(space)).tolist()
    ends = every[first:]
    found = carrier.readings(
        [[(tree.seen[way.row], way.behind) for way in mine] for mine in ways],
        ids,
        states["final"],
        [data[max(end - carrier.longest, 0) : end] for end in ends],
        anchor.tokens.spellings(row.ids, first),
    )
    for n, (reading, end) in enumerate(zip(found, ends, strict=True)):
        if reading is not None:
            nodes = (
                node._replace(
                    beside=bisect_right(every, end - len(node.rest), hi=first + n + 1)
                    - 1
                )
                for node in reading.nodes
            )
            found[n] = replace(reading, nodes=tuple(nodes))
    return found


def certain(rows: Sequence[Sequence[int]], ways: Sequence[Way]) -> int:
    """Of a text that was read in two ways, which row has the tokens that it surely has.

    A first character that is white space leaves none: then the row that has some.
    """
    return next((way.row for way in ways if rows[way.row]), ways[-1].row)


def _mark(
    tree: TokenTree,
    ways: Sequence[Sequence[Way]],
    columns: Sequence[int],
    after: Sequence[int],
    last: Tensor,
    visible: Tensor,
) -> None:
    """Fill in for one row what each column sees, (T,) and (T, S)."""
    before: tuple[int, list[int]] = (0, [])
    done = 0
    for t, mine in zip(columns, ways, strict=True):
        way = certain(tree.seen, mine)
        tokens = tree.seen[way]
        keep = min(tree.kept[done : way + 1], default=len(tokens))
        # Most of what one position sees, the next one sees too.
        if keep:
            visible[t] = visible[before[0]]
            visible[t, before[1][keep:]] = False
        visible[t, tokens[keep:]] = True
        if tokens:
            last[t] = tokens[-1]
        before, done = (t, tokens), way + 1
    known = tree.seen[-1] if tree.seen else list(range(tree.past))
    for t in after:
        visible[t, known] = True
