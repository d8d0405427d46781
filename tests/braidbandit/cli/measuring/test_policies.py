import shutil

import pytest
import typer

from braidbandit import Ledger, Log
from braidbandit.cli.measuring.policies import policies_of
from braidbandit.cli.shell.place import place_of


@pytest.fixture
def place(settings):
    place = place_of(None, None)
    with place.open_agent() as agent:
        for number in range(30):
            task = f"Task number {number}"
            decision = agent.forward(task)
            agent.learn_from_feedback(task, decision, number % 2)
    return place


@pytest.fixture
def log(place):
    with Ledger(place.ledger_file) as ledger:
        return Log.read(ledger)


def test_arms_with_enough_rewards_are_compared(place, log):
    found = policies_of(place, log, None, None, None)
    often = {a for n, a in enumerate(log.arm_ids) if (log.columns == n).sum() >= 5}
    assert set(found.values()) == often
    assert all(name.startswith("always ") for name in found)


def test_policies_that_are_named(place, log, tmp_path):
    shutil.copytree(place.policy, tmp_path / "may")
    arm = log.arm_ids[0]
    found = policies_of(place, log, [arm], [f"may={tmp_path / 'may'}"], 0.5)
    assert len(found) == 3
    assert found["may"].n_updates_ == 30


def test_what_is_not_there_is_refused(place, log, tmp_path):
    with pytest.raises(KeyError, match="knows no arm"):
        policies_of(place, log, ["nobody"], None, None)
    with pytest.raises(typer.BadParameter, match="NAME=FOLDER"):
        policies_of(place, log, [], ["may"], None)
    with pytest.raises(FileNotFoundError):
        policies_of(place, log, [], [f"may={tmp_path / 'none'}"], None)
    with pytest.raises(ValueError, match="no arm has 5 rewards"):
        policies_of(place, log, [], None, None)
