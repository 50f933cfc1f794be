"""An alarm is raised once, updated by news, acknowledged, silenced and closed; no writer loses what another wrote."""

import datetime
import json
import math
import pathlib
import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import NotFoundError, SpecError, UnreachableError
from raymlops.events import incident as states
from raymlops.events.delivery import Notifier
from raymlops.events.event import Event
from raymlops.events.incident import Action, Alarm, Cause, Entry, Watched
from raymlops.events.incident_entries import read_entry, write_entry
from raymlops.events.incidents import Incidents
from raymlops.specs.notify import FileChannel, Folding, NotifySpec

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SCORE = Watched("flights", "4", "score")


class Story:
    """Incidents in a folder with a clock of their own, and what was told."""

    def __init__(self, location: str, clean_judgements: int = 3) -> None:
        self.at = START
        self.told: list[Event] = []
        self.incidents = Incidents(
            location, "app", emit=self.told.append, clean_judgements=clean_judgements, clock=lambda: self.at
        )

    def later(self, hours: float) -> None:
        self.at += datetime.timedelta(hours=hours)

    def alarm(self, watched: Watched = SCORE, **given: Any) -> Alarm:
        facts = {
            "sentence": "flights v4: score moved",
            "severity": "page",
            "rows": 100,
            "columns": ("temp",),
            **given,
        }
        return Alarm(watched, at=self.at, **facts)

    def types(self) -> list[str]:
        return [f"{event.type.removeprefix('raymlops.alarm.')} {event.severity}" for event in self.told]


@pytest.fixture
def story(tmp_path: pathlib.Path) -> Story:
    return Story(str(tmp_path))


def test_an_alarm_pages_once_is_updated_by_news_only_and_closes_after_clean_judgements(story: Story) -> None:
    for _ in range(5):
        found = story.incidents.raise_or_update(story.alarm())
        story.later(0.1)
    assert (found.id, story.types()) == ("app/1", ["raised page"])
    story.incidents.raise_or_update(story.alarm(columns=("temp", "dew_point")))
    assert story.types()[1:] == ["updated note"]
    assert story.told[-1].why == "more columns: dew_point"
    other = Watched("flights", "4", "columns")
    for _ in range(2):
        assert story.incidents.close_clean({SCORE, other}) == ()
    story.incidents.raise_or_update(story.alarm(columns=("temp", "dew_point")))  # not clean after all
    for _ in range(2):
        assert story.incidents.close_clean({SCORE}) == ()
    (closed,) = story.incidents.close_clean({SCORE})
    assert (closed.id, closed.open) == ("app/1", False)
    assert story.types()[2:] == ["closed note"]
    assert story.told[-1].why == "closed by itself after 3 clean judgements in a row"
    again = story.incidents.raise_or_update(story.alarm())
    assert again.number > closed.number
    assert story.types()[3:] == ["raised page"]


def test_each_version_family_and_segment_has_an_incident_of_its_own(story: Story) -> None:
    for watched in (
        SCORE,
        SCORE._replace(version="5"),
        SCORE._replace(family="quality"),
        SCORE._replace(segment="origin=JFK"),
    ):
        story.incidents.raise_or_update(story.alarm(watched))  # fmt: skip
    assert len(story.incidents.read()) == 4


def test_a_note_that_becomes_a_page_wakes_once_and_one_that_goes_on_is_told_daily(story: Story) -> None:
    story.incidents.raise_or_update(story.alarm(severity="note"))
    for severity in ("page", "note", "page"):
        story.later(0.5)
        story.incidents.raise_or_update(story.alarm(severity=severity))
    assert story.types() == ["raised note", "updated page"]
    story.later(24)
    story.incidents.raise_or_update(story.alarm(severity="page"))
    assert story.told[-1].why == "it goes on"
    story.incidents.raise_or_update(story.alarm(severity="page", rows=1000))
    assert story.told[-1].why == "1,000 rows, 100 at the last message"


