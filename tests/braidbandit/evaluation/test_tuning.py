import copy
import dataclasses
import json
import sys

import numpy as np
import pytest

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    DeclineToDefault,
    Greedy,
    Ledger,
    LinUCB,
    Log,
    ModelCard,
    Outcome,
    TaskEncoder,
    ThompsonSampling,
    Uniform,
)
from braidbandit.evaluation.reward_model import cross_fitted
from braidbandit.evaluation.tuning import Candidate, Tuning, Walk, tune, walk_through
from braidbandit.ledger.transfer import restore


@pytest.fixture
def agent():
    """Three models; features are what the task's embedding says."""
    encoder = TaskEncoder(n_components=3)
    rng = np.random.default_rng(0)
    encoder.fit(rng.standard_normal((50, 3)) * [3.0, 2.0, 1.0])
    catalogue = Catalogue(map(ModelCard, "abc"), map(Braid, "abc"))
    return BraidRecommender(
        catalogue, encoder, ThompsonSampling(scale=0.3), price=0.0, random_state=0
    )


@pytest.fixture
def ledger(agent, tmp_path):
    """Uniform choices. Model a suits one half of the tasks by the third direction, b
    the other; c never does."""
    writer, rng = (
        copy.deepcopy(agent).set_params(policy=Uniform()),
        np.random.default_rng(1),
    )
    good = {arm: i for i, arm in enumerate(agent.catalogue.ids)}
    with Ledger(tmp_path / "l.db") as opened:
        decisions, events = [], []
        for _ in range(500):
            task = rng.standard_normal(3) * [3.0, 2.0, 1.0]
            decision = writer.recommend(task)
            writer.pending_.clear()
            arm = good[decision.braid.id]
            side = decision.x[3] > 0
            reward = float(rng.random() < (0.9 if arm == int(side) else 0.2))
            decisions.append((decision, None))
            events.append(("outcome", 0, Outcome(decision.id, reward)))
        restore(opened, decisions, events)
        yield opened


def test_the_better_settings_are_found(agent, ledger):
    """Without the third direction nothing can be told apart: 0.43 at most."""
    before = copy.deepcopy(agent).sync(ledger, anew=True)
    state = before.posterior_.mean.tobytes()
    found = tune(before, ledger, alpha=(0.3, 30.0), n_components=(2, 3))
    assert len(found.candidates) == 4
    assert (found.best.alpha, found.best.n_components) == (0.3, 3)
    value = {(c.alpha, c.n_components): c.value for c in found.candidates}
    assert value[0.3, 3] > 0.65 > 0.6 > value[0.3, 2]
    assert value[30.0, 3] < value[0.3, 3] - 0.05
    assert all(c.learnt > 100 and 0 < c.error < 0.1 for c in found.candidates)
    assert before.posterior_.mean.tobytes() == state
    # A header, four candidates, and how long the log is.
    assert len(str(found).splitlines()) == 6
    assert found.to_frame()["value"].tolist() == [c.value for c in found.candidates]
    assert found.to_dict()["n"] == 500


def test_forgetting_what_stays_true_costs(agent, ledger):
    agent.set_params(policy=LinUCB(0.3, floor=0.1))
    found = tune(agent, ledger, forgetting=(1.0, 0.8), random_state=1)
    assert found.best.forgetting == 1.0
    assert found.best.alpha == 0.3


def test_a_candidate_that_plays_as_the_log_did_learns_every_row(agent, ledger):
    """Uniform on a uniform log: every weight 1, every row accepted, the terms of DR."""
    uniform = copy.deepcopy(agent).set_params(policy=Uniform())
    uniform.start()
    log = Log.read(ledger)
    q = cross_fitted(log.X, log.columns, log.rewards, 3)
    decisions = [d for _, d, _ in ledger.pairs()]
    value, error, learnt = walk_through(uniform, log, decisions, q, 3, 0)
    rows = np.arange(500)
    terms = q.mean(axis=1) + log.rewards - q[rows, log.columns]
    # All but the first few: acceptance starts at the smallest propensity.
    assert learnt > 490
    assert value == pytest.approx(terms.mean(), abs=0.01)
    assert error == pytest.approx(terms.std() / np.sqrt(500), rel=0.05)


