"""The page of an application's health says its state, shows what differs first, and escapes what others named."""

import dataclasses
import datetime
import html.parser
import json
import math
import pathlib
import re

import numpy as np
import pytest

from raymlops.events.incident import Watched
from raymlops.lifecycle.monitoring.health_page import write_health_page
from raymlops.monitoring.cells import CategoryCells, NumberCells
from raymlops.monitoring.comparison import ColumnShares
from raymlops.monitoring.health import (
    Health,
    Metric,
    ModelHealth,
    Traffic,
    keep_drawable,
    plain_trend,
    to_json,
)
from raymlops.monitoring.judgement import ColumnJudgement, Judgement, Trend, Verdict
from raymlops.monitoring.reference import Column
from tests import health_samples
from tests.browser import needs_browser, open_page

VOID = {"meta", "input", "br"}


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(health: Health) -> Reader:
    document = write_health_page(health)
    reader = Reader()
    reader.feed(document)
    assert reader.open == []
    anchors = {held["id"] for _, held in reader.tags if "id" in held}
    links = [held["href"] or "" for tag, held in reader.tags if tag == "a"]
    assert {link[1:] for link in links} <= anchors  # every link leads somewhere on the page
    fetched = [held for _, held in reader.tags if {"src", "srcset", "action"} & held.keys()]
    assert fetched == []
    assert "url(" not in document
    assert "@import" not in document
    return reader


@pytest.fixture(scope="module")
def well() -> Health:
    return health_samples.make_health()


@pytest.fixture(scope="module")
def changed() -> Health:
    return health_samples.make_health(changed=True)


def test_an_application_that_is_well_says_so_and_of_what(well: Health) -> None:
    page = read(well)
    assert "All well: nothing differs beyond chance. 66,000 rows of flights v4, 19 columns." in page.text
    assert "Alarms" not in page.text
    for heading in ("Quality", "Score", "Columns", "Segments", "Traffic", "Not watched"):
        assert heading in page.text
    assert "7,998 values in 8,000 rows: each row has its own" in page.text


def test_a_page_worthy_alarm_comes_first_with_its_cause_damage_and_next_command(changed: Health) -> None:
    page = read(changed)
    assert page.text.index("temp explains 97%") < page.text.index("Quality")
    for part in (
        "needs a person now", "2026-07-03 09:00 UTC, 6 hours ago", "97%", "roc_auc is estimated at 0.621",
        "once in 9 years", "raymlops alarms show flights/6", "silenced until 2026-07-04 11:00 UTC",
        "the new version knows it",
    ):  # fmt: skip
        assert part in page.text
    rows = re.findall(r"<tr><td>(.*?)</td>", write_health_page(changed))
    assert rows.index("temp") < rows.index("distance")  # of all columns those that differ are first
    held = json.loads(json.dumps(to_json(changed)))
    assert (held["state"], held["models"][0]["columns"][0]["column"]) == ("page", "temp")


def test_silence_is_not_health(well: Health) -> None:
    late = dataclasses.replace(well, at=well.at + datetime.timedelta(hours=6))
    assert (late.state, late.describe()) == (
        "unknown",
        "No rows since 2026-07-03 15:00 UTC, 6 hours ago, so whether all is well is not known.",
    )
    assert "not known" in read(late).text
    assert dataclasses.replace(late, tick=datetime.timedelta(hours=3)).state == "well"
    nothing = dataclasses.replace(well, models=())
    assert nothing.state == "unknown"
    assert "No rows were counted in this period" in read(nothing).text
    alone = ModelHealth(
        "flights", "3", rows=10, last=well.at, unwatched="it has no reference; raymlops reference ..."
    )
    without = dataclasses.replace(well, models=(alone,))
    assert (without.state, "10 rows, of which none is compared" in without.describe()) == ("unknown", True)
    assert "it has no reference; raymlops reference ..." in read(without).text
    beside = dataclasses.replace(well, models=(*well.models, alone))
    assert (beside.state, "Not compared: flights v3." in beside.describe()) == ("well", True)
    read(beside)
    unread = dataclasses.replace(well, notes=("The incidents could not be read: the store does not answer",))
    assert (unread.state, "could not be read" in read(unread).text) == ("unknown", True)
    assert "All well" not in unread.describe()
    silenced = tuple(one for one in health_samples.make_incidents() if one.silenced_until)
    quiet = dataclasses.replace(well, incidents=silenced)
    assert (quiet.state, quiet.describe().startswith("Nothing wakes a person. 1 alarm silenced.")) == (
        "note",
        True,
    )


