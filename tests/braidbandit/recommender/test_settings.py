"""Settings of a recommender: what is changed is noticed, by whatever way it was."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import (
    BraidRecommender,
    Catalogue,
    DriftMonitor,
    Greedy,
    PriorScales,
    TaskEncoder,
    Uniform,
)
from braidbandit.recommender.settings import LearningSettings, check_settings

TYPES = ["code", "law", "other"]
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(12)]
TASK = TASKS[0]


def taught(catalogue, fitted, **settings):
    """A recommender that decided and learnt, with an encoder of its own."""
    encoder = TaskEncoder(embedder=embed, n_components=4, types=list(TYPES))
    if fitted:
        encoder.fit(TASKS)
    agent = BraidRecommender(catalogue, encoder, random_state=0, **settings)
    agent.update(agent.recommend(TASK), 0.5)
    agent.recommend(TASK)
    return agent


@pytest.fixture(params=[True, False], ids=["fitted", "projected"])
def learner(request, catalogue):
    return taught(catalogue, request.param)


COPIES = {
    "itself": lambda agent, folder: agent,
    "deepcopy": lambda agent, folder: copy.deepcopy(agent),
    "pickle": lambda agent, folder: pickle.loads(pickle.dumps(agent)),
}


@pytest.fixture(params=COPIES, ids=str)
def agent(request, learner, tmp_path):
    """A recommender that has checked its settings, or a copy of one."""
    return COPIES[request.param](learner, tmp_path)


BAD = {
    "price": (float("nan"), "price"),
    "switching_cost": (10**400, "switching_cost"),
    "mean_cost": (2.0, "mean_cost"),
    "policy": ("greedy", "policy"),
    "drift": (3, "drift"),
    "prior": (PriorScales(noise=0.4), "prior"),
    "max_parameters": (0, "max_parameters"),
    "forgetting": (0.0, "forgetting"),
    "catalogue": (None, "catalogue"),
    "encoder": (TaskEncoder(embedder=embed), "encoder"),
    "random_state": ("seed", None),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("by", [setattr, lambda a, n, v: a.set_params(**{n: v})])
def test_a_bad_setting_is_refused_by_the_next_call(agent, name, by):
    value, message = BAD[name]
    before = getattr(agent, name)
    by(agent, name, value)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=message):
            agent.recommend(TASK)
    by(agent, name, before)
    agent.recommend(TASK)


def test_a_good_setting_is_in_force_at_once(agent):
    for policy in (Greedy(), Uniform(), None):
        agent.policy = policy
        expected = "ThompsonSampling" if policy is None else type(policy).__name__
        assert agent.recommend(TASK).policy == expected
    agent.set_params(price=0.0)
    free = agent.decision_function([TASK])
    agent.set_params(price=0.5)
    assert not np.array_equal(agent.decision_function([TASK]), free)
    agent.random_state = 7
    first = [agent.recommend(TASK).braid.id for _ in range(3)]
    assert agent.draws_.follows(7)
    assert len(first) == 3


def test_settings_that_are_set_back_are_those_in_force(agent):
    """A change that was followed half before it was refused is followed back."""
    agent.set_params(policy=Greedy(), random_state="no seed")
    with pytest.raises((TypeError, ValueError)):
        agent.recommend(TASK)
    agent.set_params(policy=None, random_state=0)
    assert agent.recommend(TASK).policy == "ThompsonSampling"
    assert agent.arm_model_.settings.policy is None


@pytest.mark.parametrize(
    "learn",
    [
        lambda agent: agent.fit(TASKS, ["no arm"] * len(TASKS)),
        lambda agent: agent.warm_start(TASKS, ["no arm"], np.ones((len(TASKS), 1))),
    ],
)
def test_rows_that_are_refused_let_no_setting_through(agent, learn):
    """A setting that only learning from scratch takes over, when that failed."""
    agent.set_params(prior=PriorScales(noise=0.4))
    with pytest.raises(KeyError):
        learn(agent)
    with pytest.raises(ValueError, match="prior"):
        agent.recommend(TASK)


def test_a_shallow_copy_does_not_lend_its_settings(learner):
    other = copy.copy(learner).set_params(policy=Greedy())
    assert other.recommend(TASK).policy == "Greedy"
    assert learner.recommend(TASK).policy == "ThompsonSampling"
    assert learner.arm_model_.settings.policy is None


# ---- the encoder ----


def swapped(encoder):
    encoder.types[0], encoder.types[1] = encoder.types[1], encoder.types[0]


CHANGES = {
    "types in place": swapped,
    "one type more": lambda encoder: encoder.types.append("tax"),
    "types": lambda encoder: encoder.set_params(types=["law", "code", "other"]),
    "n_components": lambda encoder: encoder.set_params(n_components=3),
    "random_state": lambda encoder: setattr(encoder, "random_state", 5),
    "refit": lambda encoder: encoder.fit([*TASKS[:5], "something else", "and more"]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("whose", ["encoder", "encoder_"])
def test_an_encoder_that_would_mean_something_else_is_refused(agent, whose, change):
    encoder = getattr(agent, whose)
    if change == "refit" and encoder is not agent.encoder_:
        pytest.skip("what is given is only copied: fitting it changes nothing")
    before = agent.posterior_.mean.tobytes()
    CHANGES[change](encoder)
    for call in (agent.recommend, agent.explain, lambda t: agent.predict([t])):
        with pytest.raises(ValueError, match=r"changed|anew"):
            call(TASK)
    assert agent.posterior_.mean.tobytes() == before


def test_where_embeddings_are_kept_may_change_at_any_time(agent, tmp_path):
    agent.encoder.set_params(cache_dir=tmp_path / "one")
    agent.recommend(TASK)
    assert agent.encoder_.cache_dir == tmp_path / "one"
    agent.encoder.cache_bytes = 2**20
    agent.recommend(TASK)
    assert agent.encoder_.cache_bytes == 2**20
    agent.encoder.set_params(cache_dir=None, cache_bytes=2**21)
    agent.recommend(TASK)
    assert (agent.encoder_.cache_dir, agent.encoder_.cache_bytes) == (None, 2**21)


def test_a_refused_change_moves_no_embeddings(agent, tmp_path):
    agent.encoder.set_params(cache_dir=tmp_path, types=["law", "code", "other"])
    kept = agent.encoder_.cache_dir
    with pytest.raises(ValueError, match="types"):
        agent.recommend(TASK)
    assert agent.encoder is agent.encoder_ or agent.encoder_.cache_dir == kept


# ---- the arms ----


def test_arms_that_go_come_and_change_are_noticed(agent):
    agent.policy = Uniform()
    gone = agent.catalogue.braids[0]
    n = len(agent.catalogue)
    agent.remove_arms([gone])
    assert len(agent.recommend(TASK).arm_ids) == n - 1
    agent.add_arms([gone])
    assert agent.recommend(TASK).arm_ids[-1] == gone.id
    agent.retrain(gone)
    decisions = [agent.recommend(TASK, eligible=[gone.id]) for _ in range(2)]
    assert [decision.version for decision in decisions] == [2, 2]


@pytest.mark.parametrize("in_place", [True, False])
def test_an_arm_that_became_unfit_is_not_chosen(agent, in_place):
    agent.policy = Uniform()
    unfit = agent.catalogue.ids[:-1]
    for arm_id in unfit:
        if in_place:
            agent.catalogue.unfit[arm_id] = "broken"
        else:
            agent.catalogue = agent.catalogue.with_unfit(arm_id, "broken")
    assert agent.recommend(TASK).braid.id == agent.catalogue.ids[-1]


def test_other_arms_are_refused_and_another_order_is_followed(agent):
    first = agent.catalogue
    agent.catalogue = Catalogue(first.cards.values(), first.braids[1:])
    with pytest.raises(ValueError, match="add_arms"):
        agent.recommend(TASK)
    agent.catalogue = Catalogue(first.cards.values(), first.braids[::-1])
    assert agent.recommend(TASK).arm_ids == first.ids[::-1]


# ---- copies ----


def test_what_is_loaded_is_checked(learner, tmp_path):
    learner.save(tmp_path)
    encoder = TaskEncoder(embedder=embed, n_components=4, types=list(TYPES))
    agent = BraidRecommender.load(tmp_path, encoder=encoder)
    agent.recommend(TASK)
    agent.prior = PriorScales(noise=0.4)
    with pytest.raises(ValueError, match="prior"):
        agent.recommend(TASK)
    agent.prior = None
    swapped(agent.encoder_)
    with pytest.raises(ValueError, match=r"changed|anew"):
        agent.recommend(TASK)


def test_a_clone_begins_anew(learner):
    fresh = clone(learner).set_params(prior=PriorScales(noise=0.4))
    assert fresh.recommend(TASK).braid.id in fresh.arm_ids_
    assert fresh.posterior_.scales.noise == 0.4
    assert fresh.n_updates_ == 0


def test_good_settings_pass():
    settings = BraidRecommender(drift=DriftMonitor(), mean_cost=0.5).get_params()
    check_settings(settings)
    assert LearningSettings().max_parameters == settings["max_parameters"]
