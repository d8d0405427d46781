"""The texts of a calibration: what may be given, and which of them are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from ..strands.strand import Strand

MIN_TEXTS = 12
HELD_OUT_EVERY = 6


def plain_text(text: str | Mapping[str, Any]) -> str:
    """One calibration text as a string.

    Parameters
    ----------
    text : str, or dict with ``prompt`` and ``reference``

    Returns
    -------
    str
        Of a dict, the prompt and the reference with a line break between them.

    Raises
    ------
    TypeError
        For what is neither a string nor a mapping, or has None as one of these.
    KeyError
        For a mapping without ``prompt`` or ``reference``.

    Examples
    --------
    >>> plain_text({"prompt": "6 * 7?", "reference": "42"})
    '6 * 7?\\n42'
    """
    if isinstance(text, str):
        return text
    if not isinstance(text, Mapping):
        raise TypeError(
            f"a calibration text is a string or a mapping, received {text!r}"
        )
    try:
        parts = {key: text[key] for key in ("prompt", "reference")}
    except KeyError as error:
        raise KeyError(
            f"a calibration text is a string or has 'prompt' and 'reference'; "
            f"received {sorted(map(str, text))}"
        ) from error
    for key, part in parts.items():
        if part is None:
            raise TypeError(f"{key!r} is None in a calibration text; leave it out")
    return f"{parts['prompt']}\n{parts['reference']}"


def plain_texts(texts: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """All calibration texts as strings.

    Parameters
    ----------
    texts : sequence of str, or of dicts with ``prompt`` and ``reference``

    Returns
    -------
    list of str

    Raises
    ------
    TypeError
        For one text, a whole table, a dict or a set in place of a list, and as
        `plain_text`.
    ValueError
        For fewer than `MIN_TEXTS` texts, or an empty one.
    """
    _refuse_kind(texts)
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"received {len(texts)} calibration texts; give at least {MIN_TEXTS}"
        )
    plain = [plain_text(text) for text in texts]
    empty = [i for i, text in enumerate(plain) if not text.strip()]
    if empty:
        raise ValueError(f"calibration text {empty[0]} is empty; leave it out")
    return plain


def _refuse_kind(texts: Any) -> None:
    if isinstance(texts, str | bytes | Mapping | Set) or hasattr(texts, "columns"):
        raise TypeError(
            f"texts is a {type(texts).__name__}; give a list of texts, or the column "
            "of a table that holds them"
        )


def checked_questions(
    texts: Sequence[str | Mapping[str, Any]],
) -> list[tuple[str, tuple[str, ...], int]]:
    """Prompt, choices and index of the right one, of questions to calibrate on.

    Parameters
    ----------
    texts : sequence of dicts with ``prompt``, ``choices`` and ``answer``

    Raises
    ------
    TypeError
        As `plain_texts`, and for what is no mapping.
    KeyError
        For a mapping without these keys.
    ValueError
        For fewer than `MIN_TEXTS`, an empty prompt or choice, fewer than two choices,
        equal ones, or an answer that is none of them.
    """
    _refuse_kind(texts)
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"received {len(texts)} questions to calibrate on; give at least "
            f"{MIN_TEXTS}"
        )
    return [_checked_question(i, text) for i, text in enumerate(texts)]


def _checked_question(
    number: int, text: str | Mapping[str, Any]
) -> tuple[str, tuple[str, ...], int]:
    if not isinstance(text, Mapping):
        raise TypeError(
            "with objective=\"choice\" a text is a mapping with 'prompt', 'choices' "
            f"and 'answer'; question {number} is {text!r}"
        )
    try:
        prompt, choices, answer = (text[k] for k in ("prompt", "choices", "answer"))
    except KeyError as error:
        raise KeyError(
            f"question {number} has the keys {sorted(map(str, text))}; expected "
            "'prompt', 'choices' and 'answer'"
        ) from error
    good = not isinstance(choices, str) and len(choices) > 1 and all(choices)
    if not prompt or not good or len(set(choices)) < len(choices):
        raise ValueError(
            f"question {number} has the prompt {prompt!r} and the choices {choices!r}; "
            "give a prompt, and at least two choices, none of them empty or equal"
        )
    if isinstance(answer, bool) or answer not in range(len(choices)):
        raise ValueError(
            f"the answer of question {number} is {answer!r}; give an index from 0 to "
            f"{len(choices) - 1}"
        )
    return str(prompt), tuple(map(str, choices)), int(answer)


def within_budget(texts: Sequence[str], anchor: Strand, budget: int) -> list[str]:
    """Some of the texts, those of `numbers_within_budget`, in their order."""
    return [texts[i] for i in numbers_within_budget(texts, anchor, budget)]


def numbers_within_budget(
    texts: Sequence[str], anchor: Strand, budget: int
) -> list[int]:
    """Numbers of some of the texts, together of at most so many tokens of the anchor.

    Parameters
    ----------
    texts : sequence of str
    anchor : Strand
        Whose tokens are counted.
    budget : int
        Tokens at most.

    Returns
    -------
    list of int
        Drawn at random, always the same ones, in ascending order.

    Raises
    ------
    ValueError
        Where the budget does not pay for `MIN_TEXTS` texts.
    """
    if not budget >= 1:
        raise ValueError(f"received a budget of {budget} tokens; give at least 1")
    left = budget
    chosen: list[int] = []
    order: list[int] = np.random.default_rng(0).permutation(len(texts)).tolist()
    for i in order:
        left -= len(anchor.tokens.read(texts[i]))
        if left < 0:
            break
        chosen.append(i)
    if len(chosen) < MIN_TEXTS:
        raise ValueError(
            f"a budget of {budget} tokens pays for {len(chosen)} of {len(texts)} "
            f"texts; give more, or shorter texts: at least {MIN_TEXTS} are needed"
        )
    return sorted(chosen)


def split(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the texts to train on, and of those that are held out.

    Parameters
    ----------
    count : int
        How many texts there are.
    seed : int

    Returns
    -------
    training, held_out : list of int
        In ascending order; one text in `HELD_OUT_EVERY` is held out.

    Examples
    --------
    >>> training, held_out = split(12, seed=0)
    >>> len(training), len(held_out), sorted(training + held_out) == list(range(12))
    (10, 2, True)
    """
    order = np.random.default_rng(seed).permutation(count).tolist()
    held_out = sorted(order[::HELD_OUT_EVERY])
    return sorted(set(order) - set(held_out)), held_out