def test_what_the_judge_found_is_told_before_an_alarm_is_raised_of_it(well: Health) -> None:
    model = well.models[0]
    assert model.judgement is not None
    found = Verdict(
        "score", "", "page", 0.0, 60.0, 100, (), ("temp",), 9.0, 5.0, 1e9, "flights v4: the score moved"
    )
    judged = dataclasses.replace(model.judgement, verdicts=(found,))
    health = dataclasses.replace(well, models=(dataclasses.replace(model, judgement=judged),))
    assert health.state == "page"
    assert health.describe() == "flights v4: the score moved. No alarm was raised of it yet."
    raised = dataclasses.replace(health, incidents=health_samples.make_incidents())
    assert raised.unraised == ()


def test_rows_in_no_count_and_lost_nodes_are_told(well: Health) -> None:
    model = dataclasses.replace(well.models[0], traffic=Traffic(lost=12))
    page = read(dataclasses.replace(well, models=(model,), lost_nodes=("node-3f",)))
    assert "12 answered rows in no count." in page.text
    assert "Of lost nodes nobody knows the last counts: node-3f." in page.text


def test_a_model_without_rows_or_columns_has_a_page(well: Health) -> None:
    at = well.at.timestamp()
    judged = Judgement("flights", "5", 0, 0, at, at, (), frozenset(), notes=("no rows",))
    model = ModelHealth("flights", "5", "flights/challenger", "shadow", judgement=judged)
    page = read(dataclasses.replace(well, models=(*well.models, model)))
    assert "flights v5 (shadow at flights/challenger)" in page.text


def test_names_and_values_of_others_are_text(changed: Health) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    model = changed.models[0]
    assert model.judgement is not None
    columns = tuple(
        dataclasses.replace(
            one,
            shares=dataclasses.replace(
                one.shares, column=dataclasses.replace(one.shares.column, name=hostile)
            ),
        )
        for one in model.judgement.columns
    )
    named = dataclasses.replace(
        model, model=hostile, judgement=dataclasses.replace(model.judgement, columns=columns, notes=(hostile,)),
        left_out={hostile: hostile}, unwatched=hostile,
    )  # fmt: skip
    alarm = dataclasses.replace(
        changed.incidents[0].alarm, sentence=hostile, damage=hostile, columns=(hostile,), next=hostile,
        watched=Watched(hostile, hostile, "score", hostile),
    )  # fmt: skip
    incident = dataclasses.replace(changed.incidents[0], alarm=alarm, application=hostile)
    page = read(Health(hostile, changed.start, changed.at, (named,), (incident,), (hostile,), (hostile,)))
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert hostile in page.text


