"""A judge of counts: what it finds and how it says so, that it stays silent without a change, and that it is the same
however the counts come."""

import dataclasses
import json

import numpy as np
import pytest

from raymlops.monitoring import judge as judging
from raymlops.monitoring.baseline import Baseline, Thresholds
from raymlops.monitoring.judgement import REPEATED_ROWS, Judgement
from raymlops.monitoring.recent_counts import RecentCounts
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.repeats import hash_rows, set_bits, to_bytes
from raymlops.monitoring.segments import Segment, find_segments
from raymlops.monitoring.ticks import REPEAT_BITS, Place, Tick

START = 1_700_000_040 // 3600 * 3600
SUBJECT = judging.Subject("flights", "4")
Rows = dict[str, np.ndarray]


def draw(random: np.random.Generator, rows: int) -> Rows:
    base = random.normal(size=rows)
    values = {
        "temp": 50 + 5 * base,
        "dew": 40 + 4 * base + random.normal(size=rows),
        "origin": random.choice(["JFK", "EWR"], rows, p=[0.3, 0.7]).astype(object),
    }
    values["score"] = 1 / (1 + np.exp(0.3 * random.normal(size=rows) - base))
    return values


def to_ticks(reference: Reference, segments: tuple[Segment, ...], values: Rows, start: int) -> list[Tick]:
    measured, bits = reference.measure(values), np.zeros(REPEAT_BITS, bool)
    set_bits(bits, hash_rows(values, len(values["temp"])))
    found = []
    for name, rows in (("", None), *((one.name, one.find_rows(measured.codes)) for one in segments)):
        counts = measured.count(rows)
        place = Place("flights", "endpoint", "flights", "4", "digest", name)
        number = int(counts[0].sum())
        if number:
            found.append(Tick(place, start, 60, counts, number, number, repeats=to_bytes(bits)))
    return found


@dataclasses.dataclass(frozen=True)
class Case:
    reference: Reference
    segments: tuple[Segment, ...]
    baseline: Baseline
    thresholds: Thresholds

    def count(self, minutes: dict[int, Rows]) -> RecentCounts:
        counts = RecentCounts(self.reference)
        for minute, values in minutes.items():
            counts.add(to_ticks(self.reference, self.segments, values, START + 60 * minute))
        return counts

    def judge(self, minutes: dict[int, Rows], since: float | None = None) -> Judgement:
        counts, at = self.count(minutes), START + 60 * (max(minutes) + 1)
        return judging.judge(SUBJECT, self.baseline, self.thresholds, counts, at, since)


@pytest.fixture(scope="module")
def case() -> Case:
    reference = make_reference(draw(np.random.default_rng(0), 6000), {"score": "score"})
    segments = find_segments(reference, ["origin"])
    baseline = Baseline.of(reference, segments)
    return Case(reference, segments, baseline, Thresholds("digest").complete(baseline, 120, 60))


def draw_minutes(seed: int, minutes: int = 160, rows: int = 120) -> dict[int, Rows]:
    random = np.random.default_rng(seed)
    return {minute: draw(random, random.poisson(rows)) for minute in range(minutes)}


def test_without_a_change_there_is_no_verdict_and_all_that_was_judged_is_clean(case: Case) -> None:
    judged = case.judge(draw_minutes(1), since=0)
    assert not judged.differs
    assert {(one.family, one.segment) for one in judged.list_clean()} >= {
        ("quality", ""), ("score", ""), ("columns", ""), ("score", "origin=JFK"),
    }  # fmt: skip
    assert {one.shares.column.name for one in judged.columns} == {"temp", "dew", "origin", "score"}
    assert judged.row_counts is not None
    assert sum(judged.row_counts.values) == judged.rows
    assert any("no times" in note for note in judged.notes)


def test_a_unit_that_changed_pages_with_its_cause_its_start_and_how_rare_it_is(case: Case) -> None:
    minutes = draw_minutes(2)
    for minute in range(150, 160):
        values = minutes[minute]
        values["temp"] = (values["temp"] - 32) / 1.8
        values["score"] = np.minimum(values["score"] * 1.5, 1.0)
    judged = case.judge(minutes)
    score = next(one for one in judged.verdicts if one.family == "score")
    assert score.severity == "page"
    assert START + 60 * 128 <= score.since <= START + 60 * 152
    assert score.causes[0].column == "temp"
    assert "flights v4: the answers moved. Since 2023-11-1" in score.sentence
    assert "Likeliest cause: temp: " in score.sentence
    assert "All segments alike." in score.sentence
    assert score.sentence.endswith("1 false alarm a month asked for.")
    alarm = score.to_alarm("flights", "4")
    assert alarm.severity == "page"
    assert alarm.rows == score.rows
    assert "score" in alarm.columns


def test_missing_values_of_one_segment_are_one_page_that_names_it(case: Case) -> None:
    minutes = draw_minutes(3)
    for minute in range(140, 160):
        values = minutes[minute]
        rows = (values["origin"] == "JFK") & (np.arange(len(values["temp"])) % 3 == 0)
        values["temp"] = np.where(rows, np.nan, values["temp"])
    judged = case.judge(minutes)
    assert [(one.family, one.segment) for one in judged.verdicts] == [("quality", "")]
    assert "temp: " in judged.verdicts[0].sentence
    assert "missing" in judged.verdicts[0].sentence
    assert "Only in origin=JFK: other rows are as usual." in judged.verdicts[0].sentence


