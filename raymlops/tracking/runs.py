"""The MLflow runs of a search: one parent, and one child for each trial. A restarted search finds its runs by their
tags, so a killed process leaves no second run, no duplicate step, and no run with status RUNNING."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag

from raymlops.tracking import store
from raymlops.tracking.write_behind_queue import Operation, WriteBehindQueue

SEARCH_TAG = "raymlops.search"
TRIAL_TAG = "raymlops.trial"
ERROR_TAG = "raymlops.error"
_PARENT_TAG = "mlflow.parentRunId"
_LONGEST_VALUE = 5000  # MLflow cuts tags at 5,000 characters and refuses params over 6,000
_MOST_WAITING = 100_000  # reports kept while the store is unreachable; trials keep their own files for later
_RUNS = 5000


def start_run(
    client: mlflow.MlflowClient,
    experiment_id: str,
    *,
    search: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    parent: str | None = None,
) -> str:
    """The parent run of a search, created, or found if the search is resumed. Returns its id."""
    run = _find(client, experiment_id, SEARCH_TAG, search)
    if run is None:
        all_tags = {SEARCH_TAG: search, "mlflow.runName": search, **tags}
        if parent:
            all_tags[_PARENT_TAG] = parent
        run = client.create_run(experiment_id, tags=_cut(all_tags), run_name=search)
    elif run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    _log_parameters(client, run, _cut(parameters))
    return str(run.info.run_id)


def end_lost(client: mlflow.MlflowClient, experiment_id: str, is_lost: Callable[[str], bool]) -> list[str]:
    """End as KILLED the runs of searches whose driver is gone. Returns the names of these searches."""
    running = _search(client, experiment_id, "attributes.status = 'RUNNING'")
    lost = {
        str(run.info.run_id): str(run.data.tags[SEARCH_TAG])
        for run in running
        if SEARCH_TAG in run.data.tags and is_lost(run.data.tags[SEARCH_TAG])
    }
    for run in running:
        if run.info.run_id in lost or run.data.tags.get(_PARENT_TAG) in lost:
            client.set_terminated(run.info.run_id, status="KILLED")
    return sorted(lost.values())


def _find(client: mlflow.MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    """The oldest run with that tag: a request that was sent twice may have made a second one."""
    runs = _search(client, experiment_id, f"tags.`{tag}` = '{value}'")
    return runs[0] if runs else None


def _search(client: mlflow.MlflowClient, experiment_id: str, wanted: str) -> list[Run]:
    return list(
        client.search_runs(
            [experiment_id],
            filter_string=wanted,
            order_by=["attributes.start_time ASC"],
            max_results=_RUNS,
        )
    )


def _log_parameters(client: mlflow.MlflowClient, run: Run, parameters: Mapping[str, str]) -> None:
    """The tags that the run lacks: a process that was killed may have created the run only."""
    missing = [Param(key, value) for key, value in parameters.items() if key not in run.data.params]
    if missing:
        client.log_batch(run.info.run_id, params=missing)


def _cut(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_VALUE] for key, value in values.items()}


class TrialRuns:
    """Observes the trials of a search and keeps a child run for each; never blocks the search."""

    def __init__(
        self,
        client: mlflow.MlflowClient,
        experiment_id: str,
        parent: str,
        *,
        spool: pathlib.Path,
        tell: Callable[[str], None],
        tags: Mapping[str, str] | None = None,
        resumed: bool = True,
    ) -> None:
        """Without `resumed`, the store is not searched for runs that an earlier process made for these trials."""
        self._client = client
        self._tell = tell
        self._experiment_id = experiment_id
        self._parent = parent
        self._tags = dict(tags or {})
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._refused: set[str] = set()
        self._resumed = resumed
        self._tried: set[str] = set()
        self.journal = WriteBehindQueue(self._send, spool, tell)

    def trial_started(self, trial: str, parameters: Mapping[str, Any]) -> None:
        self._begun.add(trial)
        self._add("start", trial, parameters=_cut(parameters))

    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None:
        if self.journal.waiting >= _MOST_WAITING:
            return
        values = {key: float(value) for key, value in learned.items() if key != "epoch"}
        self._add("report", trial, step=int(learned.get("epoch", 0)), values=values)

    def trial_ended(self, trial: str, error: str | None) -> None:
        self._begun.discard(trial)
        self._add("end", trial, error=error)

    def abandon(self) -> None:
        """End as KILLED the trials whose start was reported, but not their end."""
        for trial in sorted(self._begun):
            self._add("end", trial, error=None, status="KILLED")

    def _add(self, kind: str, trial: str, **values: Any) -> None:
        self.journal.add({"kind": kind, "trial": trial, "time": round(time.time() * 1000), **values})

    def run_of(self, trial: str) -> str | None:
        """The id of a trial's run, once it has been sent, by this process or one before."""
        if trial not in self._runs and self._resumed:
            run = _find(self._client, self._experiment_id, TRIAL_TAG, f"{self._parent}/{trial}")
            return str(run.info.run_id) if run else None
        return self._runs.get(trial)

    def describe(self, trial: str, tags: Mapping[str, str]) -> None:
        """Tags that are known only at the end, such as the path of the checkpoint."""
        self._add("tags", trial, tags=_cut(tags))

    def fill_gaps(self, trial: str, history: list[dict[str, float]]) -> None:
        """Send epochs from a trial's own record that the store never received, as after the driver was killed."""
        for learned in history:
            self.trial_reported(trial, learned)

    def close(self, patience: float = 60.0) -> int:
        """Wait until all is sent. Returns the number of operations that were not sent."""
        return self.journal.close(patience)

    def settle(self) -> None:
        """Delete duplicate runs of a trial: a request whose answer was lost may have made one."""
        seen = set(self._runs.values())
        for run in _search(self._client, self._experiment_id, f"tags.`{_PARENT_TAG}` = '{self._parent}'"):
            trial = run.data.tags.get(TRIAL_TAG, "").partition("/")[2]
            if trial in self._runs and run.info.run_id not in seen:
                self._client.delete_run(run.info.run_id)

    def _send(self, operations: list[Operation]) -> None:
        try:
            self._write(operations)
        except Exception as error:
            if not store.is_refusal(error):
                raise
            trial = operations[0]["trial"]
            if trial not in self._refused:
                self._refused.add(trial)
                cause = " ".join(str(error).split())[:160]
                self._tell(f"The tracking store refuses a {operations[0]['kind']} of trial {trial}: {cause}")

    def _write(self, operations: list[Operation]) -> None:
        """One operation, or several reports of one trial."""
        operation, trial = operations[0], operations[0]["trial"]
        if trial not in self._runs:
            self._open(trial, operation)
        run = self._runs[trial]
        if operation["kind"] == "report":
            self._report(trial, run, operations)
        if operation["kind"] == "tags":
            self._client.log_batch(run, tags=[RunTag(key, value) for key, value in operation["tags"].items()])
        if operation["kind"] == "end" and trial not in self._ended:
            error = operation["error"]
            if error:
                self._client.set_tag(run, ERROR_TAG, error[:_LONGEST_VALUE])
            status = operation.get("status") or ("FAILED" if error else "FINISHED")
            self._client.set_terminated(run, status=status, end_time=operation["time"])
            self._ended.add(trial)

    def _report(self, trial: str, run: str, operations: list[Operation]) -> None:
        """The steps that the run lacks, each once."""
        missing = {one["step"]: one for one in operations[::-1] if one["step"] not in self._steps[trial]}
        if missing:
            metrics = [
                Metric(key, value, one["time"], step)
                for step, one in sorted(missing.items())
                for key, value in one["values"].items()
            ]
            self._client.log_batch(run, metrics=metrics)
            self._steps[trial].update(missing)

    def _find_steps(self, run: Run) -> set[int]:
        """Those that a run has. A report is logged at once, so one metric that all reports have is enough to know."""
        held = sorted(run.data.metrics)
        keys = [key for key in held if key.startswith("best_")][:1] or held
        histories = (self._client.get_metric_history(run.info.run_id, key) for key in keys)
        return {metric.step for history in histories for metric in history}

    def _open(self, trial: str, operation: Operation) -> None:
        run = None
        if self._resumed or trial in self._tried:
            run = _find(self._client, self._experiment_id, TRIAL_TAG, f"{self._parent}/{trial}")
        self._tried.add(trial)
        self._steps[trial] = set()
        if run is None:
            tags = {**self._tags, TRIAL_TAG: f"{self._parent}/{trial}", _PARENT_TAG: self._parent}
            run = self._client.create_run(
                self._experiment_id, start_time=operation["time"], tags=_cut(tags), run_name=f"trial-{trial}"
            )
        else:
            self._steps[trial] = self._find_steps(run)
            if operation["kind"] == "start":
                self._client.update_run(run.info.run_id, status="RUNNING")
                _clear_error(self._client, run)
            elif run.info.status in ("FINISHED", "FAILED"):
                self._ended.add(trial)  # ended by an earlier process; it keeps its status
        _log_parameters(self._client, run, operation.get("parameters", {}))
        self._runs[trial] = str(run.info.run_id)


def finish_run(
    client: mlflow.MlflowClient,
    run: str,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    failed: bool = False,
) -> None:
    """Log a run's last metrics and tags, and end it. What an interrupted try had logged already is kept."""
    now = round(time.time() * 1000)
    held = client.get_run(run)
    if not failed:
        _clear_error(client, held)
    client.log_batch(
        run,
        metrics=[
            Metric(key, float(value), now, 0)
            for key, value in metrics.items()
            if key not in held.data.metrics
        ],
        tags=[RunTag(key, value) for key, value in _cut(tags).items()],
    )
    client.set_terminated(run, status="FAILED" if failed else "FINISHED")


def _clear_error(client: mlflow.MlflowClient, run: Run) -> None:
    if ERROR_TAG in run.data.tags:
        client.delete_tag(run.info.run_id, ERROR_TAG)


def log_json(client: mlflow.MlflowClient, run: str, file: str, value: Any) -> None:
    """Store a value as a JSON artifact of a run."""
    client.log_text(run, json.dumps(value, indent=1, default=str), file)
