import datetime
import decimal
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.conversions.conversion import EPOCHS, TYPES, Conversion, check_format
from raymlops.conversions.time_formats import FormatCounts, count_formats, find_formats

BIG = 2**53


def convert(values: Any, rule: Conversion) -> tuple[list[Any], list[bool]]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    found = rule.apply(pa.chunked_array([column]))
    assert found.values.type == TYPES[rule.type]
    return found.values.to_pylist(), found.failed.tolist()


def instant(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Conversion("boolean"), ["Yes", "no", " Y", "F", "TRUE", "1", "maybe"],
         [True, False, True, False, True, True, None]),
        (Conversion("boolean"), [1.0, 0.0, 0.5], [True, False, None]),
        (Conversion("boolean", words=(("Ja", True), ("nein", False))), ["JA", "nein", "yes"], [True, False, None]),
        (Conversion("number"), ["1.5", " 2", "+3e2", ".5", "5.", "1,5", "1_0", "0x1", "1e400", "-inf"],
         [1.5, 2.0, 300.0, 0.5, 5.0, None, None, None, None, float("-inf")]),
        (Conversion("number", decimal=","), ["1,5", "2", "1.5", "1,2,3"], [1.5, 2.0, None, None]),
        (Conversion("number", decimal=",", thousands="."), ["1.234,5", "1.234", "12.5", "12"],
         [1234.5, 1234.0, None, 12.0]),
        (Conversion("number", thousands=","), ["1,234.5", "12,34", "1,234,567"], [1234.5, None, 1234567.0]),
        (Conversion("number", thousands=" "), ["1\u202f234", "1\u00a0234 567"], [1234.0, 1234567.0]),
        (Conversion("integer"), ["1", "2.0", "2.5", "1e3", "9007199254740993", "1e99", "9223372036854775808"],
         [1, 2, None, 1000, BIG + 1, None, None]),
        (Conversion("integer"), [1.0, 1.5, 2.0**60], [1, None, None]),
        (Conversion("integer"), pa.array([1, 2**63], pa.uint64()), [1, None]),
        (Conversion("integer"), [decimal.Decimal("2.00"), decimal.Decimal("2.50")], [2, None]),
        (Conversion("string"), [1.0, 2.5, float(2**60)], ["1", "2.5", None]),
        (Conversion("string"), [BIG, BIG + 1], [str(BIG), str(BIG + 1)]),
        (Conversion("string", ignore_case=True), [" A b", "ÄB"], [" a b", "äb"]),
        (Conversion("string", ignore_blanks=True), [" A  b ", "c\t"], ["A b", "c"]),
        (Conversion("timestamp"), ["2020-02-03", "2020-02-03T04:05:06+02:00", "03/02/2020"],
         [instant("2020-02-03"), instant("2020-02-03 02:05:06"), None]),
        (Conversion("timestamp", format="%d/%m/%Y"), ["03/02/2020", "31/12/9999", "2020-02-03"],
         [instant("2020-02-03"), instant("9999-12-31"), None]),
        (Conversion("timestamp", format="epoch_s"), [1.5e9, 1],
         [instant("2017-07-14 02:40:00"), instant("1970-01-01 00:00:01")]),
        (Conversion("timestamp", format="epoch_ms"), ["1500000000000", "x"], [instant("2017-07-14 02:40:00"), None]),
        (Conversion("timestamp", format="%Y%m%d"), [20130701, 20131399], [instant("2013-07-01"), None]),
        (Conversion("timestamp"), [1372636800000, 2**60], [instant("2013-07-01"), None]),
        (Conversion("number"), [datetime.date(2020, 1, 1)], [None]),
    ],
)  # fmt: skip
def test_a_value_is_converted_or_told(rule: Conversion, values: Any, expected: list[Any]) -> None:
    assert convert(values, rule) == (expected, [value is None for value in expected])


