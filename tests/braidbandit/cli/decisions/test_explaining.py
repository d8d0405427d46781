import pytest
from programs import run

from braidbandit import Ledger
from braidbandit.cli.decisions.explaining import best_rows, now_of, recorded
from braidbandit.cli.shell.place import place_of


@pytest.fixture
def found(folder):
    with Ledger(folder / "ledger.sqlite") as ledger:
        yield recorded(ledger, ledger.ids(most=4)[-1])


def test_what_was_recorded_is_told_as_it_is(folder, found):
    assert found.outcome.reward == 0.8
    assert found.text is None  # it was not asked to be kept
    data = found.to_dict()
    assert "x" not in data
    assert data["arms"][0].keys() == {"arm", "score", "eligible"}
    assert data["outcome"]["reward"] == 0.8


def test_the_chosen_arm_is_always_among_those_shown(found):
    rows = best_rows(found, {}, most=1)
    assert [row[0] for row in rows] == [">"]
    assert rows[0][1] == found.decision.braid.id
    scores = [row[2] for row in best_rows(found, {}, most=3)]
    assert scores == sorted(scores, reverse=True) or len(scores) == 3


def test_what_is_expected_now_adds_up(folder, found):
    policy = place_of(folder, None).load_policy()
    now = now_of(policy, found.decision)
    assert now.arm_id == found.decision.braid.id
    known = sum(task.contribution for task in now.nearest)
    assert now.prior + known + now.rest == pytest.approx(now.chosen.mean)
    assert now.chosen.exploration == 0
    best = max(now.rows, key=lambda row: row.score)
    if best.arm_id == now.arm_id:
        assert "the best score still" in now.sentence
    else:
        assert f"{best.label} has a better score" in now.sentence


def test_a_decision_of_another_agent_is_not_explained_anew(found, agent):
    agent.recommend("x")
    assert now_of(agent, found.decision) is None


def test_explaining_changes_nothing(folder):
    files = sorted(
        p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")
    )
    before = [file.read_bytes() for file in files]
    told = run("explain", "last")
    assert told["now"]["sentence"]
    assert told["outcome"] is None
    assert [file.read_bytes() for file in files] == before
