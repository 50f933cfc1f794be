"""What is fitted by the target, which has to be known before: target means of categories, and the n-grams of texts. A
second pass over the training rows, which tables without such columns do not take.

The codes of values and words come from the nodes that the exported model will hold.
"""

import dataclasses
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from raymlops.data import scan, target_statistics, target_values
from raymlops.data.split_rows import SplitRows
from raymlops.data.target_statistics import Moments, Ngrams, Sums
from raymlops.errors import DataError, RaymlopsError
from raymlops.expressions import columns_in
from raymlops.features import VECTORS, FittedColumn, FittedFeatures, table_to_batch
from raymlops.lifecycle.train.row_encoding import Dealing, FoldEncoders, opened
from raymlops.models import encoder
from raymlops.models.encoder_files import read_encoder
from raymlops.models.export import to_bytes
from raymlops.models.session import Session
from raymlops.onnx_builder import INNER
from raymlops.specs.dataset import GroupSplit
from raymlops.specs.features import FeaturesSpec, TextFeature
from raymlops.tensors import Array, Batch

_ROWS = 4096
"""Rows whose words are in memory at once."""

Measured = dict[str, Sums | Ngrams | Moments]
"""By column."""
_OF_FOLDS = ("means", "text")
"""Kinds of columns that training rows have from other folds."""
_TRIED = 4
"""Rows of a block of which an encoder must give the same alone as together."""


def fit_by_target(
    rows: SplitRows, features: FittedFeatures, spec: FeaturesSpec, weights: str | None
) -> FittedFeatures:
    """The features with the target means, n-grams and encoders' moments of the training rows; the same if no column has
    any. Raises ArtifactError for an encoder that cannot be used."""
    if not features.of_kind(*VECTORS):
        return features
    features = dataclasses.replace(features, columns=tuple(map(_pin_encoder, features.columns)))
    return complete_features(features, _measure(rows, features, weights, VECTORS), spec)


def _pin_encoder(column: FittedColumn) -> FittedColumn:
    if column.kind != "encoded":
        return column
    return dataclasses.replace(column, digest=read_encoder(column.encoder).digest)


def fit_folds(
    rows: SplitRows, features: FittedFeatures, weights: str | None, tensors: Collection[str]
) -> FoldEncoders | None:
    """Encoders of the training rows, by folds; None without target means and texts."""
    if not features.of_kind(*_OF_FOLDS):
        return None
    measured = _measure(rows, features, weights, _OF_FOLDS)
    return make_fold_encoders(features, measured, find_dealing(rows, features), tensors)


def _measure(
    rows: SplitRows, features: FittedFeatures, weights: str | None, kinds: Collection[str]
) -> Measured:
    chosen = narrow_features(features, kinds)
    total: Measured = {}
    for part in scan.fold(
        rows.of("train"),
        measure_block,
        features=chosen,
        model=encoder.build_codes(chosen).SerializeToString(),
        weights=weights,
        dealing=find_dealing(rows, features),
    ):
        add_measured(total, part)
    return total


def narrow_features(features: FittedFeatures, kinds: Collection[str]) -> FittedFeatures:
    """The columns of these kinds alone, with those that their expressions read."""
    chosen = features.of_kind(*kinds)
    read = {name for column in chosen if column.expression for name in columns_in(column.expression)}
    kept = [column for column in features.columns if column in chosen or column.name in read]
    return dataclasses.replace(features, columns=tuple(kept))


def find_dealing(rows: SplitRows, features: FittedFeatures) -> Dealing:
    """By the values of a row; rows of a group are in one fold, if the split keeps them together."""
    split = rows.scan.rule.spec
    if isinstance(split, GroupSplit):
        return Dealing(frozenset((split.column,)), together=True)
    return Dealing(frozenset(column.name for column in features.raw), together=False)


