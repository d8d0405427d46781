"""What a request remembers: the anchor's keys and values, and each donor's path."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ..strands.strand import Strand, Tap
from ..tokens.alignment import Head, common_prefix, complete_text
from .donors import DonorPath, DonorStates, walk


@dataclass
class Row:
    """One sequence of a batch: the text that donors read, and their paths.

    Attributes
    ----------
    ids : list of int
        The anchor's tokens, as far as donors read.
    donors : dict of str to DonorPath
    heads : dict of str to Head or None
        For each donor, the beginning of the text that it need not tokenise again.
    prompt : int or None
        How many columns donors read; None for all.
    beyond : int
        How many tokens came after those.
    shift : int
        How far the anchor's positions are ahead of the count of tokens.
    """

    ids: list[int] = field(default_factory=list)
    donors: dict[str, DonorPath] = field(default_factory=dict)
    heads: dict[str, Head | None] = field(default_factory=dict)
    prompt: int | None = None
    beyond: int = 0
    shift: int = 0

    def prefixes(self, anchor: Strand, donor: Strand, new: int) -> list[list[int]]:
        """The donor's tokens for the text up to each of the last ``new`` positions."""
        if not new:
            return []
        first = len(self.ids) - new
        if donor.tokens.key == anchor.tokens.key:
            return [self.ids[: t + 1] for t in range(first, len(self.ids))]
        data = anchor.tokens.text(self.ids)
        ends = anchor.tokens.ends(self.ids)[first:].tolist()
        found, head = donor.tokens.encode_growing(
            [complete_text(data[:end]) for end in ends],
            self.heads.get(donor.name),
            # What comes in is refused with the reason. What the anchor then writes is
            # read as nearly as the donor can: no request ends in the middle.
            verify=first == 0,
        )
        self.heads[donor.name] = head
        return found

    def crop(self, count: int) -> None:
        """Take back the last ``count`` tokens; donors follow at the next step."""
        beyond = max(self.beyond - count, 0)
        count -= self.beyond - beyond
        # Padding in front of the text may be among what is taken back.
        self.beyond, self.ids = beyond, self.ids[: max(len(self.ids) - count, 0)]


class BraidCache(DynamicCache):
    """All state of running requests: pass it in, get it back, share nothing.

    The anchor's keys and values are this cache itself; ``rows`` holds the rest.
    ``prompt_length`` is for rows that are not begun yet, as in `BraidedLLM.forward`;
    ``long`` is whether the anchor read them as long texts (`Strand.turn`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.prompt_length: int | Tensor | None = None
        self.long = False

    def _pick(self, indices: Sequence[int]) -> None:
        taken: set[int] = set()
        rows = []
        for i in indices:
            # The first to follow a row keeps it: a copy of it is dear.
            rows.append(copy.deepcopy(self.rows[i]) if i in taken else self.rows[i])
            taken.add(i)
        self.rows = rows

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._pick(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._pick([i for i in range(len(self.rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._pick(indices.tolist())

    def reset(self) -> None:
        super().reset()
        self.rows, self.prompt_length, self.long = [], None, False

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
    """

    rows: list[Row]
    columns: list[list[int]]
    after: list[list[int]]
    length: int

    @property
    def reads(self) -> bool:
        """Whether donors read anything now, or there is nothing they should not."""
        return any(self.columns) or not any(self.after)

    @property
    def key(self) -> tuple[int, ...]:
        """What, beside the text, a donor's states depend on."""
        return tuple(map(len, self.columns))


