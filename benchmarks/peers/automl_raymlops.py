"""One search of raymlops for benchmarks/automl.py: FOLDER TARGET TASK SECONDS."""

import json
import pathlib
import sys
import time

import numpy as np
import pandas as pd

import raymlops
from raymlops.models.session import open_session


def main() -> None:
    folder, target, task, seconds = sys.argv[1:5]
    began = time.monotonic()
    raymlops.init(f"{folder}/train.csv", target=target, task=task, output=f"{folder}/spec.yaml")
    left = float(seconds) - (time.monotonic() - began)
    overrides = {"search.max_minutes": left / 60}
    found = raymlops.search(f"{folder}/spec.yaml", overrides=overrides, progress=False, why="a benchmark")
    fitted = time.monotonic() - began
    test = pd.read_csv(f"{folder}/test.csv")
    answers = raymlops.predict(found, test)
    session = open_session(found.outcome.model)
    example = {name: values[:1] for name, values in found.outcome.proof.example.items()}
    times = []
    for _ in range(200):
        start = time.perf_counter()
        session.infer(example)
        times.append(time.perf_counter() - start)
    classes = [str(one) for one in session.contract["target"]["classes"]]
    if task == "regression":
        scores = answers["prediction"].to_numpy()
    elif task == "binary":
        positive = answers["probability"].to_numpy()
        scores = np.stack([1 - positive, positive], axis=1)
    else:
        scores = np.stack([np.asarray(one) for one in answers["probabilities"]])
    np.save(f"{folder}/scores.npy", scores)
    pathlib.Path(f"{folder}/result.json").write_text(
        json.dumps(
            {
                "classes": classes,
                "fit_seconds": fitted,
                "bytes": pathlib.Path(found.outcome.model).stat().st_size,
                "row_ms": 1e3 * float(np.median(times)),
            }
        )
    )


if __name__ == "__main__":
    main()