@pytest.mark.parametrize("kind", ["number", "integer", "boolean", "timestamp"])
def test_a_missing_value_has_not_failed(kind: Any) -> None:
    values, failed = convert(["", "NA", "nan", " ", None, "null"], Conversion(kind))
    assert values == [None] * 6
    assert not any(failed)
    assert convert([None, float("nan")], Conversion(kind)) == (
        [None] * 2 if kind != "number" else [None, pytest.approx(float("nan"), nan_ok=True)],
        [False] * 2,
    )


def test_missing_of_a_text_is_null_alone() -> None:
    assert convert(["NA", " ", None], Conversion("string")) == (["NA", " ", None], [False] * 3)


def test_categories_of_pandas_are_converted_as_their_values() -> None:
    column = pa.array(["Yes", "No", None, "Yes"]).dictionary_encode()
    assert convert(column, Conversion("boolean"))[0] == [True, False, None, True]
    assert convert(column, Conversion("string"))[0] == ["Yes", "No", None, "Yes"]


RULES = [
    Conversion("boolean"),
    Conversion("number", decimal=",", thousands="."),
    Conversion("number"),
    Conversion("integer"),
    Conversion("string", ignore_case=True, ignore_blanks=True),
    Conversion("timestamp"),
    Conversion("timestamp", format="%d/%m/%Y"),
    Conversion("timestamp", format="epoch_s"),
]
TEXTS = st.one_of(
    st.text(max_size=12),
    st.dates(datetime.date(1, 1, 1)).map(str),
    st.dates(datetime.date(1900, 1, 1)).map(lambda date: date.strftime("%d/%m/%Y")),
    st.floats().map(str),
    st.integers().map(str),
    st.integers(0, 10**9).map(lambda number: f"{number:,}".replace(",", ".") + ",5"),
    st.sampled_from(["Yes", "no", "NA", " true ", "T"]),
)
COLUMNS = st.one_of(
    st.lists(st.none() | TEXTS, max_size=16),
    st.lists(st.none() | st.floats(), max_size=20),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.none() | st.booleans(), max_size=20),
    st.lists(st.none() | st.datetimes(), max_size=20),
)


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(max_examples=20, deadline=None)
@given(values=COLUMNS, cut=st.integers(0, 16))
def test_a_value_means_the_same_alone_and_in_any_block(rule: Conversion, values: list[Any], cut: int) -> None:
    column = pa.array(values)
    whole = rule.apply(pa.chunked_array([column]))
    parts = rule.apply(pa.chunked_array([column[:cut], column[cut:]], column.type))
    alone = [rule.apply(pa.chunked_array([column[at : at + 1]])) for at in range(len(column))]
    expected = [str(value) for value in whole.values.to_pylist()]
    assert [str(value) for value in parts.values.to_pylist()] == expected
    assert [str(one.values[0].as_py()) for one in alone] == expected
    assert parts.failed.tolist() == whole.failed.tolist() == [bool(one.failed[0]) for one in alone]
    again = rule.apply(whole.values)
    assert [str(value) for value in again.values.to_pylist()] == expected, "what is converted stays"
    assert not again.failed.any()


@settings(max_examples=30, deadline=None)
@given(
    times=st.lists(st.datetimes(), min_size=70, max_size=80),
    form=st.sampled_from(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%SZ"]),
)
def test_many_times_are_read_as_each_of_them(times: list[datetime.datetime], form: str) -> None:
    texts = [f"{time:%Y}".rjust(4, "0") + time.strftime(form)[len(f"{time:%Y}") :] for time in times]
    alone = [convert([text], Conversion("timestamp"))[0][0] for text in texts]
    assert convert(texts, Conversion("timestamp"))[0] == alone
    assert None not in alone


def test_a_rule_survives_json() -> None:
    for rule in (*RULES, Conversion("boolean", words=(("ja", True), ("nein", False)))):
        assert Conversion.from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"type": "day"},
        {"type": "number", "decimal": ""},
        {"type": "number", "base": 16},
        {"type": "boolean", "words": {"ja": "yes"}},
        {"type": "boolean", "words": 5},
        {"type": "timestamp", "format": ["%Y"]},
        {"type": "timestamp", "format": "soon"},
        {"type": "string", "ignore_case": "yes"},
    ],
)
def test_a_rule_of_another_version_or_hand_is_refused(held: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Conversion.from_json(held)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%Y%m%d", "%d %b %Y %H:%M", *EPOCHS, ""])
def test_a_format_that_reads_what_it_writes_is_taken(form: str) -> None:
    check_format(form)


@pytest.mark.parametrize("form", ["dd/mm/yyyy", "%H", "%Q"])
def test_another_format_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="format"):
        check_format(form)


