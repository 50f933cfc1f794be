"""The MLflow runs of a search: one parent, one child a trial. A restarted search finds its runs again by
their tags."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunStatus, RunTag

from raymlops.tracking.journal import Journal, Operation

SEARCH_TAG = "raymlops.search"
TRIAL_TAG = "raymlops.trial"
_PARENT_TAG = "mlflow.parentRunId"
_LONGEST_VALUE = 5000  # MLflow cuts tags at 5,000 and refuses params over 6,000 characters


def start_run(
    client: mlflow.MlflowClient,
    experiment_id: str,
    *,
    search: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    parent: str | None = None,
) -> str:
    """The parent run of a search, made, or found again when the search is resumed. Gives its id."""
    found = _find(client, experiment_id, SEARCH_TAG, search)
    if found is not None:
        client.update_run(found, status="RUNNING")
        return found
    all_tags = {SEARCH_TAG: search, "mlflow.runName": search, **tags}
    if parent:
        all_tags[_PARENT_TAG] = parent
    run = client.create_run(experiment_id, tags=_cut(all_tags), run_name=search)
    client.log_batch(
        run.info.run_id, params=[Param(key, str(value)[:_LONGEST_VALUE]) for key, value in parameters.items()]
    )
    return str(run.info.run_id)


def _find(client: mlflow.MlflowClient, experiment_id: str, tag: str, value: str) -> str | None:
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_VALUE] for key, value in tags.items()}


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
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._parent = parent
        self._tags = dict(tags or {})
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._ended: set[str] = set()
        self.journal = Journal(self._send, spool, tell)

    def trial_started(self, trial: str, parameters: Mapping[str, Any]) -> None:
        self._add("start", trial, parameters={key: str(value) for key, value in parameters.items()})

    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None:
        values = {key: float(value) for key, value in learned.items() if key != "epoch"}
        self._add("report", trial, step=int(learned.get("epoch", 0)), values=values)

    def trial_ended(self, trial: str, error: str | None) -> None:
        self._add("end", trial, error=error)

    def _add(self, kind: str, trial: str, **values: Any) -> None:
        self.journal.add({"kind": kind, "trial": trial, "time": round(time.time() * 1000), **values})

    def run_of(self, trial: str) -> str | None:
        """The id of a trial's run, once it has been sent."""
        return self._runs.get(trial)

    def describe(self, trial: str, tags: Mapping[str, str]) -> None:
        """Tags that are known only at the end, such as where the checkpoint lies."""
        self._add("tags", trial, tags=_cut(tags))

    def fill_gaps(self, trial: str, history: list[dict[str, float]]) -> None:
        """Send the epochs of a trial's own record that the store never got, as after a killed driver."""
        for learned in history:
            self.trial_reported(trial, learned)

    def close(self) -> int:
        return self.journal.close()

    def _send(self, operation: Operation) -> None:
        trial = operation["trial"]
        if trial not in self._runs:
            self._open(trial, operation)
        run = self._runs[trial]
        if operation["kind"] == "report" and operation["step"] not in self._steps[trial]:
            step, when = operation["step"], operation["time"]
            self._client.log_batch(
                run, metrics=[Metric(key, value, when, step) for key, value in operation["values"].items()]
            )
            self._steps[trial].add(step)
        if operation["kind"] == "tags":
            self._client.log_batch(run, tags=[RunTag(key, value) for key, value in operation["tags"].items()])
        if operation["kind"] == "end" and trial not in self._ended:
            error = operation["error"]
            if error:
                self._client.set_tag(run, "raymlops.error", error[:_LONGEST_VALUE])
            status = RunStatus.to_string(RunStatus.FAILED if error else RunStatus.FINISHED)
            self._client.set_terminated(run, status=status, end_time=operation["time"])
            self._ended.add(trial)

    def _open(self, trial: str, operation: Operation) -> None:
        run = _find(self._client, self._experiment_id, TRIAL_TAG, f"{self._parent}/{trial}")
        self._steps[trial] = set()
        if run is None:
            tags = {**self._tags, TRIAL_TAG: f"{self._parent}/{trial}", _PARENT_TAG: self._parent}
            created = self._client.create_run(
                self._experiment_id, start_time=operation["time"], tags=_cut(tags), run_name=f"trial-{trial}"
            )
            run = str(created.info.run_id)
            parameters = operation.get("parameters", {})
            self._client.log_batch(run, params=[Param(key, value) for key, value in parameters.items()])
        else:
            history = self._client.get_metric_history(run, "train_loss")
            self._steps[trial] = {metric.step for metric in history}
            if operation["kind"] == "start":
                self._client.update_run(run, status="RUNNING")
            elif self._client.get_run(run).info.status in ("FINISHED", "FAILED"):
                self._ended.add(trial)  # by an earlier process; it keeps its end
        self._runs[trial] = run


def finish_run(
    client: mlflow.MlflowClient,
    run: str,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    failed: bool = False,
) -> None:
    """Log a run's last metrics and tags, and end it."""
    now = round(time.time() * 1000)
    client.log_batch(
        run,
        metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in _cut(tags).items()],
    )
    client.set_terminated(run, status="FAILED" if failed else "FINISHED")


def log_json(client: mlflow.MlflowClient, run: str, file: str, value: Any) -> None:
    """Keep a value as a JSON artifact of a run."""
    client.log_text(run, json.dumps(value, indent=1, default=str), file)
