"""NannyML's univariate drift with its defaults on windows for benchmarks/monitoring.py: FOLDER CATEGORIES. Runs in
NannyML's own Python. Thresholds are of 10 chunks of the reference; each window is a chunk. `drift` is whether any
column alerted."""

import json
import pathlib
import sys

import nannyml
import pandas as pd


def main() -> None:
    folder, categories = pathlib.Path(sys.argv[1]), sys.argv[2].split(",")
    reference = pd.read_parquet(folder / "reference.parquet")
    windows = [pd.read_parquet(path) for path in sorted(folder.glob("window-*.parquet"))]
    for table in (reference, *windows):
        table[categories] = table[categories].astype("category")
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference.columns), treat_as_categorical=categories, chunk_number=10
    )
    calculator.fit(reference)
    calculator.chunker = nannyml.chunk.SizeBasedChunker(chunk_size=len(windows[0]))
    found = calculator.calculate(pd.concat(windows, ignore_index=True)).to_df()
    alerts = found.xs("alert", axis=1, level=2)
    drift = [bool(one) for one in alerts.any(axis=1)]
    (folder / "verdicts.json").write_text(
        json.dumps({"version": nannyml.__version__, "drift": drift[-len(windows) :]})
    )


if __name__ == "__main__":
    main()