def test_the_price_of_compute_is_paid(agent, ledger):
    agent.set_params(price=0.0)
    free = tune(agent, ledger).best.value
    agent.catalogue.relative_costs = lambda: np.ones(3)
    assert tune(agent.set_params(price=0.1), ledger).best.value == pytest.approx(
        free - 0.1
    )


def test_candidates_may_be_given_as_arrays(agent, ledger):
    found = tune(
        agent,
        ledger,
        alpha=np.array([0.3]),
        n_components=np.array([3]),
        forgetting=np.array([1.0]),
    )
    assert json.loads(json.dumps(found.to_dict())) == tune(agent, ledger).to_dict()


@pytest.mark.parametrize("n_components", [[0], [4], [2.5], [float("nan")]])
def test_directions_that_are_not_there(agent, ledger, n_components):
    with pytest.raises(ValueError, match="1 to 3"):
        tune(agent, ledger, n_components=n_components)


@pytest.mark.parametrize("policy", [Greedy(), DeclineToDefault()])
@pytest.mark.parametrize("alpha", [None, (0.1,)])
def test_policies_without_a_knob(agent, ledger, policy, alpha):
    agent.warm_start(np.eye(3), agent.catalogue.ids, np.eye(3)).set_params(
        policy=policy
    )
    with pytest.raises(ValueError, match="LinUCB and ThompsonSampling"):
        tune(agent, ledger, alpha=alpha)


def test_logs_that_cannot_say(agent, tmp_path):
    with Ledger(tmp_path / "short.db") as ledger:
        for _ in range(5):
            decision = agent.recommend(np.ones(3))
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, 0.5))
        with pytest.raises(ValueError, match="log longer"):
            tune(agent, ledger)
    with Ledger(tmp_path / "certain.db") as ledger:
        certain = copy.deepcopy(agent).set_params(policy=Greedy())
        for _ in range(5):
            chosen = certain.recommend(np.ones(3))
            decision = dataclasses.replace(chosen, propensity=1.0)
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, 0.5))
        with pytest.raises(ValueError, match="deterministic"):
            tune(agent, ledger)


def test_a_revision_while_it_is_read_moves_nothing(agent, ledger):
    """The ledger is read once: what is said meanwhile counts next time."""
    expected = tune(agent, ledger, random_state=1).to_dict()
    ids = [decision.id for _, decision, _ in ledger.pairs()]
    reader, pages = ledger._read, []

    def revising(query):
        page = reader(query)
        pages.append(len(page))
        if len(pages) == 1:
            for decision_id in ids[:40]:
                ledger.revise(decision_id, 0.5)
        return page

    ledger._read = revising
    found = tune(agent, ledger, random_state=1)
    ledger._read = reader
    assert found.to_dict() == expected
    assert found.n == 500
    assert tune(agent, ledger, random_state=1).to_dict() != expected


def test_without_pandas_candidates_are_printed_as_they_are(monkeypatch):
    found = Tuning((Candidate(0.3, 8, 1.0, 0.61, 0.02, 140),), 400)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert str(found).splitlines() == [repr(found.best), "the log has 400 rows"]
    with pytest.raises(ImportError, match="needs pandas"):
        found.to_frame()


def test_a_refused_tuning_leaves_agent_and_ledger_as_they_were(agent, ledger):
    agent.sync(ledger, anew=True)
    state, rng = agent.posterior_.mean.tobytes(), agent.rng_.bit_generator.state
    events = ledger.last_sequence()
    with pytest.raises(ValueError, match="1 to 3"):
        tune(agent, ledger, n_components=[5])
    tune(agent, ledger)
    assert agent.posterior_.mean.tobytes() == state
    assert agent.rng_.bit_generator.state == rng
    assert ledger.last_sequence() == events


def test_several_processes_find_the_same(agent, ledger):
    settings = {"alpha": (0.1, 1.0), "random_state": 2}
    one, two = (tune(agent, ledger, n_jobs=n, **settings) for n in (1, 2))
    assert one == two


# ---- with walks that are made up ----


