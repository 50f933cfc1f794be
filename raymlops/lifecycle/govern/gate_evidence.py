"""Gathers the gate's evidence on a file, and runs the gate. Moves no alias and stores nothing."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import RaymlopsError
from raymlops.evaluation import leakage
from raymlops.evaluation.gate import Evidence
from raymlops.evaluation.partials import Partial
from raymlops.features import FittedTarget
from raymlops.lifecycle.govern.scoring import features_of, open_once, score_rows
from raymlops.lifecycle.govern.serving_check import try_serving
from raymlops.models.safety import digest_of, read_model, size_of
from raymlops.models.session import Session
from raymlops.models.speed import measure_speed
from raymlops.tensors import Batch

SAMPLE = 20_000
"""Rows in memory for parity, speed and the search for leaks."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some test rows in memory: raw columns in the form of the model's inputs, labels, and weights and times (UTC) if
    rows have them."""

    columns: Batch
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None
    times: npt.NDArray[np.datetime64] | None = None


def gather_evidence(
    name: str,
    path: pathlib.Path,
    partial: Partial | None,
    sample: Sample | None = None,
    expected: npt.NDArray[Any] | None = None,
    parity: float | None = None,
    seconds: float = 0.5,
    serves: bool = False,
) -> Evidence:
    """All evidence on one file.

    `expected` are the scores of the network (of the original, for a variant) on the sample, for parity; `parity` is
    an earlier measurement. With `serves` the file is also tried as an endpoint would open it.
    """
    evidence = Evidence(name=name, parity=parity)
    try:
        model = read_model(path)
        evidence = dataclasses.replace(evidence, digest=digest_of(model), size=size_of(model))
        session = open_once(model)
    except RaymlopsError as error:
        return dataclasses.replace(evidence, unsafe=(str(error),))
    evidence = dataclasses.replace(evidence, partial=partial, contract=session.contract)
    if sample is None or not len(sample.labels):
        return evidence
    target = features_of(session.contract).target
    speed = measure_speed(session, sample.columns, seconds=seconds)
    if serves:
        served = try_serving(path, model, session, sample.columns, target)
        evidence = dataclasses.replace(evidence, serving=served.fault, isolated=served.isolated)
    return dataclasses.replace(
        evidence,
        parity=parity if expected is None else _measure_parity(session, sample, expected, target),
        latency_ms=speed.p99_ms,
        median_ms=speed.p50_ms,
        throughput=speed.rows_per_second,
        columns=leakage.measure_columns(sample.columns, sample.labels, target.task),
    )


def _measure_parity(
    session: Session, sample: Sample, expected: npt.NDArray[Any], target: FittedTarget
) -> float:
    """Largest difference of a probability, or of a prediction divided by the spread of the target."""
    found = score_rows(session, sample.columns, target)
    spread = float(np.std(sample.labels)) or 1.0 if target.task == "regression" else 1.0
    difference = np.abs(found.astype(np.float64) - expected) / spread
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
