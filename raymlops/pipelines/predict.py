"""Scores a dataset with a model or a graph: Ray Data reads and writes, actors with sessions infer. One pass, flat
memory."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from raymlops.data import sources
from raymlops.errors import ArtifactError, DataError, StorageError, unknown_name
from raymlops.features import FittedColumn, column_to_tensor
from raymlops.graphs.plan import LENGTHS
from raymlops.models.model_trial import try_model
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.safety import Model
from raymlops.models.session import Session, SessionOptions, as_model_input, open_session
from raymlops.pipelines import signature_columns
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
        self._session, independence = open_scorer(model, threads)
        ragged = self._session.ragged if isinstance(self._session, OfflineGraph) else Ragged()
        self._ragged = ragged
        lists = set(ragged.inputs) | {name + LENGTHS for name in ragged.inputs}
        self._columns = tuple(column for column in columns_of(self._session) if column.name not in lists)
        told = {column.name for column in self._columns} | lists
        self._inputs = tuple(spec for spec in self._session.signature.inputs if spec.name not in told)
        self._optional = self._session.optional if isinstance(self._session, Session) else ()
        self._keep = keep
        self._batch_rows = batch_rows if independence else 1
        """An answer must not depend on which rows happen to be scored together."""

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_columns == 0:
            return table
        given = [spec for spec in self._optional if spec.name in table.column_names]
        rows = (
            1 if given else self._batch_rows
        )  # that rows stand alone is known of the model's own values only
        parts = [self._score(table.slice(start, rows), given) for start in range(0, table.num_rows, rows)]
        kept = table if self._keep is None else table.select(list(self._keep))
        for name in parts[0] if parts else ():
            if name in kept.column_names:
                kept = kept.drop_columns([name])
            kept = kept.append_column(name, _join_arrays([part[name] for part in parts]))
        return kept

    def _score(
        self, table: pa.Table, given: Sequence[TensorSpec] = ()
    ) -> dict[str, np.ndarray[Any, Any] | pa.Array]:
        """`given` are optional inputs, of which a row has one value for its own run."""
        batch: Batch = {column.name: column_to_tensor(table, column) for column in self._columns}
        batch |= {spec.name: signature_columns.read_column(table, spec) for spec in self._inputs}
        for name, spec in self._ragged.inputs.items():
            batch[name], batch[name + LENGTHS] = lists_to_elements(table, spec)
        for spec in given:
            each = TensorSpec(spec.name, spec.datatype, (-1, *spec.shape))
            batch[spec.name] = np.asarray(signature_columns.read_column(table, each)[0], dtype=spec.dtype)
        answer = self._session.infer(batch)
        lengths = {name: answer.pop(name + LENGTHS) for name in self._ragged.outputs}
        return {
            name: _to_lists(values, lengths[name]) if name in lengths else _as_rows(values, table.num_rows)
            for name, values in answer.items()
        }


def open_scorer(model: Model | GraphSpec, threads: int = 1) -> tuple[Session | OfflineGraph, Independence]:
    """What scores, and whether rows may be scored together. Raises what opening raises."""
    if isinstance(model, GraphSpec):
        graph = OfflineGraph(model, make_locate(Settings.from_env()), threads)
        return graph, graph.independence
    return open_session(model, SessionOptions(threads=threads)), prove_rows(model)


def _as_rows(values: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any] | pa.Array:
    """An output with a value for each row; what one row is answered beside that is one value of its own."""
    if values.ndim and len(values) == rows:
        return values
    if rows != 1:
        raise ArtifactError(
            f"The model answered {values.shape} for {rows} rows; a value for each row was expected"
        )
    return values[None] if not values.ndim else pa.array([values.tolist()])


def _join_arrays(parts: Sequence[np.ndarray[Any, Any] | pa.Array]) -> pa.Array | pa.ChunkedArray:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return _to_arrow(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
    columns = [pa.array(part.tolist()) if isinstance(part, np.ndarray) else part for part in parts]
    return (
        pa.chunked_array(columns)
        if len({column.type for column in columns}) == 1
        else pa.concat_arrays(columns)
    )


def columns_of(session: Session | OfflineGraph) -> tuple[FittedColumn, ...]:
    """The raw columns of which a model's contract tells; a file of another origin tells of none."""
    contract = {column["name"]: column for column in session.contract.get("columns", [])}
    return tuple(
        _column_of(spec, contract[spec.name]) for spec in session.signature.inputs if spec.name in contract
    )


def _column_of(spec: TensorSpec, said: dict[str, Any]) -> FittedColumn:
    kind = said["kind"]
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
    # What cannot be opened is told here, and not by a worker that dies of it.
    if not isinstance(model, GraphSpec):
        try_model("The model", model)
    opened, independence = open_scorer(model)
    if not independence:
        tell(f"Each row is scored by a run of its own, which takes longer: {independence.reason}")
    with sources.reading(data):
        dataset = sources.read_dataset(data)
        optional = {spec.name for spec in opened.optional} if isinstance(opened, Session) else set()
        if optional and (given := optional & set(dataset.columns() or ())):
            tell(
                f"Columns {', '.join(sorted(given))} are passed as optional inputs of the model, so each row is scored "
                "by a run of its own; drop them from the table to score with the model's own values"
            )
        scored = predict_dataset(dataset, model, scoring)
        tell(f"Scoring into {output}")
        scored.write_parquet(output)
    if "://" in output:
        return -1
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
