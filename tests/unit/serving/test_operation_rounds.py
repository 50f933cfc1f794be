"""What a round of operational checks finds is recorded and told once, also where the store of incidents is away."""

import pathlib
import time
from typing import Any

from raymlops.events.event import Event
from raymlops.events.incidents import read_all
from raymlops.histograms import Histogram
from raymlops.monitoring.operations.figures import Figures
from raymlops.monitoring.operations.history import Counts, Sample
from raymlops.serving.actors.operation_figures import count_above
from raymlops.serving.actors.operation_gauges import list_gauges
from raymlops.serving.actors.operation_rounds import OperationRounds
from raymlops.serving.endpoints import prometheus
from raymlops.serving.endpoints.told_gauges import GAUGES
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

SPEC = ServingSpec.model_validate({"name": "app", "models": {"m": {"source": "models:/m/1"}}})
START = time.time()


class Story:
    def __init__(self, home: pathlib.Path) -> None:
        self.settings = Settings.from_env({"RAYMLOPS_HOME": str(home)})
        self.told: list[Event] = []
        self.minute, self.counts = 0, Counts()
        self.rounds = self.restart()

    def restart(self) -> OperationRounds:
        self.rounds = OperationRounds("app", self.settings, self.told.append)
        return self.rounds

    def figures(self, **more: Any) -> Figures:
        now = Sample(
            START + 60 * self.minute, START - 60, {("m", "1"): self.counts}, wanted=1, replicas=("a",)
        )
        return Figures("app", now, "RUNNING", unavailable={}, certificates=[], keys={}, places=[], **more)

    def look(self, **more: Any) -> Any:
        self.minute += 1
        return self.rounds.judge(self.figures(**more), SPEC)


def test_an_alarm_is_told_once_survives_a_restart_and_closes_after_three_clean_rounds(
    tmp_path: pathlib.Path,
) -> None:
    story = Story(tmp_path)
    for _ in range(3):
        assert story.look(tracking_problem="no connection").judged.alarms
    story.restart()
    assert len(story.look(tracking_problem="no connection").open) == 1
    assert [event.type for event in story.told] == ["raymlops.alarm.raised"]
    story.look(tracking_problem=None)  # not known: no clean judgement
    assert [bool(story.look(tracking_problem="").closed) for _ in range(4)] == [False, False, True, False]
    assert [event.type for event in story.told] == ["raymlops.alarm.raised", "raymlops.alarm.closed"]
    assert story.told[0].details["check"] == "tracking"
    (incident,) = read_all(story.settings)
    assert not incident.open


def test_rates_go_on_after_a_restart(tmp_path: pathlib.Path) -> None:
    story = Story(tmp_path)
    for _ in range(10):
        story.counts = story.counts._replace(answered=story.counts.answered + 600)
        story.look()
    story.restart()
    for _ in range(8):
        story.counts = story.counts._replace(failed=story.counts.failed + 600)
        story.look()
    (told,) = story.told
    assert (told.severity, told.details["check"]) == ("page", "errors")
    assert told.numbers["requests"] < story.counts.valid


def test_without_a_store_of_incidents_people_are_told_that_and_what_was_found(tmp_path: pathlib.Path) -> None:
    story = Story(tmp_path)
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "incidents").write_text("no folder")
    for _ in range(3):
        assert story.look(tracking_problem="no connection").unrecorded
    assert {event.id for event in story.told} == {story.told[0].id}, "channels tell equal ids once"
    assert story.told[0].severity == "page"
    assert "The tracking store does not answer: no connection" in story.told[0].what
    (tmp_path / "storage" / "incidents").unlink()
    assert len(story.look(tracking_problem="no connection").open) == 1
    assert [event.type.rpartition(".")[2] for event in story.told[-2:]] == ["raised", "closed"]
    assert story.told[-1].subject == story.told[0].subject == "app/storage"


def test_the_alarms_of_an_application_that_was_removed_are_closed(tmp_path: pathlib.Path) -> None:
    story = Story(tmp_path)
    story.look(tracking_problem="no connection")
    story.rounds.end("the application was removed")
    assert [one.open for one in read_all(story.settings)] == [False]
    assert story.told[-1].why == "the application was removed"


def test_prometheus_is_shown_alarms_that_are_open_and_those_that_have_closed_as_zero(
    tmp_path: pathlib.Path,
) -> None:
    story = Story(tmp_path)
    found = story.look(tracking_problem="no connection")
    (incident,) = found.open
    kinds = [(incident.alarm.severity, *incident.alarm.watched)]
    shown = {}
    for name, is_open in (("open", found.open), ("closed", ())):
        gauges = list_gauges(story.figures(tracking_problem=""), SPEC, is_open, kinds)
        assert {gauge[0] for gauge in gauges} <= GAUGES.keys()
        text, _ = prometheus.render("app", {}, told=gauges)
        shown[name] = text.decode()
    series = (
        'raymlops_incidents_open{application="app",check="tracking",family="operations",model="",segment=""'
    )
    assert f'{series},severity="note",version=""}} 1.0' in shown["open"]
    assert f'{series},severity="note",version=""}} 0.0' in shown["closed"]
    assert 'raymlops_tracking_up{application="app"} 1.0' in shown["closed"]


def test_slow_answers_are_counted_above_their_objective() -> None:
    histogram = Histogram()
    for milliseconds in (1, 49, 51, 99, 101, 5000, 200_000):
        histogram.add(int(milliseconds * 1e6))
    assert [count_above(histogram.counts, limit) for limit in (50, 100, 10_000, 80_000)] == [5, 3, 1, 1]
