"""Trials of earlier searches of the same table, as their runs in the tracking store have them. Judges none."""

import dataclasses
import hashlib
from collections.abc import Mapping

import mlflow

from raymlops.metrics import FALLING

TABLE_TAG = "raymlops.table"
FINGERPRINT_TAG = "raymlops.fingerprint"
_MOST = 200


@dataclasses.dataclass(frozen=True)
class EarlierTrial:
    """A trial that ended. `parameters` are texts, as the store keeps them."""

    run: str
    parameters: Mapping[str, str]
    value: float
    """Of the metric of the search."""
    same_rows: bool
    """Whether it was measured on the rows of now, and not of another state of the table."""


def name_table(source: str, target: str) -> str:
    """The value of `TABLE_TAG`: of the last part of a path or URI, and the target."""
    name = source.partition("?")[0].rstrip("/").rpartition("/")[2]
    return hashlib.sha256(f"{name} -> {target}".encode()).hexdigest()[:16]


def find_earlier(
    client: mlflow.MlflowClient, experiment: str, *, fingerprint: str, table: str, metric: str
) -> list[EarlierTrial]:
    """The best of the experiment for the same rows, or at least for the table of that name, the best first. Raises what
    the store raises."""
    order = "ASC" if metric in FALLING else "DESC"
    found: dict[str, EarlierTrial] = {}
    for tag, value in ((FINGERPRINT_TAG, fingerprint), (TABLE_TAG, table)):
        wanted = (
            f"tags.`{tag}` = '{value}' AND params.`training.learner` != '' AND attributes.status = 'FINISHED'"
        )
        runs = client.search_runs(
            [experiment],
            filter_string=wanted,
            order_by=[f"metrics.`best_{metric}` {order}"],
            max_results=_MOST,
        )
        for run in runs:
            best = run.data.metrics.get(f"best_{metric}")
            if best is not None:
                same = run.data.tags.get(FINGERPRINT_TAG) == fingerprint
                found.setdefault(
                    run.info.run_id, EarlierTrial(str(run.info.run_id), run.data.params, float(best), same)
                )
    return list(found.values())
