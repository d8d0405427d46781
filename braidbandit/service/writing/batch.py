"""Writing with a local model, one token of each text at a time.

A few texts of one model are written together: they are read side by side, padded on the
left. Between two tokens whoever calls does what else there is to do.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from braidbandit.catalogue.braid import Braid
from braidbandit.service.errors import ApiError
from braidbandit.service.wire.asking import Ask
from braidbandit.service.wire.prompts import prompt_of
from braidbandit.service.writing.contexts import room
from braidbandit.service.writing.flow import Delta, Done, Failed, Flow


@dataclass
class Job:
    """One text to write.

    Attributes
    ----------
    braid : Braid
    ask : Ask
    most_tokens : int
    deadline : float
        On the monotonic clock.
    flow : Flow
    """

    braid: Braid
    ask: Ask
    most_tokens: int
    deadline: float
    flow: Flow

    def goes_with(self, other: Job) -> bool:
        """Whether both may be written together; one with a seed is written alone."""
        alone = self.ask.seed is not None or other.ask.seed is not None
        return not alone and self.braid.id == other.braid.id


class Writing:
    """Texts that one model writes together.

    Parameters
    ----------
    model : BraidedLLM
    jobs : sequence of Job
    """

    def __init__(self, model: Any, jobs: Sequence[Job]) -> None:
        self._model = model
        begun = time.monotonic()
        self._rows = [
            row for job in jobs if (row := _row_of(model, job, begun)) is not None
        ]
        self._cache: Any = None
        self._new, self._mask = self._padded()

    def __len__(self) -> int:
        return len(self._rows)

    def step(self) -> bool:
        """Write one more token of each text; whether there is more to write."""
        import torch

        self._keep([not row.is_over() for row in self._rows])
        if not self._rows:
            return False
        with torch.no_grad():
            out = self._read()
            tokens = [
                row.choose(logits)
                for row, logits in zip(self._rows, out.logits[:, -1], strict=True)
            ]
        for row, token in zip(self._rows, tokens, strict=True):
            row.take(token)
        ones = self._mask.new_ones(len(tokens), 1)
        self._new = self._mask.new_tensor(tokens)[:, None]
        self._mask = torch.cat([self._mask, ones], dim=1)
        self._keep([not row.is_over() for row in self._rows])
        return bool(self._rows)

    def fail(self, error: Exception) -> None:
        """Tell all who wait that there is no more."""
        for row in self._rows:
            row.job.flow.put(Failed(error))
        self._rows = []

    def _read(self) -> Any:
        model, longest = self._model, self._mask.shape[1]
        turns = longest > model.anchor.turn >= longest - self._new.shape[1]
        if self._cache is not None and turns:
            # From here on the anchor reads with other positions, from the first token.
            return self._read_anew()
        return self._forward(self._new, {})

    def _read_anew(self) -> Any:
        whole = [row.prompt + row.written for row in self._rows]
        self._cache = None
        ids, self._mask = self._side_by_side(whole)
        written = len(self._rows[0].written)
        return self._forward(ids, {"prompt_length": ids.shape[1] - written})

    def _forward(self, ids: Any, more: dict[str, Any]) -> Any:
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **more,
        )
        self._cache = out.cache
        return out

    def _padded(self) -> tuple[Any, Any]:
        return self._side_by_side([row.prompt for row in self._rows])

    def _side_by_side(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        import torch

        longest = max(map(len, rows), default=0)
        fill = self._model.generation_config.pad_token_id or 0
        ids = [[fill] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _keep(self, kept: Sequence[bool]) -> None:
        """Go on with some of the rows only."""
        if all(kept):
            return
        import torch

        rows = [row for row, keep in zip(self._rows, kept, strict=True) if keep]
        places = [i for i, keep in enumerate(kept) if keep]
        self._rows = rows
        if not rows:
            self._cache = None
            return
        index = torch.tensor(places, device=self._mask.device)
        self._new, self._mask = self._new[index], self._mask[index]
        if self._cache is not None:
            self._cache.batch_select_indices(index)


class _Row:
    """One text: what was written, what may be shown of it, and whether it is over."""

    def __init__(
        self, job: Job, prompt: list[int], limit: int, begun: float, model: Any
    ) -> None:
        self.job, self.prompt, self.limit = job, prompt, limit
        self.written: list[int] = []
        self._begun, self._first = begun, 0.0
        self._table, self._ends = model.anchor.tokens, _ends(model)
        self._text = _Text(job.ask.stops)
        self._sampler = _Sampler(job.ask, model.generation_config)
        self._over = False

    def choose(self, logits: Any) -> int:
        """Pick the next token."""
        return self._sampler.choose(logits, self.prompt, self.written)

    def take(self, token: int) -> None:
        """Add a token, and hand over what is certain of the text."""
        if not self._first:
            self._first = time.monotonic() - self._begun
        if token in self._ends:
            self._finish("stop")
            return
        self.written.append(token)
        piece = self._text.add(self._table.join([token]))
        if piece:
            self.job.flow.put(Delta({"content": piece}))
        if self._text.stopped:
            self._finish("stop", flush=False)
        elif len(self.written) >= self.limit:
            self._finish("length")

    def is_over(self) -> bool:
        """Whether nothing more is to be written; looks at the clock, too."""
        if self._over:
            return True
        if self.job.flow.cancelled:
            self._finish("stop", cut="the client has gone")
        elif time.monotonic() > self.job.deadline:
            self._finish("length", cut="the deadline has passed")
        return self._over

    def _finish(self, finish: str, *, cut: str = "", flush: bool = True) -> None:
        self._over = True
        rest = self._text.rest() if flush else ""
        if rest:
            self.job.flow.put(Delta({"content": rest}))
        seconds = time.monotonic() - self._begun
        read, written = len(self.prompt), len(self.written)
        first = self._first or seconds
        self.job.flow.put(Done(finish, read, written, first, seconds, None, cut))


class _Text:
    """Bytes as text, up to the first of some words at which it stops."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """Take bytes; return text that can no longer become part of a stop."""
        self._held += self._decoder.decode(data)
        places = [at for s in self._stops if (at := self._held.find(s)) >= 0]
        if places:
            self.stopped = True
            return self._held[: min(places)]
        kept = max((_overlap(self._held, s) for s in self._stops), default=0)
        shown = self._held[: len(self._held) - kept]
        self._held = self._held[len(shown) :]
        return shown

    def rest(self) -> str:
        """Return what was held back; a character that is not whole is left out."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop.

    Examples
    --------
    >>> _overlap("so it en", "end"), _overlap("so it", "end")
    (2, 0)
    """
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class _Sampler:
    """How the next token is picked: as asked, else as the model's files say."""

    def __init__(self, ask: Ask, config: Any) -> None:
        drawn = bool(config.do_sample)
        own = config.temperature if drawn else 0.0
        self._temperature = ask.temperature if ask.temperature is not None else own
        self._top_p = ask.top_p or (config.top_p if drawn else None) or 1.0
        top_k = config.top_k if drawn else None
        self._top_k = (ask.top_k if ask.top_k is not None else top_k) or 0
        min_p = getattr(config, "min_p", None) if drawn else None
        self._min_p = (ask.min_p if ask.min_p is not None else min_p) or 0.0
        self._penalty = config.repetition_penalty or 1.0
        self._generator: Any = None
        self._seed = ask.seed

    def choose(self, logits: Any, prompt: list[int], written: list[int]) -> int:
        """Pick a token by its logits (V,)."""
        import torch

        logits = logits.float()
        if self._penalty != 1.0:
            seen = logits.new_tensor(prompt + written, dtype=torch.long).unique()
            seen = seen[seen < len(logits)]
            old = logits[seen]
            logits = logits.clone()
            logits[seen] = torch.where(
                old < 0, old * self._penalty, old / self._penalty
            )
        if not self._temperature:
            return int(logits.argmax())
        order = torch.sort(logits / self._temperature, descending=True)
        chances = order.values.softmax(-1)
        chances = chances * self._kept(chances)
        place = torch.multinomial(
            chances.cpu(), 1, generator=self._generator_of(logits)
        )
        return int(order.indices[int(place)])

    def _kept(self, chances: Any) -> Any:
        """Which of the chances, largest first, may be drawn."""
        kept = chances.cumsum(-1) - chances < self._top_p
        kept &= chances >= self._min_p * chances[0]
        if self._top_k > 0:
            kept[self._top_k :] = False
        kept[0] = True
        return kept

    def _generator_of(self, _logits: Any) -> Any:
        import torch

        if self._generator is None:
            self._generator = torch.Generator()
            if self._seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._seed % 2**63)
        return self._generator


