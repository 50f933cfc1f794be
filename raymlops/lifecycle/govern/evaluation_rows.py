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
from raymlops.data.contract import Broken, Finding
from raymlops.data.row_keys import Repeats, find_repeats
from raymlops.data.rowhash import Hashes
from raymlops.data.scan import Fingerprint, fold
from raymlops.data.split_rows import SplitRows, describe_source, reading_values, scan_rows
from raymlops.data.target_values import WeightColumn
from raymlops.data.training_rows import TrainingRows, add_marks
from raymlops.errors import DataError
from raymlops.evaluation.baselines import Baseline
from raymlops.features import FittedColumn, FittedFeatures, convert_columns, table_to_batch
from raymlops.file_endings import guess_reader
from raymlops.lifecycle.batch.row_report import Unknown, Vocabularies, count_unknown
from raymlops.lifecycle.batch.row_times import read_times
from raymlops.lifecycle.govern.gate_evidence import SAMPLE, Sample
from raymlops.lifecycle.govern.scoring import read_labels, with_conversions
from raymlops.specs.dataset import ContractSpec, DatasetSpec, TableSpec, TimeSplit
from raymlops.specs.experiment import ExperimentSpec


@dataclasses.dataclass(frozen=True)
class Fitting:
    """Baselines that a task fits to training rows, with their answers for some test rows, while the caller goes on."""

    test: Sample
    whole: bool
    """Whether these are all test rows."""
    fitted: "ray.ObjectRef[tuple[Baseline, ...]]"


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
    weights: WeightColumn | None = None
    """Of `training.sample_weights`; None if rows weigh alike."""
    time: str = ""
    """A column with the times of rows; empty if the spec names none."""
    validation: ray.data.Dataset | None = None
    unweighted: str = ""
    """The name of that column, if other data lack it."""

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Rows of each split; empty for other data."""
    fitting: "Fitting | None" = None
    """The baselines, where they are fitted ahead."""

    unknown: Mapping[str, Unknown] = dataclasses.field(default_factory=dict)
    """Column -> the rows of other data with categories that the model does not know."""
    read: int = 0
    """All rows of other data."""

    def describe(self) -> list[str]:
        """Lines on the rows that are left out, and on those with unknown categories."""
        lines = [f"Left out: {finding}" for finding in self.findings]
        if self.unweighted:
            lines.append(
                f"There is no column {self.unweighted!r} (training.sample_weights): all rows weigh alike"
            )
        return lines + [unknown.describe(name, self.read) for name, unknown in self.unknown.items()]

    identity: Fingerprint | None = None
    mark: Callable[[Mapping[str, TrainingRows]], ray.data.Dataset] | None = None
    """The same rows with a column for each of these, of what a row is to a version (data.training_rows)."""

    def marked(self, known: Mapping[str, TrainingRows]) -> ray.data.Dataset:
        """With the columns of `known`; as they are if there is none, or if they have no keys."""
        return self.mark(known) if self.mark and known else self.dataset


@dataclasses.dataclass(frozen=True)
class ModelColumns:
    """What the columns of a model take, which is measured on rows that it was not made from."""

    conversions: Mapping[str, Conversion] = dataclasses.field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    """Those that it takes or predicts as FP32."""
    categories: tuple[FittedColumn, ...] = ()
    known: Vocabularies = dataclasses.field(default_factory=dict)
    """The categories that it knows."""

    def check(self, table: pa.Table, contract: ContractSpec) -> list[Broken]:
        """The rules of the contract that rows break, and numbers beyond FP32."""
        checked, broken = contracts.check_columns(table, contract)
        return broken + contracts.check_range(checked, self.numbers, contracts.find_valid(table, broken))

    def count_unknown(self, table: pa.Table) -> dict[str, Unknown]:
        """Of rows as they were read."""
        columns = [column for column in self.categories if column.name in table.column_names]
        converted, _ = convert_columns(table.select([column.name for column in columns]), columns)
        return count_unknown(
            converted,
            {column.name: self.known[column.name] for column in columns if column.name in self.known},
        )


def choose_table(spec: ExperimentSpec, data: str | None = None) -> DatasetSpec:
    """The dataset of the spec; with `data`, a path, that file in its place, read by the reader of its suffix."""
    if data is None:
        return spec.dataset
    reader = guess_reader(data) or spec.dataset.reader
    options = spec.dataset.options if reader == spec.dataset.reader else {}
    return spec.dataset.model_copy(update={"path": data, "reader": reader, "options": options})


def read_rows(
    spec: ExperimentSpec, other: DatasetSpec | None = None, columns: ModelColumns | None = None
) -> Rows:
    """The test split of the spec, or all rows of another table that keep its contract. `columns` are those of the
    model that is measured.

    Raises DataError, StorageError and NotFoundError as reading does.
    """
    columns = columns or ModelColumns()
    if other is None:
        scanned = scan_rows(spec.dataset, spec.contract, spec.split, spec.features, columns.conversions)
        return to_test_rows(scanned, spec)

    def read(texts: Collection[str]) -> Rows:
        chosen = read_as_text(other, spec.contract, texts)
        with sources.reading(chosen):
            dataset = sources.read_dataset(chosen, keyed=True)
            dataset = dataset.materialize() if chosen.cache else dataset
            contract = resolve_contract(
                dataset, spec.contract, features=spec.features, known=columns.conversions
            )
            checked = _check_rows(dataset, contract, columns)
            weights = _find_weights(spec, dataset, contract)

            def mark(versions: Mapping[str, TrainingRows]) -> ray.data.Dataset:
                return _keep_contract(dataset, contract, columns, versions, chosen)

            return Rows(
                mark({}),
                chosen,
                str(other.path),
                findings=tuple(checked.findings.values()),
                conversions=conversions_of(contract),
                left_out=tuple(one.to_json() for one in checked.left_out),
                weights=weights,
                unweighted="" if weights else spec.training.sample_weights or "",
                mark=mark,
                unknown=checked.unknown,
                read=checked.rows,
            )

    return reading_values(spec.contract, read)


def _find_weights(
    spec: ExperimentSpec, dataset: ray.data.Dataset, contract: ContractSpec
) -> WeightColumn | None:
    """The weights of other data, which may lack them."""
    name = spec.training.sample_weights
    schema = dataset.schema(fetch_if_missing=True) if name else None
    if name is None or schema is None or name not in schema.names:
        return None
    return WeightColumn(name, conversions_of(contract).get(name))


def to_test_rows(rows: SplitRows, spec: ExperimentSpec) -> Rows:
    """The test split of rows that were scanned."""
    scanned, source = rows.scan, describe_source(rows.table)
    conversions = conversions_of(rows.contract)
    weights = spec.training.sample_weights
    return Rows(
        rows.of("test", raw=True),
        rows.table,
        source,
        scanned.fingerprint.digest,
        scanned.findings,
        rows.of("train"),
        conversions,
        weights=WeightColumn(weights, conversions.get(weights)) if weights else None,
        time=_find_time_column(spec, conversions),
        validation=rows.of("validation", raw=True),
        counts=scanned.fingerprint.rows,
        identity=scanned.fingerprint,
        mark=functools.partial(_mark_test_rows, rows),
    )


def _mark_test_rows(rows: SplitRows, known: Mapping[str, TrainingRows]) -> ray.data.Dataset:
    return rows.of("test", raw=True, marked=known)


def _find_time_column(spec: ExperimentSpec, conversions: Mapping[str, Conversion]) -> str:
    """The column that orders the rows of a split by time, or else the first timestamp among the columns; empty if
    there is none."""
    if isinstance(spec.split, TimeSplit):
        return spec.split.column
    named = [name for name, feature in spec.features.by_column().items() if feature.kind == "timestamp"]
    converted = [name for name, one in conversions.items() if one.type == "timestamp"]
    return next(iter([*named, *converted]), "")


def draw_sample(rows: Rows, split: str, features: FittedFeatures, most: int) -> Sample:
    """All rows of `train`, `validation` or `test`, or about `most` of them, drawn from everywhere: rows may be
    sorted."""
    by_split = {"train": rows.train, "validation": rows.validation, "test": rows.dataset}
    dataset, count = by_split[split], rows.counts[split]
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
    weights = rows.weights.read(table) if rows.weights else None
    times = read_times(table, rows.time, rows.conversions.get(rows.time)) if rows.time else None
    return Sample(table_to_batch(table, features), read_labels(table, features.target), weights, times)


@dataclasses.dataclass
class _Checked:
    """Of blocks, in their order."""

    rows: int = 0
    failed: int = 0
    findings: dict[tuple[str, str], Finding] = dataclasses.field(default_factory=dict)
    left_out: list[contracts.LeftOut] = dataclasses.field(default_factory=list)
    unknown: dict[str, Unknown] = dataclasses.field(default_factory=dict)

    def add(self, other: "_Checked") -> None:
        for key, finding in other.findings.items():
            shifted = finding.shift(self.rows)
            self.findings[key] = self.findings[key].merge(shifted) if key in self.findings else shifted
        kept = other.left_out[: contracts.KEPT - len(self.left_out)]
        self.left_out += [one.shift(self.rows) for one in kept]
        for name, unknown in other.unknown.items():
            self.unknown[name] = self.unknown[name].merge(unknown) if name in self.unknown else unknown
        self.rows, self.failed = self.rows + other.rows, self.failed + other.failed


def _check_rows(dataset: ray.data.Dataset, contract: ContractSpec, columns: ModelColumns) -> _Checked:
    """What breaks the contract, and what the model does not know. Raises DataError for too many broken rows."""
    total = _Checked()
    for part in fold(dataset, _check_block, contract=contract, columns=columns):
        total.add(part)
    contracts.judge(list(total.findings.values()), total.rows, total.failed, contract)
    return total


def _check_block(table: pa.Table, contract: ContractSpec, columns: ModelColumns) -> _Checked:
    if table.num_columns == 0 or table.num_rows == 0:
        return _Checked()
    broken = columns.check(table, contract)
    holds = contracts.find_valid(table, broken)
    findings = [contracts.to_finding(table, one) for one in broken]
    return _Checked(
        table.num_rows,
        int((~holds).sum()),
        {(one.column, one.rule): one for one in findings},
        contracts.leave_out(row_keys.drop_keys(table), broken),
        columns.count_unknown(table.filter(pa.array(holds))),
    )


def _keep_contract(
    dataset: ray.data.Dataset,
    contract: ContractSpec,
    columns: ModelColumns,
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
            "columns": columns,
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
    columns: ModelColumns,
    known: Mapping[str, TrainingRows],
    repeats: Repeats,
    changed: frozenset[str],
) -> pa.Table:
    if table.num_columns == 0:
        return table
    holds = contracts.find_valid(table, columns.check(table, contract))
    kept = row_keys.drop_keys(table.filter(pa.array(holds)))
    return add_marks(kept, table, holds, known, repeats, changed)
