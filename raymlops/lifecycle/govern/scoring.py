"""Scores models on rows: tables in, sums for metrics out, several models in one pass. Judges nothing.

Only a model's file is needed: its contract lists its columns and its target.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from raymlops.conversions.conversion import Conversion
from raymlops.data import rowhash
from raymlops.data.scan import FEW, fold, fold_here
from raymlops.data.target_values import WeightColumn, encode_target, to_numbers
from raymlops.errors import ArtifactError, DataError, unknown_name
from raymlops.evaluation import partials
from raymlops.evaluation.partials import Layout, Partial
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget, read_conversion, table_to_batch
from raymlops.lifecycle.govern.own_rows import OwnRows, add_all, is_new
from raymlops.models.safety import Model
from raymlops.models.session import Session, open_session
from raymlops.tensors import Batch

SCORE_OF_TASK = {"binary": "probability", "multiclass": "probabilities", "regression": "prediction"}
_ROWS = 16_384  # rows per session.run


def features_of(contract: Mapping[str, Any]) -> FittedFeatures:
    """The part of the fitted features that turns tables into a model's inputs and labels.

    Raises ArtifactError for a model of another origin, which has no contract on its columns.
    """
    if not contract.get("columns") or not contract.get("target"):
        raise ArtifactError(
            "The model has no contract, so its columns and target are not known; export it with raymlops"
        )
    columns = tuple(
        FittedColumn(
            name=column["name"],
            kind=column.get("feature", "number"),
            type=column["kind"],
            nullable=column.get("nullable", True),
            shape=tuple(column.get("shape", (-1,))[1:]),
            conversion=read_conversion(column),
        )
        for column in contract["columns"]
    )
    target = contract["target"]
    return FittedFeatures(
        columns,
        FittedTarget(
            target["name"],
            target["task"],
            target.get("type", "string"),
            tuple(target["classes"]),
            conversion=read_conversion(target),
        ),
    )


def layout_of(target: FittedTarget, shift: float = 0.0, spread: float = 1.0) -> Layout:
    """Layout of the sums for this target. More classes get wider cells, so that memory stays bounded."""
    classes = max(2, len(target.classes))
    return Layout(
        target.task,
        classes,
        cells=1000 if target.task == "binary" else max(50, 2000 // classes),
        shift=shift,
        spread=spread,
    )


@dataclasses.dataclass(frozen=True)
class Measured:
    """Sums of models over the same rows."""

    whole: Mapping[str, Partial]
    """Name of a model -> its sums over all rows."""
    new: Mapping[str, Partial]
    """The same over the rows that none of the models had in its training."""
    own: Mapping[str, OwnRows]
    """Name of a model -> how many of the rows it had; without those of which that is not known."""


def measure_models(
    dataset: ray.data.Dataset,
    models: Mapping[str, Model],
    slices: Sequence[str] = (),
    conversions: Mapping[str, Conversion] | None = None,
) -> dict[str, Partial]:
    """One pass over the rows with every model; name -> sums. All must predict the same target. Each converts the
    values by its own rules; `conversions` are for models that have none.

    Raises DataError for a column or class that the models do not know, ArtifactError for a broken model.
    """
    return dict(measure_marked(dataset, models, {}, slices, conversions).whole)


def measure_marked(
    dataset: ray.data.Dataset,
    models: Mapping[str, Model],
    marks: Mapping[str, str],
    slices: Sequence[str] = (),
    conversions: Mapping[str, Conversion] | None = None,
    count: int | None = None,
    weights: WeightColumn | None = None,
) -> Measured:
    """The same with a count of each model's own rows. `marks` are names of models -> the column of the dataset that
    says what a row is to it (data.training_rows); `count` is the number of rows, if it is known;
    `weights` are of all models, also of those that were trained without."""
    if not models:
        return Measured({}, {}, {})
    fitted = {name: features_of(open_once(data).contract) for name, data in models.items()}
    target = next(iter(fitted.values())).target
    for name, features in fitted.items():
        if (features.target.name, features.target.task) != (target.name, target.task):
            raise DataError(
                f"{name} predicts {features.target.name!r} ({features.target.task}), not {target.name!r}"
            )
    target = with_conversions(next(iter(fitted.values())), conversions or {}).target
    layout = layout_of(target, *_find_place(dataset, target))
    here = count is not None and count <= FEW
    held = {name: data if here else ray.put(data) for name, data in models.items()}
    whole = {name: partials.start(layout) for name in models}
    new, own = dict(whole), dict[str, OwnRows]()
    blocks = (fold_here if here else fold)(
        dataset,
        _measure_block,
        models=held,
        layout=layout,
        slices=tuple(slices),
        conversions=conversions or {},
        marks=dict(marks),
        weights=weights,
    )
    for all_rows, new_rows, counts in blocks:
        own = add_all(own, counts)
        for name, part in all_rows.items():
            block = Partial.from_bytes(part)
            whole[name] = partials.merge(whole[name], block)
            if marks:
                rest = block if new_rows is None else Partial.from_bytes(new_rows[name])
                new[name] = partials.merge(new[name], rest)
    return Measured(whole, new if marks else whole, own)


def observe_table(
    table: pa.Table,
    sessions: Mapping[str, Session],
    layout: Layout,
    slices: Sequence[str] = (),
    conversions: Mapping[str, Conversion] | None = None,
    weights: WeightColumn | None = None,
) -> dict[str, Partial]:
    """Name of a model -> its sums over the rows of one table."""
    mass = weights.read(table) if weights else None
    for column in slices:
        if column not in table.column_names:
            raise DataError(f"evaluation.slices: {unknown_name('column', column, table.column_names)}")
    groups = partials.spread(rowhash.hash_rows(table), layout.groups)
    held = {name: _to_values(table[name]) for name in slices}
    totals = {}
    for name, session in sessions.items():
        features = with_conversions(features_of(session.contract), conversions or {})
        labels = read_labels(table, features.target)
        scores = score_rows(session, table_to_batch(table, features), features.target)
        totals[name] = partials.observe(layout, labels, scores, groups, held, mass)
    return totals


def with_conversions(features: FittedFeatures, conversions: Mapping[str, Conversion]) -> FittedFeatures:
    """The features of a model that has no conversions of its own, with those of the rows that it is measured on."""
    target = features.target
    if target.conversion or any(column.conversion for column in features.columns):
        return features

    def find(name: str, kind: str) -> Conversion | None:
        found = conversions.get(name)
        return found if found is not None and found.type == kind else None

    columns = tuple(
        dataclasses.replace(column, conversion=find(column.name, column.type)) for column in features.columns
    )
    return FittedFeatures(columns, dataclasses.replace(target, conversion=find(target.name, target.type)))


def read_labels(table: pa.Table, target: FittedTarget) -> npt.NDArray[Any]:
    """Class numbers, or values in the target's own unit. Raises DataError for unseen classes or a missing column."""
    if target.name not in table.column_names:
        raise DataError(
            f"target: {unknown_name('column', target.name, table.column_names)}; rows are measured by it"
        )
    own = dataclasses.replace(target, mean=0.0, std=1.0, transform="none")
    return np.asarray(encode_target(table[target.name], own))