def test_what_a_segment_alone_shows_is_told_of_it(case: Case) -> None:
    minutes = draw_minutes(4)
    for minute in range(40, 160):
        values = minutes[minute]
        rows = values["origin"] == "JFK"
        values["score"] = np.where(rows, np.clip(values["score"] + 0.05, 0, 1), values["score"])
    judged = case.judge(minutes)
    segments = {one.segment for one in judged.verdicts if one.family == "score"}
    assert segments
    assert "origin=JFK" in segments or "origin=JFK" in judged.verdicts[-1].sentence
    assert judged.segments[0].name == "origin=JFK"


def test_one_client_that_repeats_rows_is_found_and_equal_rows_by_nature_are_not(case: Case) -> None:
    minutes = draw_minutes(5)
    for minute in range(140, 160):
        minutes[minute] = {
            name: np.concatenate([values, np.repeat(values[:5], 6)])
            for name, values in minutes[minute].items()
        }
    found = next(one for one in case.judge(minutes).verdicts if one.family == "quality")
    assert REPEATED_ROWS in found.columns
    assert "repeat another row" in found.sentence
    usual = {
        minute: {name: np.concatenate([values, values[:6]]) for name, values in values.items()}
        for minute, values in draw_minutes(6).items()
    }
    assert not [one for one in case.judge(usual).verdicts if REPEATED_ROWS in one.columns]


def test_a_million_equal_rows_and_nothing_but_nan_are_judged(case: Case) -> None:
    minutes = draw_minutes(7)
    values = draw(np.random.default_rng(0), 1)
    minutes[159] = {name: np.repeat(value, 100_000) for name, value in values.items()}
    assert {one.family for one in case.judge(minutes).verdicts} >= {"quality", "score"}
    minutes[159] = {
        name: np.full(5000, np.nan) if value.dtype.kind == "f" else np.full(5000, None, object)
        for name, value in values.items()
    }
    judged = case.judge(minutes)
    assert judged.verdicts
    assert all(np.isfinite(one.deviate) for one in judged.verdicts)


def test_counts_of_eight_shards_in_any_order_give_the_same_judgement(case: Case) -> None:
    minutes = draw_minutes(8)
    minutes[159]["temp"][:40] = np.nan
    shards: list[Tick] = []
    for minute, values in minutes.items():
        for shard in range(8):
            part = {name: value[shard::8] for name, value in values.items()}
            shards += to_ticks(case.reference, case.segments, part, START + 60 * minute)
    judged = []
    for seed in range(3):
        counts = RecentCounts(case.reference)
        order = np.random.default_rng(seed).permutation(len(shards))
        counts.add(shards[place] for place in order)
        at = START + 160 * 60
        judged.append(judging.judge(SUBJECT, case.baseline, case.thresholds, counts, at))
    assert judged[0].verdicts
    assert all(repr(one.verdicts) == repr(judged[0].verdicts) for one in judged)
    assert all(repr(one.columns) == repr(judged[0].columns) for one in judged)


def test_a_night_without_rows_and_a_clock_that_jumps_raise_nothing(case: Case) -> None:
    random = np.random.default_rng(9)
    minutes = {
        minute: draw(random, random.poisson(120))
        for minute in (*range(100), *range(640, 700), 700_000, 1_000_000)
    }
    counts, at = case.count(minutes), START + 60 * 701
    judged = judging.judge(SUBJECT, case.baseline, case.thresholds, counts, at, since=0)
    assert not judged.differs
    assert judged.at == at  # ticks of the future are not judged


def test_one_row_a_minute_is_judged_by_the_hour(case: Case) -> None:
    minutes = draw_minutes(10, minutes=600, rows=1)
    counts = case.count({minute: values for minute, values in minutes.items() if len(values["temp"])})
    assert judging.list_widths(case.baseline, counts) == (3600,)
    at = START + 36_000.0
    thresholds = judging.complete(case.thresholds, case.baseline, counts, at)
    assert not judging.judge(SUBJECT, case.baseline, thresholds, counts, at, since=0).differs


def test_thresholds_are_kept_as_json(case: Case) -> None:
    held = json.loads(json.dumps(case.thresholds.to_json()))
    assert Thresholds.from_json(held) == case.thresholds
    with pytest.raises(ValueError, match="format"):
        Thresholds.from_json({**held, "format": 99})


def test_false_alarms_of_fresh_streams_are_not_many_more_than_were_asked_for() -> None:
    random = np.random.default_rng(1)
    reference = make_reference(draw(random, 4000), {"score": "score"})
    baseline = Baseline.of(reference)
    thresholds = Thresholds("digest").complete(baseline, 120, 60)
    subject = judging.Subject("flights", "4", 43_200 / 128)  # one in 128 minutes
    alarms = 0
    for _ in range(3):
        counts = RecentCounts(reference)
        for minute in range(256):
            counts.add(to_ticks(reference, (), draw(random, random.poisson(120)), START + 60 * minute))
        at = START + 60.0 * 256
        found = judging.judge(subject, baseline, thresholds, counts, at, at - 128 * 60)
        alarms += len(found.verdicts)
    assert alarms < 12  # 3 are expected
