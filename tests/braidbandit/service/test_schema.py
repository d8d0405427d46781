"""Every answer is one that the OpenAPI document tells of."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="it is not installed")


@pytest.fixture(scope="module")
def brief(serve, make_agent, models):
    """A service that writes a few tokens only."""
    server = {"most_tokens": 3, "default_tokens": 3, "feedback_per_hour": 0}
    return serve(make_agent(local=models[:1]), server=server)


def check(cases, documented, seen):
    """Send requests; note the status of each answer."""

    @settings(
        max_examples=20,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def send(case):
        answer = case.call()
        seen.add(answer.status_code)
        assert str(answer.status_code) in documented, answer.text
        if answer.status_code != 200:
            assert set(answer.json()) >= {"error"}

    with suppress(Unsatisfiable):  # nothing about a path without arguments is wrong
        send()


def test_no_answer_is_undocumented(brief):
    schema = schemathesis.openapi.from_url(f"{brief.root}/openapi.json")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    seen = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        documented = set(operation.definition.raw["responses"])
        for mode in modes:
            cases = operation.as_strategy(generation_mode=mode)
            check(cases, documented, seen.setdefault(operation.path, set()))
    assert len(seen) == 10
    assert 400 in seen["/v1/feedback"]
    assert 200 in seen["/v1/models"]
    assert all(status < 500 for found in seen.values() for status in found)