def dates(form: str, start: str = "2020-01-01", count: int = 400, step: int = 1) -> list[str]:
    first = datetime.date.fromisoformat(start)
    return [(first + datetime.timedelta(days=step * day)).strftime(form) for day in range(count)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (dates("%d/%m/%Y"), ["%d/%m/%Y"]),
        (dates("%m/%d/%Y"), ["%m/%d/%Y"]),
        (["01/02/2020", "01/03/2020"], ["%d/%m/%Y", "%m/%d/%Y"]),
        (["01.02.2020"], ["%d.%m.%Y", "%m.%d.%Y"]),
        (dates("%Y-%m-%d"), [""]),
        (dates("%d.%m.%y"), ["%d.%m.%y"]),
        (["1 May 2020", "2 May 2020"], ["%d %b %Y"]),
        (["1 May 2020", "2 March 2020"], ["%d %B %Y"]),
        (["13/01/2020 5:06 PM"], ["%d/%m/%Y %I:%M %p"]),
        ([1577836800, 1577836801], ["epoch_s"]),
        ([1577836800000.0], ["epoch_ms"]),
        (["1577836800123456789"], ["epoch_ns"]),
        ([20130701, 20131231], ["%Y%m%d"]),
        ([2013, 2014], []),
        (["red", "blue"], []),
    ],
)  # fmt: skip
def test_formats_are_told_from_values(values: list[Any], expected: list[str]) -> None:
    assert find_formats(values) == expected


def count(values: list[Any]) -> FormatCounts:
    return count_formats(pa.chunked_array([pa.array(values)]))


def test_one_block_settles_what_others_leave_open() -> None:
    """Dates of one block may all be early days of months."""
    early, late = count(["01/02/2020", "03/04/2020"]), count(["13/02/2020"])
    assert early.merge(late).choose(0.99) == late.merge(early).choose(0.99) == "%d/%m/%Y"
    with pytest.raises(
        ValueError, match=r"'01/02/2020', .* are times in 2 formats: set format to '%d/%m/%Y' or '%m/%d/%Y'"
    ):
        early.choose(0.99)


def test_a_few_broken_values_do_not_hide_the_format() -> None:
    assert count([*dates("%d/%m/%Y"), "soon", "31/02/2020"]).choose(0.99) == "%d/%m/%Y"
    assert count([*dates("%Y-%m-%d"), "soon"]).choose(0.99) == ""


def test_a_mixed_column_is_refused_with_what_is_in_it() -> None:
    mixed = count([*dates("%d/%m/%Y"), *dates("%Y-%m-%d")])
    with pytest.raises(ValueError, match=r"no format in common .*400 are"):
        mixed.choose(0.99)


def test_floats_lose_no_milliseconds_before_1970() -> None:
    times = np.array(["1969-12-31T23:59:59.999999"], "datetime64[us]")
    assert convert(pa.array(times), Conversion("timestamp"))[0] == [instant("1969-12-31 23:59:59.999000")]
    assert convert(["1969-12-31T23:59:59.999999"], Conversion("timestamp"))[0] == [
        instant("1969-12-31 23:59:59.999000")
    ]