def score_rows(session: Session, batch: Batch, target: FittedTarget) -> npt.NDArray[np.float32]:
    """Probabilities or predictions of all rows."""
    output = SCORE_OF_TASK[target.task]
    rows = len(next(iter(batch.values())))
    pieces = [
        session.infer({name: values[start : start + _ROWS] for name, values in batch.items()}, [output])[
            output
        ]
        for start in range(0, max(rows, 1), _ROWS)
    ]
    return np.concatenate(pieces)


def _measure_block(
    table: pa.Table,
    models: Mapping[str, "Model | ray.ObjectRef[Model]"],
    layout: Layout,
    slices: tuple[str, ...],
    conversions: Mapping[str, Conversion],
    marks: Mapping[str, str],
    weights: WeightColumn | None = None,
) -> tuple[dict[str, bytes], dict[str, bytes] | None, dict[str, OwnRows]]:
    """Sums over all rows, over those that no model had (None: the same), and the models' own rows."""
    if table.num_rows == 0 or table.num_columns == 0:
        return {}, None, {}
    sessions = {
        name: open_once(ray.get(model) if isinstance(model, ray.ObjectRef) else model)
        for name, model in models.items()
    }
    found = {name: np.asarray(table[column].to_numpy(), dtype=np.int8) for name, column in marks.items()}
    values = table.drop_columns(list(marks.values())) if marks else table

    def observe(rows: pa.Table) -> dict[str, bytes]:
        return {
            name: part.to_bytes()
            for name, part in observe_table(rows, sessions, layout, slices, conversions, weights).items()
        }

    new = is_new(found) if marks else np.ones(table.num_rows, dtype=bool)
    rest = None if new.all() else observe(values.filter(pa.array(new)))
    return observe(values), rest, {name: OwnRows.from_marks(held) for name, held in found.items()}


@functools.lru_cache(maxsize=8)
def open_once(data: Model) -> Session:
    """The session of a model; the last few stay open in this process, which asks for the same ones again."""
    return open_session(data)


def _find_place(dataset: ray.data.Dataset, target: FittedTarget) -> tuple[float, float]:
    """Approximate mean and deviation of a regression's target, from its first rows."""
    if target.task != "regression":
        return 0.0, 1.0
    first = [table for table in ray.get(dataset.limit(1000).to_arrow_refs()) if table.num_rows]
    values = np.concatenate([to_numbers(table[target.name], target) for table in first])
    held = values[np.isfinite(values)]
    return (float(held.mean()), float(held.std()) or 1.0) if len(held) else (0.0, 1.0)


def _to_values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.asarray(column.to_pandas().to_numpy())