def test_a_silenced_alarm_is_not_told_until_its_time_and_its_end_is(story: Story) -> None:
    number = story.incidents.raise_or_update(story.alarm(severity="note")).number
    story.incidents.silence(number, story.at + datetime.timedelta(hours=12), "ann", "the feed is late")
    story.later(1)
    silent = story.incidents.raise_or_update(story.alarm(columns=("temp", "wind")))
    assert silent.alarm.columns == ("temp", "wind")  # recorded
    assert (silent.state(story.at), states.count_open([silent], story.at)) == ("silenced", 0)
    assert story.types() == ["raised note", "updated note"]
    story.later(12)
    story.incidents.raise_or_update(story.alarm(columns=("temp", "wind")))
    assert story.told[-1].why == "it goes on, and is no longer silenced"
    story.incidents.silence(number, story.at + datetime.timedelta(hours=12), "ann")
    for _ in range(3):
        story.incidents.close_clean({SCORE})
    assert story.types()[-1] == "closed note"


def test_what_people_do_is_recorded_with_who_and_why_and_told(story: Story) -> None:
    number = story.incidents.raise_or_update(story.alarm()).number
    found = story.incidents.acknowledge(number, "ann", "I look at it")
    assert (found.state(story.at), found.acknowledged) == ("acknowledged", "ann")
    assert story.told[-1].what == "Acknowledged by ann: flights v4: score moved"
    story.incidents.close(number, "ann", "the feed is mended")
    assert [(one["action"], one["who"], one["why"]) for one in states.list_entries(story.incidents.find(number))] == [
        ("raised", "monitoring", ""), ("acknowledged", "ann", "I look at it"), ("closed", "ann", "the feed is mended"),
    ]  # fmt: skip
    with pytest.raises(SpecError, match=r"The alarm app/1 is closed since 2026-03-01"):
        story.incidents.acknowledge(number, "bob", "me too")
    with pytest.raises(NotFoundError, match=r"Unknown alarm 'app/7'; did you mean 'app/1'"):
        story.incidents.find(7)
    with pytest.raises(SpecError, match="no time in the future"):
        story.incidents.silence(number, START - datetime.timedelta(hours=1), "ann")
    with pytest.raises(SpecError, match="time zone"):
        Alarm(SCORE, "moved", "page", at=datetime.datetime(2026, 1, 1))
    with pytest.raises(SpecError, match="no name of an application"):
        Incidents("/tmp", "../x")


def test_the_event_of_an_alarm_has_all_that_a_person_needs(story: Story, tmp_path: pathlib.Path) -> None:
    alarm = story.alarm(
        SCORE._replace(segment="origin=JFK"), since=START - datetime.timedelta(hours=2),
        numbers={"mean score": 0.33, "p": math.nan},
        causes=(Cause("temp", 0.97, "median 13, usual 56"), Cause("wind")), damage="Estimated AUC 0.62, was 0.75",
        chance="chance alone: once in 9 years",
    )  # fmt: skip
    story.incidents.raise_or_update(alarm)
    (event,) = story.told
    assert (event.id, event.subject, event.model, event.version) == ("app/1/1", "app/1", "flights", "4")
    assert (event.segment, event.next, event.why) == (
        "origin=JFK",
        "raymlops alarms show app/1",
        alarm.chance,
    )
    assert event.details["causes"][0] == {"column": "temp", "share": 0.97, "sentence": "median 13, usual 56"}
    assert (event.details["damage"], event.details["first"]) == (alarm.damage, "2026-03-01T10:00:00.000Z")
    (kept,) = Incidents(str(tmp_path), "app").read()
    assert kept.alarm.causes == alarm.causes
    assert math.isnan(kept.alarm.numbers["p"])


WRITER = """
import datetime, sys
from raymlops.events.incident import Alarm, Watched
from raymlops.events.incidents import Incidents

incidents = Incidents(sys.argv[1], "app")
at = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
name = sys.argv[2]
for number in range(12):
    one = Alarm(Watched("flights", str(number), "score"), "moved", "page", at=at, columns=(name,))
    incidents.raise_or_update(one)
"""


