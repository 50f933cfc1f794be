"""Counters of a replica's models as Ray metrics, which Ray's own exporter then shows for the whole
cluster."""

from collections.abc import Iterable

from ray.util.metrics import Counter

from raymlops.serving.statistics import METRICS, Statistics


class MetricsExport:
    """Reports what has grown since the last time; Ray sums over replicas and prefixes names with `ray_`."""

    def __init__(self, application: str) -> None:
        self._application = application
        tags = ("application", "model", "version")
        self._counters = {name: Counter(name, words, tag_keys=tags) for name, (words, _) in METRICS.items()}
        self._reported: dict[tuple[str, str, str], int] = {}

    def push(self, models: Iterable[Statistics]) -> None:
        for statistics in models:
            tags = {"application": self._application, "model": statistics.name, "version": statistics.version}
            for name, (_, read) in METRICS.items():
                place = (name, statistics.name, statistics.version)
                value = read(statistics)
                grown = value - self._reported.get(place, 0)
                if grown > 0:
                    self._counters[name].inc(grown, tags)
                    self._reported[place] = value
