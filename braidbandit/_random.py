"""The random numbers of an estimator: one sequence, which no two processes share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from braidbandit._checks import same
from braidbandit._forks import process_id


def seeded(random_state: Any) -> np.random.Generator:
    """Return the generator that a ``random_state`` stands for.

    Parameters
    ----------
    random_state : None, int, Generator, RandomState or anything NumPy seeds from
        A Generator or RandomState is not copied: both then draw from one sequence.

    Returns
    -------
    Generator

    Raises
    ------
    ValueError, TypeError
        When NumPy cannot seed from it.

    Examples
    --------
    >>> state = np.random.RandomState(0)
    >>> seeded(state).bit_generator is state._bit_generator
    True
    """
    if isinstance(random_state, np.random.RandomState):
        return np.random.Generator(random_state._bit_generator)
    return np.random.default_rng(random_state)


class RandomSequence:
    """The generator of an estimator, and the ``random_state`` it began with.

    Without a seed, a process that was forked or got a copy draws other numbers, so
    several of them do not explore in lockstep. With a seed it continues the sequence.

    Parameters
    ----------
    random_state : None, int, Generator or RandomState

    Raises
    ------
    ValueError, TypeError
        When NumPy cannot seed from it.

    Examples
    --------
    >>> draws = RandomSequence(0)
    >>> ahead = draws.ahead()
    >>> first = float(ahead.random())
    >>> float(draws.generator.random()) == first  # what was drawn ahead did not count
    True
    """

    def __init__(self, random_state: Any = None) -> None:
        self._begin(random_state)

    @property
    def generator(self) -> np.random.Generator:
        """The generator, at its present place in the sequence."""
        if self._seeded_in not in (None, process_id()):
            self.reseed()
        return self._generator

    def follows(self, random_state: Any) -> bool:
        """Whether this is the ``random_state`` that the sequence began with."""
        return same(random_state, self._random_state)

    def follow(self, random_state: Any) -> None:
        """Begin a new sequence if this is not the ``random_state`` of before."""
        if not self.follows(random_state):
            self._begin(random_state)

    def reseed(self) -> None:
        """Go on from fresh entropy, in this process."""
        self._generator, self._seeded_in = np.random.default_rng(), process_id()
        self._spare: np.random.Generator | None = None

    def resume(self, generator: np.random.Generator) -> None:
        """Go on with a sequence that was saved, wherever this process came from."""
        self._generator, self._seeded_in, self._spare = generator, None, None

    def copy(self) -> np.random.Generator:
        """Return an independent generator at the same place of the sequence."""
        return copy.deepcopy(self.generator)

    def ahead(self) -> np.random.Generator:
        """Return a generator at the same place, whose draws do not count yet.

        It is one object, set back by every call. What its ``bit_generator.state`` is
        after drawing makes the draws count, see :meth:`advance_to`.
        """
        now = self.generator
        if self._spare is None:
            self._spare = self.copy()
        else:
            self._spare.bit_generator.state = now.bit_generator.state
        return self._spare

    def advance_to(self, place: Mapping[str, Any]) -> None:
        """Go on behind what was drawn ahead: at this state of the bit generator."""
        self.generator.bit_generator.state = place

    def _begin(self, random_state: Any) -> None:
        if random_state is None:
            self.reseed()
        else:
            self.resume(seeded(random_state))
        self._random_state = random_state
