"""An application is judged from the counts in the store: what differs becomes an incident, which is told once, lasts
over restarts, and ends after clean days."""

import hashlib
import pathlib
import shutil

import numpy as np
import pytest

from raymlops.events.event import Event
from raymlops.monitoring.calibration import Labels
from raymlops.monitoring.reference import make_reference
from raymlops.monitoring.tick_store import Applied, TickStore, day_of, find_root
from raymlops.monitoring.ticks import Place, Tick
from raymlops.runtime.application_judge import ApplicationJudge, judge_application
from raymlops.runtime.estimated_quality import DailyEstimates
from raymlops.serving.actors.judge_gauges import list_gauges
from raymlops.serving.endpoints.told_gauges import GAUGES
from raymlops.settings import Settings

MORNING = 1_700_006_400  # 2023-11-15 00:00 UTC
DAY = 86_400


def draw(random: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    temp = 50 + 5 * random.normal(size=rows)
    return {"temp": temp, "score": 1 / (1 + np.exp(random.normal(size=rows) - (temp - 50) / 5))}


class Application:
    """A store with the counts of one version."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.random = np.random.default_rng(0)
        self.settings = Settings.from_env(
            {"RAYMLOPS_HOME": str(folder), "RAYMLOPS_STORAGE": str(folder / "storage")}
        )
        self.store = TickStore(find_root(self.settings.storage_path), "flights")
        self.reference = make_reference(draw(self.random, 4000), {"score": "score"})
        digest = self.store.write_reference(self.reference.to_bytes())
        self.place = Place("flights", "endpoint", "flights", "4", digest)
        self.store.write_settings({"false_alarms_per_month": 1.0, "segments": []})
        self.events: list[Event] = []

    def count(self, start: int, minutes: int, fault: bool = False, step: int = 60) -> None:
        by_day: dict[str, list[Tick]] = {}
        for minute in range(minutes):
            values = draw(self.random, 120)
            if fault:
                values["temp"][:30] = np.nan
            at = start + step * minute
            tick = Tick(self.place, at, 60, self.reference.count(values), 120, 120)
            by_day.setdefault(day_of(at), []).append(tick)
        for day, ticks in by_day.items():
            self.store.write(day, ticks, {hashlib.sha256(str(start).encode()).hexdigest(): Applied(1, {})})

    def open(self) -> ApplicationJudge:
        return ApplicationJudge("flights", self.settings, self.events.append)


def find_thresholds(application: Application) -> pathlib.Path:
    return pathlib.Path(application.store.root, "flights", "thresholds")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Application:
    """Whose thresholds are known: they are simulated for seconds, once for a reference."""
    application = Application(tmp_path_factory.mktemp("judged"))
    application.count(MORNING, 5)
    application.open().run(MORNING + 5 * 60 + 20)
    return application


@pytest.fixture
def application(tmp_path: pathlib.Path, judged: Application) -> Application:
    made = Application(tmp_path)
    shutil.copytree(find_thresholds(judged), find_thresholds(made))
    return made


def test_a_fault_is_told_once_and_ends_after_three_clean_days(application: Application) -> None:
    judge = application.open()
    application.count(MORNING, 150)
    assert not judge.run(MORNING + 150 * 60 + 20).incidents
    application.count(MORNING + 150 * 60, 10, fault=True)
    found = judge.run(MORNING + 160 * 60 + 20)
    assert [one.alarm.watched.family for one in found.incidents] == ["quality"]
    assert [event.severity for event in application.events] == ["page"]
    assert "temp: " in application.events[0].what
    assert "missing" in application.events[0].what

    application.open().run(MORNING + 160 * 60 + 40)  # another process goes on where this one was killed
    assert len(application.events) == 1

    states = []
    for day in range(5):
        begin = MORNING + day * DAY
        application.count(begin + 180 * 60, 180, step=300)
        application.open().run(begin + 18 * 3600)
        states.append([one.open for one in application.open().run(begin + DAY + 60).incidents])
    assert states == [[True], [True], [True], [False], [False]]  # the first day was not clean
    assert [event.type for event in application.events] == ["raymlops.alarm.raised", "raymlops.alarm.closed"]


def test_a_person_looks_at_columns_rows_and_incidents_and_nothing_is_recorded(
    application: Application,
) -> None:
    application.count(MORNING, 120)
    application.count(MORNING + 120 * 60, 10, fault=True)
    found = judge_application("flights", application.settings, at=MORNING + 130 * 60)
    assert [one.version for one in found.versions] == ["4"]
    assert found.versions[0].rows == 130 * 120
    assert found.versions[0].columns[0].shares.column.name == "temp"
    assert not found.incidents
    assert not judge_application("nothing", application.settings, at=MORNING).versions


def test_drift_and_estimated_quality_are_gauges_for_prometheus(
    tmp_path: pathlib.Path, judged: Application
) -> None:
    values = draw(judged.random, 4000)
    label = (judged.random.random(4000) < values["score"]).astype(float)
    labels = Labels.of_answers("binary", "score", "late", values["score"], label)
    reference = make_reference(values, {"score": "score"}, labels=labels)
    judged.place = judged.place._replace(
        reference=judged.store.write_reference(reference.to_bytes()), version="5"
    )
    judged.reference = reference
    judged.count(MORNING + 3600, 20)
    at = MORNING + 3600 + 25 * 60.0
    estimated = DailyEstimates(judged.store).estimate(at)
    assert list(estimated) == [("flights", "5")], "only what has a calibration table"
    gauges = list_gauges(judge_application("flights", judged.settings, at=at), estimated)
    told = {name: dict(labels) | {"value": value} for name, labels, value in gauges}
    assert told.keys() == {"raymlops_drift_deviate", "raymlops_drift_threshold", "raymlops_estimated_quality"}
    assert all(set(labels) <= set(GAUGES[name].labels) for name, labels, _ in gauges)
    quality = {of["bound"]: value for name, of, value in gauges if of.get("metric") == "roc_auc"}
    assert quality["low"] < quality["value"] < quality["high"]
    assert abs(quality["value"] - quality["usual"]) < 0.1


def test_a_reference_that_is_missing_is_said(application: Application) -> None:
    application.place = application.place._replace(reference="0" * 64)
    application.count(MORNING, 5)
    found = application.open().run(MORNING + 600)
    assert not found.versions
    assert "flights v4 is not judged" in found.notes[0]


def test_versions_that_change_within_a_tick_are_judged_each_by_itself(application: Application) -> None:
    application.count(MORNING, 130)
    application.place = application.place._replace(version="5")
    application.count(MORNING + 129 * 60, 30)
    found = application.open().run(MORNING + 160 * 60)
    assert [(one.version, one.rows) for one in found.versions] == [("4", 130 * 120), ("5", 30 * 120)]
    assert not found.incidents
