"""Evidently's default data drift on windows for benchmarks/monitoring.py: FOLDER CATEGORIES. Runs in Evidently's own
Python. `drift` is whether any column drifted."""

import json
import pathlib
import sys

import evidently
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main() -> None:
    folder, categories = pathlib.Path(sys.argv[1]), sys.argv[2].split(",")
    reference = pd.read_parquet(folder / "reference.parquet")
    numbers = [name for name in reference.columns if name not in categories]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    known = Dataset.from_pandas(reference, data_definition=definition)
    drift = []
    for path in sorted(folder.glob("window-*.parquet")):
        window = Dataset.from_pandas(pd.read_parquet(path), data_definition=definition)
        found = Report([DataDriftPreset()]).run(window, known).dict()
        counts = [one["value"] for one in found["metrics"] if "DriftedColumnsCount" in str(one)]
        drift.append(counts[0]["count"] > 0)
    (folder / "verdicts.json").write_text(json.dumps({"version": evidently.__version__, "drift": drift}))


if __name__ == "__main__":
    main()
