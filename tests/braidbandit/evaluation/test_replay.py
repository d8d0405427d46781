import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Greedy
from braidbandit.evaluation.replay import (
    BraidPlayer,
    Shuffle,
    Table,
    encoder_of,
    read_table,
    replay,
    replay_all,
    score,
    shuffles,
    table_of,
)
from braidbandit.tasks.encoder import TaskEncoder

REWARDS = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.5, 0.5]])
ROUNDS = np.arange(4)


class Plan:
    """Plays the given arms in turn and notes what it is told."""

    def __init__(self, arms):
        self.arms, self.told = list(arms), []

    def choose(self, row):
        return self.arms[len(self.told)]

    def learn(self, row, arm, reward):
        self.told.append((row, arm, reward))


def table():
    return table_of(REWARDS, np.arange(4.0)[:, None])


def test_a_small_sum():
    """Arm 1 earns 1 + 0 + 1 + 0.5 = 2.5 and is best; the plan earns 0 + 0 + 1 + 0.5."""
    run = replay(
        table(), Shuffle(0, ROUNDS[:0], ROUNDS, np.arange(3)), Plan([0, 1, 1, 2])
    )
    assert run.rewards.tolist() == [0.0, 0.0, 1.0, 0.5]
    assert run.regret == pytest.approx(2.5 - 1.5)
    assert run.last_quarter == 0.5
    assert run.ms > 0


def test_arms_are_seen_in_the_order_of_the_shuffle():
    """Position 0 is column 2: it earns 0.5 on every row."""
    plan = Plan([0, 0, 2, 1])
    order = Shuffle(0, ROUNDS[:0], ROUNDS[::-1], np.array([2, 0, 1]))
    replay(table(), order, plan)
    assert plan.told == [(3, 0, 0.5), (2, 0, 0.5), (1, 2, 0.0), (0, 1, 0.0)]


def test_rewards_outside_the_unit_interval_are_measured_as_they_were():
    """-1 and 3 become 0 and 1; regret and rewards come back in units of before."""
    wide = table_of([[-1.0, 3.0], [3.0, 1.0]], [[0.0], [1.0]])
    assert wide.rewards.tolist() == [[0.0, 1.0], [1.0, 0.5]]
    order = Shuffle(0, ROUNDS[:0], ROUNDS[:2], np.arange(2))
    run = replay(wide, order, Plan([0, 0]))
    assert run.rewards.tolist() == [-1.0, 3.0]
    assert run.regret == pytest.approx((3.0 + 1.0) - (-1.0 + 3.0))
    assert score(wide, order, np.array([1.0, 0.5]), 0.0).regret == 0.0


def test_repeated_prompts_are_left_out():
    twice = table_of(np.vstack([REWARDS, REWARDS]), np.tile(np.arange(4.0), 2)[:, None])
    np.testing.assert_array_equal(twice.rewards, REWARDS)


def test_shuffles_reserve_the_probe_and_differ():
    big = table_of(np.random.default_rng(0).random((60, 5)), np.arange(60.0)[:, None])
    orders = list(shuffles(big, 15, 3))
    for order in orders:
        assert len(order.probe) == 40
        assert len(order.run) == 15
        assert not set(order.probe) & set(order.run)
        assert sorted(order.arms) == list(range(5))
        assert order.probe_arms(big).tolist() == list(range(5))
    assert len({tuple(order.run) for order in orders}) == 3
    assert len({tuple(order.arms) for order in orders}) > 1
    assert len(next(shuffles(big, 1000, 1)).run) == 20
    with pytest.raises(ValueError, match="cannot spare"):
        next(shuffles(table(), 10, 1))


