"""No shape of a request ends the process that runs a model, whatever its operators are."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_no_hostile_shape_ends_a_process_and_each_is_answered_or_told_why_not() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile_shapes"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print({name: found[name] for name in ("counts", "operators", "skipped")})
    assert found["deaths"] == []
    assert set(found["counts"]) <= {"answered", "InputError", "TooLargeError", "DeadlineError"}
    assert sum(found["counts"].values()) > 100_000
    assert found["operators"] > 180


def test_shapes_that_are_inferred_are_those_of_the_answers() -> None:
    false = "from tests.hostile_shapes import find_false_shapes; print(list(find_false_shapes()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", false],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[]"
