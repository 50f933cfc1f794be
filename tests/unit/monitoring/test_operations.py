"""Operational checks find what a person would be woken for, say it with its numbers, and are quiet otherwise."""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from raymlops.events.incident import Alarm, Incident, Watched
from raymlops.monitoring.operations import burn_rate
from raymlops.monitoring.operations.burn_rate import Missed, find_burning
from raymlops.monitoring.operations.figures import Certificate, Figures, Place, Round
from raymlops.monitoring.operations.history import (
    DAY_S,
    HOUR_S,
    MOST_MODELS,
    REST,
    Counts,
    History,
    Sample,
    fold_models,
    read_history,
    start_history,
    sum_counts,
    write_history,
)
from raymlops.monitoring.operations.judgement import judge
from raymlops.monitoring.operations.resources import count_restarts
from raymlops.specs.monitoring import CHECKS, Objectives, Operations

START = 1_800_000_000.0
MODEL = ("flights", "4")
Minute = dict[str, Any]


class Story:
    """An application that is looked at once a minute, or every `step_s` seconds; `open` follows what is told, and an
    incident closes after three clean rounds, as in the log of incidents."""

    def __init__(self, slo: Objectives | None = None, settings: Operations | None = None) -> None:
        self.slo, self.settings = slo or Objectives(), settings or Operations()
        self.at, self.total = START, Counts()
        self.history = History()
        self.clean: dict[Watched, int] = {}
        self.told: list[tuple[float, str, Alarm]] = []
        self.figures: dict[str, Any] = {"state": "RUNNING"}
        self.sample: dict[str, Any] = {"replicas": ("a", "b"), "wanted": 2, "deployed": START - 60.0}

    def live(self, seconds: float, step_s: float = 60.0, **counts: float) -> "Story":
        """`counts` are a second's."""
        for _ in range(round(seconds / step_s)):
            self.at += step_s
            grown = {
                name: getattr(self.total, name) + round(value * step_s) for name, value in counts.items()
            }
            if any(counts.values()):
                grown["last"] = self.at
            self.total = self.total._replace(**grown)
            self.look()
        return self

    def look(self) -> None:
        now = Sample(at=self.at, models={MODEL: self.total}, p99_ms=self.slo.p99_ms, **self.sample)
        self.history = self.history.add(now) if self.history.samples else start_history(now)
        figures = Figures("app", now, queue=100, **self.figures)
        found = judge(Round(figures, self.history, self.slo, self.settings, set(self.clean)))
        for alarm in found.alarms:
            if alarm.watched not in self.clean:
                self.told.append((self.at, "raised", alarm))
            elif alarm.severity == "page" and self.severity(alarm.watched) == "note":
                self.told.append((self.at, "page", alarm))
            self.clean[alarm.watched] = 0
        for watched in [one for one in self.clean if one not in {alarm.watched for alarm in found.alarms}]:
            if watched.check in found.checks:
                self.clean[watched] += 1
                if self.clean[watched] == 3:
                    del self.clean[watched]
                    last = next(alarm for _, _, alarm in reversed(self.told) if alarm.watched == watched)
                    self.told.append((self.at, "closed", last))

    def severity(self, watched: Watched) -> str:
        return next(alarm.severity for _, _, alarm in reversed(self.told) if alarm.watched == watched)

    @property
    def raised(self) -> list[tuple[str, str]]:
        return [(alarm.watched.check, alarm.severity) for _, what, alarm in self.told if what != "closed"]

    @property
    def sentence(self) -> str:
        return self.told[-1][2].sentence


def test_an_outage_pages_within_minutes_says_its_share_and_closes_when_it_is_over() -> None:
    story = Story().live(6 * HOUR_S, 300, answered=10)
    began = story.at
    story.live(600, failed=10)
    assert story.raised == [("errors", "page")]
    at, _, alarm = story.told[0]
    assert at - began <= 300
    assert alarm.since is not None
    assert abs(alarm.since.timestamp() - began) <= 60
    assert "of the requests to flights version 4 (" in story.sentence
    assert "the objective is 1%" in story.sentence
    assert "server errors" in story.sentence
    assert alarm.numbers["objective"] == 0.01
    story.live(3 * HOUR_S, 300, answered=10)
    assert [what for _, what, _ in story.told] == ["raised", "closed"], "one incident, not several"


