"""What a judge says of an application's versions, as Prometheus gauges. Judges nothing."""

from collections.abc import Iterator, Mapping, Sequence

from raymlops.monitoring.judgement import ApplicationJudgement, Judgement
from raymlops.monitoring.quality import Quality
from raymlops.serving.endpoints.told_gauges import Gauge

_MOST = 50
"""Columns, and segments, of a version that are shown: those that are least likely."""


def list_gauges(
    judged: ApplicationJudgement, estimated: Mapping[tuple[str, str], Sequence[Quality]]
) -> list[Gauge]:
    """`estimated` is the quality of the last day, by model and version."""
    found = [gauge for one in judged.versions for gauge in _list_version(one)]
    return found + [
        gauge
        for (model, version), lines in estimated.items()
        for gauge in _list_quality(model, version, lines)
    ]


def _list_quality(model: str, version: str, lines: Sequence[Quality]) -> Iterator[Gauge]:
    for line in lines:
        labels = {"model": model, "version": version, "metric": line.metric}
        yield "raymlops_estimated_quality", labels | {"bound": "usual"}, line.usual
        if not line.is_silent:
            for bound, value in (("value", line.value), ("low", line.low), ("high", line.high)):
                yield "raymlops_estimated_quality", labels | {"bound": bound}, value


def _list_version(one: Judgement) -> Iterator[Gauge]:
    version = {"model": one.model, "version": one.version}
    for column in one.columns[:_MOST]:
        shares = column.shares
        yield "raymlops_drift_deviate", version | {"column": shares.column.label}, shares.deviate
    for segment in one.segments[:_MOST]:
        labels = {"column": segment.column, "segment": segment.name}
        yield "raymlops_drift_deviate", version | labels, segment.deviate
    for family, threshold in one.thresholds.items():
        yield "raymlops_drift_threshold", version | {"family": family}, threshold
