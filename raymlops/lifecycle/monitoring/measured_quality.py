"""How good the answers of an endpoint were on each day, measured on its captured requests whose labels came."""

import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.captures.store import CaptureStore
from raymlops.data import captured
from raymlops.errors import DataError
from raymlops.lifecycle.batch.predict import open_scorer
from raymlops.lifecycle.batch.watched_labels import labelled_answer_of
from raymlops.lifecycle.cluster import join_cluster
from raymlops.models.safety import read_model
from raymlops.monitoring.calibration import Calibration, Labelled
from raymlops.settings import Settings
from raymlops.tracking import registry

_LABEL = "label that came"
"""A column beside the captured ones, whose names are the model's."""
_DAY_US = 86_400 * 10**6


def measure_days(
    store: CaptureStore,
    endpoint: str,
    version: str,
    calibration: Calibration,
    since: datetime.date,
    until: datetime.date,
    settings: Settings,
) -> dict[int, Labelled]:
    """Start of a day, in seconds since 1970 UTC -> its rows with labels, counted by score. `version` is as
    models:/flights/4. Raises NotFoundError, DataError and UntrustedError."""
    found = registry.resolve(version, settings)
    model = read_model(found.file, found.digest)
    join_cluster(settings)
    wanted = captured.Wanted(since.isoformat(), until.isoformat(), str(found.version))
    rows = captured.joined_labels(store, endpoint, wanted, label=_LABEL)
    days: dict[int, Labelled] = {}
    scorer = open_scorer(model)[0]
    answer = labelled_answer_of(calibration, scorer.contract)
    inputs = [spec.name for spec in scorer.signature.inputs]
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=65_536):
        if not table.num_rows:
            continue
        answered = {answer.output: _to_array(table, answer.output)}
        labels = answer.join(answered, answer.read(table[_LABEL]), inputs)
        moments = table["request_time"].cast(pa.int64()).to_numpy() // _DAY_US
        for day in np.unique(moments).tolist():
            counted = calibration.count(labels.take(moments == day))
            start = int(day) * 86_400
            days[start] = days[start] + counted if start in days else counted
    return days


def _to_array(table: pa.Table, output: str) -> npt.NDArray[np.generic]:
    """(rows, ...)"""
    name = f"predicted_{output}"
    if name not in table.column_names:
        raise DataError(
            f"The output {output!r} is not among the captured columns; capture it: capture.columns"
        )
    column = table[name]
    return np.asarray(column.to_pylist() if pa.types.is_nested(column.type) else column.to_numpy())