def test_a_slow_burn_is_a_note_and_a_faster_one_becomes_a_page_of_the_same_incident() -> None:
    story = Story().live(DAY_S, 300, answered=10)
    story.live(DAY_S, 300, answered=9.6, failed=0.4)  # 4 times the objective
    assert story.raised == [("errors", "note")]
    story.live(6 * HOUR_S, 300, answered=8, failed=2)
    assert story.raised == [("errors", "note"), ("errors", "page")]
    assert [what for _, what, _ in story.told] == ["raised", "page"]


def test_an_objective_that_is_just_met_raises_nothing_in_a_month_of_chance() -> None:
    random_ = np.random.default_rng(5)
    story = Story()
    for _ in range(30 * 24):
        bad = int(random_.binomial(360, 0.008))
        story.live(3600, 3600, answered=(360 - bad) / 3600, failed=bad / 3600)
    assert story.raised == []


@pytest.mark.parametrize("bad", range(5))
def test_a_few_failures_of_a_quiet_night_wake_nobody(bad: int) -> None:
    story = Story().live(HOUR_S, answered=0)
    story.total = story.total._replace(answered=8 - bad, failed=bad, last=story.at)
    story.live(60, answered=0)
    assert story.raised == []


def test_mistakes_and_rates_of_callers_are_no_errors() -> None:
    assert Story().live(2 * HOUR_S, answered=1, mistaken=50, refused=50).raised == []


def test_errors_around_a_threshold_do_not_flap() -> None:
    random_ = random.Random(3)
    story = Story().live(HOUR_S, answered=10)
    for _ in range(3 * 60):
        bad = 10 * random_.choice((0.12, 0.144, 0.17))
        story.live(60, answered=10 - bad, failed=bad)
    assert [what for _, what, _ in story.told if what != "page"] == ["raised"]


def test_without_requests_an_alarm_is_neither_raised_nor_closed_at_once() -> None:
    story = Story().live(HOUR_S, answered=10).live(1200, failed=10)
    assert story.raised == [("errors", "page")]
    story.live(1200, answered=0)
    assert [what for _, what, _ in story.told] == ["raised"]
    story.live(4 * DAY_S, 1800, answered=0)
    assert [what for _, what, _ in story.told] == ["raised", "closed"]


def test_slow_answers_are_told_with_the_objective_and_the_remedy() -> None:
    story = Story(Objectives(p99_ms=50)).live(HOUR_S, answered=10, slow=0.05)
    assert story.raised == []
    story.live(1800, answered=10, slow=5, queue_ms=900, compute_ms=100)
    assert ("latency", "page") in story.raised
    assert "took longer than 50 ms" in story.told[-1][2].sentence
    assert "Requests wait longer than they run" in story.told[-1][2].sentence


def test_a_cold_start_is_no_slow_model() -> None:
    story = Story(Objectives(p99_ms=50))
    story.total = Counts(answered=12, slow=8, last=START)  # of a new version
    story.live(60, answered=0)
    story.live(HOUR_S, answered=2)
    assert story.raised == []


def test_another_objective_does_not_make_earlier_answers_slow() -> None:
    story = Story(Objectives(p99_ms=500)).live(HOUR_S, answered=10)
    story.slo = Objectives(p99_ms=1)
    story.total = story.total._replace(slow=story.total.answered)  # all of them, by the new objective
    story.live(120, answered=10)
    assert story.raised == []


def test_counts_that_begin_anew_are_neither_failures_nor_traffic() -> None:
    story = Story().live(HOUR_S, answered=10, failed=0.05)
    story.total = Counts(answered=5, failed=100, last=story.at)  # of the replicas that live
    story.live(HOUR_S, answered=10, failed=0.05)
    assert story.raised == []


def test_the_first_look_at_an_application_that_fails_already_tells_it() -> None:
    story = Story()
    story.sample["deployed"] = START - 600.0
    story.total = Counts(answered=5, failed=95, last=START)
    story.live(60, answered=0)
    assert story.raised == [("errors", "page")]
    assert "95% of the requests to flights version 4 (95 of 100) failed in the last" in story.sentence


