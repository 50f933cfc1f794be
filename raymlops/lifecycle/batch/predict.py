"""Scores a dataset with a model or a graph: Ray Data reads and writes, actors with sessions predict. One pass,
constant memory."""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from raymlops.data import sources
from raymlops.data.column_conversions import read_as_text
from raymlops.data.contract import Broken, find_valid
from raymlops.errors import ArtifactError, ColumnValueError, DataError, StorageError, unknown_name
from raymlops.features import (
    COLUMN_TYPES,
    FittedColumn,
    column_to_tensor,
    convert_columns,
    read_conversion,
)
from raymlops.graphs.plan import LENGTHS
from raymlops.lifecycle.batch import signature_columns, text_files
from raymlops.lifecycle.batch.counted_rows import TICK_S
from raymlops.lifecycle.batch.row_report import FOLDER as LEFT_OUT
from raymlops.lifecycle.batch.row_report import RowReport, Vocabularies, count_unknown
from raymlops.models.model_trial import try_model
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.safety import Model
from raymlops.models.session import Session, SessionOptions, as_model_input, open_session
from raymlops.models.vocabularies import read_vocabularies
from raymlops.monitoring.tick_counter import OpenTick, WatchedModel
from raymlops.monitoring.ticks import Tick
from raymlops.runtime.open_graph import OfflineGraph, Ragged
from raymlops.runtime.sources import make_locate
from raymlops.settings import Settings
from raymlops.specs.dataset import ColumnRule, ContractSpec, DatasetSpec
from raymlops.specs.graph import GraphSpec
from raymlops.tensor_columns import flat_to_arrow, nest
from raymlops.tensors import Array, Batch, TensorSpec

