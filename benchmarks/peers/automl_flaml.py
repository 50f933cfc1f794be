"""One fit of FLAML for benchmarks/automl.py: FOLDER TARGET TASK SECONDS. Runs in FLAML's own Python."""

import json
import pathlib
import pickle
import sys
import time

import numpy as np
import pandas as pd
from flaml import AutoML


def main() -> None:
    folder, target, task, seconds = sys.argv[1:5]
    began = time.monotonic()
    train, test = pd.read_csv(f"{folder}/train.csv"), pd.read_csv(f"{folder}/test.csv")
    for name in train.columns:
        if name != target and train[name].dtype.kind not in "fiub":
            kinds = pd.CategoricalDtype(sorted(set(train[name].dropna().astype(str))))
            train[name], test[name] = (
                train[name].astype(str).astype(kinds),
                test[name].astype(str).astype(kinds),
            )
    metric = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}[task]
    model = AutoML()
    model.fit(
        train.drop(columns=target),
        train[target],
        task="regression" if task == "regression" else "classification",
        metric=metric,
        time_budget=float(seconds) - (time.monotonic() - began),
        n_jobs=2,
        verbose=0,
        ensemble=False,
    )
    fitted = time.monotonic() - began
    answer = model.predict if task == "regression" else model.predict_proba
    scores = np.asarray(answer(test))
    classes = [] if task == "regression" else [str(one) for one in model.classes_]
    times = []
    for place in range(50):
        start = time.perf_counter()
        answer(test.iloc[place : place + 1])
        times.append(time.perf_counter() - start)
    np.save(f"{folder}/scores.npy", scores)
    pathlib.Path(f"{folder}/result.json").write_text(
        json.dumps(
            {
                "classes": classes,
                "fit_seconds": fitted,
                "bytes": len(pickle.dumps(model)),
                "row_ms": 1e3 * float(np.median(times)),
            }
        )
    )


if __name__ == "__main__":
    main()
