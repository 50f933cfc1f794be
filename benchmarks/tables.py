"""Real tables, each from `init` without an edit to a registered model, against untuned models on the same split.

    python -m benchmarks.tables [TABLE ...] [--set KEY=VALUE] [--output results.json]

Baselines are those of the report: logistic or ridge regression and histogram boosting of scikit-learn, fitted to the
same training rows, measured on the same test rows. A table is `not worse` than one if the interval of the paired
difference reaches zero. The packages with the tables are named in real_tables.py.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import raymlops
from benchmarks.real_tables import TABLES
from raymlops.metrics import FALLING

_METRICS = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}
_HEAD = f"{'table':<14}{'rows':>7}{'task':>12}{'metric':>9}" + "".join(
    f"{name:>10}" for name in ("model", "linear", "boosting", "seconds")
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("tables", nargs="*", metavar="TABLE", help=f"default all: {', '.join(TABLES)}")
    options.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options.add_argument(
        "--output", type=pathlib.Path, help="write the results as JSON, and go on from there"
    )
    options.add_argument("--packages", type=pathlib.Path, help="folder in which packages were installed")
    given = options.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    results: dict[str, Any] = {}
    if given.output and given.output.exists():
        results = json.loads(given.output.read_text())
    print(_HEAD)
    for name in given.tables or TABLES:
        if name not in results:
            results[name] = measure_table(name, given.overrides)
            if given.output:
                given.output.write_text(json.dumps(results, indent=1))
        print(describe(name, results[name]), flush=True)
    print(summarise(results))


def measure_table(name: str, overrides: list[str]) -> dict[str, Any]:
    """One table in a folder of its own: its results, or the error with which it ended."""
    table = TABLES[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"raymlops-{name}-") as folder:
        frame = table.load()
        path = pathlib.Path(folder) / f"{name}.csv"
        frame.to_csv(path, index=False)
        try:
            spec = pathlib.Path(folder) / "spec.yaml"
            raymlops.init(str(path), target=table.target, output=str(spec))
            written = time.monotonic() - began
            changes: dict[str, Any] = dict(one.split("=", 1) for one in overrides)
            found = raymlops.search(spec, overrides=changes, progress=False, why="a benchmark")
        except Exception as error:
            return {"rows": len(frame), "error": f"{type(error).__name__}: {error}"}
    return {
        "rows": len(frame),
        "seconds": time.monotonic() - began,
        "seconds_init": written,
        "seconds_of": found.outcome.seconds,
        **_compare(found.outcome.trusted),
    }


def _compare(trusted: Any) -> dict[str, Any]:
    if trusted is None or not trusted.leaderboard.lines:
        return {"error": "no leaderboard"}
    task = trusted.evaluation.task
    lines = {line.name: line for line in trusted.leaderboard.by_metric[_METRICS[task]]}
    return {
        "task": task,
        "metric": _METRICS[task],
        **{name: line.value.value for name, line in lines.items()},
        "gains": {name: line.gain.to_json() for name, line in lines.items() if line.gain},
        "passed": trusted.verdict.passed,
    }


def judge(result: dict[str, Any]) -> tuple[bool, bool]:
    """Whether it is not worse than the linear model beyond noise, and within 5 % of boosting or better."""
    high = result["gains"]["linear"]["high"]
    ratio = result["model"] / result["boosting"] if result.get("boosting") else 1.0
    near = ratio <= 1.05 if result["metric"] in FALLING else ratio >= 0.95
    return high is None or high >= 0, near


def describe(name: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{name:<14}{result['rows']:>7}  {result['error'][:120]}"
    linear, near = judge(result)
    said = f"{'not worse' if linear else 'WORSE'} than linear, {'near' if near else 'FAR from'} boosting"
    values = "".join(f"{result.get(key, float('nan')):>10.4g}" for key in ("model", "linear", "boosting"))
    return (
        f"{name:<14}{result['rows']:>7}{result['task']:>12}{result['metric']:>9}{values}"
        f"{result['seconds']:>10.0f}  {said}"
    )


def summarise(results: dict[str, Any]) -> str:
    held = [judge(result) for result in results.values() if "error" not in result]
    return (
        f"{len(results)} tables, {len(results) - len(held)} failed; not worse than linear on "
        f"{sum(linear for linear, _ in held)}, within 5 % of boosting or better on {sum(near for _, near in held)}"
    )


if __name__ == "__main__":
    main()