def test_two_writers_at_once_lose_nothing_and_raise_nothing_twice(tmp_path: pathlib.Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in ("a", "b")]
    assert [one.wait(120) for one in both] == [0, 0]
    found = Incidents(str(tmp_path), "app").read()
    assert sorted(int(one.alarm.watched.version) for one in found) == list(range(12))
    for one in found:  # raised by one, updated with the column of the other
        assert [entry.action for entry in one.entries] == ["raised", "updated"]
        assert {entry.alarm.columns for entry in one.entries if entry.alarm} == {("a",), ("b",)}


def test_a_store_without_exclusive_names_keeps_one_entry_a_number() -> None:
    location = f"memory://incidents-{uuid.uuid4().hex}"
    first, second = Story(location), Story(location)
    first.incidents.raise_or_update(first.alarm())
    assert [one.id for one in second.incidents.read()] == ["app/1"]
    log = second.incidents._log
    assert not log.add(Entry(1, "clean", START, "x", number=1))  # taken: withdrawn
    second.incidents.acknowledge(1, "ann", "seen")
    assert first.incidents.find(1).acknowledged == "ann"
    assert len(first.incidents._log.read()) == 2


def test_what_was_recorded_but_not_told_is_told_once_by_the_next_process(tmp_path: pathlib.Path) -> None:
    spec = NotifySpec(channels={"f": FileChannel(path=str(tmp_path / "told"))}, fold=Folding(gather_s=0))

    def emit_nothing(event: Event) -> None:
        raise KeyboardInterrupt  # killed between recording and telling

    now = datetime.datetime.now(datetime.UTC)
    alarm = Alarm(SCORE, "moved", "page", at=now)
    with pytest.raises(KeyboardInterrupt):
        Incidents(str(tmp_path), "app", emit=emit_nothing).raise_or_update(alarm)
    for _ in range(2):
        notifier = Notifier(spec, tmp_path / "spool", {})
        Incidents(str(tmp_path), "app", emit=notifier.emit).resend()
        assert notifier.close(30)
    assert [json.loads(line)["id"] for line in (tmp_path / "told").read_text().splitlines()] == ["app/1/1"]


def test_entries_that_cannot_be_read_are_passed_over_and_their_numbers_are_not_used_again(
    story: Story, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    story.incidents.raise_or_update(story.alarm())
    (tmp_path / "app/00000002.json").write_text('{"incident": 1, "action": "praised"}')
    (tmp_path / "app/notes.txt").write_text("mine")
    story.incidents.acknowledge(1, "ann", "seen")
    assert [entry.number for entry in story.incidents.find(1).entries] == [1, 3]
    assert "Entry 2 of the log of incidents cannot be read: unknown action 'praised'" in caplog.text


def test_a_store_that_is_away_is_a_sentence(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="cannot be read or written: Not a directory"):
        Incidents(str(tmp_path / "file"), "app").raise_or_update(Story(str(tmp_path)).alarm())


ENTRIES = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(states.Action.__args__), st.integers(0, 5)), max_size=25
)


@given(ENTRIES)
@settings(max_examples=60, deadline=None)
def test_any_log_is_folded_and_closed_incidents_stay_as_they_are(
    given_entries: list[tuple[int, Action, int]],
) -> None:
    entries = []
    for number, (of, action, hour) in enumerate(given_entries, 1):
        at = START + datetime.timedelta(hours=hour)
        alarm = (
            Alarm(SCORE, f"s{number}", "note", at=at) if action in ("raised", "updated", "again") else None
        )
        entry = Entry(of, action, at, "x", alarm=alarm, until=at, number=number)
        entries.append(read_entry(write_entry(entry), number))
        assert entries[-1] == entry
    for length in range(len(entries) + 1):
        before = states.fold("app", entries[:length])
        after = states.fold("app", entries)
        assert all(after[number] == one for number, one in before.items() if not one.open)
        for one in before.values():
            event = states.to_event(one, one.entries[-1])
            assert event is None or event.subject == one.id
