"""Reads the health of an application: its counts, judged as the live judge does it, estimated quality, and incidents.
Writes nothing but thresholds, which are kept for the next reader."""

import dataclasses
import datetime
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops import histograms
from raymlops.captures.store import CaptureStore, find_root
from raymlops.errors import NotFoundError, RaymlopsError, unknown_name
from raymlops.events.incident import Incident
from raymlops.events.incident_log import list_applications as list_alarmed
from raymlops.events.incidents import find_location
from raymlops.monitoring import tick_store
from raymlops.monitoring.calibration import Calibration, Labelled
from raymlops.monitoring.health import Health, Metric, ModelHealth, Traffic, plain_trend
from raymlops.monitoring.judgement import ApplicationJudgement, ColumnJudgement, Judgement, Trend, to_time
from raymlops.monitoring.quality import Quality, estimate_quality, measure_quality
from raymlops.monitoring.quality_trends import make_metrics
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.tick_store import TickStore
from raymlops.monitoring.ticks import ALL_ROWS, Place, Tick, no_counts, sum_ticks
from raymlops.runtime.application_judge import SETTLED_S, ApplicationJudge
from raymlops.settings import Settings

PERIOD = datetime.timedelta(days=7)
_WIDTHS_S = (60, 300, 900, 3600, 10_800, 21_600, 86_400)
_MOST_PERIODS = 170
_HOUR_S, _DAY_S = 3600, 86_400


@dataclasses.dataclass(frozen=True)
class _Part:
    """What is kept of a day or an hour: sums by place, of periods without the counts of cells, and of all of it with
    them. Minutes of hundreds of columns would fill the memory."""

    periods: tuple[Tick, ...]
    whole: tuple[Tick, ...]


