import dataclasses
import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymlops.data import contract as contracts
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec


def check(values: Any, rule: dict[str, Any], **more: Any) -> tuple[pa.ChunkedArray, list[bool], list[str]]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    spec = ContractSpec.model_validate({"columns": {"a": rule}, **more})
    table, holds, findings = contracts.check_block(pa.table({"a": column}), spec)
    return table["a"], holds.tolist(), [finding.rule for finding in findings]


@pytest.mark.parametrize(
    ("values", "rule", "holds", "broken"),
    [
        ([1, None, 3], {"nulls": False}, [True, False, True], ["nulls not allowed"]),
        ([1.0, float("nan")], {"nulls": False}, [True, False], ["nulls not allowed"]),
        ([1.0, float("inf")], {"nulls": False}, [True, False], ["nulls not allowed"]),
        ([1, 5, 9], {"min": 2, "max": 8}, [False, True, False], ["min 2", "max 8"]),
        ([None, 5], {"min": 2}, [True, True], []),
        (["a", "b", None], {"allowed": ["a"]}, [True, False, True], ["allowed ['a']"]),
        ([1, 2, 3], {"allowed": [1, 3]}, [True, False, True], ["allowed [1, 3]"]),
        ([True, False], {"allowed": [True]}, [True, False], ["allowed [True]"]),
    ],
)
def test_rows_that_break_a_rule_are_told(
    values: list[Any], rule: dict[str, Any], holds: list[bool], broken: list[str]
) -> None:
    assert check(values, rule)[1:] == (holds, broken)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "x", None], "integer", [1, None, None]),
        (["1", "1.5", "2"], "integer", [1, None, 2]),
        (["1", "x", None], "number", [1.0, None, None]),
        ([1, 2, None], "string", ["1", "2", None]),
        (["yes", "No", "maybe", None], "boolean", [True, False, None, None]),
        ([1, 0, None], "boolean", [True, False, None]),
        ([1.0, 2.5], "integer", [1, None]),
    ],
)
def test_a_type_converts_what_it_can_and_fails_the_rest(
    values: list[Any], kind: str, expected: list[Any]
) -> None:
    column, holds, _ = check(values, {"type": kind})
    assert column.to_pylist() == expected
    failed = [value is not None and got is None for value, got in zip(values, expected, strict=True)]
    assert [not one for one in holds] == failed


def test_times_without_a_zone_are_read_as_utc() -> None:
    noon = datetime.datetime(2020, 2, 29, 12)
    for values in ([noon, None], ["2020-02-29 12:00", "2020-02-30 12:00"]):
        column, holds, _ = check(values, {"type": "timestamp"})
        assert column[0].as_py() == noon.replace(tzinfo=datetime.UTC)
        assert holds == [True, values[1] is None]


def test_bounds_of_timestamps_are_dates_in_words() -> None:
    values = pa.array([datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)])
    assert check(values, {"max": "2020-06-01"})[1] == [True, False]
    with pytest.raises(DataError, match="cannot be compared"):
        check(values, {"max": "soon"})


def test_a_column_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"Unknown column 'a'.*Known: aa"):
        contracts.check_block(pa.table({"aa": [1]}), ContractSpec.model_validate({"columns": {"a": {}}}))


def test_findings_keep_a_few_samples_and_merge() -> None:
    spec = ContractSpec.model_validate({"columns": {"a": {"max": 0}}})
    parts = [contracts.check_block(pa.table({"a": [1, 2, 3, 4, 5, 6]}), spec)[2][0] for _ in range(2)]
    both = parts[0].merge(parts[1])
    assert (both.rows, both.samples) == (12, ("1", "2", "3", "4", "5"))
    assert json.loads(json.dumps([dataclasses.asdict(both)]))[0]["rows"] == 12


def test_a_block_without_rows_keeps_the_contract() -> None:
    column, holds, broken = check(
        pa.array([], type=pa.string()), {"type": "integer", "nulls": False, "min": 0}
    )
    assert (column.type, holds, broken) == (pa.int64(), [], [])


@pytest.mark.parametrize(
    ("contract", "failed", "fatal"),
    [
        ({"on_failure": "drop", "max_failed": 0.1}, 10, False),
        ({"on_failure": "drop", "max_failed": 0.1}, 11, True),
        ({"on_failure": "fail"}, 1, True),
        ({"on_failure": "fail"}, 0, False),
    ],
)
def test_failures_are_dropped_or_fatal_as_the_spec_says(
    contract: dict[str, Any], failed: int, fatal: bool
) -> None:
    spec = ContractSpec.model_validate(contract)
    finding = contracts.Finding("a", "min 0", failed, ("-1",))
    if not fatal:
        contracts.judge([finding], 100, failed, spec)
        return
    with pytest.raises(DataError, match=rf"{failed} of 100 rows .*a: {failed} rows break 'min 0'"):
        contracts.judge([finding], 100, failed, spec)


def test_blocks_are_judged_alike_wherever_they_are_cut() -> None:
    spec = ContractSpec.model_validate({"columns": {"a": {"type": "integer", "min": 2}}})
    table = pa.table({"a": ["1", "2", "x", None, "3"]})
    whole = contracts.check_block(table, spec)[1]
    parts = [contracts.check_block(table.slice(start, 1), spec)[1] for start in range(5)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