def _row_of(model: Any, job: Job, begun: float) -> _Row | None:
    """Return a job as a row; None, and it is told why, where it cannot be written."""
    try:
        prompt = prompt_of(model.tokenizer, job.ask)
        ids = model.anchor.tokens.read(prompt)
        limit = min(job.most_tokens, _room(model, prompt, len(ids), job.ask))
        return _Row(job, ids, limit, begun, model)
    except Exception as error:
        job.flow.put(Failed(error))
        return None


def _room(model: Any, prompt: str, length: int, ask: Ask) -> int:
    """How many tokens may be written before some strand has read all that it can.

    Raises
    ------
    ApiError
        When there is none left.
    """
    if not length:
        raise ApiError(
            400,
            "the prompt has no token; give some text",
            param="messages" if ask.is_chat else "prompt",
        )
    counts = [
        0 if donor.positions is None else len(donor.tokens.read(prompt))
        for donor in model.donors
    ]
    found = room([model.anchor, *model.donors], [length, *counts])
    if found.left < 1:
        raise found.error(ask, "shorten it, or ask for a model that reads more")
    return found.left


def _ends(model: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    found = model.generation_config.eos_token_id
    listed = found if isinstance(found, list) else [found]
    return frozenset(model.anchor.ends) | {i for i in listed if i is not None}
