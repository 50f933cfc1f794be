"""Rows of a dataset in the form that training takes: the expressions of features, packed tensors, the encoded target.
Fits nothing."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import fitting, target_values
from raymlops.data.split_rows import SplitRows, describe_source
from raymlops.data.target_statistics import deal_folds
from raymlops.errors import DataError, SpecError
from raymlops.features import FittedColumn, FittedFeatures, column_to_tensor, table_to_batch
from raymlops.models import encoder
from raymlops.models.session import Session, open_session
from raymlops.specs.features import FeaturesSpec
from raymlops.tensors import Batch
from raymlops.training.packed import LABEL, WEIGHT


def find_formulas(
    rows: SplitRows, spec: FeaturesSpec
) -> tuple[tuple[FittedColumn, ...], fitting.Formulas | None]:
    """The raw columns that the expressions of features read, and a function that evaluates them on a block."""
    computed = spec.expressions()
    if not computed:
        return (), None
    schema = rows.dataset.schema(fetch_if_missing=True)
    if schema is None:
        raise DataError(f"{describe_source(rows.table)} has no rows")
    inputs = fitting.find_inputs(schema.base_schema, spec, rows.contract)
    model = encoder.build_formulas(inputs, computed).SerializeToString()
    return inputs, functools.partial(evaluate_formulas, inputs=inputs, model=model)


def evaluate_formulas(table: pa.Table, inputs: tuple[FittedColumn, ...], model: bytes) -> Batch:
    """The expressions' values on a block, from the same nodes that the exported model will hold."""
    return opened(model).infer({column.name: column_to_tensor(table, column) for column in inputs})


@dataclasses.dataclass(frozen=True)
class Dealing:
    """How training rows are dealt to folds."""

    columns: frozenset[str]
    together: bool
    """Whether rows with equal values in these columns are in one fold."""

    def deal(self, table: pa.Table) -> Any:
        """The fold of each row of a block."""
        return deal_folds(table, self.columns, together=self.together)


@dataclasses.dataclass(frozen=True)
class FoldEncoders:
    """Encoders of the rows from which target means were taken: each fold has the means of the others."""

    models: tuple[bytes, ...]
    dealing: Dealing

    def run(self, table: pa.Table, features: FittedFeatures) -> Batch:
        """The packed tensors of a block."""
        folds = self.dealing.deal(table)
        order = np.argsort(folds, kind="stable")
        parts = []
        for fold in np.unique(folds) if len(folds) else (0,):
            model, chosen = self.models[fold], table.filter(pa.array(folds == fold))
            parts.append(encoder.run_encoder(opened(model), table_to_batch(chosen, features)))
        places = np.argsort(order, kind="stable")
        return {name: np.concatenate([part[name] for part in parts])[places] for name in parts[0]}


def encode_rows(
    dataset: ray.data.Dataset,
    features: FittedFeatures,
    model: bytes,
    weights: str | None = None,
    folds: FoldEncoders | None = None,
) -> ray.data.Dataset:
    """Packed tensors, the encoded target and the weight of each row, if `weights` names its column; lazy. `folds` take
    the place of the model for rows from which target means were taken."""
    return dataset.map_batches(
        encode_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"features": features, "model": model, "weights": weights, "folds": folds},
    )


def encode_block(
    table: pa.Table,
    features: FittedFeatures,
    model: bytes,
    weights: str | None = None,
    folds: FoldEncoders | None = None,
) -> Batch:
    """One block's packed tensors, with the target under `label`, and the weights under `weight`."""
    if folds is not None:
        packed = folds.run(table, features)
    else:
        packed = encoder.run_encoder(opened(model), table_to_batch(table, features))
    target = features.target
    if target.name not in table.column_names:
        raise SpecError(f"The rows have no column {target.name!r}, which is to be predicted")
    packed[LABEL] = target_values.encode_target(table[target.name], target)
    if weights is not None:
        packed[WEIGHT] = target_values.read_weights(table, weights)
    return packed


@functools.lru_cache(maxsize=8)
def opened(model: bytes) -> Session:
    """A session of these bytes, kept for the next block of this process."""
    return open_session(model)
