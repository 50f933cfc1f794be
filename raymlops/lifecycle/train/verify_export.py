"""Verifies an exported model on the test split: parity with the trained model, metrics, and the profile of its
predictions."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops import metrics
from raymlops.data import scan, statistics, target_values
from raymlops.errors import SpecError
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.govern.scoring import SCORE_OF_TASK, read_labels
from raymlops.lifecycle.train.row_encoding import opened
from raymlops.models import parity
from raymlops.models.encoder import run_encoder
from raymlops.tensors import Batch
from raymlops.training.learners import Scorer
from raymlops.training.packed import narrow


@dataclasses.dataclass(frozen=True)
class Proof:
    """Results of one ONNX file on the test split. Its metrics are of the file's own answers, as the gate's are."""

    parity: parity.Parity
    metrics: dict[str, float]
    predictions: dict[str, Any]
    """Profile of the predictions, for later comparison with production."""
    example: Batch


def prove_model(
    model: bytes,
    scorer: Scorer,
    rows: ray.data.Dataset,
    *,
    encoder: bytes,
    features: FittedFeatures,
    tensors: Collection[str],
    count: int,
    weights: str | None = None,
) -> Proof:
    """One streaming pass over the `count` test rows through both the trained model, which reads these packed tensors,
    and the ONNX file; `weights` is a column."""
    found = parity.Parity()
    labels, scores, weighed, example = [], [], [], None
    blocks = scan.choose_fold(count)(
        rows,
        _prove_block,
        model=model,
        encoder=encoder,
        scorer=scorer,
        features=features,
        tensors=tensors,
        weights=weights,
    )
    for block_parity, block_labels, block_scores, block_weights, block_example in blocks:
        weighed.append(block_weights)
        found = found.merge(block_parity)
        labels.append(block_labels)
        scores.append(block_scores)
        example = example or block_example
    target = features.target
    true, given = np.concatenate(labels), np.concatenate(scores)
    assert example is not None
    broken = int((~np.isfinite(given.reshape(len(given), -1))).any(axis=1).sum())
    if broken and np.isinf(found.difference):
        raise SpecError(
            f"The best model has no finite answer for {broken:,} of {len(given):,} test rows: its training diverged; "
            "use a smaller training.lr, or smaller bounds of it in search.space"
        )
    mass = None if weights is None else np.concatenate(weighed)
    return Proof(found, metrics.measure(target.task, true, given, mass), profile_of(given), example)


def _prove_block(
    table: pa.Table,
    model: bytes,
    encoder: bytes,
    scorer: Scorer,
    features: FittedFeatures,
    tensors: Collection[str],
    weights: str | None,
) -> tuple[parity.Parity, Any, Any, Any, Batch | None]:
    target = features.target
    if table.num_rows == 0:
        width = (0, len(target.classes)) if target.task == "multiclass" else (0,)
        return parity.Parity(), np.empty(0), np.empty(width), np.empty(0), None
    batch = table_to_batch(table, features)
    answers = opened(model).infer(batch)
    packed = narrow(run_encoder(opened(encoder), batch), tensors)
    found = parity.compare(scorer.scores(packed), answers, target)
    example = {name: values[:3] for name, values in batch.items()}
    mass = np.empty(0) if weights is None else target_values.read_weights(table, weights)
    return found, read_labels(table, target), answers[SCORE_OF_TASK[target.task]], mass, example


def profile_of(scores: Any) -> dict[str, Any]:
    """Of probabilities or predictions; with several classes, one per class."""
    if scores.ndim == 1:
        return statistics.measure_numbers(np.asarray(scores, dtype=np.float64)).to_json()
    columns = [statistics.measure_numbers(np.asarray(column, dtype=np.float64)) for column in scores.T]
    return {"kind": "probabilities", "classes": [column.to_json() for column in columns]}
