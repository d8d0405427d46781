import numpy as np
import pytest
from programs import invoke, run

from braidbandit.cli.measuring.replaying import replayed
from braidbandit.cli.shell.exits import Exit


@pytest.fixture
def file(tmp_path):
    """Two kinds of prompts, and an arm that is right for each."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=120)
    embeddings = np.eye(2)[kind] + rng.normal(0, 0.05, (120, 2))
    rewards = np.eye(2)[kind] * 0.8 + 0.1
    path = tmp_path / "table.npz"
    np.savez(path, rewards=rewards, embeddings=embeddings, arms=np.array(["a", "b"]))
    return path


def test_what_learning_would_have_earned(file):
    found = replayed(file, 60, 2, None)
    learnt, fixed, chance = found.rows
    assert (found.rounds, found.arms, found.seeds, found.probes) == (60, 2, 2, 24)
    assert (
        learnt.mean > 0.85
    )  # it tells the kinds apart; an arm alone is right for half
    assert chance.mean == pytest.approx(0.5)
    assert 0.3 < fixed.mean < 0.7
    assert learnt.regret < 0 <= chance.regret


def test_without_a_probe_there_is_no_best_arm_of_it(file):
    found = replayed(file, 10, 1, 0)
    assert [row.name for row in found.rows] == ["learnt", "random arm"]
    assert np.isnan(found.rows[0].error)


def test_the_command(file, tmp_path):
    told = run("replay", file, "--rounds", "10", "--seeds", "1")
    assert told["rows"][0]["error"] is None  # one shuffle has no error
    assert "random arm" in invoke("replay", file, "--rounds", "10").output
    missing = run("replay", tmp_path / "no.npz", code=Exit.NOT_FOUND)
    assert "no table" in missing["error"]["message"]
    (tmp_path / "prompts.jsonl").write_text("{}")
    other = run("replay", tmp_path / "prompts.jsonl", code=Exit.REFUSED)
    assert "prompts.jsonl is no table" in other["error"]["message"]
    small = run("replay", file, "--probes", "120", code=Exit.REFUSED)
    assert "cannot spare" in small["error"]["message"]