class HealthReader:
    """Of one application. What does not change from one look to the next, such as days that are over, is kept."""

    def __init__(self, application: str, settings: Settings, root: str = "") -> None:
        """`root` is the folder of counts, by default below the storage path. Raises NotFoundError if nothing was
        counted of such an application and it has no alarms, StorageError."""
        self._application, self._settings = application, settings
        self._root = root or tick_store.find_root(settings.storage_path)
        self._store = TickStore(self._root, application)
        self._judge = ApplicationJudge(application, settings, root=self._root)
        self._parts: dict[tuple[float, float, int], _Part] = {}
        self._references: dict[str, Reference | str] = {}
        self._estimates: dict[tuple[str, int, int], Sequence[Quality]] = {}
        self._measured: dict[Place, tuple[Any, dict[int, Labelled]]] = {}
        known = list_monitored(settings, self._root)
        if application not in known:
            told = unknown_name("monitored application", application, known)
            raise NotFoundError(f"{told}. Counts are looked for in {self._root}")

    def read(self, start: datetime.datetime, at: datetime.datetime, model: str = "") -> Health:
        """From `start` to `at`; of `model` alone, if it is given: a model, an endpoint or a node of a graph. Raises
        NotFoundError, StorageError; what else cannot be read is told in the health's notes."""
        parts = self._read_parts(start.timestamp(), at.timestamp())
        judged = self._judge.look(at.timestamp())
        places = self._find_places(parts)
        chosen = [place for place in places if model in ("", place.model, place.path)]
        if model and not chosen:
            known = sorted({name for place in places for name in (place.model, place.path)})
            raise NotFoundError(unknown_name(f"model of {self._application}", model, known))
        models = [self._read_model(place, parts, judged, start, at) for place in chosen]
        return Health(
            self._application,
            start,
            at,
            tuple(sorted(models, key=_order)),
            _choose_incidents(judged.incidents, start, {place.model for place in chosen} if model else set()),
            self._find_lost_nodes(start, at),
            judged.notes,
            datetime.timedelta(seconds=float(self._store.read_settings().get("tick_seconds", 60))),
        )

    def _read_parts(self, start: float, at: float) -> list[_Part]:
        """A day at a time, and an hour at a time of the last one: only the newest is read again at the next look."""
        width = _choose_width(at - start)
        found = []
        first = start // width * width
        while first < at:
            step = _DAY_S if at - first > _DAY_S else _HOUR_S
            last = (first // step + 1) * step
            key = first, last, width
            part = self._parts.get(key) or _sum_part(self._store.read(first, last, ALL_ROWS), width)
            if last < at - SETTLED_S:
                self._parts[key] = part
            found.append(part)
            first = last
        self._parts = {key: part for key, part in self._parts.items() if key[1] > start and key[2] == width}
        return found

    def _find_places(self, parts: Sequence[_Part]) -> list[Place]:
        """Where something was counted, and what was deployed last, counted or not; each with its newest reference."""
        watched = self._store.read_settings().get("watched", {})
        found = {
            Place(path, one["role"], one["model"], one["version"], ""): str(one["reference"])
            for path, one in watched.items()
        }
        for tick in sorted((tick for part in parts for tick in part.whole), key=lambda tick: tick.last):
            found[_name(tick.place)] = tick.place.reference
        return sorted(place._replace(reference=digest) for place, digest in found.items())

    def _find_lost_nodes(self, start: datetime.datetime, at: datetime.datetime) -> tuple[str, ...]:
        losses = self._store.read_losses(start.timestamp(), at.timestamp())
        return tuple(sorted({loss.node for loss in losses if loss.rows is None}))

    def _read_model(
        self,
        place: Place,
        parts: Sequence[_Part],
        judged: ApplicationJudgement,
        start: datetime.datetime,
        at: datetime.datetime,
    ) -> ModelHealth:
        name, digest = _name(place), place.reference
        periods = [tick for part in parts for tick in part.periods if tick.place == name]
        rows = [tick for part in parts for tick in part.whole if _name(tick.place) == name and tick.rows]
        health = ModelHealth(
            place.model,
            place.version,
            place.path,
            place.role,
            sum(tick.rows for tick in rows),
            to_time(max(tick.last for tick in rows)) if rows else None,
            traffic=_sum_traffic(periods, start.timestamp(), at.timestamp()),
        )
        if not digest:
            uri = f"models:/{place.model}/{place.version}"
            made = f"raymlops reference {shlex.quote(uri)} DATA"
            why = f"it has no reference; of a registered version: {made}, and deploy again"
            return dataclasses.replace(health, unwatched=why)
        reference = self._find_reference(digest)
        if isinstance(reference, str):
            return dataclasses.replace(health, unwatched=reference)
        found = next((one for one in judged.versions if (one.model, one.version) == place[2:4]), None)
        compared = [tick for tick in rows if tick.place.reference == digest]
        health = dataclasses.replace(
            health,
            metrics=self._find_metrics(place, compared, reference, start, at),
            left_out=reference.left_out,
        )
        if place.role == "table":
            uri = f"models:/{place.model}/{place.version}"
            why = f"rows of files are compared by raymlops drift {shlex.quote(uri)} DATA"
            return dataclasses.replace(health, unwatched=why)
        if found is None:
            return dataclasses.replace(
                health, unwatched="no rows came that can be compared with its reference"
            )
        return dataclasses.replace(health, judgement=_cut(found, start, at))

    def _find_metrics(
        self,
        place: Place,
        days: Sequence[Tick],
        reference: Reference,
        start: datetime.datetime,
        at: datetime.datetime,
    ) -> tuple[Metric, ...]:
        calibration = reference.calibration
        if calibration is None:
            return ()
        estimated = {}
        for tick in sum_ticks(days, _DAY_S):
            key = place.reference, tick.start, tick.rows
            if key not in self._estimates:
                self._estimates[key] = estimate_quality(reference, tick.counts)
            estimated[tick.start] = self._estimates[key]
        try:
            measured, why = self._measure(place, calibration, start, at), ""
        except RaymlopsError as error:
            measured, why = {}, str(error)
        return make_metrics(
            estimated, {day: measure_quality(calibration, one) for day, one in measured.items()}, why
        )

    def _measure(
        self, place: Place, calibration: Calibration, start: datetime.datetime, at: datetime.datetime
    ) -> dict[int, Labelled]:
        """Of an endpoint: what answers within a graph is not captured."""
        store = CaptureStore(find_root(self._settings.storage_path))
        files = tuple(file.path for file in store.list_labels(place.path)) if place.role == "endpoint" else ()
        if not files:
            return {}
        from raymlops.lifecycle.monitoring.measured_quality import measure_days  # Ray and MLflow take seconds

        known = files, start.date(), at.date()  # a file of labels never changes
        if self._measured.get(place, (None,))[0] != known:
            version = f"models:/{place.model}/{place.version}"
            days = measure_days(
                store, place.path, version, calibration, start.date(), at.date(), self._settings
            )
            self._measured[place] = known, days
        return self._measured[place][1]

    def _find_reference(self, digest: str) -> Reference | str:
        """Or why it cannot be read."""
        if digest not in self._references:
            try:
                self._references[digest] = self._store.read_reference(digest)
            except RaymlopsError as error:
                return f"its reference cannot be read: {error}"
        return self._references[digest]


def list_monitored(settings: Settings, root: str = "") -> list[str]:
    """Applications of which something was counted, or that have alarms. Raises StorageError."""
    counted = tick_store.list_applications(root or tick_store.find_root(settings.storage_path))
    return sorted({*counted, *list_alarmed(find_location(settings))})


def _name(place: Place) -> Place:
    """Of all its references and segments."""
    return place._replace(reference="", segment=ALL_ROWS)


def _choose_width(span: float) -> int:
    return next((one for one in _WIDTHS_S if span / one <= _MOST_PERIODS), _WIDTHS_S[-1])


def _sum_part(ticks: Sequence[Tick], width: int) -> _Part:
    plain = [dataclasses.replace(tick, place=_name(tick.place), counts=no_counts()) for tick in ticks]
    return _Part(tuple(sum_ticks(plain, width)), tuple(sum_ticks(ticks, _DAY_S)))


def _order(model: ModelHealth) -> tuple[bool, str, str]:
    """Endpoints first: shadows and canaries are beside them."""
    return model.role not in ("endpoint", "table"), model.path, model.name


def _choose_incidents(
    incidents: Sequence[Incident], start: datetime.datetime, models: set[str]
) -> tuple[Incident, ...]:
    """Those that were open after `start`; of these models alone, if there are any."""
    return tuple(
        one
        for one in incidents
        if (one.closed is None or one.closed >= start) and (not models or one.alarm.watched.model in models)
    )


def _cut(judged: Judgement, start: datetime.datetime, at: datetime.datetime) -> Judgement:
    """With trends of the period, and of a day at least."""
    first = min(start.timestamp(), at.timestamp() - _DAY_S)
    return dataclasses.replace(
        judged,
        columns=tuple(_cut_column(one, first) for one in judged.columns),
        repeats=_cut_trend(judged.repeats, first) if judged.repeats else None,
    )


def _cut_column(one: ColumnJudgement, first: float) -> ColumnJudgement:
    kept = sum(time >= first for time in one.trend.times)
    deviates = one.deviates[len(one.deviates) - kept :]
    return dataclasses.replace(one, trend=_cut_trend(one.trend, first), deviates=deviates)


def _cut_trend(trend: Trend, first: float) -> Trend:
    place = sum(time < first for time in trend.times)
    lines = (trend.times, trend.values, trend.usual, trend.low, trend.high)
    return Trend(trend.label, *(line[place:] for line in lines))  # type: ignore[arg-type]


def _sum_traffic(ticks: Sequence[Tick], start: float, at: float) -> Traffic:
    """Of the periods of one place."""
    width = _choose_width(at - start)
    by_start: Mapping[int, Tick] = {tick.start: tick for tick in sum_ticks(ticks, width)}
    times = range(int(start) // width * width, int(at), width)
    held = [by_start.get(time) for time in times]
    unit = {60: "minute", 3600: "hour", 86_400: "day"}.get(width)
    within = unit or (f"{width // 60} minutes" if width < 3600 else f"{width // 3600} hours")

    def draw(label: str, values: Sequence[float | None]) -> Trend:
        return plain_trend(label, [float(time) for time in times], values)

    latency = [sum(bucket) for bucket in zip(*(tick.latency for tick in by_start.values()), strict=True)]
    answered = sum(latency) > 0
    return Traffic(
        sum(_count_requests(tick) for tick in ticks),
        sum(tick.requests.get("5xx", 0) for tick in ticks),
        histograms.find_quantile(latency, 0.5) / 1e6 if answered else None,
        histograms.find_quantile(latency, 0.99) / 1e6 if answered else None,
        (
            draw(
                f"rows in each {unit}" if unit else f"rows in {within}", [_count_rows(tick) for tick in held]
            ),
            draw("share of requests that failed (5xx)", [_find_failed(tick) for tick in held]),
            draw("latency, p99, in ms", [_find_p99(tick) for tick in held]),
        ),
        sum(tick.lost for tick in ticks),
        sum(tick.left_out for tick in ticks),
    )


def _count_rows(tick: Tick | None) -> float:
    return float(tick.rows) if tick else 0.0


def _count_requests(tick: Tick) -> int:
    return sum(tick.requests.values())


def _find_failed(tick: Tick | None) -> float | None:
    count = _count_requests(tick) if tick else 0
    return tick.requests.get("5xx", 0) / count if tick and count else None


def _find_p99(tick: Tick | None) -> float | None:
    return histograms.find_quantile(tick.latency, 0.99) / 1e6 if tick and any(tick.latency) else None
