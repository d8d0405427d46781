"""One decision, as it was and as it is seen now."""

import pytest

from braidbandit.service.dashboard.telling import told


@pytest.fixture(scope="module")
def service(server):
    return server.service


def decided(service, text, **limits):
    decision = service.agent.forward(text, **limits)
    service.tasks.keep(decision.id, {"text": text})
    return decision


def test_terms_add_up_and_the_best_come_first(service):
    decision = decided(service, "Hello")
    found = told(service, decision.id)
    assert found.decision == decision
    assert found.outcome is None
    assert found.text is None
    assert found.why is not None
    scores = [row.score for row in found.rows]
    assert scores == sorted(scores, reverse=True)
    [taken] = [arm for arm in found.recorded if arm.taken]
    assert taken.arm_id == decision.braid.id
    assert len(found.recorded) + found.left_out == len(decision.arm_ids)
    total = found.why.prior + sum(t.contribution for t in found.why.nearest)
    assert total + found.why.rest == pytest.approx(found.why.chosen.mean)


def test_feedback_is_told(service):
    decision = decided(service, "Hello")
    service.agent.learn_from_feedback("Hello", decision, 0.5)
    assert told(service, decision.id).outcome.reward == 0.5


def test_an_arm_that_was_asked_for_is_explained_alone(service):
    arm = service.agent.catalogue.ids[-1]
    decision = decided(service, "Hello", eligible=[arm])
    found = told(service, decision.id)
    assert found.why.arm_id == arm
    assert {row.arm_id for row in found.rows if not row.reason} == {arm}


def test_what_is_not_known_is_said(service):
    decision = service.agent.forward("Not kept")
    found = told(service, decision.id)
    assert found.why is None
    assert found.rows == ()
    assert "keep_text" in found.why_not
    with pytest.raises(KeyError):
        told(service, "nothing")