def test_numbers_that_no_axis_can_hold_leave_a_page(well: Health) -> None:
    inf, nan = math.inf, math.nan
    none = NumberCells(inf, -inf, ())
    wide = NumberCells(-1e308, 1e308, (-1e307, 1e307))
    values = (1e308, -1e308, None, nan, inf)
    empty, odd = (None,) * 5, Trend("odd", (0.0, 1.0, 2.0, 3.0, 4.0), values, values, values, values)
    missing, binned = np.eye(19)[0], np.eye(19)[3]
    columns = tuple(
        ColumnJudgement(
            ColumnShares(Column(name, "input", cells), deviate, shares, shares), rows, None, trend, values
        )
        for name, cells, deviate, shares, rows, trend in (
            ("no numbers in the reference", none, inf, missing, 10, odd),
            ("wide", wide, nan, binned, 0, odd),
            ("nothing", CategoryCells(()), 0.0, np.zeros(32), 0, Trend("", (), (), (), (), ())),
            (
                "x" * 5000,
                CategoryCells(("a" * 300,)),
                0.0,
                np.eye(32)[3],
                1,
                plain_trend("", odd.times, empty),
            ),
        )
    )
    judged = Judgement("m", "", 0, 0, 0.0, 1.0, (), frozenset(), columns, (), odd, None, {"columns": nan})
    model = ModelHealth("m", "", judgement=judged, metrics=(Metric("auc", nan, odd, odd),), last=well.at)
    health = dataclasses.replace(
        well, models=(dataclasses.replace(model, traffic=Traffic(1, 0, trends=(odd,))),)
    )
    page = read(health)
    for name, held in page.tags:
        assert not {"nan", "inf"} & set(re.findall(r"nan|inf", " ".join(filter(None, held.values())))), name
    json.dumps(to_json(health), allow_nan=False)


def test_a_night_without_rows_is_a_gap_and_not_a_line(well: Health) -> None:
    model = well.models[0]
    assert model.judgement is not None
    times, values = (0.0, 3600.0, 36_000.0, 39_600.0), (1.0, 2.0, 3.0, 4.0)
    trend = Trend("median", times, values, values, values, values)
    column = dataclasses.replace(model.judgement.columns[0], trend=trend, deviates=values)
    judged = dataclasses.replace(model.judgement, columns=(column,))
    drawn = keep_drawable(dataclasses.replace(well, models=(dataclasses.replace(model, judgement=judged),)))
    assert drawn.models[0].judgement is not None
    (shown,) = drawn.models[0].judgement.columns
    assert shown.trend.times == tuple(3600.0 * hour for hour in range(12))
    assert shown.trend.values == shown.deviates == (1.0, 2.0, *(None,) * 8, 3.0, 4.0)


@pytest.fixture(scope="module")
def many() -> Health:
    return health_samples.make_health(500, changed=True)


def test_with_500_columns_30_are_open_and_the_page_stays_small(many: Health) -> None:
    document = write_health_page(many)
    assert len(document) < 1_500_000
    table = document.partition('id="m0-rows"')[2].partition("</details>")[0]
    shown, folded = table.partition("<details><summary>469 more, less unlikely")[::2]
    names = [len(re.findall(r"<tr><td>.*?(sensor_|temp|distance|carrier)", part)) for part in (shown, folded)]
    assert names == [30, 469]
    assert "29 more columns drawn large" in document
    read(many)


@needs_browser
def test_a_browser_searches_the_columns_and_a_phone_shows_all_without_moving_sideways(
    many: Health, tmp_path: pathlib.Path
) -> None:
    found = open_page(
        write_health_page(many),
        tmp_path,
        """
        const box = page.querySelector("input[type=search]");
        const rows = () => [...page.querySelectorAll("#m0-rows td:first-child")].filter(cell => cell.checkVisibility());
        const before = rows().length;
        box.value = "sensor_417"; box.dispatchEvent(new view.Event("input"));
        return {before, shown: box.checkVisibility(), after: rows().map(cell => cell.textContent),
                told: page.querySelector("output").textContent,
                wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
                unnamed: page.querySelectorAll("svg:not([aria-hidden]):not([aria-label])").length};
        """,
        width=390,
    )
    held = json.loads(html.unescape(found))
    assert held["shown"]
    assert (held["before"], held["after"], held["told"]) == (30, ["sensor_417"], "1 of 499")
    assert (held["wide"], held["unnamed"]) == (0, 0)