def measure_block(
    table: pa.Table, features: FittedFeatures, model: bytes, weights: str | None, dealing: Dealing
) -> Measured:
    """Of one block: the sums of each column, whose codes the model gives (`encoder.build_codes`)."""
    total: Measured = {}
    dealt, target = dealing.deal(table), features.target
    for start in range(0, table.num_rows, _ROWS):
        part = table.slice(start, _ROWS)
        found = _run(opened(model), table_to_batch(part, features), features)
        codes = {name.removeprefix(INNER): values for name, values in found.items()}
        outputs = target_statistics.to_outputs(target_values.encode_target(part[target.name], target), target)
        mass = np.ones(len(outputs)) if weights is None else target_values.read_weights(part, weights)
        folds = dealt[start : start + _ROWS]
        for number, column in enumerate(features.of_kind(*VECTORS)):
            measured: Sums | Ngrams | Moments
            if column.kind == "encoded":
                numbers = codes[f"numbers_{number}"]
                if start == 0:
                    _require_independent(
                        numbers, opened(model), table_to_batch(part, features), number, column
                    )
                measured = Moments.of(numbers)
            elif column.kind == "means":
                ids = codes[f"ids_{number}"]
                measured = target_statistics.sum_by_value(ids, column.places, outputs, mass, folds)
            else:
                words, neighbours, count = (codes[f"{name}_{number}"] for name in encoder.TEXT_CODES)
                known = max(column.ids, default=0)
                classes = target.task != "regression"
                measured = target_statistics.count_ngrams(
                    words, neighbours, count, outputs, known, folds, classes=classes
                )
            add_measured(total, {column.name: measured})
    return total


def _run(session: Session, batch: Batch, features: FittedFeatures) -> Batch:
    try:
        return session.infer(batch)
    except RaymlopsError as error:
        encoders = [column.encoder for column in features.of_kind("encoded")]
        if not encoders:
            raise
        raise DataError(f"Encoder {' or '.join(encoders)} fails on rows of this table: {error}") from None


def _require_independent(
    numbers: Array, session: Session, batch: Batch, number: int, column: FittedColumn
) -> None:
    """Raises DataError if the numbers of a row depend on the rows beside it."""
    for row in range(min(_TRIED, len(numbers))):
        alone = session.infer({name: values[row : row + 1] for name, values in batch.items()})
        found = alone[f"{INNER}numbers_{number}"]
        if found.shape[1:] != numbers.shape[1:] or not np.allclose(
            found[0], numbers[row], rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            raise DataError(
                f"Encoder {column.encoder!r} gives other numbers for a row of column {column.name!r} alone than beside "
                "others; a model must answer each row by itself: export the file in evaluation mode"
            )


def add_measured(total: Measured, part: Measured) -> None:
    """Adds the sums of more rows to those of others."""
    for name, found in part.items():
        before = total.get(name)
        if before is None:
            total[name] = found
        elif isinstance(before, np.ndarray):
            total[name] = before + found  # type: ignore[operator]
        else:
            total[name] = before.merge(found)  # type: ignore[arg-type]


def complete_features(features: FittedFeatures, measured: Measured, spec: FeaturesSpec) -> FittedFeatures:
    """With target means, n-grams and moments."""
    settings = spec.by_column()

    def fit(column: FittedColumn) -> FittedColumn:
        found, feature = measured.get(column.name), settings.get(column.name)
        if isinstance(found, Ngrams) and isinstance(feature, TextFeature):
            least = feature.min_count or max(5, spec.least_count)
            return target_statistics.choose_ngrams(column, found, feature.ngrams, least, pairs=feature.pairs)
        if isinstance(found, Moments):
            return found.fit(column)
        return target_statistics.fit_means(column, found) if isinstance(found, np.ndarray) else column

    return dataclasses.replace(features, columns=tuple(map(fit, features.columns)))


def make_fold_encoders(
    features: FittedFeatures, measured: Measured, dealing: Dealing, tensors: Collection[str]
) -> FoldEncoders:
    """For each fold an encoder with the means and scores of the others."""

    def fit(column: FittedColumn, fold: int) -> FittedColumn:
        found = measured.get(column.name)
        if isinstance(found, Ngrams):
            return target_statistics.fit_scores(column, found, without=fold)
        return (
            target_statistics.fit_means(column, found, without=fold)
            if isinstance(found, np.ndarray)
            else column
        )

    def without(fold: int) -> FittedFeatures:
        return dataclasses.replace(features, columns=tuple(fit(column, fold) for column in features.columns))

    models = (encoder.build_encoder(without(fold), tensors) for fold in range(target_statistics.FOLDS))
    return FoldEncoders(tuple(map(to_bytes, models)), dealing)
