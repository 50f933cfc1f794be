"""What a round of operational checks saw, as Prometheus gauges. Gathers nothing."""

import datetime
from collections.abc import Iterable, Iterator, Sequence

from raymlops.events.incident import Incident
from raymlops.monitoring.operations.figures import Figures
from raymlops.serving.endpoints.told_gauges import Gauge
from raymlops.specs.serving import ServingSpec

Kind = tuple[str, ...]
"""Severity, model, version, family, segment and check of an alarm."""


def list_gauges(
    figures: Figures, spec: ServingSpec, is_open: Sequence[Incident], seen: Iterable[Kind]
) -> list[Gauge]:
    """`seen` are kinds of alarms that were open before, which are shown as 0 now: a series that ends is no news to
    Prometheus for five minutes."""
    return [*_list_figures(figures, spec), *_count_open(is_open, seen)]


def _list_figures(figures: Figures, spec: ServingSpec) -> Iterator[Gauge]:
    yield "raymlops_checks_timestamp_seconds", {}, figures.now.at
    yield "raymlops_objective_error_share", {}, spec.slo.errors
    if spec.slo.p99_ms is not None:
        yield "raymlops_objective_latency_seconds", {}, spec.slo.p99_ms / 1000
    yield "raymlops_application_healthy", {}, float(figures.now.healthy)
    yield "raymlops_replicas_wanted", {}, float(figures.now.wanted)
    yield "raymlops_queue_limit", {}, float(figures.queue)
    for certificate in figures.certificates or ():
        yield (
            "raymlops_certificate_expiry_timestamp_seconds",
            {"path": certificate.path},
            0.0 if certificate.problem else certificate.ends,
        )
    for name, ends in (figures.keys or {}).items():
        yield "raymlops_key_expiry_timestamp_seconds", {"key": name}, ends
    for place in figures.places or ():
        if not place.problem:
            yield "raymlops_storage_free_bytes", {"path": place.path}, float(place.free)
            yield "raymlops_storage_size_bytes", {"path": place.path}, float(place.total)
    if spec.uses_registry and figures.tracking_problem is not None:
        yield "raymlops_tracking_up", {}, float(not figures.tracking_problem)


def _count_open(is_open: Sequence[Incident], seen: Iterable[Kind]) -> Iterator[Gauge]:
    at = datetime.datetime.now(datetime.UTC)
    counts: dict[Kind, int] = dict.fromkeys([("page", "", "", "operations", "", ""), *seen], 0)
    for one in is_open:
        if not one.is_silent(at):
            kind = (one.alarm.severity, *one.alarm.watched)
            counts[kind] = counts.get(kind, 0) + 1
    for (severity, model, version, family, segment, check), count in counts.items():
        labels = {
            "severity": severity, "family": family, "check": check, "model": model, "version": version,
            "segment": segment,
        }  # fmt: skip
        yield "raymlops_incidents_open", labels, float(count)
