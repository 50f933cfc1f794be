"""Healths of applications as a judge would give them: rows of a reference, of which some columns change at noon."""

import datetime

import numpy as np

from raymlops.events import incident as states
from raymlops.events.incident import Alarm, Cause, Entry, Incident, Watched
from raymlops.monitoring.cells import NumberCells, count
from raymlops.monitoring.comparison import ColumnShares, Finding, find_quantile
from raymlops.monitoring.health import Health, Metric, ModelHealth, Traffic, plain_trend
from raymlops.monitoring.judgement import ColumnJudgement, Judgement, SegmentJudgement, Trend
from raymlops.monitoring.reference import Reference, make_reference

AT = datetime.datetime(2026, 7, 3, 15, 0, tzinfo=datetime.UTC)
START = AT - datetime.timedelta(days=7)
HOURS = 168
TIMES = tuple(START.timestamp() + 3600.0 * hour for hour in range(HOURS))
NIGHT = (24, 25, 26)
"""Hours without rows."""
CHANGE = HOURS - 6


def make_rows(columns: int, rows: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """`temp`, `carrier`, `distance`, `score`, and further numbers."""
    temp = random.normal(56, 18, rows)
    held = {
        "temp": temp,
        "distance": np.round(random.gamma(2, 500, rows) + 80),
        "carrier": random.choice(["UA", "B6", "EV", "DL"], rows, p=[0.4, 0.3, 0.2, 0.1]).astype(object),
        **{f"sensor_{place:03d}": random.normal(place, 1 + place % 7, rows) for place in range(columns - 4)},
        "probability": 1 / (1 + np.exp(-random.normal(-1.2, 0.8, rows) + (temp - 56) / 40)),
    }  # fmt: skip
    held["temp"][random.random(rows) < 0.002] = np.nan
    return held


def judge(reference: Reference, changed: bool, per_hour: int) -> Judgement:
    """Not as the judge does it, but with all the values that it gives."""
    random = np.random.default_rng(1)
    usual = reference.codes
    shares = count(usual) / len(usual)
    hours = []
    for hour in range(HOURS):
        rows = make_rows(len(reference.columns), per_hour, random)
        if changed and hour >= CHANGE:
            rows["temp"] = (rows["temp"] - 32) / 1.8
            rows["probability"] = np.minimum(rows["probability"] * 1.4, 1.0)
        hours.append(reference.count(rows) if hour not in NIGHT else None)
    found = []
    for place, column in enumerate(reference.columns):
        differs = changed and column.name in ("temp", "probability") and column.role != "residual"
        now = sum(one[place] for one in hours[CHANGE if changed else HOURS - 24 :] if one is not None)
        now = now[: column.cells.cells] / now[: column.cells.cells].sum()
        before = shares[place, : column.cells.cells]
        if isinstance(column.cells, NumberCells):
            label = "median"
            values = [
                None if one is None else find_quantile(column.cells, one[place] / per_hour, 0.5)
                for one in hours
            ]
            middle = find_quantile(column.cells, before, 0.5)
            half = 1.25 * 3.8 * (find_quantile(column.cells, before, 0.84) - middle) / np.sqrt(per_hour)
        else:
            label = f"share of {column.cells.describe(3)}"
            values = [None if one is None else float(one[place, 3] / per_hour) for one in hours]
            middle = float(before[3])
            half = 3.8 * np.sqrt(middle * (1 - middle) / per_hour)
        trend = Trend(
            label, TIMES, tuple(values), (middle,) * HOURS, (middle - half,) * HOURS, (middle + half,) * HOURS
        )
        size = 24.0 if differs else float(abs(random.normal(1.5, 0.6)))
        deviates = tuple(
            None
            if one is None
            else (size if differs and hour >= CHANGE else float(abs(random.normal(1.4, 0.6))))
            for hour, one in enumerate(hours)
        )
        last = values[-1] if values[-1] is not None else 0.0
        finding = Finding(column, "shift", size, 1e-12, middle, last) if differs else None
        judged = ColumnShares(column, size, before, now)
        found.append(ColumnJudgement(judged, per_hour * (HOURS - CHANGE), finding, trend, deviates))
    found.sort(key=lambda one: -one.shares.deviate)
    segments = tuple(
        SegmentJudgement(f"carrier={name}", 900, 0.18, 0.2, "distance", 1.2 + place / 10)
        for place, name in enumerate(("UA", "B6", "EV"))
    )
    rows = tuple(None if one is None else float(per_hour) for one in hours)
    repeats = tuple(None if one is None else float(abs(random.normal(0.004, 0.002))) for one in hours)
    counts = plain_trend("rows an hour", TIMES, rows)
    band = (0.0,) * HOURS, (0.012,) * HOURS
    return Judgement(
        "flights", "4", reference.rows, per_hour * (HOURS - len(NIGHT)), TIMES[0], AT.timestamp(), (),
        frozenset({("columns", ""), ("score", "")}), tuple(found), segments,
        Trend("share of repeated rows", TIMES, repeats, (0.004,) * HOURS, *band), counts,
        {"quality": 5.1, "score": 5.0, "columns": 5.4},
    )  # fmt: skip


def make_model(columns: int = 19, changed: bool = False) -> ModelHealth:
    random = np.random.default_rng(0)
    rows = make_rows(columns, 8000 if columns < 100 else 1000, random)
    reference = make_reference(rows, {"probability": "score"}, rows=40_000)
    judgement = judge(reference, changed, 400 if columns < 100 else 20)
    days = tuple(TIMES[::24])
    estimated = [0.751, 0.748, 0.752, 0.747, 0.750, 0.749, 0.621 if changed else 0.751]
    measured = [0.744, 0.757, 0.749, None, None, None, None]
    errors = plain_trend("share of failed requests", TIMES, random.binomial(300, 0.002, HOURS) / 300)
    latency = plain_trend("p99 latency, ms", TIMES, random.gamma(40, 0.2, HOURS).round(2).tolist())
    return ModelHealth(
        "flights", "4", "flights", "endpoint", judgement.rows, AT, judgement,
        metrics=(
            Metric(
                "roc_auc", 0.7502,
                Trend("estimate", days, tuple(estimated), (0.7502,) * 7, tuple(v - 0.05 for v in estimated),
                      tuple(v + 0.05 for v in estimated)),
                Trend("measured", days, tuple(measured), (0.7502,) * 7,
                      tuple(None if v is None else v - 0.02 for v in measured),
                      tuple(None if v is None else v + 0.02 for v in measured)),
                (f"roc_auc is estimated at {estimated[-1]}, was 0.75",
                 "roc_auc is 0.749 (0.729 to 0.769) of 9,120 labelled rows, was 0.75"),
            ),
        ),
        traffic=Traffic(49_500, 98, 2.1, 11.4, (judgement.row_counts, errors, latency)),
        left_out={"note": "7,998 values in 8,000 rows: each row has its own"},
    )  # fmt: skip


def make_incidents() -> tuple[Incident, ...]:
    """A page that is open, a note that is silenced, and one that is closed."""
    hour = datetime.timedelta(hours=1)
    page = Alarm(
        Watched("flights", "4", "score"),
        "flights v4: the median of probability is 0.33, usually 0.24; temp explains 97%: its median is 13, usually 56",
        "page", AT, since=AT - 6 * hour, rows=2400, columns=("probability", "temp"),
        causes=(Cause("temp", 0.97, "the median is 13, usually 56"), Cause("distance", 0.02, "as usual")),
        damage="roc_auc is estimated at 0.621 (0.57 to 0.67), was 0.75",
        chance="Chance alone: once in 9 years; you asked for 1 false alarm a month",
    )  # fmt: skip
    note = Alarm(
        Watched("flights", "4", "columns", "origin=JFK"),
        "flights v4, origin=JFK: 4.1% of rows of distance are missing", "note",
        AT - 20 * hour, since=AT - 30 * hour, rows=1200, columns=("distance",),
    )  # fmt: skip
    old = Alarm(
        Watched("flights", "4", "quality"),
        "flights v4: 0.9% of rows of carrier are of values that the reference does not have", "page",
        AT - 90 * hour, since=AT - 100 * hour, rows=5200, columns=("carrier",),
    )  # fmt: skip
    entries = [
        Entry(1, "raised", AT - 99 * hour, "monitoring", alarm=old, number=1),
        Entry(1, "acknowledged", AT - 98 * hour, "ann", "new carrier since July", number=2),
        Entry(1, "closed", AT - 80 * hour, "ann", "the new version knows it", number=3),
        Entry(4, "raised", AT - 29 * hour, "monitoring", alarm=note, number=4),
        Entry(4, "silenced", AT - 28 * hour, "ann", "known feed", until=AT + 20 * hour, number=5),
        Entry(6, "raised", AT - 5.5 * hour, "monitoring", alarm=page, number=6),
    ]
    return tuple(reversed(states.fold("flights", entries).values()))


def make_health(columns: int = 19, changed: bool = False) -> Health:
    incidents = make_incidents() if changed else ()
    return Health("flights", START, AT, (make_model(columns, changed),), incidents)
