"""The checked rows of a dataset by split: read once in full for the scan, then as often as requested. Fits nothing."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import ray.data

from raymlops.conversions.conversion import Conversion
from raymlops.data import feature_columns, row_keys, sources, splits
from raymlops.data.column_conversions import list_implied, read_as_text, resolve_contract
from raymlops.data.scan import Scan, Split, scan_dataset, select_split
from raymlops.data.training_rows import TrainingRows
from raymlops.errors import ColumnValueError
from raymlops.specs.dataset import ContractSpec, DatasetSpec, GroupSplit, SplitSpec
from raymlops.specs.features import FeaturesSpec

V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """The rows of a dataset that keep the contract, with the results of the scan."""

    table: DatasetSpec
    contract: ContractSpec
    scan: Scan
    dataset: ray.data.Dataset = dataclasses.field(compare=False)
    """All rows, as read; in the object store if `dataset.cache` says so."""

    def of(
        self, split: Split, raw: bool = False, marked: Mapping[str, TrainingRows] | None = None
    ) -> ray.data.Dataset:
        """The rows of `train`, `validation` or `test`, with their columns converted, or as they were read; lazy. For
        each column of `marked` they get it, with what a row is to a version that had these training rows."""
        return select_split(self.dataset, self.scan, self.contract, split, raw, marked, self.table.derive)


def open_dataset(table: DatasetSpec) -> ray.data.Dataset:
    """The dataset of a spec, kept in the object store if it says so. Raises the same as `sources.read_dataset`."""
    dataset = sources.read_dataset(table, keyed=True)
    return dataset.materialize() if table.cache else dataset


def scan_rows(
    table: DatasetSpec,
    contract: ContractSpec,
    split: SplitSpec,
    features: FeaturesSpec | None = None,
    known: Mapping[str, Conversion] | None = None,
) -> SplitRows:
    """Read a dataset, and scan it once. `features` say which types columns need, and which target's classes are on
    every side of a small table; `known` are the conversions of a model whose rows these are to be.

    Raises DataError for rows that break the contract, NotFoundError.
    """
    return reading_values(
        contract, lambda texts: _scan(read_as_text(table, contract, texts), contract, split, features, known)
    )


def reading_values(contract: ContractSpec, read: Callable[[Collection[str]], V]) -> V:
    """What `read` returns, given columns to be read as texts: those with a type in the contract of which the reader
    refused a value, so that it spoils its row only. Raises ColumnValueError for other columns."""
    texts: set[str] = set()
    while True:
        try:
            return read(frozenset(texts))
        except ColumnValueError as error:
            rule = contract.columns.get(error.column)
            if error.column in texts or rule is None or rule.type is None:
                raise
            texts.add(error.column)


def _scan(
    table: DatasetSpec,
    contract: ContractSpec,
    split: SplitSpec,
    features: FeaturesSpec | None,
    known: Mapping[str, Conversion] | None,
) -> SplitRows:
    with sources.reading(table):
        dataset = open_dataset(table)
        features = _list_features(features, dataset, split) if features else None
        resolved = resolve_contract(dataset, contract, features=features, split=split, known=known)
        implied = list_implied(contract, resolved)
        rule = splits.SplitRule(split, target=features.target.column if features else "")
        numbers = list_numbers(features) if features else ()
        used = (*features.by_column(), features.target.column) if features else ()
        scanned = scan_dataset(dataset, resolved, rule, describe_source(table), numbers, implied, used)
    return SplitRows(table, resolved, scanned, dataset)


def _list_features(features: FeaturesSpec, dataset: ray.data.Dataset, split: SplitSpec) -> FeaturesSpec:
    """With the columns that patterns stand for; those of `auto` come in the type that they need."""
    schema = dataset.schema(fetch_if_missing=True)
    if not features.is_open or schema is None:
        return features
    names = [name for name in schema.names if name != row_keys.COLUMN]
    apart = {split.column} if isinstance(split, GroupSplit) else set()
    return feature_columns.resolve_patterns(features, names, apart)


def list_numbers(features: FeaturesSpec) -> tuple[str, ...]:
    """The columns that a model takes or predicts as FP32."""
    numbers = [name for name, feature in features.by_column().items() if feature.kind == "number"]
    return (*numbers, features.target.column)


def describe_source(table: DatasetSpec) -> str:
    """A short description of a dataset's source, which is a part of its fingerprint."""
    path = table.path
    if path is None:
        return table.reader
    first = path if isinstance(path, str) else path[0]
    more = f" and {len(path) - 1} more" if not isinstance(path, str) and len(path) > 1 else ""
    return f"{first}{more}"
