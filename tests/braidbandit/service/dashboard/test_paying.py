"""What choosing earned beyond a single arm, on logs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from braidbandit import Braid, Decision, Outcome
from braidbandit.service.dashboard.paying import paying

A, B = Braid("a"), Braid("b")


def made(number, braid, x=(1.0, 0.0), propensity=0.5, eligible=(True, True)):
    return Decision(
        id=f"d{number}",
        task_hash="t",
        x=x,
        braid=braid,
        propensity=propensity,
        propensity_se=0.0,
        arm_ids=(A.id, B.id),
        scores=(0.0, 0.0),
        eligible=eligible,
        expected_quality=0.5,
        uncertainty=0.1,
        relative_cost=0.5,
        budget={},
        policy="Uniform",
        catalogue_hash="c",
        encoder_hash="e",
    )


def log(n, rewards, skill=0.9, seed=0):
    """Tasks of two kinds; the arm that suits a task is taken with probability skill."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        kind = int(rng.integers(2))
        right = rng.random() < skill
        taken = kind if right else 1 - kind
        p = skill if right else 1 - skill
        x = (1.0, float(2 * kind - 1) + 0.01 * float(rng.normal()))
        reward = float(rng.random() < rewards[taken][kind])
        braid = (A, B)[taken]
        decision = made(i, braid, x, p)
        pairs.append((decision, Outcome(decision.id, reward)))
    return pairs


def test_choosing_pays_where_each_arm_is_good_at_something():
    found = paying(log(600, rewards=((0.9, 0.1), (0.1, 0.9))))
    assert found.verdict == "pays"
    assert found.low <= found.earned <= found.high
    assert {rival.arm_id for rival in found.rivals} == {A.id, B.id}
    for rival in found.rivals:  # always one arm earns 0.5; choosing earns 0.82
        assert rival.low <= 0.5 <= rival.high
        assert rival.gain_low <= 0.32 <= rival.gain_high
        assert rival.gain_low > 0
        assert rival.gain == pytest.approx(found.earned - rival.value)


def test_choosing_costs_where_one_arm_is_always_better():
    found = paying(log(600, rewards=((0.9, 0.9), (0.2, 0.2))))
    assert found.verdict == "costs"
    assert found.rivals[0].arm_id == A.id


def test_equal_arms_leave_it_open():
    assert paying(log(300, rewards=((0.5, 0.5), (0.5, 0.5)))).verdict == "open"


def test_few_ratings_are_too_early():
    found = paying(log(12, rewards=((0.9, 0.1), (0.1, 0.9))))
    assert found.verdict == "early"
    assert paying([]) is None


def test_what_was_not_drawn_does_not_count():
    pairs = log(200, rewards=((0.9, 0.1), (0.1, 0.9)))
    named = made(900, A, propensity=1.0, eligible=(True, False))
    certain = made(901, A, propensity=1.0)
    own = replace(made(902, B), instead_of="d1", policy="person")
    others = [(d, Outcome(d.id, 0.0)) for d in (named, certain, own)]
    assert paying([*pairs, *others]) == paying(pairs)
    assert paying(others) is None


def test_an_arm_is_judged_where_it_could_be_taken():
    pairs = log(300, rewards=((0.9, 0.9), (0.2, 0.2)))
    extra = Braid("c")
    shown = []
    for decision, outcome in pairs[:100]:
        ids = (*decision.arm_ids, extra.id)
        more = {"arm_ids": ids, "scores": (0.0,) * 3}
        shown.append((replace(decision, **more, eligible=(True,) * 3), outcome))
    found = paying([*shown, *pairs[100:]])
    assert {rival.rows for rival in found.rivals} == {300}
    hidden = [(replace(d, eligible=(True, False)), o) for d, o in pairs[:50]]
    hidden = [(d, o) for d, o in hidden if d.braid == A]
    rows = {r.arm_id: r.rows for r in paying([*hidden, *pairs[50:]]).rivals}
    assert rows == {A.id: 250, B.id: 250}


def test_features_of_a_former_encoder_are_left_out():
    pairs = log(200, rewards=((0.9, 0.1), (0.1, 0.9)))
    old = [(replace(d, id="o" + d.id, encoder_hash="old"), o) for d, o in pairs[:20]]
    assert paying([*old, *pairs]) == paying(pairs)


def test_arms_of_which_nothing_can_be_told_have_a_reason():
    pairs = log(200, rewards=((0.9, 0.1), (0.1, 0.9)))
    wrong = [(replace(d, propensity=0.01), o) for d, o in pairs]
    found = paying(wrong)
    assert found.verdict == "early"
    assert found.refused
    assert all("weight" in why for why in found.refused.values())