def test_requests_that_are_refused_or_wait_are_saturation() -> None:
    story = Story(Objectives(errors=0.5)).live(1800, answered=100, queue_ms=4000, compute_ms=500)
    assert story.raised == [("saturation", "note")]
    assert "wait 40 ms for a run of 5 ms" in story.sentence
    story = Story(Objectives(errors=0.5)).live(1800, answered=100, overloaded=5)
    assert story.raised == [("saturation", "note")]
    assert "`limits.queue`" in story.sentence
    story = Story()
    story.sample["pending"] = 190
    story.live(600, answered=10)
    assert story.raised == [("saturation", "note")]
    assert "95% of what 2 replicas take" in story.sentence
    story.sample["pending"] = 10
    story.live(600, answered=10)
    assert not story.clean


def test_no_traffic_is_told_by_a_setting_or_by_the_days_before_and_nights_are_known() -> None:
    story = Story(settings=Operations(idle_min=30)).live(HOUR_S, answered=1).live(1740, answered=0)
    assert story.raised == []
    story.live(120, answered=0)
    assert story.raised == [("traffic", "page")]
    story = Story()
    for _ in range(4):  # rows by day only
        story.live(12 * HOUR_S, 600, answered=1).live(12 * HOUR_S, 600, answered=0)
    assert story.raised == []
    story.live(6 * HOUR_S, 600, answered=1).live(3 * HOUR_S, 600, answered=0)
    assert story.raised == [("traffic", "note")]
    assert "No request to flights came for" in story.sentence
    assert "At this time of day there were at least" in story.sentence
    story.live(HOUR_S, 600, answered=1)
    assert not story.clean


def test_a_weekend_without_requests_is_known_after_a_week() -> None:
    story = Story()
    for day in range(21):
        rate = 0 if day % 7 in (5, 6) else 1
        story.live(DAY_S, 1800, answered=rate)
        if day == 7:
            assert set(story.raised) <= {("traffic", "note")}, "the first is told as a note"
            before = len(story.told)
    assert len(story.told) == before
    story.live(5 * HOUR_S, 900, answered=0)
    assert story.raised[-1] == ("traffic", "page")


def test_restarts_are_counted_apart_from_deployments_and_autoscaling() -> None:
    def samples(*seen: tuple[float, str, int]) -> History:
        """Deployed, replicas and wanted, a minute each."""
        return History(
            tuple(
                Sample(START + 60 * place, deployed, {}, replicas=tuple(ids), wanted=wanted)
                for place, (deployed, ids, wanted) in enumerate(seen)
            )
        )

    def count(*seen: tuple[float, str, int]) -> int:
        return count_restarts(samples(*seen), 0.0)[0]

    assert count((1, "ab", 2), (1, "ab", 2), (1, "abc", 3), (1, "abcd", 4), (1, "a", 1), (1, "ae", 2)) == 0
    assert count((1, "ab", 2), (2, "abc", 2), (2, "cd", 2)) == 0, "a deployment replaces all"
    assert count((1, "ab", 2), (1, "ac", 2), (1, "ad", 2), (1, "ef", 2)) == 4
    assert count((1, "", 2), (1, "a", 2), (1, "ab", 2)) == 0, "a slow start"
    assert count((1, "ab", 2), (1, "b", 2), (1, "bc", 2)) == 1
    story = Story().live(600, answered=1)
    for number in range(4):
        story.sample["replicas"] = ("a", f"c{number}")
        story.live(60, answered=1)
    assert story.raised == [("replicas", "note")]
    story.sample["replicas"] = ("a",)
    story.live(60, answered=1)
    assert story.raised == [("replicas", "note"), ("replicas", "page")]
    assert "1 of 2 are there" in story.sentence


def test_an_application_that_fails_is_told_with_its_cause_and_one_look_is_not_enough() -> None:
    story = Story().live(600, answered=1)
    story.figures |= {"state": "UNHEALTHY", "cause": "Model 'm' is not there"}
    story.sample["healthy"] = False
    story.live(60, answered=1)
    assert story.raised == []
    story.live(60, answered=1)
    assert story.raised == [("application", "page")]
    assert "Model 'm' is not there" in story.sentence
    story.figures |= {"state": "DEPLOYING", "cause": ""}
    story.sample |= {"deployed": story.at, "healthy": True}
    story.live(600, answered=1)
    assert not story.clean
    story.live(600, answered=1)
    assert "still being deployed" in story.sentence


def test_what_is_not_known_neither_raises_nor_closes() -> None:
    story = Story()
    story.figures |= {"tracking_problem": "sqlite:///gone: no such file"}
    story.live(60, answered=1)
    assert story.raised == [("tracking", "note")]
    assert "new ones cannot load their models" in story.sentence
    story.figures |= {"tracking_problem": None}
    story.live(600, answered=1)
    assert story.clean
    story.figures |= {"tracking_problem": ""}
    story.live(180, answered=1)
    assert not story.clean


