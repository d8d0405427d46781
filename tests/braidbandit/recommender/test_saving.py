"""Saved states: one stored file per format, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_embedder import embed

from braidbandit import (
    BraidRecommender,
    ConservativePolicy,
    DriftMonitor,
    Greedy,
    Ledger,
    LinUCB,
    TaskEncoder,
)
from braidbandit.recommender.state_files import read_state

DATA = Path(__file__).parents[1] / "data"
TYPES = ("code", "medical", "creative")
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(12)]


def small_encoder():
    return TaskEncoder(embedder=embed, n_components=2, types=TYPES)


def expected(folder):
    return json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize(("number", "n_components"), [(3, 8), (4, 8)])
def test_a_format_reads_as_it_was_written(number, n_components, tmp_path):
    folder = DATA / f"state-format-{number}"
    encoder = small_encoder().set_params(n_components=n_components)
    agent = BraidRecommender.load(folder, encoder=encoder, resume_rng=True)
    want = expected(folder)
    np.testing.assert_allclose(
        agent.decision_function(TASKS[:3]), want["scores"], rtol=1e-12
    )
    assert agent.predict(TASKS).tolist() == want["predict"]
    assert agent.recommend("x").braid.id in agent.classes_
    assert agent.feedback_counts_ == want["counts"]
    agent.save(tmp_path / "again")


def test_formats_that_no_release_wrote_are_refused(agent, encoder, tmp_path):
    agent.save(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="format 2, which no release wrote"):
        BraidRecommender.load(tmp_path, encoder=encoder)


def test_older_states_forgot_at_one_rate(agent, encoder, tmp_path):
    """Their records say at which reward they were learnt."""
    agent.set_params(forgetting=0.98)
    decisions = [agent.recommend(f"task {i}") for i in range(60)]
    for decision in decisions:
        agent.update(decision, 0.5)
    agent.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["format"] = 3
    del manifest["faded"]
    for clock, record in enumerate(manifest["learnt"], start=1):
        del record["faded"]
        record["clock"] = clock
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    kept = [
        again.arm_model_.kept(again.arm_model_.log.learnt[decision.id])
        for decision in decisions
    ]
    np.testing.assert_allclose(kept, [0.98**50] * 50 + [1.0] * 10, rtol=1e-12)


def test_older_states_take_every_version_for_an_alarm_if_drift_is_watched(
    agent, encoder, tmp_path
):
    arm = agent.catalogue.ids[0]
    agent.set_params(policy=ConservativePolicy(baseline=arm), drift=DriftMonitor())
    agent.update(agent.recommend("x"), 0.5)
    agent.retrain(arm, 0.9)
    agent.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["format"] = 3
    assert manifest.pop("alarms") == {}
    assert manifest["savings"].pop("expired") == []
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert again.arm_model_.versions == {arm: [0.9]}
    assert again.arm_model_.alarms == {arm: [0]}
    assert again.savings_ == agent.savings_


@pytest.fixture
def used(agent):
    """A recommender with something in every part of its state."""
    agent.set_params(policy=ConservativePolicy(Greedy(), share=0.5), mean_cost=0.3)
    catalogue = agent.catalogue
    table = np.random.default_rng(0).random((12, 2))
    agent.warm_start(TASKS, [b.id for b in catalogue if b.is_single], table)
    decisions = [agent.recommend(task) for task in TASKS * 3]
    for i, decision in enumerate(decisions[:30]):
        agent.update(decision, 0.5 + i / 100, latency_ms=5.0 + i, compute=2.0)
    agent.add_arms([replace(catalogue.braids[-1], shares=(0.55, 0.45))])
    agent.remove_arms([catalogue.braids[-2]])
    agent.retrain(catalogue.braids[3])
    return agent


def test_everything_comes_back(used, encoder, tmp_path):
    used.save(tmp_path / "s")
    again = BraidRecommender.load(tmp_path / "s", encoder=encoder, resume_rng=True)
    again.save(tmp_path / "t")
    one, other = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in "st"
    )
    assert one == other
    tasks = [f"new {i}" for i in range(8)]
    call = {"preference": {"quality": 1, "latency": 0.3, "compute": 0.2}}
    for task in tasks:
        mine, theirs = used.recommend(task, **call), again.recommend(task, **call)
        assert theirs.braid == mine.braid
        np.testing.assert_allclose(theirs.scores, mine.scores, rtol=1e-9)
        assert theirs.expected_latency_ms == mine.expected_latency_ms
    assert again.savings_ == used.savings_ is not None
    assert again.pacer_ == used.pacer_
    learnt = next(iter(used.arm_model_.log.learnt))
    for agent in (used, again):
        agent.retract(learnt)
    np.testing.assert_allclose(
        again.decision_function(tasks), used.decision_function(tasks), atol=1e-12
    )


def test_a_state_says_that_arms_are_to_be_widened_again(agent, encoder, tmp_path):
    arm = agent.catalogue.ids[0]
    agent.update(agent.recommend("x"), 0.5)
    agent.retrain(arm).fit(["x", "y"], [arm] * 2, reward=[0.5, 0.6])
    agent.save(tmp_path / "s")
    again = BraidRecommender.load(tmp_path / "s", encoder=encoder)
    with Ledger(tmp_path / "l.db") as ledger:
        widened = [a.sync(ledger).posterior_.own_change for a in (agent, again)]
    assert widened[0].any()
    np.testing.assert_array_equal(*widened)


def of_state(folder):
    """Manifest and arrays as they were given to be written."""
    manifest, arrays = read_state(folder)
    header = ("kind", "arrays", "sha256")
    return {k: v for k, v in manifest.items() if k not in header}, arrays


@pytest.fixture
def state(used, tmp_path):
    used.set_params(drift=DriftMonitor()).save(tmp_path / "s")
    return of_state(tmp_path / "s")


@pytest.fixture
def refused(encoder, monkeypatch):
    """Expect that a state is refused, as if it had been read from a folder."""

    def check(manifest, arrays, match=None):
        read = "braidbandit.recommender.recommender.read_state"
        monkeypatch.setattr(read, lambda path: (manifest, arrays))
        with pytest.raises(ValueError, match=match):
            BraidRecommender.load("s", encoder=encoder, resume_rng=True)

    return check


def test_every_entry_of_a_manifest_is_needed(state, refused):
    manifest, arrays = state
    for key in manifest:
        rest = {k: v for k, v in manifest.items() if k != key}
        refused(rest, arrays, rf"damaged: KeyError\('{key}'\)")


_DAMAGE = [
    ("n_updates", (None, "x", 1.5, True, [])),
    ("clock", (None, "x", 1.5, False, {})),
    ("faded", (None, "x", True, [0.0])),
    ("baseline", (3, [], {})),
    ("rewound", (None, "x", 0, [])),
    ("plain", (None, "x", 1, [])),
    ("as_said", (None, "x", 1, [])),
    ("encoder_fitted", ("x", 1, [1])),
    ("gone_until", ("x", [], True)),
    ("ledger_position", (None, "x", [])),
    ("policy", (None, "x", {})),
    ("scales", (None, "x", {"other": {}})),
    ("versions", (None, "x", [])),
    ("alarms", (None, "x", [])),
    ("settled", (None, "x", {"a": "b"})),
    ("savings", ("x", 1, {})),
    ("pacer", (None, "x", {"other": 1})),
    ("rng", (None, {}, {"bit_generator": "os"})),
    ("pending", (None, [1], [{}])),
    ("learnt", (None, [1], [{}])),
    ("measured", (None, {}, [])),
    ("columns", (None, [], ["bias"])),
]


def test_a_damaged_entry_of_a_manifest_is_refused(state, refused):
    manifest, arrays = state
    for key, values in _DAMAGE:
        for value in values:
            refused({**manifest, key: value}, arrays)


def test_every_array_is_needed(state, refused):
    manifest, arrays = state
    optional = {
        "origins",
        "signatures",
        *(n for n in arrays if n.startswith("removed")),
    }
    for name in sorted(set(arrays) - optional):
        refused(manifest, {k: a for k, a in arrays.items() if k != name})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_array_that_holds_no_number_is_refused_by_name(state, refused, bad):
    manifest, arrays = state
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size and not name.startswith("encoder"):
            holed = array.copy()
            holed.flat[-1] = bad
            refused(manifest, {**arrays, name: holed}, f"{name}.*NaN or infinity")


def test_arrays_of_another_shape_are_refused(state, refused):
    manifest, arrays = state
    for name, array in arrays.items():
        part = name.split(".")[0]
        if part in ("posterior", "start", "latency", "compute", "descriptors"):
            if not name.endswith(("seen", "sums")) and array.ndim:
                refused(manifest, {**arrays, name: array[:-1]})
    refused(manifest, {**arrays, "surprises": arrays["surprises"][:, :-1]}, "surprises")


def test_a_state_stays_small(catalogue, encoder, tmp_path):
    """A hundred waiting decisions keep no scores of the other arms."""
    agent = BraidRecommender(catalogue, encoder, random_state=0)
    agent.recommend("x")
    agent.save(tmp_path / "s")
    size = (tmp_path / "s" / "manifest.json").stat().st_size
    for i in range(100):
        agent.recommend(f"task {i}")
    agent.save(tmp_path / "s")
    grown = (tmp_path / "s" / "manifest.json").stat().st_size
    assert (grown - size) / 100 < 2500


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "SFC64", "Philox"])
def test_any_generator_comes_back(catalogue, encoder, tmp_path, kind):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    agent = BraidRecommender(catalogue, encoder, random_state=rng)
    agent.recommend("x")
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder, resume_rng=True)
    np.testing.assert_array_equal(again.rng_.random(4), agent.rng_.random(4))
    edit = json.loads((tmp_path / "manifest.json").read_text())
    edit["rng"]["bit_generator"] = "default_rng"
    (tmp_path / "manifest.json").write_text(json.dumps(edit))
    with pytest.raises(ValueError, match="damaged"):
        BraidRecommender.load(tmp_path, encoder=encoder, resume_rng=True)


def test_settings_may_be_numbers_of_numpy(catalogue, encoder, tmp_path):
    agent = BraidRecommender(
        catalogue,
        encoder,
        LinUCB(alpha=np.float32(0.5)),
        mean_cost=np.float32(0.25),
        random_state=np.int64(3),
    )
    agent.recommend("x")
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert again.policy == LinUCB(alpha=0.5)
    assert (again.mean_cost, again.random_state) == (0.25, 3)


def test_replicas_do_not_explore_in_lockstep(agent, encoder, tmp_path):
    for task in TASKS:
        agent.recommend(task)
    agent.save(tmp_path / "s")

    def choices(**settings):
        loaded = BraidRecommender.load(tmp_path / "s", encoder=encoder, **settings)
        return [loaded.recommend(f"new {i}").braid.id for i in range(40)]

    assert choices() != choices()
    assert choices(resume_rng=True) == choices(resume_rng=True)


def test_a_crash_while_saving_leaves_a_state(used, encoder, tmp_path, monkeypatch):
    used.save(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    used.recommend("x")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        used.save(tmp_path / "s")
    monkeypatch.undo()
    BraidRecommender.load(tmp_path / "s", encoder=encoder)
