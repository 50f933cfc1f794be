"""Whether a file can be served: opened from where it lies, by its digest, in a process of its own with the settings of
an endpoint, and asked. Measures no speed, and starts no endpoint."""

import dataclasses
import pathlib

import numpy as np

from raymlops.errors import RaymlopsError, last_line
from raymlops.features import FittedTarget
from raymlops.lifecycle.govern.scoring import SCORE_OF_TASK, score_rows
from raymlops.models.isolated_session import IsolatedSession, open_isolated
from raymlops.models.safety import Model
from raymlops.models.session import Session, SessionOptions
from raymlops.specs.serving import HostedModel
from raymlops.tensors import Batch

_SIZES = (1, 7, 64)
"""Rows of the requests."""
_DIFFERENCE = 1e-4
"""From the answers in this process, of a probability, or of a prediction to the largest of them."""


@dataclasses.dataclass(frozen=True)
class Served:
    """What came of the attempt."""

    fault: str = ""
    """Why no endpoint would serve the file, or answer as this process does; empty if one would."""
    isolated: str = ""
    """Why only an endpoint with `isolate: true` would."""


def try_serving(
    path: pathlib.Path, model: Model, session: Session, columns: Batch, target: FittedTarget
) -> Served:
    """Open a file as an endpoint with default settings would, and compare its answers with those of `session`."""
    spec = HostedModel(source=str(path))
    options = SessionOptions.for_device("cpu", (), spec.threads or 1, spec.optimisation)
    refused = ""
    for shared in (True, False):
        try:
            served = open_isolated(path.name, path, model, dataclasses.replace(options, shared=shared))
        except RaymlopsError as error:
            refused = refused or last_line(error)
            continue
        try:
            return Served(_compare(served, session, columns, target), refused)
        finally:
            served.close()
    return Served(f"an endpoint would not open the file: {refused}")


def _compare(served: IsolatedSession, session: Session, columns: Batch, target: FittedTarget) -> str:
    output = SCORE_OF_TASK[target.task]
    for size in _SIZES:
        rows = {name: values[:size] for name, values in columns.items()}
        expected = score_rows(session, rows, target).astype(np.float64)
        try:
            found = served.infer(rows, [output])[output]
        except RaymlopsError as error:
            return f"an endpoint would not answer {size} rows: {last_line(error)}"
        scale = max(1.0, float(np.abs(expected).max(initial=0.0))) if target.task == "regression" else 1.0
        same = found.shape == expected.shape and np.allclose(
            found, expected, rtol=0, atol=_DIFFERENCE * scale, equal_nan=True
        )
        if not same:
            return f"an endpoint would answer {size} rows otherwise than this process"
    return ""
