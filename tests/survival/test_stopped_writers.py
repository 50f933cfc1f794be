"""Writers of a record that are killed or stopped at every call that they make of the store."""

import pathlib

import pytest

from tests.unit.tracking.test_lease import require_whole, run_cases

CALLS = [f"{number}{after}" for number in range(1, 12) for after in ("", "+")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["KILL", "STOP"])
def test_the_record_holds_wherever_a_writer_stops(tmp_path: pathlib.Path, how: str) -> None:
    cases = run_cases(tmp_path, *(how + call for call in CALLS))
    assert sum(case["killed"] or case["stopped"] for case, _ in cases) > 15
    for case, found in cases:
        require_whole(case, found)
