"""`raymlops search` of a table of 1,000 rows, from the command to a registered model, stage by stage; beside another
version of the code, in turns, if a folder with it is given.

    python -m benchmarks.small_search [--before FOLDER] [--packages FOLDER] [--rounds 3]

Each run starts a cluster and a home of its own. Both versions read the same spec, and fit what it leaves open by their
own defaults.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import rounds
from benchmarks.real_tables import TABLES

ROOT = pathlib.Path(__file__).parents[1]
_STAGES = {
    "Reading": "data",
    "Searching": "search",
    "Exporting": "export and register",
    "Running the gate": "gate",
    "Run ": "end",
}
"""How the line begins that a stage is announced with -> the stage."""

_SPEC = """\
name: german
dataset: {{path: {path}, reader: csv}}
features:
  target: {{column: credit_risk}}
  numbers: {numbers}
  categories: {categories}
search:
  space:
    lr: {{low: 0.0003, high: 0.01, log: true}}
    weight_decay: {{low: 0.0001, high: 0.3, log: true}}
    network.options.hidden: {{choices: [64, 128, 256]}}
    network.options.dropout: {{low: 0.0, high: 0.5}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=pathlib.Path, help="folder with another version of the code")
    parser.add_argument("--packages", type=pathlib.Path, help="folder in which packages were installed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.packages:
        sys.path.append(str(options.packages))
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="raymlops-search-") as folder:
        spec = write_spec(pathlib.Path(folder))
        trees = {"now": ROOT, **({"before": options.before} if options.before else {})}

        def run(name: str) -> float:
            found.setdefault(name, []).append(search(trees[name], spec))
            return sum(found[name][-1].values())

        medians = rounds.alternate({name: lambda name=name: run(name) for name in trees}, options.rounds)
    for name, runs in found.items():
        parts = (f"{stage} {statistics.median(run[stage] for run in runs):.1f}" for stage in runs[0])
        print(f"{name}: {medians[name]:.1f} s: {', '.join(parts)}")
    if options.before:
        rounds.verdict("a small search, now to before", medians["now"] / medians["before"], 0.5, at_most=True)


def write_spec(folder: pathlib.Path) -> pathlib.Path:
    table = TABLES["german"]
    frame = table.load()
    frame.to_csv(folder / "german.csv", index=False)
    columns = frame.drop(columns=table.target)
    numbers = list(columns.select_dtypes("number"))
    categories = [name for name in columns if name not in numbers]
    path = folder / "spec.yaml"
    text = _SPEC.format(path=folder / "german.csv", numbers=numbers, categories=categories)
    path.write_text(text, encoding="utf-8")
    return path


def search(tree: pathlib.Path, spec: pathlib.Path) -> dict[str, float]:
    """Seconds of each stage of one run."""
    with tempfile.TemporaryDirectory(prefix="raymlops-home-") as home:
        environment = {**os.environ, "PYTHONPATH": str(tree), "RAYMLOPS_HOME": home}
        began, stage = time.monotonic(), "start"
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "raymlops", "search", str(spec)],
            cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        seconds, lines = {}, []
        for line in process.stdout:
            lines.append(line)
            said = line[9:] if line[2:3] == line[5:6] == ":" else line  # without the time of day
            ended = next((name for start, name in _STAGES.items() if said.startswith(start)), None)
            if ended:
                now = time.monotonic()
                seconds[stage], began, stage = now - began, now, ended
        code = process.wait()
        seconds[stage] = time.monotonic() - began
    if code:
        raise SystemExit(f"`raymlops search` of {tree} ended with {code}:\n{''.join(lines)}")
    return seconds


if __name__ == "__main__":
    main()
