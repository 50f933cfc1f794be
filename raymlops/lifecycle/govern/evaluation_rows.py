"""The rows on which a model is measured: the test split of its spec, or other data read in the same way."""

import dataclasses
from collections.abc import Collection, Mapping

import pyarrow as pa
import ray
import ray.data

from raymlops.conversions.conversion import Conversion
from raymlops.data import contract as contracts
from raymlops.data import sources
from raymlops.data.column_conversions import read_as_text, resolve_contract
from raymlops.data.contract import Finding
from raymlops.data.split_rows import SplitRows, describe_source, reading_values, scan_rows
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.govern.gate_evidence import SAMPLE, Sample
from raymlops.lifecycle.govern.scoring import read_labels, with_conversions
from raymlops.specs.dataset import ContractSpec
from raymlops.specs.experiment import ExperimentSpec


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows for measuring. `fingerprint` is empty for data other than the spec's."""

    dataset: ray.data.Dataset
    source: str
    fingerprint: str = ""
    findings: tuple[Finding, ...] = ()
    train: ray.data.Dataset | None = None
    conversions: Mapping[str, Conversion] = dataclasses.field(default_factory=dict)
    """Of the spec, for models that were made before they had their own: `dataset` has the values as they were read."""


def read_rows(
    spec: ExperimentSpec, data: str | None = None, known: Mapping[str, Conversion] | None = None
) -> Rows:
    """The test split of the spec, or with `data`, a path, all its rows that keep the contract. `known` are the
    conversions of the model that is measured.

    Raises DataError, StorageError and NotFoundError as reading does.
    """
    if data is None:
        return to_test_rows(scan_rows(spec.dataset, spec.contract, spec.split, spec.features, known))
    table = spec.dataset.model_copy(update={"path": data})

    def read(texts: Collection[str]) -> Rows:
        chosen = read_as_text(table, spec.contract, texts)
        with sources.reading(chosen):
            dataset = sources.read_dataset(chosen)
            dataset = dataset.materialize() if chosen.cache else dataset
            contract = resolve_contract(dataset, spec.contract, features=spec.features, known=known)
            return Rows(_keep_contract(dataset, contract), data, conversions=conversions_of(contract))

    return reading_values(spec.contract, read)


def to_test_rows(rows: SplitRows) -> Rows:
    """The test split of rows that were scanned."""
    scanned, source = rows.scan, describe_source(rows.table)
    return Rows(
        rows.of("test", raw=True),
        source,
        scanned.fingerprint.digest,
        scanned.findings,
        rows.of("train"),
        conversions_of(rows.contract),
    )


def conversions_of(contract: ContractSpec) -> dict[str, Conversion]:
    return {name: rule.conversion for name, rule in contract.columns.items() if rule.conversion}


def take_sample(rows: Rows, features: FittedFeatures, most: int = SAMPLE) -> Sample:
    """The first rows, in memory."""
    features = with_conversions(features, rows.conversions)
    tables = [table for table in ray.get(rows.dataset.limit(most).to_arrow_refs()) if table.num_rows]
    table = pa.concat_tables(tables, promote_options="permissive")
    return Sample(table_to_batch(table, features), read_labels(table, features.target))


def _keep_contract(dataset: ray.data.Dataset, contract: ContractSpec) -> ray.data.Dataset:
    return dataset.map_batches(
        _keep_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"contract": contract},
    )


def _keep_block(table: pa.Table, contract: ContractSpec) -> pa.Table:
    if table.num_columns == 0:
        return table
    _, broken = contracts.check_columns(table, contract)
    return table.filter(pa.array(contracts.find_valid(table, broken)))
