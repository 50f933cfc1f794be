"""From a spec to packed rows: read, scan, fit, encode. Trains nothing."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray.data

from raymlops.data import fitting, scan, sources, splits
from raymlops.errors import DataError, SpecError
from raymlops.features import FittedColumn, FittedFeatures, column_to_tensor, packing_of, table_to_batch
from raymlops.models import encoder
from raymlops.models.session import Session, open_session
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.training import learners
from raymlops.training.learners import Job
from raymlops.training.packed import PackedSplit, pack_split
from raymlops.training.rows import LABEL


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What training and evaluation start from."""

    spec: ExperimentSpec
    scan: scan.Scan
    features: FittedFeatures
    profile: dict[str, Any]
    encoder: bytes
    train: PackedSplit
    validation: PackedSplit
    rows: dict[str, ray.data.Dataset]
    """The raw rows of each split that keep the contract; lazy."""

    @property
    def job(self) -> Job:
        return Job(self.spec, packing_of(self.features), self.features.target, self.train, self.validation)


def prepare(spec: ExperimentSpec, tell: Callable[[str], None] = lambda line: None) -> Prepared:
    """Read, check, split, fit and encode the dataset of a spec; joins no cluster."""
    source = describe_source(spec)
    with sources.reading(spec.dataset):
        tell(f"Reading {source}")
        dataset = sources.read_dataset(spec.dataset)
        if spec.dataset.cache:
            dataset = dataset.materialize()
        scanned = scan.scan_dataset(dataset, spec.contract, splits.SplitRule(spec.split), source)
        tell(describe_scan(scanned))
        parts = {name: scan.select_split(dataset, scanned, spec.contract, name) for name in splits.SPLITS}
        inputs, formulas = find_formulas(dataset, spec)
        measured = fitting.measure_columns(parts["train"], spec.features, formulas)
        features = fitting.fit_features(measured, spec.features, spec.contract, inputs)
        learners.check(spec, packing_of(features), features.target)  # here, and not in each trial
        model = encoder.build_encoder(features).SerializeToString()
        packed = {
            name: pack_split(
                encode_rows(parts[name], features, model),
                scanned.fingerprint.rows[name],
                packing_of(features),
                spec.training.resident_bytes,
            )
            for name in splits.SPLITS
            if name != "test"  # measured once, from the raw rows
        }
    profile = {name: value.to_json() for name, value in measured.items() if name != "types"}
    return Prepared(spec, scanned, features, profile, model, packed["train"], packed["validation"], parts)


def find_formulas(
    dataset: ray.data.Dataset, spec: ExperimentSpec
) -> tuple[tuple[FittedColumn, ...], fitting.Formulas | None]:
    """The raw columns that the expressions of features read, and what evaluates them on a block."""
    computed = spec.features.expressions()
    if not computed:
        return (), None
    schema = dataset.schema(fetch_if_missing=True)
    if schema is None:
        raise DataError(f"{describe_source(spec)} has no rows")
    inputs = fitting.find_inputs(schema.base_schema, spec.features, spec.contract)
    model = encoder.build_formulas(inputs, computed).SerializeToString()
    return inputs, functools.partial(evaluate_formulas, inputs=inputs, model=model)


def evaluate_formulas(table: pa.Table, inputs: tuple[FittedColumn, ...], model: bytes) -> Batch:
    """The expressions' values on a block, from the same nodes that the exported model will hold."""
    return opened(model).infer({column.name: column_to_tensor(table, column) for column in inputs})


def describe_source(spec: ExperimentSpec) -> str:
    """The dataset's source in a few words."""
    path = spec.dataset.path
    if path is None:
        return spec.dataset.reader
    first = path if isinstance(path, str) else path[0]
    more = f" and {len(path) - 1} more" if not isinstance(path, str) and len(path) > 1 else ""
    return f"{first}{more}"


def describe_scan(scanned: scan.Scan) -> str:
    """One or more lines for a person: rows, splits, fingerprint, findings."""
    rows = ", ".join(f"{name} {count:,}" for name, count in scanned.fingerprint.rows.items())
    lines = [f"{scanned.rows:,} rows ({rows}); data fingerprint {scanned.fingerprint.digest}"]
    if scanned.failed:
        lines.append(f"{scanned.failed:,} rows break the contract and are left out:")
        lines += [f"  {finding}" for finding in scanned.findings]
    return "\n".join(lines)


def encode_rows(dataset: ray.data.Dataset, features: FittedFeatures, model: bytes) -> ray.data.Dataset:
    """Packed tensors and the encoded target of each row; lazy."""
    return dataset.map_batches(
        encode_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"features": features, "model": model},
    )


def encode_block(table: pa.Table, features: FittedFeatures, model: bytes) -> Batch:
    """One block's packed tensors, with the target under `label`."""
    packed = encoder.run_encoder(opened(model), table_to_batch(table, features))
    target = features.target
    if target.name not in table.column_names:
        raise SpecError(f"The rows have no column {target.name!r}, which is to be predicted")
    packed[LABEL] = fitting.encode_target(table[target.name], target)
    return packed


@functools.lru_cache(maxsize=4)
def opened(model: bytes) -> Session:
    """A session of these bytes, kept for the next block of this process."""
    return open_session(model)
