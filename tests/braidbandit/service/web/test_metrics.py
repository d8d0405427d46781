"""Prometheus reads what is counted."""

from prometheus_client.parser import text_string_to_metric_families

from braidbandit.service.live import Live
from braidbandit.service.web.metrics import LiveMetrics, metrics_text


def test_metrics():
    live = Live()
    live.note_request("/v1/models", 200)
    live.note_request("/v1/models", 200)
    live.note_decision(0.25)
    text = metrics_text(LiveMetrics(live, lambda: {"waiting": 7.0})).decode()
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["braidbandit_requests_total", ("/v1/models", "200")] == 2
    assert found["braidbandit_waiting", ()] == 7
    assert found["braidbandit_decision_seconds_count", ()] == 1
    assert found["braidbandit_decision_seconds_p99", ()] == 0.25