@pytest.mark.parametrize(
    ("days", "severity"), [(15, ""), (13, "note"), (3, "page"), (-1, "page"), (-400, "page")]
)
def test_certificates_and_keys_are_told_before_they_end(days: float, severity: str) -> None:
    story = Story()
    ends = START + 60 + days * DAY_S
    story.figures |= {
        "certificates": [Certificate("/etc/tls cert.pem", ends), Certificate("b.pem", math.inf)],
        "keys": {"app one": ends, "other": ends + 100 * DAY_S},
        "keys_file": "keys.yaml",
    }
    story.live(60, answered=1)
    found = dict(story.raised)
    assert found.get("certificate", "") == severity
    # a key that ended a day ago is of nobody who asks
    assert ("keys" in found) == (bool(severity) and days > -1)
    for _, _, alarm in story.told:
        if alarm.watched.check == "certificate":
            assert alarm.next == "openssl x509 -noout -dates -in '/etc/tls cert.pem'"
            assert ("expired" in alarm.sentence) == (days < 0)
        if alarm.watched.check == "keys":
            assert alarm.next == "raymlops keys rotate keys.yaml 'app one'"
            assert alarm.columns == ("app one",)


def test_storage_is_told_when_little_is_free_or_will_be() -> None:
    def live(story: Story, free: Callable[[float], float], seconds: float = 7 * HOUR_S) -> Story:
        total = 1000.0
        for _ in range(round(seconds / 300)):
            left = int(free(story.at - START) * total)
            story.figures["places"] = [Place("the storage", "/data", left, int(total))]
            story.sample["free"] = {"/data": left}
            story.live(300, 300, answered=1)
        return story

    assert live(Story(), lambda seconds: 0.5).raised == []
    assert live(Story(), lambda seconds: 0.08).raised == [("storage", "note")]
    assert live(Story(), lambda seconds: 0.02).raised == [("storage", "page")]
    story = live(Story(), lambda seconds: 0.9 - 0.04 * seconds / HOUR_S)
    assert story.raised == [("storage", "note")]
    assert "will be full in" in story.sentence
    story = live(Story(), lambda seconds: 0.105 + 0.01 * math.sin(seconds / 700), 12 * HOUR_S)
    assert [what for _, what, _ in story.told] == ["raised"], "around the limit it does not flap"
    story = Story()
    story.figures["places"] = [Place("the storage", "/data", problem="Permission denied")]
    story.live(60, answered=1)
    assert story.raised == [("storage", "page")]


def test_models_that_cannot_be_loaded_are_named() -> None:
    story = Story()
    story.figures["unavailable"] = {"b": "it is empty", "a": "no ONNX file"}
    story.live(60, answered=1)
    assert story.raised == [("loading", "note")]
    assert "a, and 1 others cannot be served: no ONNX file" in story.sentence
    story = Story()
    story.figures["missing"] = {"m": "/models/m.onnx"}
    story.live(60, answered=1)
    assert story.raised == [("loading", "page")]
    assert "The source of m, /models/m.onnx, is no longer there" in story.sentence


def test_requests_that_reach_no_capture_or_count_are_told_until_none_are_lost() -> None:
    story = Story()
    story.sample["lost"] = {"capture": 7, "monitoring": 0}  # of before
    story.live(1200, answered=1)
    assert story.raised == []
    story.sample["lost"] = {"capture": 10, "monitoring": 4000}
    story.live(60, answered=1)
    assert story.raised == [("observers", "note")]
    assert "3 did not reach the captured requests; 4,000 did not reach the counts" in story.sentence
    story.sample["lost"] = {"capture": 0}  # another replica
    story.live(1800, answered=1)
    assert not story.clean


def test_checks_can_be_turned_off_and_every_check_has_a_name() -> None:
    story = Story(settings=Operations(leave_out=tuple(CHECKS)))
    story.figures |= {"state": "DEPLOY_FAILED", "tracking_problem": "away"}
    assert story.live(HOUR_S, failed=10).raised == []
    now = Sample(START, models={})
    everything = Figures(
        "app", now, "RUNNING", unavailable={}, certificates=[], keys={}, places=[], tracking_problem=""
    )
    found = judge(Round(everything, History((now,)), Objectives(), Operations(), ()))
    assert (set(found.checks), found.alarms) == (set(CHECKS), ())
    nothing = Figures("app", dataclasses.replace(now, models=None))
    assert judge(Round(nothing, History((now,)), Objectives(), Operations(), ())).checks == ("latency",)


