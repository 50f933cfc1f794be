"""The rows on which a model is measured: the test split of its spec, or other data read in the same way."""

import dataclasses

import pyarrow as pa
import ray
import ray.data

from raymlops.data import contract as contracts
from raymlops.data import scan, sources, splits
from raymlops.data.contract import Finding
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
    dataset_spec = spec.dataset if data is None else spec.dataset.model_copy(update={"path": data})
    with sources.reading(dataset_spec):
        dataset = sources.read_dataset(dataset_spec)
        if data is not None:
            return Rows(_keep_contract(dataset, spec.contract), data)
        if dataset_spec.cache:
            dataset = dataset.materialize()
        source = str(dataset_spec.path or dataset_spec.reader)
        scanned = scan.scan_dataset(dataset, spec.contract, splits.SplitRule(spec.split), source)
        parts = {name: scan.select_split(dataset, scanned, spec.contract, name) for name in ("train", "test")}
    return Rows(parts["test"], source, scanned.fingerprint.digest, scanned.findings, parts["train"])


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
