"""Every setting of every estimator takes effect, or is refused at once."""

import copy
import pickle

import numpy as np
import pytest
from toy_embedder import embed as toy_embed

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    ConservativePolicy,
    DriftMonitor,
    EpsilonGreedy,
    Greedy,
    Ledger,
    LinearBandit,
    LinUCB,
    ModelCard,
    PriorScales,
    TaskEncoder,
    ThompsonSampling,
    Uniform,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 2))
ARMS = np.array(["a", "b", "c"] * 20)
REWARDS = RNG.random(60)
CATALOGUE = Catalogue(map(ModelCard, "abc"), map(Braid, "abc"))
IDS = list(CATALOGUE.ids)
Y = [IDS[i % 3] for i in range(60)]
TASKS = [f"{'x' * (i % 7)} {i}" for i in range(60)]


def embed(texts):
    return toy_embed(texts)


def other_embed(texts):
    return -toy_embed(texts)


embed.name = "toy"  # so that it caches on disk


# Per estimator: the settings that decide what was learnt, with another value each; and
# those that may change at any time.
BANDIT = {"descriptors": np.eye(3), "columns": ["p", "q", "r"], "arms": ["a", "b", "c"]}
BANDIT_KEPT = {
    "arms": ["a", "b", "c", "d"],
    "descriptors": np.eye(3)[::-1],
    "columns": ["share:p", "q", "r"],
    "prior": PriorScales(mean=0.2),
    "max_parameters": 0,
}
BANDIT_LIVE = {"policy": Greedy(), "forgetting": 0.9, "random_state": 7}
AGENT_KEPT = {
    "catalogue": Catalogue(map(ModelCard, "abcd"), map(Braid, "abcd")),
    "encoder": TaskEncoder(embedder=embed, n_components=2),
    "encoder__model": "another",
    "encoder__n_components": 1,
    "encoder__embedder": other_embed,
    "encoder__types": ("code", "other"),
    "encoder__random_state": 3,
    "encoder__n_letters": 1,
    "encoder__n_details": 3,
    "encoder__window": 100,
    "prior": PriorScales(mean=0.2),
    "max_parameters": 0,
}
AGENT_LIVE = {
    "policy": EpsilonGreedy(0.5),
    "price": 3.0,
    "mean_cost": 0.5,
    "forgetting": 0.9,
    "drift": DriftMonitor(),
    "random_state": 7,
    "switching_cost": 0.1,
    "encoder__cache_dir": "elsewhere",
    "encoder__cache_bytes": 2**20,
}
ENCODER_KEPT = {
    "model": "another",
    "n_components": 1,
    "embedder": other_embed,
    "types": ("code", "other"),
    "random_state": 3,
    "n_letters": 1,
    "n_details": 3,
    "window": 100,
}
ENCODER_LIVE = {"cache_dir": "elsewhere", "cache_bytes": 2**20}


def bandit(**settings):
    return LinearBandit(**{**BANDIT, "random_state": 0, **settings})


def agent(fitted=False, **settings):
    encoder = TaskEncoder(embedder=embed, n_components=3)
    if fitted:
        encoder.fit(TASKS)
    return BraidRecommender(CATALOGUE, encoder, **{"random_state": 0, **settings})


def state(estimator):
    online = (
        getattr(estimator, "online_", None)
        if isinstance(estimator, LinearBandit)
        else estimator.arm_model_.quality
    )
    if online is None:
        return None
    posterior = online.posterior
    arrays = [getattr(posterior, name).tobytes() for name in posterior.ARRAYS]
    return [
        *arrays,
        online.n_updates,
        online.clock,
        str(estimator.rng_.bit_generator.state),
    ]


@pytest.mark.parametrize(
    ("made", "tables"),
    [
        (bandit, (BANDIT_KEPT, BANDIT_LIVE)),
        (agent, (AGENT_KEPT, AGENT_LIVE)),
        (lambda: TaskEncoder(), (ENCODER_KEPT, ENCODER_LIVE)),
    ],
)
def test_no_setting_is_left_out(made, tables):
    assert sorted(made().get_params()) == sorted([*tables[0], *tables[1]])


# ---- LinearBandit ----


@pytest.mark.parametrize("name", BANDIT_KEPT)
def test_a_bandit_goes_on_with_the_settings_it_began_with(name):
    one = bandit().partial_fit(X, ARMS, reward=REWARDS)
    before, old = state(one), getattr(one, name)
    one.set_params(**{name: BANDIT_KEPT[name]})
    with pytest.raises(ValueError, match=name):
        one.partial_fit(X, ARMS, reward=REWARDS)
    assert state(one) == before
    one.set_params(**{name: copy.deepcopy(old)}).partial_fit(X, ARMS)
    assert state(one) != before


