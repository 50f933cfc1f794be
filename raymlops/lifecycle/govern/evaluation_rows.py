"""The rows on which a model is measured: the test split of its spec, or other data read in the same way."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping

import pyarrow as pa
import ray
import ray.data

from raymlops.conversions.conversion import Conversion
from raymlops.data import contract as contracts
from raymlops.data import row_keys, sources
from raymlops.data.column_conversions import read_as_text, resolve_contract
from raymlops.data.contract import Finding
from raymlops.data.file_endings import guess_reader
from raymlops.data.row_keys import Repeats, find_repeats
from raymlops.data.rowhash import Hashes
from raymlops.data.scan import Fingerprint, fold
from raymlops.data.split_rows import SplitRows, describe_source, reading_values, scan_rows
from raymlops.data.training_rows import TrainingRows, add_marks
from raymlops.errors import DataError
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.govern.gate_evidence import SAMPLE, Sample
from raymlops.lifecycle.govern.scoring import read_labels, with_conversions
from raymlops.specs.dataset import ContractSpec, DatasetSpec, TableSpec
from raymlops.specs.experiment import ExperimentSpec


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows for measuring. `fingerprint` is empty, and `identity` None, for data other than the spec's."""

    dataset: ray.data.Dataset
    table: TableSpec
    """Where they are read."""
    source: str
    fingerprint: str = ""
    findings: tuple[Finding, ...] = ()
    train: ray.data.Dataset | None = None
    conversions: Mapping[str, Conversion] = dataclasses.field(default_factory=dict)
    """Of the spec, for models that were made before they had their own: `dataset` has the values as they were read."""
    left_out: tuple[str, ...] = ()
    """The first rows that break the contract, each as a JSON object."""

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Rows of each split; empty for other data."""

    def describe(self) -> list[str]:
        """Lines on the rows that are left out."""
        return [f"Left out: {finding}" for finding in self.findings]

    identity: Fingerprint | None = None
    mark: Callable[[Mapping[str, TrainingRows]], ray.data.Dataset] | None = None
    """The same rows with a column for each of these, of what a row is to a version (data.training_rows)."""

    def marked(self, known: Mapping[str, TrainingRows]) -> ray.data.Dataset:
        """With the columns of `known`; as they are if there is none, or if they have no keys."""
        return self.mark(known) if self.mark and known else self.dataset


def choose_table(spec: ExperimentSpec, data: str | None = None) -> DatasetSpec:
    """The dataset of the spec; with `data`, a path, that file in its place, read by the reader of its suffix."""
    if data is None:
        return spec.dataset
    reader = guess_reader(data) or spec.dataset.reader
    options = spec.dataset.options if reader == spec.dataset.reader else {}
    return spec.dataset.model_copy(update={"path": data, "reader": reader, "options": options})


def read_rows(
    spec: ExperimentSpec, other: DatasetSpec | None = None, known: Mapping[str, Conversion] | None = None
) -> Rows:
    """The test split of the spec, or all rows of another table that keep its contract. `known` are the conversions of
    the model that is measured.

    Raises DataError, StorageError and NotFoundError as reading does.
    """
    if other is None:
        return to_test_rows(scan_rows(spec.dataset, spec.contract, spec.split, spec.features, known))

    def read(texts: Collection[str]) -> Rows:
        chosen = read_as_text(other, spec.contract, texts)
        with sources.reading(chosen):
            dataset = sources.read_dataset(chosen, keyed=True)
            dataset = dataset.materialize() if chosen.cache else dataset
            contract = resolve_contract(dataset, spec.contract, features=spec.features, known=known)
            findings, left_out = _check_rows(dataset, contract)

            def mark(versions: Mapping[str, TrainingRows]) -> ray.data.Dataset:
                return _keep_contract(dataset, contract, versions, chosen)

            return Rows(
                mark({}),
                chosen,
                str(other.path),
                findings=findings,
                conversions=conversions_of(contract),
                left_out=left_out,
                mark=mark,
            )

    return reading_values(spec.contract, read)


def to_test_rows(rows: SplitRows) -> Rows:
    """The test split of rows that were scanned."""
    scanned, source = rows.scan, describe_source(rows.table)
    return Rows(
        rows.of("test", raw=True),
        rows.table,
        source,
        scanned.fingerprint.digest,
        scanned.findings,
        rows.of("train"),
        conversions_of(rows.contract),
        counts=scanned.fingerprint.rows,
        identity=scanned.fingerprint,
        mark=functools.partial(_mark_test_rows, rows),
    )


def _mark_test_rows(rows: SplitRows, known: Mapping[str, TrainingRows]) -> ray.data.Dataset:
    return rows.of("test", raw=True, marked=known)


def draw_sample(rows: Rows, split: str, features: FittedFeatures, most: int) -> Sample:
    """All rows of `train` or `test`, or about `most` of them, drawn from everywhere: rows may be sorted."""
    dataset, count = rows.train if split == "train" else rows.dataset, rows.counts[split]
    assert dataset is not None
    if count > most:
        dataset = dataset.random_sample(most / count, seed=0)
    return take_sample(dataclasses.replace(rows, dataset=dataset), features, count)


def conversions_of(contract: ContractSpec) -> dict[str, Conversion]:
    return {name: rule.conversion for name, rule in contract.columns.items() if rule.conversion}


def take_sample(rows: Rows, features: FittedFeatures, most: int = SAMPLE) -> Sample:
    """The first rows, in memory."""
    features = with_conversions(features, rows.conversions)
    tables = [table for table in ray.get(rows.dataset.limit(most).to_arrow_refs()) if table.num_rows]
    if not tables:
        raise DataError(f"{rows.source} has no rows to measure on; expected some that keep the contract")
    table = pa.concat_tables(tables, promote_options="permissive")
    return Sample(table_to_batch(table, features), read_labels(table, features.target))


def _check_rows(
    dataset: ray.data.Dataset, contract: ContractSpec
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """The findings of the contract, and the first rows that break it. Raises DataError for too many of them."""
    rows = failed = 0
    findings: dict[tuple[str, str], Finding] = {}
    left_out: list[contracts.LeftOut] = []
    for count, broken, found, others in fold(dataset, _check_block, contract=contract):
        for one in found:
            key, shifted = (one.column, one.rule), one.shift(rows)
            findings[key] = findings[key].merge(shifted) if key in findings else shifted
        left_out += [one.shift(rows) for one in others[: contracts.KEPT - len(left_out)]]
        rows, failed = rows + count, failed + broken
    contracts.judge(list(findings.values()), rows, failed, contract)
    return tuple(findings.values()), tuple(one.to_json() for one in left_out)


def _check_block(
    table: pa.Table, contract: ContractSpec
) -> tuple[int, int, list[Finding], list[contracts.LeftOut]]:
    if table.num_columns == 0 or table.num_rows == 0:
        return 0, 0, [], []
    _, broken = contracts.check_columns(table, contract)
    failed = int((~contracts.find_valid(table, broken)).sum())
    return (
        table.num_rows,
        failed,
        [contracts.to_finding(table, one) for one in broken],
        contracts.leave_out(row_keys.drop_keys(table), broken),
    )


def _keep_contract(
    dataset: ray.data.Dataset,
    contract: ContractSpec,
    known: Mapping[str, TrainingRows],
    table: DatasetSpec,
) -> ray.data.Dataset:
    repeats = Repeats()
    if any(training.numbered for training in known.values()):
        with sources.reading(table):
            repeats = find_repeats([held for held in fold(dataset, _read_keys) if held is not None])
    return dataset.map_batches(
        _keep_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={
            "contract": contract,
            "known": dict(known),
            "repeats": repeats,
            "changed": frozenset(table.derive),
        },
    )


def _read_keys(table: pa.Table) -> tuple[row_keys.Name, Hashes] | None:
    if table.num_rows == 0 or table.num_columns == 0:
        return None
    keys = row_keys.keys_of(table)
    return row_keys.name_block(table, keys), keys


def _keep_block(
    table: pa.Table,
    contract: ContractSpec,
    known: Mapping[str, TrainingRows],
    repeats: Repeats,
    changed: frozenset[str],
) -> pa.Table:
    if table.num_columns == 0:
        return table
    _, broken = contracts.check_columns(table, contract)
    holds = contracts.find_valid(table, broken)
    kept = row_keys.drop_keys(table.filter(pa.array(holds)))
    return add_marks(kept, table, holds, known, repeats, changed)
