"""AutoML at equal wall time on the same rows: raymlops, AutoGluon and FLAML, each in a Python of its own.

    python -m benchmarks.automl [TABLE ...] --seconds 60 --seeds 2 --output automl.json \
        --autogluon /path/to/python --flaml /path/to/python

A peer's Python needs pandas and the peer: `autogluon.tabular[lightgbm,catboost,xgboost]`, or `flaml[automl]`. Each cell
(table, seconds, seed, contender) is kept in the output file, so that a run that was stopped goes on. A quarter of the
rows are for testing; raymlops sets a part of the others aside for its gate, which its peers train on.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from benchmarks.real_tables import TABLES

NAMES = (
    "german", "bikeshare", "diamonds", "flights", "census", "leaf", "ames", "churn", "credit_data", "digits", "loans",
    "titanic",
)  # fmt: skip
_PEERS = pathlib.Path(__file__).parent / "peers"
_FALLING = {"log_loss", "rmse"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("tables", nargs="*", metavar="TABLE", help=f"default: {', '.join(NAMES)}")
    options.add_argument("--seconds", type=int, default=60, help="of each contender on each table")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--preset", default="medium_quality", help="of AutoGluon")
    options.add_argument("--output", type=pathlib.Path, default=pathlib.Path("automl.json"))
    options.add_argument(
        "--packages", type=pathlib.Path, help="folder in which the tables' packages were installed"
    )
    options.add_argument("--autogluon", help="its Python")
    options.add_argument("--flaml", help="its Python")
    given = options.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    found: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() else {}
    pythons = {"raymlops": sys.executable, f"autogluon {given.preset}": given.autogluon, "flaml": given.flaml}
    for name in given.tables or NAMES:
        for seed in range(given.seeds):
            for contender, python in pythons.items():
                key = f"{name} {given.seconds} s, seed {seed}: {contender}"
                if python is None or key in found:
                    continue
                found[key] = measure(name, seed, given.seconds, contender, python)
                given.output.write_text(json.dumps(found, indent=1))
                print(key, found[key], flush=True)
    print(summarise(found, given.seconds))


def measure(name: str, seed: int, seconds: int, contender: str, python: str) -> dict[str, Any]:
    """One cell: the metric on the test rows, wall seconds, bytes of the model, milliseconds of one row."""
    table = TABLES[name]
    frame = table.load().sample(frac=1, random_state=seed).reset_index(drop=True)
    test = frame.iloc[: len(frame) // 4]
    train = frame.iloc[len(frame) // 4 :]
    task = _find_task(frame[table.target])
    if task != "regression":
        test = test[test[table.target].isin(set(train[table.target]))]
    script = {"raymlops": "automl_raymlops.py", "flaml": "automl_flaml.py"}.get(
        contender, "automl_autogluon.py"
    )
    with tempfile.TemporaryDirectory(prefix="automl-") as folder:
        train.to_csv(f"{folder}/train.csv", index=False)
        test.drop(columns=table.target).to_csv(f"{folder}/test.csv", index=False)
        preset = contender.partition(" ")[2]
        command = [python, str(_PEERS / script), folder, table.target, task, str(seconds), preset]
        began = time.monotonic()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "RAYMLOPS_HOME": f"{folder}/home",
        }
        if contender != "raymlops":
            environment.pop("PYTHONPATH")
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        wall = time.monotonic() - began
        if ended.returncode:
            return {
                "error": ended.stderr.strip().splitlines()[-1:] or [str(ended.returncode)],
                "seconds": wall,
            }
        held = json.loads(pathlib.Path(f"{folder}/result.json").read_text())
        scores = np.load(f"{folder}/scores.npy")
    name_of, value = _score(task, test[table.target], scores, held["classes"])
    return {
        "metric": name_of,
        "value": value,
        "seconds": wall,
        **{key: held[key] for key in ("fit_seconds", "bytes", "row_ms")},
    }


def _find_task(values: pd.Series) -> str:
    if pd.api.types.is_float_dtype(values) or (
        pd.api.types.is_integer_dtype(values) and values.nunique() > 50
    ):
        return "regression"
    return "binary" if values.nunique() == 2 else "multiclass"


def _score(task: str, true: pd.Series, scores: Any, classes: list[str]) -> tuple[str, float]:
    if task == "regression":
        return "rmse", float(np.sqrt(np.mean((scores - true.to_numpy()) ** 2)))
    labels = true.astype(str).to_numpy()
    if task == "binary":
        return "roc_auc", float(metrics.roc_auc_score(labels == classes[1], scores[:, 1]))
    places = {name: place for place, name in enumerate(classes)}
    chosen = np.array([scores[row, places[label]] for row, label in enumerate(labels)])
    return "log_loss", float(-np.log(np.clip(chosen, 1e-15, 1)).mean())


def summarise(found: dict[str, Any], seconds: int) -> str:
    """The mean rank of each contender, and how often raymlops is as good or better than another."""
    cells: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        where, _, contender = key.partition(": ")
        if f" {seconds} s," in where and "value" in value:
            cells.setdefault(where, {})[contender] = value
    whole = {where: cell for where, cell in cells.items() if len(cell) == max(map(len, cells.values()))}
    ranks: dict[str, list[float]] = {}
    wins: dict[str, list[bool]] = {}
    for cell in whole.values():
        sign = 1 if next(iter(cell.values()))["metric"] in _FALLING else -1
        values = {name: sign * one["value"] for name, one in cell.items()}
        for name, value in values.items():
            less = sum(other < value for other in values.values())
            same = sum(other == value for other in values.values())
            ranks.setdefault(name, []).append(less + (same + 1) / 2)
            if name != "raymlops" and "raymlops" in values:
                wins.setdefault(name, []).append(values["raymlops"] <= value + 1e-4 * abs(value))
    lines = [f"{len(whole)} cells of {seconds} s that all contenders ended"]
    lines += [f"mean rank {statistics.mean(one):.2f}  {name}" for name, one in sorted(ranks.items())]
    lines += [f"raymlops wins or ties {sum(one)} of {len(one)} against {name}" for name, one in wins.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