@pytest.fixture
def short(agent):
    """Thirty decisions and their outcomes, in memory."""
    with Ledger(":memory:") as opened:
        writer = copy.deepcopy(agent).set_params(policy=Uniform())
        rng = np.random.default_rng(2)
        for _ in range(30):
            decision = writer.recommend(rng.standard_normal(3))
            opened.record_decision(decision)
            opened.record_outcome(Outcome(decision.id, 0.5))
        yield opened


@pytest.fixture
def walks(monkeypatch):
    """What each candidate is said to earn and to learn, by its alpha."""
    said = {}

    def walk(agent, log, decisions, predicted, n_components, random_state):
        return Walk(*said.get(agent.policy.scale, (0.5, 0.1, 30)))

    monkeypatch.setattr("braidbandit.evaluation.tuning.walk_through", walk)
    return said


def test_who_learnt_from_too_few_rows_comes_last(agent, short, walks):
    """However much it would have earned; 20 rows are enough."""
    walks |= {1.0: (0.9, 0.1, 19), 2.0: (0.2, 0.1, 20), 3.0: (0.6, 0.1, 30)}
    walks |= {4.0: (0.95, 0.1, 3)}
    found = tune(agent, short, alpha=(1.0, 2.0, 3.0, 4.0))
    assert [c.alpha for c in found.candidates] == [3.0, 2.0, 4.0, 1.0]


def test_equally_good_candidates_stay_in_the_order_given(agent, short, walks):
    found = tune(
        agent, short, alpha=(2.0, 1.0), n_components=(3, 1), forgetting=(1, 0.9)
    )
    order = [(c.alpha, c.n_components, c.forgetting) for c in found.candidates]
    assert order == [(a, n, f) for a in (2.0, 1.0) for n in (3, 1) for f in (1, 0.9)]


def test_nobody_who_learnt_enough_is_an_error(agent, short, walks):
    walks[1.0] = (0.5, 0.1, 19)
    with pytest.raises(ValueError, match="of 30 rows a candidate could learn 19 at mo"):
        tune(agent, short, alpha=[1.0])


@pytest.mark.parametrize(
    ("policy", "alpha"),
    [
        (None, ThompsonSampling().scale),
        (ThompsonSampling(0.7), 0.7),
        (LinUCB(0.4), 0.4),
    ],
)
def test_what_is_not_given_stays_as_the_agent_has_it(
    agent, short, monkeypatch, policy, alpha
):
    def walk(*_):
        return Walk(0.5, 0.1, 30)

    monkeypatch.setattr("braidbandit.evaluation.tuning.walk_through", walk)
    agent.set_params(policy=policy, forgetting=0.99)
    [only] = tune(agent, short).candidates
    assert (only.alpha, only.n_components, only.forgetting) == (alpha, 3, 0.99)
    assert (only.value, only.error, only.learnt) == (0.5, 0.1, 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": [-1.0]}, "scale"),
        ({"forgetting": [0.0]}, "forgetting"),
        ({"forgetting": [1.5]}, "forgetting"),
        ({"forgetting": [float("nan")]}, "forgetting"),
    ],
)
def test_settings_that_no_agent_may_have(agent, short, settings, message):
    before = agent.get_params(deep=False)
    with pytest.raises(ValueError, match=message):
        tune(agent, short, **settings)
    assert agent.get_params(deep=False) == before


def test_a_frame_and_a_text_have_every_candidate_in_order():
    candidates = tuple(Candidate(a, 8, 1.0, 0.5 + a, 0.02, 140) for a in (0.3, 0.1))
    found = Tuning(candidates, 400)
    assert found.best is candidates[0]
    assert list(found.to_frame().columns) == [
        "alpha", "n_components", "forgetting", "value", "error", "learnt",
    ]  # fmt: skip
    assert found.to_frame()["learnt"].dtype.kind == "i"
    assert Tuning(
        tuple(Candidate(**c) for c in found.to_dict()["candidates"]), 400
    ) == (found)
    header, first, second, last = str(found).splitlines()
    assert header.split() == list(found.to_frame().columns)
    assert first.split() == ["0.300", "8", "1.000", "0.800", "0.020", "140"]
    assert second.split()[0] == "0.100"
    assert last == "the log has 400 rows"
