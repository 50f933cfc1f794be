"""The tracking store of a machine, opened by several commands at once."""

import os
import pathlib
import subprocess
import sys

import pytest

COMMAND = """
import pathlib, sys, time
import mlflow
from raymlops.settings import Settings
from raymlops.tracking import store
print("ready", flush=True)
sys.stdin.readline()
settings = Settings.from_env()
print(store.ensure_experiment(store.connect(settings), "shared", settings).experiment_id)
"""


@pytest.mark.slow
def test_commands_that_start_together_on_a_fresh_home_make_one_database(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "RAYMLOPS_HOME": str(tmp_path / "home")}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAYMLOPS_ARTIFACTS"):
        environment.pop(name, None)
    together = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in together:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in together:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=240) for process in together]
    assert {out.strip() for out, _ in ended} == {"1"}, [err[-500:] for _, err in ended]
