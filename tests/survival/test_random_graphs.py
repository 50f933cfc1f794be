"""As tests/unit/graphs/test_random_graphs.py, with ten times as many graphs."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_graphs_answer_alike_however_they_are_run() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/unit/graphs/test_random_graphs.py",
        "-o",
        "timeout=1500",
    ]
    environment = os.environ | {"RANDOM_GRAPHS_TIMES": "10"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