def advance(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    cache: BraidCache | None,
    fuse: str = "always",
    prompt_length: int | Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Step:
    """Append this step's real tokens to each row; say which columns they are.

    Raises ValueError on an empty batch, on a cache of other rows or another prompt, and
    on ``position_ids`` that do not count the tokens of a row one by one.
    """
    B, T = input_ids.shape
    if B == 0 or T == 0:
        raise ValueError(
            f"received input_ids of shape {tuple(input_ids.shape)}; give at least "
            "one row with one token"
        )
    # Copies: the rows of before stay what they were (see `Braiding.encode`).
    rows = [] if cache is None else [replace(row) for row in cache.rows]
    rows = rows or [Row() for _ in range(B)]
    if len(rows) != B:
        raise ValueError(f"the cache holds {len(rows)} rows, received {B}")
    start = 0 if cache is None else cache.get_seq_length()
    if cache is not None and prompt_length is None and not cache.rows:
        prompt_length = cache.prompt_length
    if attention_mask is not None and attention_mask.shape != (B, start + T):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected "
            f"{(B, start + T)}: a row for each text, a column for each token, those in "
            "the cache too"
        )
    prompts = _prompts(rows, start, T, fuse, prompt_length)
    real = torch.ones(B, T, dtype=torch.bool)
    if attention_mask is not None:
        real = attention_mask[:, -T:].bool().cpu()
    step = Step(rows, [], [], T)
    places = _places(position_ids, B, T)
    for row, prompt, ids, mask, at in zip(
        rows, prompts, input_ids.tolist(), real.tolist(), places, strict=True
    ):
        row.prompt = prompt
        stop = T if prompt is None else prompt - start
        step.columns.append([c for c in range(T) if mask[c] and c < stop])
        step.after.append([c for c in range(T) if mask[c] and c >= stop])
        if at is not None:
            _count(row, [at[c] for c in range(T) if mask[c]])
        row.ids = [*row.ids, *(ids[c] for c in step.columns[-1])]
        row.beyond += len(step.after[-1])
    if cache is not None:
        cache.rows = rows
    return step


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


def _count(row: Row, positions: Sequence[int]) -> None:
    """Refuse positions of new tokens that do not go on one by one from the row's."""
    seen = len(row.ids) + row.beyond
    shifts = [position - seen - i for i, position in enumerate(positions)]
    known = shifts[0] if shifts and not seen else row.shift
    wrong = next((i for i, shift in enumerate(shifts) if shift != known), None)
    if wrong is not None:
        raise ValueError(
            f"position_ids has {positions[wrong]} where {known + seen + wrong} comes "
            "next; donors read a row as one text, from its first token on: give each "
            "text a row of its own, and leave position_ids out"
        )
    row.shift = known


def _prompts(
    rows: Sequence[Row], start: int, new: int, fuse: str, given: int | Tensor | None
) -> list[int | None]:
    """How many columns donors read, per row; None for all."""
    if fuse == "always":
        return [None] * len(rows)
    begun = [row.prompt for row in rows]
    if given is None:
        return [start + new if prompt is None else prompt for prompt in begun]
    prompts = torch.as_tensor(given).expand(len(rows)).tolist()
    if min(prompts) < 1:
        raise ValueError(f"prompt_length is {given}; a prompt has at least one column")
    if start > 0 and begun != prompts:
        raise ValueError(
            f"the cache was begun with prompts of {begun} columns, received "
            f"prompt_length {given}; go on with the same, or with none"
        )
    return prompts


def gather_rows(
    step: Step, anchor: Strand, donor: Strand, taps: Sequence[Tap]
) -> dict[Tap, DonorStates]:
    """Advance one donor in every row and batch what the anchor may see of it.

    A position behind the part that donors read has no donor state beside it, and may
    look at all of that part.
    """
    device, B, T = anchor.device, len(step.rows), step.length
    per_row: list[tuple[dict[Tap, Tensor], list[list[int]]]] = []
    for row, cols in zip(step.rows, step.columns, strict=True):
        path = row.donors.setdefault(donor.name, DonorPath())
        per_row.append(walk(donor, path, row.prefixes(anchor, donor, len(cols)), taps))
    size = max((s[taps[0]].shape[0] for s, _ in per_row), default=0)
    last = torch.full((B, T), -1, dtype=torch.long)
    visible = torch.zeros(B, T, size, dtype=torch.bool)
    for b, (row, (_, seen)) in enumerate(zip(step.rows, per_row, strict=True)):
        before: tuple[int, list[int]] = (0, [])
        for t, tokens in zip(step.columns[b], seen, strict=True):
            # Most of what one position sees, the next one sees too.
            keep = common_prefix(before[1], tokens)
            if keep:
                visible[b, t] = visible[b, before[0]]
                visible[b, t, before[1][keep:]] = False
            visible[b, t, tokens[keep:]] = True
            if tokens:
                last[b, t] = tokens[-1]
            before = t, tokens
        known = seen[-1] if seen else list(range(len(row.donors[donor.name].ids)))
        for t in step.after[b]:
            visible[b, t, known] = True
    last, visible = last.to(device), visible.to(device)
    result = {}
    for tap in taps:
        states = pad_sequence([s[tap] for s, _ in per_row], batch_first=True)
        result[tap] = DonorStates(states.to(device), last, visible)
    return result
