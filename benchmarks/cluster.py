"""Where the time goes from `raymlops submit` to the first step; the cost of tracking; the scheduler's overhead a trial.

    python -m benchmarks.cluster [submit] [tracking] [scheduler]

Starts a cluster of its own on this machine. What nodes cannot show on a few cores (throughput with the number of
nodes) is left out.
"""

import argparse
import concurrent.futures
import datetime
import pathlib
import re
import sys
import tempfile
import time

from benchmarks import rounds

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["submit", "tracking", "scheduler"])
    parser.add_argument("--trials", type=int, default=1000, help="no-op trials for the scheduler")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymlops-bench-") as folder:
        if "submit" in options.parts:
            measure_submit(pathlib.Path(folder), options.rounds)
        if "tracking" in options.parts:
            measure_tracking(pathlib.Path(folder))
        if "scheduler" in options.parts:
            measure_scheduler(pathlib.Path(folder), options.trials)


def measure_submit(folder: pathlib.Path, turns: int) -> None:
    """Parts of the way to the first epoch of a search; the second round finds its package on the cluster."""
    from raymlops.clusters import packaging, submission
    from raymlops.settings import export
    from tests.cluster_process import Head

    head = Head(folder / "head", pathlib.Path(sys.executable), "--num-cpus=2")
    export({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_path)})
    job = submission.Job(
        "search", ("jobs/specs/digits.yaml", "--set", "training.epochs=1", "--set", "search.trials=2")
    )
    try:
        for turn in range(turns):
            parts: dict[str, float] = {}
            began = time.time()
            package = packaging.list_files(ROOT)
            parts["list files (ours)"] = time.time() - began
            mark = time.time()
            client = submission.connect(head.url)
            parts["import Ray, connect"] = time.time() - mark
            identity, spent = submission.send(client, package, job)
            parts["pack (ours)"], parts["upload and accept"] = spent["pack"], spent["send"]
            sent = time.time()
            log: list[str] = []
            code = submission.follow(client, identity, log.append)
            ended = time.time()
            stages = to_stages("".join(log), sent)
            print(f"submit, round {turn + 1} of {turns}, exit code {code}, whole {ended - began:.1f} s:")
            for name, value in {**parts, **stages}.items():
                print(f"  {name:<36} {value:6.2f} s")
    finally:
        head.stop()


def to_stages(log: str, sent: float) -> dict[str, float]:
    """Seconds between the lines of a job's log, which begin with the time of day."""
    lines = [
        (to_seconds(match[1], sent), match[2])
        for match in re.finditer(r"^(\d\d:\d\d:\d\d) (.*)$", log, re.MULTILINE)
    ]
    stages = {}
    last = sent
    for when, text in lines:
        stages[f"until {text[:28]!r}"] = max(0.0, when - last)
        last = when
        if text.startswith("Trial"):
            break
    return stages


def to_seconds(text: str, near: float) -> float:
    hour, minute, second = map(int, text.split(":"))
    day = datetime.datetime.fromtimestamp(near).astimezone()
    return day.replace(hour=hour, minute=minute, second=second, microsecond=0).timestamp()


def measure_tracking(folder: pathlib.Path) -> None:
    """What a report costs the search, and how long the store needs after it, with more trials at once."""
    from raymlops.settings import Settings
    from raymlops.tracking import runs, store

    settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / "home"), "USER": "bench"})
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "bench", settings).experiment_id
    print(
        f"tracking, {EPOCHS} epochs a trial: trials at once, ms a report in the search, reports/s in the store"
    )
    for count in (1, 8, 32):
        parent = runs.start_run(client, experiment, search=f"bench-{count}", tags={}, parameters={})
        trials = runs.TrialRuns(
            client, experiment, parent, spool=folder / f"{count}.jsonl", tell=lambda line: None
        )

        def run(number: int, trials: runs.TrialRuns = trials) -> float:
            trials.trial_started(f"{number:05d}", {"lr": 0.1})
            spent = rounds.seconds(lambda: [
                trials.trial_reported(f"{number:05d}", {"epoch": epoch, "train_loss": 1.0, "accuracy": 0.5})
                for epoch in range(1, EPOCHS + 1)
            ])  # fmt: skip
            trials.trial_ended(f"{number:05d}", None)
            return spent

        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            told = sum(pool.map(run, range(count)))
        trials.close()
        whole = time.perf_counter() - began
        reports = count * EPOCHS
        print(f"  {count:>3}  {1000 * told / reports:8.3f} ms  {reports / whole:8.1f} reports/s", flush=True)


def measure_scheduler(folder: pathlib.Path, trials: int) -> None:
    """Trials that do nothing: what Tune itself takes for each, in actors that are used again."""
    import ray
    from ray import tune

    from raymlops.settings import apply_process_defaults

    apply_process_defaults()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for count in (trials // 10, trials):
        tuner = tune.Tuner(
            tune.with_resources(lambda config: tune.report({"epoch": 1, "loss": 0.0}), {"CPU": 1}),
            tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=count, reuse_actors=True),
            run_config=tune.RunConfig(name=f"noop-{count}", storage_path=str(folder / "storage"), verbose=0),
        )
        taken = rounds.seconds(tuner.fit)
        print(
            f"scheduler: {count} no-op trials, two at a time: {taken:.1f} s, {1000 * taken / count:.0f} ms a trial",
            flush=True,
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
