"""Counters of a replica as Ray metrics, which Ray's own exporter then shows for the whole cluster."""

from collections.abc import Iterable

from ray.util.metrics import Counter

from raymlops.serving.statistics import FAMILIES, Sample


class MetricsExport:
    """Reports what has grown since the last time; Ray sums over replicas and prefixes names with `ray_`.

    Ray's recorder takes some 100 KB for each series that keeps changing, within minutes and then no more; without
    it (RAY_enable_open_telemetry=0) Ray exports none of these.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._counters = {
            name: Counter(name, family.words, tag_keys=("application", *family.labels))
            for name, family in FAMILIES.items()
            if family.kind == "counter"
        }
        self._reported: dict[tuple[str, tuple[str, ...]], int] = {}

    def push(self, samples: Iterable[Sample]) -> None:
        for metric, values, number in samples:
            if metric not in self._counters:
                continue
            grown = number - self._reported.get((metric, values), 0)
            if grown > 0:
                tags = dict(zip(FAMILIES[metric].labels, values, strict=True))
                self._counters[metric].inc(grown, {"application": self._application, **tags})
                self._reported[metric, values] = number