def test_windows_are_those_of_the_workbook_and_a_total_outage_always_pages() -> None:
    rates = [(window.long_s / window.short_s, window.rate) for window in burn_rate.WINDOWS]
    assert rates == [(12, 14.4), (12, 6), (12, 3), (12, 1)]
    for objective in (0.001, 0.01, 0.1, 0.5, 0.9):
        found = find_burning(lambda seconds: Missed(100, 100), objective)
        assert found is not None
        assert found.window.severity == "page"
        assert find_burning(lambda seconds, of=objective: Missed(int(1000 * of), 1000), objective) is None  # type: ignore[misc]


def test_a_history_survives_a_restart_stays_small_and_gives_the_same_windows() -> None:
    story = (
        Story(Objectives(p99_ms=5))
        .live(5 * DAY_S, 1200, answered=10, failed=0.1, slow=0.2)
        .live(2 * HOUR_S, answered=10)
    )
    kept = story.history
    assert len(kept.samples) < 400
    assert read_history(write_history(kept)) == kept
    for window in (300.0, HOUR_S, 6 * HOUR_S, DAY_S, 3 * DAY_S):
        counted = sum_counts(step for (_, end), step in kept.steps() if end > story.at - window)[MODEL]
        assert abs(counted.answered / (10 * window) - 1) < 0.25
    assert read_history(b"{") == read_history(b"[]") == History()
    models = {(f"m{number}", "1"): Counts(answered=number) for number in range(5000)}
    folded = fold_models(models)
    assert len(folded) == MOST_MODELS
    assert sum(counts.answered for counts in folded.values()) == sum(range(5000))
    assert REST in folded


_NUMBERS = st.integers(0, 10**6)
_COUNTS = st.builds(Counts, *[_NUMBERS] * 9, st.floats(0, 2e9))
_SAMPLES = st.builds(
    Sample,
    at=st.floats(1.7e9, 1.9e9),
    deployed=st.floats(0, 1.9e9),
    models=st.none() | st.dictionaries(st.sampled_from([MODEL, ("", ""), ("m", "1")]), _COUNTS, max_size=3),
    p99_ms=st.none() | st.floats(0.1, 1e4),
    replicas=st.lists(st.sampled_from("abcdef"), max_size=4, unique=True).map(tuple),
    wanted=st.integers(0, 5),
    pending=_NUMBERS,
    healthy=st.booleans(),
    free=st.dictionaries(st.just("/data"), _NUMBERS, max_size=1),
    lost=st.dictionaries(st.sampled_from("ab"), _NUMBERS, max_size=2),
)


@given(st.lists(_SAMPLES, min_size=1, max_size=6), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_was_seen_is_judged_and_can_be_kept(samples: list[Sample], data: st.DataObject) -> None:
    history = start_history(samples[0])
    for sample in samples[1:]:  # clocks jump, and counts begin anew
        history = history.add(sample)
    assert read_history(write_history(history)) == history
    figures = Figures(
        "app",
        samples[-1],
        data.draw(st.sampled_from([None, "RUNNING", "UNHEALTHY", "DEPLOYING", "DEPLOY_FAILED", "GONE"])),
        queue=data.draw(st.integers(0, 100)),
        unavailable=data.draw(st.none() | st.dictionaries(st.text(), st.text(), max_size=2)),
        certificates=[Certificate("c", data.draw(st.floats(0, 2.5e11)))],
        keys={"k": data.draw(st.floats(0, 2.5e11))},
        places=[Place("the storage", "/data", data.draw(_NUMBERS), data.draw(_NUMBERS))],
        tracking_problem=data.draw(st.none() | st.text()),
    )
    operations = Operations(idle_min=data.draw(st.none() | st.floats(0.1, 1e5)))
    found = judge(Round(figures, history, Objectives(p99_ms=5), operations, ()))
    assert len({alarm.watched for alarm in found.alarms}) == len(found.alarms)
    for alarm in found.alarms:
        assert "nan" not in alarm.sentence.lower().split()
        Incident("app", 1, alarm, alarm.at, alarm.at)
