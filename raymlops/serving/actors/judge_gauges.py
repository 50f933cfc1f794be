"""What a judge says of an application's versions, as Prometheus gauges. Judges nothing."""

from collections.abc import Iterator

from raymlops.monitoring.judgement import ApplicationJudgement, Judgement
from raymlops.serving.endpoints.told_gauges import Gauge

_MOST = 50
"""Columns, and segments, of a version that are shown: those that are least likely."""


def list_gauges(judged: ApplicationJudgement) -> list[Gauge]:
    return [gauge for one in judged.versions for gauge in _list_version(one)]


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
