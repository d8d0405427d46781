"""What was measured of a model: checked, printed, kept as data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from braidbandit import ModelCard, Profile

PROFILE = Profile("transformers", "float32", 100.0, 0.03, 0.01, 0.0, 0.002, 1.5, 4_000)


def test_it_is_data_and_back():
    both = replace(PROFILE, engine="llama.cpp", layered=PROFILE)
    for profile in (PROFILE, both):
        data = json.loads(json.dumps(profile.to_dict()))
        assert Profile.read(data) == profile
    assert Profile.read(PROFILE) is PROFILE


def test_it_is_printed_for_people():
    assert PROFILE.tokens_per_s == 25.0
    assert str(PROFILE) == (
        "transformers, float32: reads 100 tokens/s, writes 25.0 tokens/s "
        "(body 30.00 ms, head 10.00 ms), 0 MB, loaded in 1.5 s"
    )


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"engine": "mlx"}, ValueError, "received 'mlx'"),
        ({"body_seconds": 0.0}, ValueError, "above 0"),
        ({"body_seconds": float("nan")}, ValueError, "received nan"),
        ({"prompt_tokens_per_s": float("inf")}, ValueError, "finite"),
        ({"fusing_seconds": -1.0}, ValueError, "at least 0"),
        ({"memory": True}, TypeError, "received True"),
        ({"memory": 10**400}, ValueError, "received 10000"),
        ({"memory": np.float32(1)}, TypeError, "is a number, received"),
        ({"head_seconds": "fast"}, TypeError, "received 'fast'"),
        ({"layered": 3}, TypeError, "a Profile or a dict"),
    ],
)
def test_what_is_no_measurement_is_refused(changes, error, says):
    with pytest.raises(error, match=says):
        replace(PROFILE, **changes)


def test_data_with_other_keys_is_refused():
    data = PROFILE.to_dict()
    with pytest.raises(KeyError, match="has the keys"):
        Profile.read({**data, "speed": 1})
    data.pop("memory")
    with pytest.raises(KeyError, match="has the keys"):
        Profile.read(data)


def test_a_strand_that_shows_its_layers_is_its_own():
    native = replace(PROFILE, engine="llama.cpp")
    assert PROFILE.at_layers() is PROFILE
    assert replace(native, layered=PROFILE).at_layers() == PROFILE
    with pytest.raises(ValueError, match="layers=True"):
        native.at_layers()


def test_a_card_takes_it_as_data_and_a_served_model_has_none():
    card = ModelCard("a", profile=PROFILE.to_dict())
    assert card.profile == PROFILE
    assert ModelCard.from_dict(card.to_dict()).profile == PROFILE
    assert card == ModelCard("a")
    with pytest.raises(ValueError, match="is served"):
        ModelCard("a", endpoint="http://h/v1", price=FREE, profile=PROFILE)
    with pytest.raises(ValueError, match="memory of 'a'"):
        ModelCard("a", memory=0)


FREE = {"input": 0, "output": 0}
