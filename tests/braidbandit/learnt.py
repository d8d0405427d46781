"""What a recommender has learnt, in a form that tests compare."""

import json

import numpy as np

TYPES = ("code", "medical", "creative")
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(40)]
REWARDS = np.random.default_rng(0).random(40).round(2)


def decide(agent, n=40):
    """Decisions on the first n tasks."""
    return [agent.recommend(task) for task in TASKS[:n]]


def moments(agent):
    """Means and covariance: what the factor, which is not unique, stands for."""
    p = agent.posterior_
    order = np.argsort(p.seen)
    own = -p.own_load[order] @ p.factor.T
    return [p.mean, p.factor @ p.factor.T, p.own_mean, p.own_covariance, own]


def assert_same(one, other, tolerance=1e-9):
    """Both believe the same."""
    for a, b in zip(moments(one), moments(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=tolerance)


def fingerprint(agent):
    """Every fitted array and counter, and the place in the random sequence."""
    model, log = agent.arm_model_, agent.arm_model_.log
    online, costs = model.quality, model.costs.values()
    posteriors = [agent.posterior_, *(cost.posterior for cost in costs)]
    return [
        *(
            [getattr(p, name).tobytes() for name in p.ARRAYS] + [p.square, p.count]
            for p in posteriors
            if p is not None
        ),
        None if online is None else (online.n_updates, online.clock, online.faded),
        json.dumps([log.settled, list(log.pending), list(log.learnt), log.counts]),
        json.dumps([log.judged, log.repeats, list(log.compared)]),
        (agent.ledger_position_, agent.arm_ids_, model.descriptors.tobytes()),
        str(agent.rng_.bit_generator.state),
    ]