def test_the_recommender_plays_by_position_and_learns_which_arm_is_good():
    """Column 3 always earns 1, the others 0: it is played nearly always."""
    rng = np.random.default_rng(1)
    easy = table_of(np.tile(np.arange(4) == 3, (90, 1)), rng.standard_normal((90, 6)))
    encoder = TaskEncoder(types=(), n_components=2).fit(easy.embeddings)
    for order in shuffles(easy, 40, 2):
        player = BraidPlayer(easy, order, encoder)
        run = replay(easy, order, player)
        assert run.regret <= 2
        assert player.agent.n_updates_ == 40


def test_same_shuffle_same_run():
    rng = np.random.default_rng(2)
    noisy = table_of(rng.random((80, 3)), rng.standard_normal((80, 6)))
    encoder = TaskEncoder(types=(), n_components=2).fit(noisy.embeddings)
    order = next(shuffles(noisy, 30, 1))
    one, two = (replay(noisy, order, BraidPlayer(noisy, order, encoder)) for _ in "ab")
    assert one.rewards.tolist() == two.rewards.tolist()


def test_files(tmp_path):
    file = tmp_path / "table.npz"
    embeddings = np.arange(4.0)[:, None]
    np.savez(file, rewards=REWARDS, embeddings=embeddings, arms=["x", "y", "z"])
    assert [b.anchor for b in read_table(file).catalogue] == ["x", "y", "z"]
    np.savez(file, rewards=REWARDS)
    with pytest.raises(KeyError, match="embeddings"):
        read_table(file)
    with pytest.raises(ValueError, match="finite"):
        table_of(REWARDS * np.nan, embeddings)
    with pytest.raises(ValueError, match="expected"):
        table_of(REWARDS, embeddings[:2])
    for names, reason in (
        (["x", None, "z"], "1 columns have no arm"),
        ([1, "1", 2], "several kinds"),
        (["x", "y"], "2 names for 3 columns"),
    ):
        with pytest.raises(ValueError, match=reason):
            table_of(REWARDS, embeddings, names)


@pytest.mark.parametrize("kind", ["text", "empty", "array", "objects", "cut"])
def test_a_file_that_is_no_table_is_named(tmp_path, kind):
    file = tmp_path / "table.npz"
    if kind in ("text", "empty"):
        file.write_text('{"prompt": "6 * 7?"}\n' if kind == "text" else "")
    elif kind == "array":
        with file.open("wb") as stream:
            np.save(stream, np.eye(3))
    else:
        rewards = np.array([{}, {}]) if kind == "objects" else np.ones((50, 2))
        np.savez(file, rewards=rewards, embeddings=np.eye(50))
        if kind == "cut":
            file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="expected an .npz file") as told:
        read_table(file)
    assert str(file) in str(told.value)
    assert "pickle" not in str(told.value)


@given(st.lists(st.floats(-50.0, 50.0), min_size=4, max_size=4))
def test_what_was_measured_can_be_told_from_a_scaled_table(values):
    measured = np.array(values).reshape(2, 2)
    found = table_of(measured, np.eye(2))
    assert found.rewards.min() >= 0.0
    assert found.rewards.max() <= 1.0
    back = found.origin + found.unit * found.rewards
    np.testing.assert_allclose(back, measured, atol=1e-12)
    # What lies in [0, 1] is left alone.
    inside = np.clip(measured, 0.0, 1.0)
    assert table_of(inside, np.eye(2)).rewards.tolist() == inside.tolist()


def test_rewards_follow_the_names_of_models_and_prompts():
    rewards = pd.DataFrame({"y": [0.1, 0.2], "x": [0.3, 0.4]}, index=["p", "q"])
    embeddings = pd.DataFrame({"e": [2.0, 1.0]}, index=["q", "p"])
    found = table_of(rewards, embeddings, ["x", "y"])
    assert found.rewards.tolist() == [[0.4, 0.2], [0.3, 0.1]]
    assert [braid.anchor for braid in found.catalogue] == ["x", "y"]
    by_default = table_of({"y": [0.1, 0.2], "x": [0.3, 0.4]}, [[1.0], [2.0]])
    assert [braid.anchor for braid in by_default.catalogue] == ["y", "x"]
    with pytest.raises(ValueError, match="rewards"):
        table_of(rewards, embeddings, ["x", "z"])


