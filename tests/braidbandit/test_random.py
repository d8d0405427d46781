"""Random numbers: one sequence, looked ahead in without counting."""

import numpy as np
import pytest

from braidbandit._random import RandomSequence, seeded


def test_what_is_drawn_ahead_counts_once_it_is_said():
    draws = RandomSequence(3)
    expected = np.random.default_rng(3).random(4)
    assert draws.ahead().random(2).tolist() == expected[:2].tolist()
    ahead = draws.ahead()
    assert ahead.random(2).tolist() == expected[:2].tolist()
    draws.advance_to(ahead.bit_generator.state)
    assert draws.generator.random(2).tolist() == expected[2:].tolist()


@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.RandomState])
def test_a_generator_that_is_given_goes_on_where_it_is(kind):
    given = kind(7)
    draws = RandomSequence(given)
    ahead = draws.ahead()
    drawn = ahead.random()
    draws.advance_to(ahead.bit_generator.state)
    assert kind(7).random() == drawn
    assert given.random() != drawn  # it has moved on, with the sequence


def test_another_seed_begins_another_sequence():
    draws = RandomSequence(0)
    first = draws.generator.random()
    draws.follow(0)
    assert draws.generator.random() != first
    draws.follow(1)
    assert draws.generator.random() == np.random.default_rng(1).random()
    assert draws.follows(1)
    assert not draws.follows(None)


def test_without_a_seed_a_copied_process_draws_for_itself(monkeypatch):
    draws = RandomSequence()
    here = draws.copy().random()
    monkeypatch.setattr("braidbandit._random.process_id", lambda: "another")
    assert draws.generator.random() != here


def test_seeds():
    assert seeded(5).random() == np.random.default_rng(5).random()
    with pytest.raises(ValueError, match="seed|negative"):
        seeded(-1)
