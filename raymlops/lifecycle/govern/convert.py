"""Registers a saved model of another library as an ONNX file, once that answers as the library itself does."""

import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv, parquet

from raymlops.data.file_endings import guess_reader
from raymlops.errors import ArtifactError, DataError, NotFoundError, ParityError, SpecError, shorten
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget
from raymlops.lifecycle.govern.register import register_model
from raymlops.models import parity
from raymlops.models.export import export_model, to_bytes
from raymlops.models.isolated_session import child_environment
from raymlops.models.model_trial import try_model
from raymlops.models.parity import Parity
from raymlops.models.session import open_session
from raymlops.onnx_builder import INNER
from raymlops.settings import Settings
from raymlops.tensors import Batch
from raymlops.tracking import registry
from raymlops.training.booster_files import LARGEST, Booster, build_columns, library_of, match_columns
from raymlops.training.booster_process import read

LIMIT = 1e-4
"""Largest difference of a probability, or of a prediction over the spread of the predictions."""
_SECONDS = 600
_OUTPUTS = ("label", "probability", "probabilities", "prediction", "outputs")
_MOST_SAMPLE = 1_000_000  # rows
_AT_ONCE = 8192  # rows


@dataclasses.dataclass(frozen=True)
class Converted:
    """`sample` is the parity on the rows of the sample, None without one; `made` that on rows at thresholds."""

    version: str
    digest: str
    library: str
    booster: Booster
    sample: Parity | None
    made: Parity
    notes: tuple[str, ...]
    """What was decided because nothing said it."""


def convert_file(
    file: pathlib.Path,
    name: str,
    settings: Settings,
    *,
    why: str = "",
    data: pathlib.Path | pa.Table | None = None,
    classes: tuple[str, ...] = (),
    target: str = "target",
    rounds: int | None = None,
) -> Converted:
    """Register a file of XGBoost (.json, .ubj) or LightGBM (.txt, .lgb). No code of the file runs; its library opens it
    in a process of its own.

    Raises SpecError for a name, classes or columns that cannot be, NotFoundError, DataError for a sample that the model
    cannot take, ArtifactError for a file that is broken or has no equal in ONNX, and ParityError.
    """
    registry.check_name(name)
    library = library_of(file.name)
    source = _read_source(file)
    sha256 = hashlib.sha256(source).hexdigest()
    table = _read_sample(data) if isinstance(data, pathlib.Path) else data
    booster, version, rows, scores = _ask_library(file.name, source, library, rounds, table)
    inputs, notes = _name_inputs(booster, table)
    features = FittedFeatures(
        tuple(FittedColumn(column, "number", "number") for column in inputs),
        _to_target(booster, classes, target),
    )
    content = to_bytes(export_model(booster.to_onnx(), features, name=name, front=build_columns(inputs)))
    try_model(f"The ONNX file of {file.name!r}", content)
    first = 0 if table is None else table.num_rows
    answers = _answer(content, inputs, rows)
    sample, made = (
        _measure(scores[part], {key: found[part] for key, found in answers.items()}, features.target)
        for part in (slice(0, first), slice(first, None))
    )
    _require(sample, f"the {first:,} rows of the sample", version, _limit_of(booster, scores[:first]))
    _require(made, "rows at its thresholds", version, _limit_of(booster, scores[first:]))
    number, digest = register_model(
        content,
        name,
        why or f"converted from {file.name}",
        settings,
        source=f"{file.name} ({version} {booster.objective}, sha256 {sha256})",
        parameters={
            "library": version,
            "objective": booster.objective,
            "rounds": f"{booster.rounds} of {booster.grown}",
            "source_sha256": sha256,
            "parity_sample": json.dumps(sample.to_json()) if first else "none",
            "parity_made": json.dumps(made.to_json()),
        },
    )
    if not classes and booster.task != "regression":
        notes = (
            *notes,
            f"classes are 0 to {max(2, booster.ensemble.outputs) - 1}, as the file has no names of them",
        )
    return Converted(number, digest, version, booster, sample if first else None, made, notes)


def _read_source(file: pathlib.Path) -> bytes:
    if not file.is_file():
        raise NotFoundError(f"No file {str(file)!r}")
    try:
        size = file.stat().st_size
        if not 0 < size <= LARGEST:
            raise ArtifactError(f"{file.name!r} has {size:,} bytes; expected 1 to {LARGEST:,}")
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"Cannot read {str(file)!r}: {error.strerror}") from None


def _read_sample(file: pathlib.Path) -> pa.Table:
    reader = {"parquet": parquet.read_table, "csv": csv.read_csv}.get(guess_reader(str(file)) or "")
    if reader is None:
        raise DataError(f"The sample {file.name!r} is neither .parquet nor .csv; give one of them")
    if not file.exists():
        raise NotFoundError(f"No sample {str(file)!r}")
    try:
        return reader(str(file))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(
            f"Cannot read the sample {file.name!r}: {shorten(' '.join(str(error).split()))}"
        ) from None


