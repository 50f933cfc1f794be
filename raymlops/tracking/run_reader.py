"""Reads files of runs, and the trials of a search with their learning curves. Writes nothing."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, TypeAlias

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from raymlops.tracking import manifests, registry

Client: TypeAlias = mlflow.MlflowClient
_TRIALS = 500


@dataclasses.dataclass(frozen=True)
class TrialRun:
    """A trial, as recorded in its run."""

    run: str
    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float
    error: str
    ended: float
    """Seconds since the epoch."""


def read_text(client: Client, uri: str, file: str) -> str | None:
    """A file of the run of a version; None if the run does not have it."""
    run = registry.find_version(client, uri).run_id
    content = manifests.read_document(client, run or "", file)
    try:
        return (
            None if content is None else content.decode()
        )  # keeps line ends: the digest is of the exact bytes
    except UnicodeDecodeError:
        return None


def write_files(client: Client, uri: str, files: Mapping[str, str | bytes]) -> None:
    """Add files to the run of a version; does nothing if it has no run."""
    run = registry.find_version(client, uri).run_id
    for file, content in files.items() if run else ():
        if isinstance(content, str):
            client.log_text(run, content, file)
            continue
        path = pathlib.PurePath(file)
        with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
            local = pathlib.Path(folder) / path.name
            local.write_bytes(content)
            client.log_artifact(run, str(local), str(path.parent))


def read_trials(client: Client, search: str) -> list[TrialRun]:
    """The trials of a search's run, in the order of their start; empty if the run is gone."""
    try:
        found = client.search_runs(
            [client.get_run(search).info.experiment_id],
            filter_string=f"tags.`mlflow.parentRunId` = '{search}'",
            order_by=["attributes.start_time ASC"],
            max_results=_TRIALS,
        )
    except MlflowException:
        return []
    return [_to_trial(run) for run in found]


def read_curve(client: Client, run: str, metric: str) -> list[float]:
    """A metric's values in the order of their steps."""
    history = sorted(client.get_metric_history(run, metric), key=lambda point: point.step)
    return [float(point.value) for point in history]


def _to_trial(run: Run) -> TrialRun:
    ended = run.info.end_time or run.info.start_time
    return TrialRun(
        run=str(run.info.run_id),
        name=str(run.info.run_name or run.info.run_id[:8]).removeprefix("trial-"),
        parameters={name: _to_value(text) for name, text in run.data.params.items()},
        metrics=dict(run.data.metrics),
        seconds=(ended - run.info.start_time) / 1000,
        error=run.data.tags.get("raymlops.error", ""),
        ended=ended / 1000,
    )


def _to_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
