"""The encoder whose features are learnt from: what may change of it, and what not."""

import numpy as np
import pytest
from learnt import TASKS, fingerprint
from toy_embedder import embed

from braidbandit import TaskEncoder
from braidbandit.recommender.encoder_in_use import EncoderInUse, settings_of


def other_embed(texts):
    return embed(texts)[:, ::-1]


@pytest.fixture
def given():
    return TaskEncoder(embedder=embed, n_components=4, types=["code", "law"])


def test_an_encoder_that_is_not_fitted_is_copied(given):
    used = EncoderInUse(given)
    assert used.encoder is not given
    assert used.hash == given.projection_hash()
    found = used.fitted([f"task {i}" for i in range(8)])
    assert not given.__sklearn_is_fitted__()
    assert not used.encoder.__sklearn_is_fitted__()
    assert found.hash == found.encoder.projection_hash() != used.hash
    assert found.fitted(["other"]) is found


def test_a_fitted_encoder_is_used_as_it_is(given):
    given.fit([f"task {i}" for i in range(8)])
    assert EncoderInUse(given).encoder is given


def test_without_one_there_is_the_default():
    used = EncoderInUse(None)
    assert used.hash == TaskEncoder().projection_hash()
    used.check_kept(None, True)
    assert settings_of(None) == {}


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"n_components": 5},
        {"embedder": other_embed},
        {"types": ["law", "code"]},
        {"types": ["code"]},
        {"random_state": 7},
    ],
    ids=", ".join,
)
def test_what_enters_the_features_is_kept(given, change, learnt):
    known = given.get_params()
    used = EncoderInUse(given)
    given.set_params(**change)
    with pytest.raises(ValueError, match=rf"\['{next(iter(change))}'\], changed after"):
        used.check_kept(given, learnt)
    given.set_params(**{name: known[name] for name in change})
    used.check_kept(given, learnt)


def test_a_list_of_types_that_is_changed_in_place_is_noticed(given):
    used = EncoderInUse(given)
    given.types.append("tax")
    with pytest.raises(ValueError, match=r"\['types'\], changed"):
        used.check_kept(given, True)
    given.types.remove("tax")
    used.check_kept(given, True)


def test_where_embeddings_are_kept_is_taken_over(given, tmp_path):
    used = EncoderInUse(given)
    before = used.hash
    given.set_params(cache_dir=tmp_path, cache_bytes=10**6)
    used.check_kept(given, True)
    assert used.encoder.cache_dir == tmp_path
    assert used.encoder.cache_bytes == 10**6
    assert used.hash == before


@pytest.mark.parametrize("other", ["equal", None])
def test_another_encoder_is_refused_even_an_equal_one(given, other):
    used = EncoderInUse(given)
    other = TaskEncoder(**given.get_params()) if other == "equal" else None
    with pytest.raises(ValueError, match="encoder changed after learning began"):
        used.check_kept(other, False)


def test_one_that_is_fitted_anew_is_refused_once_something_was_learnt(given):
    given.fit([f"task {i}" for i in range(8)])
    used = EncoderInUse(given)
    given.fit([f"other {i}" for i in range(8)])
    with pytest.raises(ValueError, match="fitted anew or set otherwise"):
        used.check_kept(given, True)
    used.check_kept(given, False)
    assert used.hash == given.projection_hash()
    used.check_kept(given, True)


@pytest.mark.parametrize("call", ["recommend", "update", "partial_fit", "predict"])
def test_a_recommender_refuses_before_anything_changes(agent, encoder, call):
    decision = agent.recommend(TASKS[0])
    agent.update(agent.recommend(TASKS[1]), 0.5)
    before = fingerprint(agent)
    arguments = {
        "recommend": ("x",),
        "update": (decision, 0.5),
        "partial_fit": (["x"], [agent.catalogue.ids[0]]),
        "predict": (["x"],),
    }[call]
    encoder.set_params(n_components=3)
    with pytest.raises(ValueError, match=r"\['n_components'\], changed"):
        getattr(agent, call)(*arguments)
    assert fingerprint(agent) == before
    encoder.set_params(n_components=4)
    getattr(agent, call)(*arguments)


def test_the_first_fit_fits_the_copy_and_later_ones_leave_it(agent, encoder):
    arms = [agent.catalogue.ids[0]] * 12
    agent.fit(TASKS[:12], arms)
    fitted, mark = agent.encoder_, agent.encoder_hash_
    features = fitted.features(TASKS[20:22])
    agent.fit(TASKS[12:24], arms).partial_fit(TASKS[24:36], arms)
    assert agent.encoder_ is fitted
    assert agent.encoder_hash_ == mark
    np.testing.assert_array_equal(fitted.features(TASKS[20:22]), features)
    assert not encoder.__sklearn_is_fitted__()
