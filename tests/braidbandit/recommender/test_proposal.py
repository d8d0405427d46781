"""A proposal changes nothing until it is committed; a stale one is refused."""

import copy
import json

import pytest
from learnt import TASKS

from braidbandit.recommender.state_files import read_state


@pytest.fixture
def taught(agent):
    agent.set_params(mean_cost=0.3)
    for task in TASKS[:6]:
        agent.update(agent.recommend(task), 0.5)
    agent.recommend(TASKS[6])
    return agent


def saved(agent, folder):
    agent.save(folder)
    manifest, arrays = read_state(folder)
    return json.dumps(manifest), {name: a.tobytes() for name, a in arrays.items()}


def test_what_is_not_committed_leaves_every_bit(taught, tmp_path):
    before = saved(taught, tmp_path)
    twin = copy.deepcopy(taught)
    for task in TASKS[:5]:
        taught.propose(task)
    assert saved(taught, tmp_path) == before
    one, other = taught.recommend(TASKS[7]), twin.recommend(TASKS[7])
    assert (one.braid, one.propensity) == (other.braid, other.propensity)


def test_a_proposal_draws_as_if_no_other_had_been_made(taught):
    twin = copy.deepcopy(taught)
    proposal = taught.propose(TASKS[7])
    for task in TASKS[:3]:
        taught.propose(task, eligible=taught.arm_ids_[:3])
    taught.commit(proposal)
    twin.recommend(TASKS[7])
    assert taught.rng_.bit_generator.state == twin.rng_.bit_generator.state
    assert taught.pacer_ == twin.pacer_


@pytest.mark.parametrize("change", ["another", "twice", "elsewhere", "random_state"])
def test_a_stale_proposal_is_refused(taught, tmp_path, change):
    proposal, to = taught.propose(TASKS[7]), taught
    if change == "another":
        taught.recommend(TASKS[8])
    elif change == "twice":
        taught.commit(proposal)
    elif change == "elsewhere":
        to = copy.deepcopy(taught)
    else:
        taught.set_params(random_state=5).start()
    before = saved(to, tmp_path)
    with pytest.raises(ValueError, match="propose again"):
        to.commit(proposal)
    assert saved(to, tmp_path) == before