def test_models_without_names_are_numbered():
    assert [braid.anchor for braid in table().catalogue] == ["0", "1", "2"]


class Cheapest:
    """Plays arm 0, whatever it is told."""

    def choose(self, row):
        return 0

    def learn(self, row, arm, reward):
        pass


def play_cheapest(shuffle):
    return Cheapest()


def test_several_processes_play_the_same():
    big = table_of(np.random.default_rng(0).random((60, 5)), np.arange(60.0)[:, None])
    one, two = (replay_all(big, play_cheapest, 10, 3, n_jobs=n) for n in (1, 2))
    assert [run.rewards.tolist() for run in one] == [r.rewards.tolist() for r in two]
    orders = shuffles(big, 10, 3)
    by_hand = [big.rewards[order.run, order.arms[0]].tolist() for order in orders]
    assert [run.rewards.tolist() for run in one] == by_hand


def test_every_round_is_told():
    seen = []
    order = Shuffle(0, ROUNDS[:0], ROUNDS, np.arange(3))
    replay(table(), order, Plan([0, 1, 1, 2]), lambda: seen.append(len(seen)))
    assert seen == [0, 1, 2, 3]


def test_a_player_that_fails_leaves_the_table_as_it_was():
    one = table()
    before = one.rewards.tobytes(), one.embeddings.tobytes()
    order = Shuffle(0, ROUNDS[:0], ROUNDS, np.arange(3))
    with pytest.raises(IndexError):
        replay(one, order, Plan([0, 1]))
    assert (one.rewards.tobytes(), one.embeddings.tobytes()) == before


def test_a_cold_player_is_told_no_probe_table():
    rng = np.random.default_rng(2)
    noisy = table_of(rng.random((80, 3)), rng.standard_normal((80, 6)))
    encoder = TaskEncoder(types=(), n_components=2).fit(noisy.embeddings)
    order = next(shuffles(noisy, 30, 1))
    warm, cold = (BraidPlayer(noisy, order, encoder, warm=w) for w in (True, False))
    assert warm.agent.baseline_ is not None
    assert not hasattr(cold.agent, "encoder_") or cold.agent.baseline_ is None
    assert replay(noisy, order, cold).rewards.shape == (30,)


# ---- what makes a table ----