@pytest.mark.parametrize("name", ["columns", "prior", "max_parameters", "descriptors"])
def test_a_bandit_that_begins_again_takes_other_settings(name):
    changed = {name: BANDIT_KEPT[name]}
    one = bandit().fit(X, ARMS).set_params(**changed).fit(X, ARMS, reward=REWARDS)
    assert state(one) == state(bandit(**changed).fit(X, ARMS, reward=REWARDS))
    assert state(one) != state(bandit().fit(X, ARMS, reward=REWARDS))


@pytest.mark.parametrize("name", BANDIT_LIVE)
def test_a_bandit_takes_other_settings_at_any_time(name):
    changed = {name: BANDIT_LIVE[name]}
    one = bandit().fit(X[:40], ARMS[:40], reward=REWARDS[:40]).set_params(**changed)
    new = bandit(**changed).fit(X[:40], ARMS[:40], reward=REWARDS[:40])
    np.testing.assert_array_equal(one.predict_proba(X), new.predict_proba(X))
    assert one.recommend(X)[0].tolist() == new.recommend(X)[0].tolist()
    for each in (one, new):
        each.partial_fit(X[40:], ARMS[40:], reward=REWARDS[40:])
    assert state(one) == state(new)
    assert one.faded_ == new.faded_


def test_another_seed_begins_another_sequence_once():
    one = bandit(policy=Uniform()).fit(X, ARMS)
    first = one.recommend(X)[0].tolist()
    assert one.set_params(random_state=7).recommend(X)[0].tolist() != first
    assert one.set_params(random_state=0).recommend(X)[0].tolist() == first
    assert one.set_params(random_state=0).recommend(X)[0].tolist() != first


def test_classes_are_those_of_the_first_call():
    one = LinearBandit().partial_fit(X, ARMS, classes=["b", "a", "c"])
    before = state(one)
    one.partial_fit(X[:1], ARMS[:1], classes=["a", "b", "c"])
    assert state(one) != before
    before = state(one)
    for classes in (list("abcd"), ["a", "b"], ["a", "b", "d"]):
        with pytest.raises(ValueError, match="classes are .* the first call had"):
            one.partial_fit(X, ARMS, classes=classes)
    assert state(one) == before
    with pytest.raises(ValueError, match="classes are .* the estimator's arms are"):
        bandit().partial_fit(X, ARMS, classes=list("abcd"))


# ---- BraidRecommender ----


def sync_nothing(one, decision):
    with Ledger("sqlite://") as ledger:
        one.sync(ledger)


CALLS = {
    "recommend": lambda one, decision: one.recommend("x"),
    "explain": lambda one, decision: one.explain("x"),
    "predict": lambda one, decision: one.predict(TASKS),
    "update": lambda one, decision: one.update(decision, 0.3),
    "partial_fit": lambda one, decision: one.partial_fit(TASKS, Y),
    "sync": sync_nothing,
}


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", AGENT_KEPT)
def test_a_recommender_goes_on_with_the_settings_it_began_with(name, call, fitted):
    one = agent(fitted).fit(TASKS, Y, reward=REWARDS)
    decision = one.recommend("y")
    before, old = state(one), one.get_params()[name]
    one.set_params(**{name: AGENT_KEPT[name]})
    with pytest.raises(ValueError, match=name.removeprefix("encoder__")):
        CALLS[call](one, decision)
    assert state(one) == before
    assert list(one.pending_) == [decision.id]
    one.set_params(**{name: old}).update(decision, 0.3)
    assert one.n_updates_ == 61


@pytest.mark.parametrize("name", [n for n in AGENT_KEPT if "prior" not in n])
def test_other_features_or_arms_are_refused_by_fit_too(name):
    one = agent().fit(TASKS, Y, reward=REWARDS)
    if name == "max_parameters":
        one = agent().warm_start(TASKS, IDS, REWARDS.reshape(-1, 1) * np.ones(3))
    before = state(one)
    with pytest.raises(ValueError, match=name.removeprefix("encoder__")):
        one.set_params(**{name: AGENT_KEPT[name]}).fit(TASKS, Y)
    assert state(one) == before


@pytest.mark.parametrize("name", ["prior", "max_parameters"])
def test_a_recommender_that_begins_again_takes_other_settings(name):
    changed = {name: AGENT_KEPT[name]}
    table = np.outer(REWARDS, [1.0, 0.5, 0.2])
    ways = [
        lambda one: one.fit(TASKS, Y, reward=REWARDS),
        lambda one: one.warm_start(TASKS, IDS, table),
    ]
    for way in ways:
        one = agent()
        one.recommend("x")  # the posterior is there, nothing learnt
        one.set_params(**changed)
        new = agent(**changed)
        new.recommend("x")
        assert state(way(one))[:-1] == state(way(new))[:-1]
        one.update(one.recommend("x"), 0.5)


