"""Metrics that no replica counts: what the processes that judge an application tell of it, as Prometheus gauges. Judges
nothing and does not import Ray."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric

Gauge = tuple[str, Mapping[str, str], float]
"""Name, labels beside the application, and the present value."""


@dataclasses.dataclass(frozen=True)
class Told:
    words: str
    labels: tuple[str, ...] = ()


GAUGES: Mapping[str, Told] = {
    "raymlops_incidents_open": Told(
        "alarms that are open and not silenced, by what they are about; 0 once all have closed",
        ("severity", "family", "check", "model", "version", "segment"),
    ),
    "raymlops_drift_deviate": Told(
        "how far a column is from its reference, as a normal deviate: the largest of its tests and windows",
        ("model", "version", "column", "segment"),
    ),
    "raymlops_drift_threshold": Told(
        "deviate above which an alarm is raised, by the false alarms that were asked for",
        ("model", "version", "family"),
    ),
    "raymlops_estimated_quality": Told(
        "quality without labels, estimated of the rows of the last day: value, low and high of its interval where "
        "there is one, and usual, that of the reference",
        ("model", "version", "metric", "bound"),
    ),
    "raymlops_objective_error_share": Told("`slo.errors`: largest share of requests that may fail"),
    "raymlops_objective_latency_seconds": Told("`slo.p99_ms`: time for 99% of the answers"),
    "raymlops_application_healthy": Told("1 while Serve says that the application runs or is being deployed"),
    "raymlops_replicas_wanted": Told("replicas that there should be"),
    "raymlops_queue_limit": Told("`limits.queue`: requests that one replica lets wait or run"),
    "raymlops_certificate_expiry_timestamp_seconds": Told(
        "Unix time at which a certificate expires", ("path",)
    ),
    "raymlops_key_expiry_timestamp_seconds": Told(
        "Unix time at which the last API key of a name ends", ("key",)
    ),
    "raymlops_storage_free_bytes": Told("free bytes of a place where files are written", ("path",)),
    "raymlops_storage_size_bytes": Told("all bytes of it", ("path",)),
    "raymlops_tracking_up": Told("1 if the tracking store answers; none if the application needs none"),
    "raymlops_checks_timestamp_seconds": Told("Unix time of the last round of operational checks"),
}
"""All of them: name -> its help text, and its labels."""


def collect(application: str, told: Iterable[Gauge]) -> Iterator[Metric]:
    """As prometheus_client's registries do; what is not in GAUGES, as of another release, is left out."""
    found: dict[str, Metric] = {}
    for name, labels, value in told:
        known = GAUGES.get(name)
        if known is None or not math.isfinite(value):
            continue
        metric = found.setdefault(name, Metric(name, known.words, "gauge"))
        metric.add_sample(
            name,
            {"application": application} | {label: labels.get(label, "") for label in known.labels},
            value,
        )
    return iter(found.values())