FORMATS = ("parquet", *text_files.WRITERS)
_TOLD = {"parquet": "Parquet", "csv": "CSV", "jsonl": "JSON"}


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How to score: columns to keep beside the predictions, workers, and rows per `session.run`."""

    keep: tuple[str, ...] | None = None
    workers: int | tuple[int, int] = (1, 1024)
    cpus_per_worker: float = 1
    max_rows: int = 8192
    report: RowReport | None = None
    """Where rows are reported that are left out because a value does not convert; without, that is an error."""
    watched: WatchedModel | None = None
    """The version to whose cells the rows are counted; needs a report."""


class OnnxScorer:
    """A worker: one session, called with arrow blocks."""

    def __init__(
        self,
        model: Model | GraphSpec,
        keep: tuple[str, ...] | None,
        threads: int,
        max_rows: int,
        report: RowReport | None = None,
        watched: WatchedModel | None = None,
    ) -> None:
        self._watched = watched
        self._tick: OpenTick | None = None
        self._session, independence = open_scorer(model, threads)
        ragged = self._session.ragged if isinstance(self._session, OfflineGraph) else Ragged()
        self._ragged = ragged
        lists = set(ragged.inputs) | {name + LENGTHS for name in ragged.inputs}
        self.columns = tuple(column for column in columns_of(self._session) if column.name not in lists)
        told = {column.name for column in self.columns} | lists
        self._inputs = tuple(spec for spec in self._session.signature.inputs if spec.name not in told)
        self.optional = self._session.optional if isinstance(self._session, Session) else ()
        """Inputs that rows may have and need not."""
        self.signature = self._session.signature
        self._has_free_sizes = any(-1 in spec.shape[1:] for spec in self._inputs)
        self._nested = {spec.name for spec in self.signature.outputs if -1 in spec.shape[1:]}
        """Outputs whose rows have different sizes, which become columns of nested lists."""
        self._keep = keep
        self._report = report
        self._known = _find_known(model, self._session.contract) if report is not None else {}
        self._max_rows = max_rows if independence else 1
        """A prediction must not depend on which rows happen to be scored together."""

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_columns == 0:
            return table
        table, converted = self._convert(table)
        if self._watched is not None:
            self._tick = OpenTick(self._watched, 0, TICK_S)
        given = [spec for spec in self.optional if spec.name in table.column_names]
        # Row independence is known for the default values only.
        rows = 1 if given else self._max_rows
        parts = [
            part
            for start in range(0, table.num_rows, rows)
            for part in self._score_alike(converted.slice(start, rows), given)
        ]
        parts = parts or [self._make_columns()]
        if self._tick is not None and self._report is not None:
            self._report.count(self._tick.to_ticks())
        kept = table if self._keep is None else table.select(list(self._keep))
        names = name_predictions(kept.column_names, parts[0])
        for name in parts[0]:
            kept = kept.append_column(names[name], _join_arrays([part[name] for part in parts]))
        return kept

    def run(self, table: pa.Table) -> Iterator[tuple[Batch, Batch]]:
        """What the model is given and what it answers, in parts, of the rows that convert."""
        _, converted = self._convert(table)
        for start in range(0, converted.num_rows, self._max_rows):
            batch = self._read(converted.slice(start, self._max_rows), ())
            yield batch, self._session.infer(batch)

    def run_batch(self, batch: Batch, rows: int) -> Iterator[tuple[Batch, Batch]]:
        """The same of `rows` rows in the form of the model's inputs."""
        for start in range(0, rows, self._max_rows):
            part = {name: values[start : start + self._max_rows] for name, values in batch.items()}
            yield part, self._session.infer(part)

    def _convert(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows that convert, as they are and in the types of the model's columns; others are reported."""
        converted, failed = convert_columns(table, self.columns)
        if self._report is None:  # `column_to_tensor` raises for what failed
            return table, table if failed else converted
        broken = [Broken(one.column, one.rule, one.rows) for one in failed]
        holds = find_valid(table, broken)
        kept = converted if holds.all() else converted.filter(pa.array(holds))
        known = {name: values for name, values in self._known.items() if name in table.column_names}
        self._report.report(table, broken, count_unknown(kept, known))
        return table if holds.all() else table.filter(pa.array(holds)), kept

    def _make_columns(self) -> dict[str, pa.Array]:
        """The output columns for no rows, so that an empty part fits the others."""
        lengths = {name + LENGTHS for name in self._ragged.outputs}
        made = {}
        for spec in self._session.signature.outputs:
            if spec.name in lengths:
                continue
            values = np.empty((0, *(max(size, 0) for size in spec.shape[1:])), spec.dtype)
            if spec.name in self._ragged.outputs:
                made[spec.name] = _to_lists(values, np.zeros(0, np.int64))
            else:
                made[spec.name] = nest(values) if spec.name in self._nested else _to_arrow(values)
        return made

    def _score_alike(
        self, table: pa.Table, given: Sequence[TensorSpec] = ()
    ) -> Iterator[dict[str, Array | pa.Array]]:
        """Rows whose tensors have different sizes, such as images, are scored in parts of equal sizes."""
        try:
            batch = self._read(table, given)
        except DataError:
            if table.num_rows < 2 or not self._has_free_sizes:
                raise
            half = table.num_rows // 2
            yield from self._score_alike(table.slice(0, half), given)
            yield from self._score_alike(table.slice(half), given)
            return
        yield self._score(batch, table.num_rows)

    def _read(self, table: pa.Table, given: Sequence[TensorSpec]) -> Batch:
        """`given` are optional inputs, of which each row has one value for its own run."""
        batch: Batch = {column.name: column_to_tensor(table, column) for column in self.columns}
        batch |= {spec.name: signature_columns.read_column(table, spec) for spec in self._inputs}
        for name, spec in self._ragged.inputs.items():
            batch[name], batch[name + LENGTHS] = lists_to_elements(table, spec)
        for spec in given:
            each = TensorSpec(spec.name, spec.datatype, (-1, *spec.shape))
            batch[spec.name] = np.asarray(signature_columns.read_column(table, each)[0], dtype=spec.dtype)
        return batch

    def _score(self, batch: Batch, rows: int) -> dict[str, Array | pa.Array]:
        answer = self._session.infer(batch)
        if self._tick is not None:
            self._tick.answered += rows
            self._tick.add_rows(batch, dict(answer), rows)
        lengths = {name: answer.pop(name + LENGTHS) for name in self._ragged.outputs}
        return {
            name: _to_lists(values, lengths[name])
            if name in lengths
            else _as_rows(values, rows, is_nested=name in self._nested)
            for name, values in answer.items()
        }


def open_scorer(model: Model | GraphSpec, threads: int = 1) -> tuple[Session | OfflineGraph, Independence]:
    """The model or graph, and whether rows may be scored together. Raises what opening raises."""
    if isinstance(model, GraphSpec):
        graph = OfflineGraph(model, make_locate(Settings.from_env()), threads)
        return graph, graph.independence
    return open_session(model, SessionOptions(threads=threads)), prove_rows(model)


def _as_rows(values: Array, rows: int, *, is_nested: bool = False) -> Array | pa.Array:
    """An output with one value per row; in a run of one row, another output becomes one value of that row."""
    if values.ndim and len(values) == rows:
        return nest(values) if is_nested else values
    if rows != 1:
        raise ArtifactError(
            f"The model answered {values.shape} for {rows} rows; a value for each row was expected"
        )
    return values[None] if not values.ndim else pa.array([values.tolist()])


def _join_arrays(parts: Sequence[Array | pa.Array]) -> pa.Array | pa.ChunkedArray:
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
    """The raw columns in a model's contract; empty for a file of another origin."""
    contract = {column["name"]: column for column in session.contract.get("columns", [])}
    return tuple(
        _column_of(spec, contract[spec.name])
        for spec in session.signature.inputs
        if contract.get(spec.name, {}).get("kind") in COLUMN_TYPES
    )


def _column_of(spec: TensorSpec, said: Mapping[str, Any]) -> FittedColumn:
    kind = said["kind"]
    nullable = spec.datatype not in ("INT64", "BOOL") or kind == "timestamp"
    return FittedColumn(
        spec.name,
        "number",
        kind,
        nullable=nullable,
        shape=spec.shape[1:],
        conversion=read_conversion(said),
    )


def _find_known(model: Model | GraphSpec, contract: Mapping[str, Any]) -> Vocabularies:
    """The values of categories that a model knows; a graph's models may know different ones."""
    if isinstance(model, GraphSpec):
        return {}
    entries = contract.get("columns", ())
    return read_vocabularies(
        model, [entry["name"] for entry in entries if entry.get("feature") in ("category", "means")]
    )


def to_rules(columns: Sequence[FittedColumn]) -> ContractSpec:
    """The rules by which columns were converted in training, for reading a table as training's was."""
    held = {column.name: column.conversion for column in columns if column.conversion}
    rules = {
        name: ColumnRule(**{**conversion.to_json(), "words": dict(conversion.words)})
        for name, conversion in held.items()
    }
    return ContractSpec(columns=rules)


def lists_to_elements(table: pa.Table, spec: TensorSpec) -> tuple[Array, Array]:
    """A column of lists as the elements of all its rows and the count of each row. Raises DataError."""
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


def _to_lists(values: Array, lengths: Array) -> pa.Array:
    """The elements of all rows as a column of lists."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), _to_arrow(values))


def _to_arrow(values: Array) -> pa.Array:
    if values.ndim == 1:
        return flat_to_arrow(values)
    flat = flat_to_arrow(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def predict_dataset(
    dataset: ray.data.Dataset, model: Model | GraphSpec, scoring: Scoring = Scoring()
) -> ray.data.Dataset:
    """The dataset's rows with the model's predictions as columns; lazy, in order."""
    low, high = (scoring.workers, scoring.workers) if isinstance(scoring.workers, int) else scoring.workers
    return dataset.map_batches(
        OnnxScorer,
        fn_constructor_args=(
            model,
            scoring.keep,
            max(1, int(scoring.cpus_per_worker)),
            scoring.max_rows,
            scoring.report,
            scoring.watched,
        ),
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
    file_format: str = "parquet",
    max_failed: float = ContractSpec.model_fields["max_failed"].default,
    counted: Callable[[Sequence[Tick]], None] | None = None,
) -> int:
    """Score a table into files under `output`. Returns the number of rows, -1 if it is unknown. Rows with values that
    do not convert are left out, and kept in a folder below; more than `max_failed` of all are an error. `counted` gets
    the counts of the rows, if `scoring` has a version to count for.

    Raises StorageError if the folder already holds such files, so that nothing is mixed or lost, and DataError for
    columns that the format cannot hold.
    """
    require_empty(output)
    _require_writable(output)
    # Errors of opening are reported here, not by a worker that dies of them.
    if not isinstance(model, GraphSpec):
        try_model("The model", model)
    opened, independence = open_scorer(model)
    if not independence:
        tell(f"Each row is scored by a run of its own, which takes longer: {independence.reason}")
    rules = to_rules(columns_of(opened))
    converted = {column.name for column in columns_of(opened)}
    texts: set[str] = set()
    while True:
        report = RowReport.start(output)
        try:
            table, asked = read_as_text(data, rules, texts), dataclasses.replace(scoring, report=report)
            rows = _write_scored(table, model, opened, output, asked, tell, file_format)
            break
        except ColumnValueError as error:  # of a reader that infers types; as text it spoils its row only
            if error.column in texts or error.column not in converted or "://" in output:
                raise
            texts.add(error.column)
            _remove_written(pathlib.Path(output), file_format)
    counts = report.total()
    if counts.exceeds(max_failed) and "://" not in output:
        _remove_written(pathlib.Path(output), file_format, left_out=False)
    counts.judge(report.location, max_failed)
    if counted is not None:
        counted(report.ticks())
    for line in counts.describe(report.location):
        tell(line)
    if rows == 0 and counts.rows == 0:
        tell(f"{data.path or data.reader} has no rows, so nothing was scored and no file was written")
    return rows


def _write_scored(
    data: DatasetSpec,
    model: Model | GraphSpec,
    opened: Session | OfflineGraph,
    output: str,
    scoring: Scoring,
    tell: Callable[[str], None],
    file_format: str,
) -> int:
    """Rows written, -1 if their number is unknown."""
    with sources.reading(data), warnings.catch_warnings():
        # that a table without rows leaves workers idle
        warnings.filterwarnings(
            "ignore", message="The minimum number of concurrent actors", category=UserWarning
        )
        dataset = sources.read_dataset(data)
        optional = {spec.name for spec in opened.optional} if isinstance(opened, Session) else set()
        if optional and (given := optional & set(dataset.columns() or ())):
            tell(
                f"Columns {', '.join(sorted(given))} are passed as optional inputs of the model, so each row is "
                "scored by a run of its own; drop them from the table to score with the model's default values"
            )
        _require_columns(dataset, opened, scoring.keep, tell)
        if file_format == "csv":
            _require_flat(dataset, opened, scoring.keep)
        scored = predict_dataset(dataset, model, scoring)
        tell(f"Scoring into {output}")
        if file_format != "parquet":
            files = text_files.TextFiles(output, file_format)
            scored.write_datasink(files)
            return files.rows
        scored.write_parquet(output)
    if "://" in output:
        return -1
    return sum(pq.read_metadata(file).num_rows for file in pathlib.Path(output).glob("*.parquet"))


def _remove_written(folder: pathlib.Path, file_format: str, left_out: bool = True) -> None:
    """Files of this scoring, which began with a folder that had none."""
    for file in folder.glob(f"*.{file_format}"):
        file.unlink()
    if left_out:
        shutil.rmtree(folder / LEFT_OUT, ignore_errors=True)


def require_empty(output: str) -> None:
    """Raises StorageError if the folder already holds such files, so that nothing is mixed or lost."""
    folder = pathlib.Path(output)
    if "://" in output:
        return
    if folder.is_file():
        raise StorageError(f"Cannot write into {output!r}: it is a file; give a folder that is new or empty")
    held = [ending for ending in FORMATS if any(folder.glob(f"*.{ending}"))]
    if held:
        raise StorageError(
            f"{output!r} already holds {_TOLD[held[0]]} files; give another folder, or remove them"
        )


def _require_writable(output: str) -> None:
    """Tries it, and leaves nothing. Raises StorageError if a local folder cannot be made or written."""
    if "://" in output:
        return
    folder = pathlib.Path(output).absolute()
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot write into {output!r}: {error.strerror or error}; give another folder"
        ) from None
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


def name_predictions(kept: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Output of the model -> column beside the columns that are kept: `predicted_label` where they have a `label`.
    Raises DataError if they have that, too."""
    taken = set(kept)
    names = {name: f"predicted_{name}" if name in taken else name for name in outputs}
    for name in names.values():
        if name in taken or list(names.values()).count(name) > 1:
            raise DataError(
                f"Column {name!r} of the table has the name of a prediction, which would replace it; choose the "
                "columns to keep without it"
            )
    return names


def _require_columns(
    dataset: ray.data.Dataset,
    scorer: Session | OfflineGraph,
    keep: tuple[str, ...] | None,
    tell: Callable[[str], None],
) -> None:
    """Before anything is scored. Raises DataError for columns to keep that do not exist, or that a prediction would
    replace."""
    known = dataset.columns()
    if known is None:
        return
    for name in keep or ():
        if name not in known:
            raise DataError(f"--keep: {unknown_name('column', name, known)}")
    names = name_predictions(
        known if keep is None else keep, (spec.name for spec in scorer.signature.outputs)
    )
    renamed = [f"{name!r} is written as {column!r}" for name, column in names.items() if name != column]
    if renamed:
        tell(f"The table has columns of the names of predictions, so {', '.join(renamed)}")


def _require_flat(
    dataset: ray.data.Dataset, scorer: Session | OfflineGraph, keep: tuple[str, ...] | None
) -> None:
    """Checks before anything is scored. Raises DataError."""
    ragged = scorer.ragged.outputs if isinstance(scorer, OfflineGraph) else ()
    outputs = {spec.name: spec for spec in scorer.signature.outputs}
    columns = [
        (name, pa.list_(pa.null()) if name in ragged or len(spec.shape) > 1 else pa.null())
        for name, spec in outputs.items()
    ]
    schema = dataset.schema()
    if schema is not None:
        kinds = zip(schema.names, schema.types, strict=True)
        columns += [(name, kind) for name, kind in kinds if keep is None or name in keep]
    text_files.require_flat((name, kind) for name, kind in columns if isinstance(kind, pa.DataType))