def _to_rows(table: pa.Table) -> npt.NDArray[np.float64]:
    """(rows, columns), NaN where missing and in columns that are not numbers."""
    if not 0 < table.num_rows <= _MOST_SAMPLE:
        raise DataError(f"The sample has {table.num_rows:,} rows; expected 1 to {_MOST_SAMPLE:,}")
    if len(set(table.column_names)) < table.num_columns:
        raise DataError("Two columns of the sample have the same name; give each its own")
    found = np.full((table.num_rows, table.num_columns), np.nan)
    for place, values in enumerate(table.columns):
        if _is_number(values.type):
            numbers = values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values
            found[:, place] = numbers.cast(pa.float64(), safe=False).to_numpy()
    return found


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _ask_library(
    name: str, source: bytes, library: str, rounds: int | None, table: pa.Table | None
) -> tuple[Booster, str, npt.NDArray[np.float64], npt.NDArray[Any]]:
    """The model, the library with its version, (rows, features) of the sample and then of thresholds, and the
    library's own scores of them."""
    with tempfile.TemporaryDirectory(prefix="raymlops-convert-") as directory:
        folder = pathlib.Path(directory)
        copy = folder / "source"  # what is hashed is what is opened
        copy.write_bytes(source)
        request = {"file": str(copy), "library": library, "rounds": rounds, "columns": None}
        if table is not None:
            np.save(folder / "sample.npy", _to_rows(table))
            request["columns"] = table.column_names
        (folder / "request.json").write_text(json.dumps(request))
        what = f"The model {name!r}"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "raymlops.training.booster_process", directory],
                env=child_environment(),
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ArtifactError(
                f"{what} was not read by {library} within {_SECONDS} s; it may be broken"
            ) from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it wrote no reason")
            raise ArtifactError(
                f"{what} ends the process of {library} that reads it ({_describe(done.returncode)}: "
                f"{shorten(last.strip())}); it is broken, or needs more memory"
            )
        answer = json.loads((folder / "answer.json").read_text())
        if "error" in answer:
            kind = DataError if answer.get("of_data") else ArtifactError
            raise kind(f"{what} is not converted: {answer['error']}")
        booster = read(library, (folder / "model").read_bytes(), rounds)
        return booster, str(answer["version"]), np.load(folder / "rows.npy"), np.load(folder / "scores.npy")


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _name_inputs(booster: Booster, table: pa.Table | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the model's inputs, and what is said about them."""
    notes: tuple[str, ...] = ()
    if table is None:
        names = booster.names or tuple(f"f{place}" for place in range(booster.features))
        notes = ("no --data was given, so parity was measured only on rows at the thresholds of its trees",)
    else:
        names = match_columns(booster, table.column_names)
        for name in names:
            if not _is_number(kind := table.schema.field(name).type):
                raise DataError(
                    f"Column {name!r} of the sample is {kind}; the model takes numbers. Give the columns as it was "
                    "trained on them, encoded: how categories became numbers is not in its file"
                )
    if names != booster.names:
        notes = (*notes, f"its file does not name its inputs so: {shorten(', '.join(names))}")
    for name in names:
        if name in _OUTPUTS or name.startswith(INNER):
            raise SpecError(
                f"A feature of the model is named {name!r}, which is a name of an output; rename the feature "
                "(booster.feature_names of XGBoost, feature_names= in the file of LightGBM), and save it again"
            )
    return names, notes


def _to_target(booster: Booster, classes: tuple[str, ...], name: str) -> FittedTarget:
    if booster.task == "regression":
        if classes:
            raise SpecError(
                f"--classes: the model of {booster.objective} predicts numbers, and has no classes"
            )
        return FittedTarget(name, "regression", "number", mean=booster.offset)
    count = max(2, booster.ensemble.outputs)
    if not classes:
        return FittedTarget(name, booster.task, "integer", tuple(range(count)))
    if len(classes) != count or len(set(classes)) < count:
        raise SpecError(
            f"--classes: {len(classes)} names ({shorten(', '.join(classes))}); the model has {count} classes, and "
            "needs a name of its own for each, in the order of training"
        )
    if all(re.fullmatch(r"-?\d{1,18}", one) for one in classes):
        return FittedTarget(name, booster.task, "integer", tuple(map(int, classes)))
    return FittedTarget(name, booster.task, "string", classes)


def _answer(content: bytes, inputs: tuple[str, ...], rows: npt.NDArray[np.float64]) -> Batch:
    """The file's own answers."""
    with np.errstate(over="ignore"):
        values = rows.astype(np.float32)
    session = open_session(content)
    try:
        parts = [
            session.infer({name: np.ascontiguousarray(part[:, at]) for at, name in enumerate(inputs)})
            for part in (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
        ]
    finally:
        session.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure(scores: npt.NDArray[Any], answers: Batch, target: FittedTarget) -> Parity:
    if not len(scores):
        return Parity()
    if target.task == "regression":  # one limit for metres and millimetres
        mean = float(np.mean(scores, dtype=np.float64))
        target = dataclasses.replace(target, mean=mean, std=_spread_of(scores))
        scores = target.standardise(np.asarray(scores, dtype=np.float64))
    return parity.compare_beyond_ties(scores, answers, target, LIMIT)


def _limit_of(booster: Booster, scores: npt.NDArray[Any]) -> float:
    """LIMIT, or if more the resolution of FP32 far from zero; XGBoost's own sums are FP32, and stray with each tree."""
    if booster.task != "regression" or not len(scores):
        return LIMIT
    stray = float(np.spacing(np.float32(np.abs(scores).max())))
    if booster.library == "xgboost":
        stray *= booster.rounds**0.5
    return float(max(LIMIT, stray / _spread_of(scores)))


def _spread_of(scores: npt.NDArray[Any]) -> float:
    return float(np.std(scores, dtype=np.float64)) or max(abs(float(scores[0])), 1.0)


def _require(found: Parity, rows: str, library: str, limit: float) -> None:
    if found.difference > limit or found.flipped:
        raise ParityError(
            f"The ONNX file differs from {library} by up to {found.difference:.2e} (limit {limit:.0e}) and "
            f"{found.flipped} labels (limit 0) on {rows}; it is not registered. It takes numbers as FP32: train on "
            "float32 columns if the values are large or close to each other"
        )