@pytest.mark.parametrize("what", ["rewards", "embeddings"])
def test_masked_numbers_make_no_table(what):
    """Under a mask may stand anything."""
    parts = {"rewards": REWARDS, "embeddings": np.eye(4)}
    parts[what] = np.ma.array(parts[what], mask=parts[what] == 1.0)
    with pytest.raises(ValueError, match=f"values of {what} are masked"):
        table_of(**parts)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_an_empty_table_is_refused(shape):
    with pytest.raises(ValueError, match="a cell at least, received rewards"):
        table_of(np.zeros(shape), np.zeros((shape[0], 1)))


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [[[1.0]], [[0.0]]], 1.0])
def test_rewards_are_rows_and_columns(rewards):
    with pytest.raises(ValueError, match=r"expected \(n, A\) and \(n, w\)"):
        table_of(rewards, np.eye(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_are_finite(bad):
    with pytest.raises(ValueError, match="must be finite"):
        table_of(np.eye(2), [[0.0], [bad]])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_first_of_equal_prompts_stays(prompts):
    """Row t has the reward t / 12: what is left tells which rows were kept."""
    rewards = np.arange(len(prompts))[:, None] / 12
    found = table_of(rewards, np.array(prompts, dtype=float)[:, None])
    first = sorted(prompts.index(prompt) for prompt in set(prompts))
    assert found.rewards[:, 0].tolist() == [row / 12 for row in first]
    assert found.embeddings[:, 0].tolist() == [prompts[row] for row in first]


def test_a_file_comes_back_as_it_was_written(tmp_path):
    file = tmp_path / "table.npz"
    measured, embeddings = REWARDS * 4 - 1, np.arange(4.0)[:, None]
    np.savez(file, rewards=measured, embeddings=embeddings, notes=np.array("mine"))
    found = read_table(str(file))
    np.testing.assert_array_equal(found.origin + found.unit * found.rewards, measured)
    assert (found.origin, found.unit) == (-1.0, 4.0)
    np.savez(file, notes=np.array("mine"))
    with pytest.raises(KeyError, match=r"lacks \['embeddings', 'rewards'\].*notes"):
        read_table(file)


def test_prompts_and_source_come_with_the_table(tmp_path):
    """Two prompts of one embedding are two; of one text, one."""
    prompts = ["one", "two", "two", "three"]
    np.savez(
        tmp_path / "t.npz",
        rewards=REWARDS[[0, 1, 2, 3]],
        embeddings=np.array([[1.0], [1.0], [2.0], [3.0]]),
        source=np.array([*"abbc"]),
    )
    with gzip.open(tmp_path / "t_prompts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in prompts)
    found = read_table(tmp_path / "t.npz")
    assert found.prompts == ("one", "two", "three")
    assert found.source == ("a", "b", "c")
    assert found.task(1) == {"text": "two"}
    assert found.task(1, typed=True) == {"text": "two", "type": "b"}
    encoder = encoder_of(found, typed=True)
    assert tuple(encoder.types) == ("a", "b", "c")
    assert encoder.embed(["two", "one"]).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "given", [{"prompts": ["one"]}, {"source": ["a", " ", "b", "c"]}]
)
def test_a_text_for_every_row(given):
    with pytest.raises(ValueError, match="is one text for each of 4 rows"):
        table_of(REWARDS, np.arange(4.0)[:, None], **given)


def test_a_player_reads_the_type():
    """Only the type says which of two models is right: soon the right one is taken."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 2, 300)
    table = table_of(
        np.eye(2)[source], rng.standard_normal((300, 4)), source=[*map(str, source)]
    )
    order = next(shuffles(table, 200, 1, probes=40))
    for typed, least, most in ((True, 0.95, 1.0), (False, 0.3, 0.8)):
        player = BraidPlayer(table, order, encoder_of(table, order.probe, typed))
        earned = replay(table, order, player).rewards[-100:].mean()
        assert least <= earned <= most


# ---- shuffles ----


SIX = table_of(np.random.default_rng(0).random((6, 3)), np.arange(6.0)[:, None])


@pytest.mark.parametrize(
    ("settings", "raised", "message"),
    [
        ({"rounds": 0}, ValueError, "rounds must be at least 1, received 0"),
        ({"rounds": -1}, ValueError, "rounds must be at least 1"),
        ({"rounds": 2.5}, TypeError, "rounds is a whole number"),
        ({"probes": -1}, ValueError, "probes must be at least 0, received -1"),
        ({"probes": 6}, ValueError, "6 prompts cannot spare 6"),
        ({"probes": 7}, ValueError, "6 prompts cannot spare 7"),
    ],
)
def test_shuffles_that_leave_nothing_to_play(settings, raised, message):
    with pytest.raises(raised, match=message):
        next(shuffles(SIX, **{"rounds": 2, "seeds": 1, "probes": 2, **settings}))


@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 4))
def test_every_prompt_is_played_or_reserved_at_most_once(rounds, probes, seeds):
    """And a longer run begins as a shorter one does; more seeds leave the first."""
    found = list(shuffles(SIX, rounds, seeds, probes))
    longer = list(shuffles(SIX, rounds + 1, seeds + 1, probes))
    assert [shuffle.seed for shuffle in found] == list(range(seeds))
    for one, more in zip(found, longer, strict=False):
        rows = [*one.probe.tolist(), *one.run.tolist()]
        assert len(set(rows)) == len(rows) == min(6, probes + rounds)
        assert one.run.tolist() == more.run[: len(one.run)].tolist()
        assert one.probe.tolist() == more.probe.tolist()
        assert one.arms.tolist() == more.arms.tolist()


def test_positions_of_the_arms_that_are_probed():
    """Columns 0 and 2 are probed; the shuffle has them at positions 1 and 0."""
    few = Table.scaled(REWARDS, np.eye(4), table().catalogue, np.array([0, 2]), 0, 1)
    order = Shuffle(0, ROUNDS[:0], ROUNDS, np.array([2, 0, 1]))
    assert order.probe_arms(few).tolist() == [0, 1]
    assert order.probe_arms(table()).tolist() == [0, 1, 2]


# ---- scores ----


@pytest.mark.parametrize(
    ("rounds", "last"),
    [(1, [0]), (3, [2]), (4, [3]), (7, [6]), (8, [6, 7]), (12, [9, 10, 11])],
)
def test_the_last_quarter_is_rounded_down_and_one_round_at_least(rounds, last):
    earned = np.arange(rounds) / rounds
    long = table_of(np.ones((rounds, 1)), np.arange(float(rounds))[:, None])
    order = Shuffle(0, ROUNDS[:0], np.arange(rounds), np.arange(1))
    run = score(long, order, earned, 0.5)
    assert run.last_quarter == pytest.approx(np.mean(last) / rounds)
    assert run.ms == 0.5


@given(
    st.lists(st.floats(-9, 9), min_size=8, max_size=8),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
def test_what_was_earned_and_the_regret_are_the_best_arm(values, arms):
    """In the units that were measured, whatever these are."""
    measured = np.array(values).reshape(4, 2)
    wide = table_of(measured, np.eye(4))
    run = replay(wide, Shuffle(0, ROUNDS[:0], ROUNDS, np.arange(2)), Plan(arms))
    np.testing.assert_allclose(run.rewards, measured[ROUNDS, arms], atol=1e-12)
    best = measured.sum(axis=0).max()
    assert run.rewards.sum() + run.regret == pytest.approx(best, abs=1e-9)


def test_a_player_that_knows_the_best_of_every_prompt_has_no_regret_to_lose():
    """Arms 1, 0, 1, 1 earn 3.5, one more than the best single arm."""
    order = Shuffle(0, ROUNDS[:0], ROUNDS, np.arange(3))
    assert replay(table(), order, Plan([1, 0, 1, 1])).regret == pytest.approx(-1.0)


# ---- the recommender as a player ----


def fitted(points):
    return TaskEncoder(types=(), n_components=2).fit(points.embeddings)


@pytest.fixture(scope="module")
def spread():
    rng = np.random.default_rng(3)
    return table_of(rng.random((30, 3)), rng.standard_normal((30, 6)))


def test_without_reserved_prompts_a_warm_player_starts_cold(spread):
    order = next(shuffles(spread, 5, 1, probes=0))
    runs = [
        replay(spread, order, BraidPlayer(spread, order, fitted(spread), warm=warm))
        for warm in (True, False)
    ]
    assert runs[0].rewards.tolist() == runs[1].rewards.tolist()


def test_a_player_takes_settings_and_pays_no_price(spread):
    order = next(shuffles(spread, 5, 1, probes=10))
    player = BraidPlayer(spread, order, fitted(spread), policy=Greedy(floor=0.25))
    settings = player.agent.get_params(deep=False)
    assert (settings["price"], settings["random_state"]) == (0.0, order.seed)
    assert settings["policy"] == Greedy(floor=0.25)
    anchors = [braid.anchor for braid in player.agent.catalogue]
    assert anchors == [str(column) for column in order.arms]


def test_no_seeds_are_no_runs():
    assert replay_all(SIX, play_cheapest, 2, 0, probes=1) == []
