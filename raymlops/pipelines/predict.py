"""Scores a dataset with a model or a graph: Ray Data reads and writes, actors with sessions infer. One pass, flat
memory."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from raymlops.data import sources
from raymlops.errors import DataError, StorageError, unknown_name
from raymlops.features import FittedColumn, column_to_tensor
from raymlops.graphs.plan import LENGTHS
from raymlops.models.safety import Model
from raymlops.models.session import Session, SessionOptions, as_model_input, open_session
from raymlops.serving.graph import make_locate
from raymlops.serving.opening import OfflineGraph, Ragged
from raymlops.settings import Settings
from raymlops.specs.dataset import DatasetSpec
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import Batch, TensorSpec


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How to score: columns to keep beside the answers, workers, and rows a `session.run`."""

    keep: tuple[str, ...] | None = None
    workers: int | tuple[int, int] = (1, 1024)
    cpus_per_worker: float = 1
    batch_rows: int = 8192


class OnnxScorer:
    """A worker: one session, called with arrow blocks."""

    def __init__(
        self, model: Model | GraphSpec, keep: tuple[str, ...] | None, threads: int, batch_rows: int
    ) -> None:
        self._session: Session | OfflineGraph
        if isinstance(model, GraphSpec):
            self._session = OfflineGraph(model, make_locate(Settings.from_env()), threads)
        else:
            self._session = open_session(model, SessionOptions(threads=threads))
        ragged = self._session.ragged if isinstance(self._session, OfflineGraph) else Ragged()
        self._ragged = ragged
        lists = set(ragged.inputs) | {name + LENGTHS for name in ragged.inputs}
        self._columns = tuple(column for column in columns_of(self._session) if column.name not in lists)
        self._keep = keep
        self._batch_rows = batch_rows

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_columns == 0:
            return table
        parts = [
            self._score(table.slice(start, self._batch_rows))
            for start in range(0, table.num_rows, self._batch_rows)
        ]
        kept = table if self._keep is None else table.select(list(self._keep))
        answers = pa.concat_tables(parts) if parts else pa.table({})
        for name in answers.column_names:
            if name in kept.column_names:
                kept = kept.drop_columns([name])
            kept = kept.append_column(name, answers[name])
        return kept

    def _score(self, table: pa.Table) -> pa.Table:
        batch: Batch = {column.name: column_to_tensor(table, column) for column in self._columns}
        for name, spec in self._ragged.inputs.items():
            batch[name], batch[name + LENGTHS] = lists_to_elements(table, spec)
        answer = self._session.infer(batch)
        lengths = {name: answer.pop(name + LENGTHS) for name in self._ragged.outputs}
        return pa.table(
            {
                name: _to_lists(values, lengths[name]) if name in lengths else _to_arrow(values)
                for name, values in answer.items()
            }
        )


def columns_of(session: Session | OfflineGraph) -> tuple[FittedColumn, ...]:
    """The raw columns that a model takes: from its contract, or, for a file of another origin, from its
    inputs."""
    contract = {column["name"]: column for column in session.contract.get("columns", [])}
    return tuple(_column_of(spec, contract.get(spec.name, {})) for spec in session.signature.inputs)


def _column_of(spec: TensorSpec, said: dict[str, Any]) -> FittedColumn:
    guessed: Any = {"BYTES": "string", "BOOL": "boolean", "INT64": "integer", "FP64": "integer"}.get(
        spec.datatype, "number"
    )
    kind: Any = said.get("kind", guessed if len(spec.shape) == 1 else "image")
    nullable = spec.datatype not in ("INT64", "BOOL") or kind == "timestamp"
    return FittedColumn(spec.name, "number", kind, nullable=nullable, shape=spec.shape[1:])


def lists_to_elements(table: pa.Table, spec: TensorSpec) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A column of lists as the elements of all its rows and how many are each row's. Raises DataError."""
    if spec.name not in table.column_names:
        raise DataError(unknown_name("column", spec.name, table.column_names) + "; the graph needs it")
    column = table[spec.name].combine_chunks()
    try:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        elements = column.flatten()
        for _ in spec.shape[1:]:
            elements = elements.flatten()
        flat = as_model_input(
            elements.to_numpy(zero_copy_only=False), TensorSpec(spec.name, spec.datatype, (-1,))
        )
        return flat.reshape(-1, *spec.shape[1:]), lengths.astype(np.int64)
    except (pa.ArrowException, AttributeError, ValueError, TypeError) as error:
        raise DataError(
            f"Column {spec.name!r} is {column.type}; the graph takes a list of {spec} a row: {error}"
        ) from None


def _to_lists(values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> pa.Array:
    """The elements of all rows as a column of lists."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), _to_arrow(values))


def _to_arrow(values: np.ndarray[Any, Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def predict_dataset(
    dataset: ray.data.Dataset, model: Model | GraphSpec, scoring: Scoring = Scoring()
) -> ray.data.Dataset:
    """The dataset's rows with the model's answers as columns; lazy, in order."""
    if not isinstance(model, GraphSpec):
        open_session(model)  # what cannot be loaded is told here, and not by a worker that dies of it
    low, high = (scoring.workers, scoring.workers) if isinstance(scoring.workers, int) else scoring.workers
    return dataset.map_batches(
        OnnxScorer,
        fn_constructor_args=(model, scoring.keep, max(1, int(scoring.cpus_per_worker)), scoring.batch_rows),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_cpus=scoring.cpus_per_worker,
        compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high),
    )


def predict_files(
    data: DatasetSpec,
    model: Model | GraphSpec,
    output: str,
    scoring: Scoring = Scoring(),
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Score a table into Parquet files under `output`. Gives the number of rows.

    Raises StorageError when the folder already holds Parquet files, so that nothing is mixed or lost.
    """
    folder = pathlib.Path(output)
    if "://" not in output and folder.is_file():
        raise StorageError(f"Cannot write into {output!r}: it is a file; give a folder that is new or empty")
    if "://" not in output and any(folder.glob("*.parquet")):
        raise StorageError(f"{output!r} already holds Parquet files; give another folder, or remove them")
    with sources.reading(data):
        scored = predict_dataset(sources.read_dataset(data), model, scoring)
        tell(f"Scoring into {output}")
        scored.write_parquet(output)
    if "://" in output:
        return -1
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