def test_after_a_warm_start_its_settings_stay():
    one = agent().warm_start(TASKS, IDS, np.outer(REWARDS, [1.0, 0.5, 0.2]))
    before = state(one)
    for name in ("prior", "max_parameters"):
        old = getattr(one, name)
        with pytest.raises(ValueError, match=f"{name}.* keeps the warm start"):
            one.set_params(**{name: AGENT_KEPT[name]}).fit(TASKS, Y)
        one.set_params(**{name: old})
    assert state(one) == before


def test_a_ledger_is_learnt_with_another_prior(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        one = agent()
        one.recommend("x")
        one.set_params(prior=PriorScales(mean=0.2)).sync(ledger, anew=True)
        assert one.posterior_.scales.mean == 0.2
        with pytest.raises(ValueError, match=r"max_parameters.* keeps the arms"):
            one.set_params(max_parameters=0).sync(ledger, anew=True)
        one.set_params(max_parameters=640)
        for method in (one.fit, one.partial_fit):
            with pytest.raises(TypeError, match=r"sync\(ledger\)"):
                method(ledger, Y)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("name", AGENT_LIVE)
def test_a_recommender_takes_other_settings_at_any_time(name, fitted, tmp_path):
    changed = {name: AGENT_LIVE[name]}
    if name == "encoder__cache_dir":
        changed = {name: tmp_path / "elsewhere"}
    one = agent(fitted).fit(TASKS[:40], Y[:40], reward=REWARDS[:40])
    one.set_params(**changed)
    new = (
        agent(fitted).set_params(**changed).fit(TASKS[:40], Y[:40], reward=REWARDS[:40])
    )
    for each in (one, new):
        each.partial_fit(TASKS[40:], Y[40:], reward=REWARDS[40:])
    np.testing.assert_array_equal(one.predict_proba(TASKS), new.predict_proba(TASKS))
    np.testing.assert_array_equal(
        one.decision_function(TASKS), new.decision_function(TASKS)
    )
    chosen = [[each.recommend(t).braid for t in TASKS] for each in (one, new)]
    assert chosen[0] == chosen[1]
    assert state(one) == state(new)
    assert one.pacer_ == new.pacer_
    for each in (one, new):
        each.update(each.recommend("a new text"), 0.5)
    np.testing.assert_array_equal(one.surprises_, new.surprises_)
    if name == "encoder__cache_dir":
        assert list((tmp_path / "elsewhere").iterdir())


def test_an_encoder_that_is_fitted_again_outside_is_refused():
    one = agent(fitted=True)
    decision = one.recommend("x")
    one.encoder.fit(TASKS[:20])
    for call in CALLS.values():
        with pytest.raises(
            ValueError, match="fitted anew or set otherwise after learning began"
        ):
            call(one, decision)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_copies_have_the_same_settings(copied):
    one = agent(random_state=np.random.RandomState(0)).fit(TASKS, Y, reward=REWARDS)
    two = copied(one)
    assert two.recommend("x").braid == one.recommend("x").braid
    assert state(two) == state(one)
    other = copied(bandit(random_state=2**70).partial_fit(X, ARMS))
    other.partial_fit(X, ARMS).recommend(X)


@pytest.mark.parametrize(
    "seed",
    [
        np.random.RandomState(0),
        np.random.default_rng(0),
        np.random.SeedSequence(3),
        np.random.PCG64(0),
        [1, 2],
        np.int64(4),
        None,
        5,
    ],
    ids=lambda seed: type(seed).__name__,
)
def test_whatever_seeds_can_be_saved(seed, tmp_path):
    one = agent(policy=Uniform(), random_state=copy.deepcopy(seed))
    one.update(one.recommend("x"), 0.5)
    one.save(tmp_path)
    again = BraidRecommender.load(
        tmp_path, encoder=TaskEncoder(embedder=embed, n_components=3), resume_rng=True
    )
    wanted = [one.recommend(task).braid.id for task in TASKS]
    assert [again.recommend(task).braid.id for task in TASKS] == wanted


# ---- TaskEncoder ----


@pytest.mark.parametrize("name", ENCODER_KEPT)
def test_an_encoder_refuses_settings_that_are_not_those_of_fit(name):
    one = TaskEncoder(n_components=3).fit(X)
    wanted, old = one.transform(X), getattr(one, name)
    one.set_params(**{name: ENCODER_KEPT[name]})
    with pytest.raises(ValueError, match=name):
        one.transform(X)
    with pytest.raises(ValueError, match=name):
        one.nearest_type(X[0])
    one.set_params(**{name: old})
    np.testing.assert_array_equal(one.transform(X), wanted)


@pytest.mark.parametrize("name", ENCODER_KEPT)
def test_an_encoder_that_is_fitted_again_takes_other_settings(name):
    changed = {name: ENCODER_KEPT[name]}
    one = TaskEncoder(n_components=3).fit(X).set_params(**changed).fit(X)
    new = TaskEncoder(**{"n_components": 3, **changed}).fit(X)
    np.testing.assert_array_equal(one.transform(X), new.transform(X))
    assert one.projection_hash() == new.projection_hash()


def test_an_encoder_caches_elsewhere_at_any_time(tmp_path):
    one = TaskEncoder(embedder=embed).fit(TASKS)
    one.set_params(cache_dir=tmp_path).transform(["a new text"])
    assert list(tmp_path.iterdir())


def test_a_restored_encoder_knows_its_settings(tmp_path):
    agent(fitted=True).save(tmp_path)
    again = BraidRecommender.load(
        tmp_path, encoder=TaskEncoder(embedder=embed, n_components=3)
    )
    again.recommend("x")
    with pytest.raises(ValueError, match="n_components"):
        again.encoder.set_params(n_components=2).transform(TASKS)


# ---- what no estimator can work with ----


BAD_BANDIT = [
    ("policy", "greedy"),
    ("policy", Greedy),
    ("policy", ConservativePolicy()),
    ("arms", ["a", "a", "b"]),
    ("arms", {"a", "b", "c"}),
    ("descriptors", np.ones((2, 3))),
    ("descriptors", np.full((3, 3), np.nan)),
    ("columns", ["p", "p", "q"]),
    ("columns", {"p", "q", "r"}),
    ("prior", {"noise": 0.1}),
    ("forgetting", 0.0),
    ("forgetting", float("nan")),
    ("max_parameters", 1.5),
    ("max_parameters", -1),
    ("max_parameters", "640"),
    ("random_state", "seed"),
    ("random_state", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD_BANDIT)
def test_a_bandit_learns_nothing_with_bad_settings(name, value):
    one = bandit(**{name: value})
    for learn in (one.fit, one.partial_fit):
        with pytest.raises((TypeError, ValueError)):
            learn(X, ARMS)
        assert state(one) is None


def test_columns_name_descriptors():
    with pytest.raises(ValueError, match="name no descriptors"):
        LinearBandit(columns=["p"]).fit(X, ARMS)


BAD_AGENT = [
    ("catalogue", None),
    ("catalogue", list(CATALOGUE)),
    ("encoder", "all-MiniLM-L6-v2"),
    ("encoder__model", "another"),  # beside an embedder
    ("encoder__n_components", 0),
    ("encoder__n_components", 2.5),
    ("encoder__embedder", "all-MiniLM-L6-v2"),
    ("encoder__types", "code"),
    ("encoder__types", {"code", "other"}),
    ("encoder__types", ("code", "code")),
    ("encoder__types", (1, 2)),
    ("encoder__random_state", None),
    ("encoder__random_state", np.random.RandomState(0)),
    ("policy", "thompson"),
    ("policy", ThompsonSampling),
    ("policy", ConservativePolicy(baseline="nobody")),
    ("policy", ConservativePolicy()),  # without a warm start
    ("price", -1.0),
    ("price", float("nan")),
    ("mean_cost", 1.5),
    ("prior", {"noise": 0.1}),
    ("forgetting", 1.5),
    ("max_parameters", float("inf")),
    ("max_parameters", True),
    ("drift", True),
    ("drift", DriftMonitor),
    ("random_state", "seed"),
    ("random_state", 0.5),
]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("name", "value"), BAD_AGENT)
def test_a_recommender_learns_nothing_with_bad_settings(name, value, late):
    one = agent()
    if late:
        one.fit(TASKS, Y, reward=REWARDS)
    before = state(one) if late else None
    one.set_params(**{name: value})
    calls = [
        lambda: one.fit(TASKS, Y),
        lambda: one.partial_fit(TASKS, Y),
        lambda: one.recommend("x"),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError, KeyError)):
            call()
        if late:
            assert state(one) == before
        else:
            assert not hasattr(one, "arm_model_") or one.n_updates_ == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThompsonSampling(n_draws=2.5),
        lambda: ThompsonSampling(n_draws=0),
        lambda: ThompsonSampling(n_draws="64"),
        lambda: ThompsonSampling(scale=float("inf")),
        lambda: LinUCB(alpha=-1.0),
        lambda: EpsilonGreedy(floor=float("nan")),
        lambda: ConservativePolicy("greedy"),
        lambda: ConservativePolicy(Greedy),
        lambda: ConservativePolicy(ConservativePolicy()),
        lambda: ConservativePolicy(share=1.0),
        lambda: ConservativePolicy(baseline=Braid("a")),
    ],
)
def test_a_policy_that_cannot_choose_is_refused_when_it_is_made(make):
    with pytest.raises((TypeError, ValueError)):
        make()
