"""The rows on which a model is measured: the test split of its spec, or other data read in the same way."""

import dataclasses

import pyarrow as pa
import ray
import ray.data

from raymlops.data import contract as contracts
from raymlops.data import sources
from raymlops.data.contract import Finding
from raymlops.data.split_rows import SplitRows, describe_source, scan_rows
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.govern.gate_evidence import SAMPLE, Sample
from raymlops.lifecycle.govern.scoring import read_labels
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


def read_rows(spec: ExperimentSpec, data: str | None = None) -> Rows:
    """The test split of the spec, or with `data`, a path, all its rows that keep the contract.

    Raises DataError, StorageError and NotFoundError as reading does.
    """
    if data is None:
        return to_test_rows(scan_rows(spec.dataset, spec.contract, spec.split, spec.features.target.column))
    table = spec.dataset.model_copy(update={"path": data})
    with sources.reading(table):
        return Rows(_keep_contract(sources.read_dataset(table), spec.contract), data)


def to_test_rows(rows: SplitRows) -> Rows:
    """The test split of rows that were scanned."""
    scanned, source = rows.scan, describe_source(rows.table)
    return Rows(rows.of("test"), source, scanned.fingerprint.digest, scanned.findings, rows.of("train"))


def take_sample(dataset: ray.data.Dataset, features: FittedFeatures, rows: int = SAMPLE) -> Sample:
    """The first rows, in memory."""
    tables = [table for table in ray.get(dataset.limit(rows).to_arrow_refs()) if table.num_rows]
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
    checked, holds, _ = contracts.check_block(table, contract)
    return checked.filter(pa.array(holds))
