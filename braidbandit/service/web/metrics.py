"""Counters for Prometheus, made of what the service counts anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from braidbandit.service.live import Live

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = "braidbandit"


class LiveMetrics(Collector):
    """Tells Prometheus what a `Live` counts.

    Parameters
    ----------
    live : Live
    gauges : callable
        Gives more numbers by name: what waits, how many arms are ready, ...
    """

    def __init__(self, live: Live, gauges: Callable[[], dict[str, float]]) -> None:
        self._live, self._gauges = live, gauges

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        live = self._live
        yield _counter(
            "requests",
            "Requests by route and status.",
            ("route", "status"),
            (((route, str(status)), n) for (route, status), n in _now(live.requests)),
        )
        yield _counter(
            "answers", "Answers by arm and end.", ("arm", "finish"), _now(live.answers)
        )
        yield _counter(
            "tokens",
            "Tokens read and written.",
            ("kind",),
            (((kind,), n) for kind, n in _now(live.tokens)),
        )
        yield _counter(
            "feedback",
            "Feedback by kind and result.",
            ("kind", "result"),
            _now(live.feedback),
        )
        yield _counter(
            "full", "Requests that found the queue full.", (), [((), live.full)]
        )
        for name, times in (
            ("decision_seconds", live.decision_seconds),
            ("first_token_seconds", live.first_seconds),
        ):
            kept = list(times)
            summary = SummaryMetricFamily(
                f"{_NAME}_{name}",
                "Of the newest 10,000.",
                count_value=len(kept),
                sum_value=sum(kept),
            )
            yield summary
            for share in (0.5, 0.99):
                value = sorted(kept)[int(share * (len(kept) - 1))] if kept else 0.0
                gauge = GaugeMetricFamily(
                    f"{_NAME}_{name}_p{int(100 * share)}", "Of the newest 10,000."
                )
                gauge.add_metric([], value)
                yield gauge
        for name, value in self._gauges().items():
            gauge = GaugeMetricFamily(f"{_NAME}_{name}", name.replace("_", " "))
            gauge.add_metric([], value)
            yield gauge


def metrics_text(collector: Collector) -> bytes:
    """Return what a collector tells, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


def _counter(
    name: str,
    about: str,
    labels: tuple[str, ...],
    counts: Iterable[tuple[tuple[str, ...], int]],
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_NAME}_{name}", about, labels=labels)
    for values, count in counts:
        family.add_metric(list(values), count)
    return family


def _now(counter: dict) -> list:  # type: ignore[type-arg]
    """A copy of what is counted, which other threads go on counting."""
    return list(dict(counter).items())
