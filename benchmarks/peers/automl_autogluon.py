"""One fit of AutoGluon for benchmarks/automl.py: FOLDER TARGET TASK SECONDS PRESET. Runs in AutoGluon's own Python."""

import json
import pathlib
import sys
import time

import numpy as np
import pandas as pd
from autogluon.tabular import TabularPredictor


def main() -> None:
    folder, target, task, seconds, preset = sys.argv[1:6]
    began = time.monotonic()
    train, test = pd.read_csv(f"{folder}/train.csv"), pd.read_csv(f"{folder}/test.csv")
    metric = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}[task]
    predictor = TabularPredictor(
        label=target, problem_type=task, eval_metric=metric, path=f"{folder}/model", verbosity=0
    )
    predictor.fit(train, time_limit=float(seconds) - (time.monotonic() - began), presets=preset, num_cpus=2)
    fitted = time.monotonic() - began
    if task == "regression":
        classes: list[str] = []
        scores = predictor.predict(test).to_numpy()
    else:
        answers = predictor.predict_proba(test)
        classes, scores = [str(one) for one in answers.columns], answers.to_numpy()
    predictor.persist()
    times = []
    for place in range(20):
        start = time.perf_counter()
        (predictor.predict if task == "regression" else predictor.predict_proba)(test.iloc[place : place + 1])
        times.append(time.perf_counter() - start)
    np.save(f"{folder}/scores.npy", scores)
    size = sum(path.stat().st_size for path in pathlib.Path(f"{folder}/model").rglob("*") if path.is_file())
    pathlib.Path(f"{folder}/result.json").write_text(
        json.dumps(
            {
                "classes": classes,
                "fit_seconds": fitted,
                "bytes": size,
                "row_ms": 1e3 * float(np.median(times)),
            }
        )
    )


if __name__ == "__main__":
    main()
