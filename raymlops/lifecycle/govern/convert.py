"""Registers a saved model of another library as an ONNX file, once that answers as the library itself does. The formats
are in training/saved_models."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv, parquet

from raymlops import errors
from raymlops.errors import ArtifactError, DataError, NotFoundError, ParityError, SpecError, shorten
from raymlops.features import FittedFeatures, FittedTarget
from raymlops.file_endings import guess_reader
from raymlops.lifecycle.govern.register import register_model
from raymlops.models import parity
from raymlops.models.export import export_model, to_bytes
from raymlops.models.isolated_session import child_environment
from raymlops.models.model_trial import try_model
from raymlops.models.parity import Parity
from raymlops.models.session import open_session
from raymlops.onnx_builder import INNER
from raymlops.settings import Settings
from raymlops.tensors import Batch, count_rows
from raymlops.tracking import registry
from raymlops.training.saved_models import LARGEST, OpenedModel, find_format

LIMIT = 1e-4
"""Largest difference of a probability, or of a prediction over the spread of the predictions."""
_SECONDS = 600
_OUTPUTS = ("label", "probability", "probabilities", "prediction", "outputs")
_MOST_SAMPLE = 1_000_000  # rows
_MOST_FILES = 10_000  # of a folder
_AT_ONCE = 8192  # rows


@dataclasses.dataclass(frozen=True)
class Converted:
    """`sample` is the parity on the rows of the sample, None without one; `made` that on other rows, of `made_of`."""

    version: str
    digest: str
    library: str
    summary: str
    """What the model is."""
    inputs: tuple[str, ...]
    sample: Parity | None
    made: Parity | None
    made_of: str
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
    trust: bool = False,
    origin: str = "",
) -> Converted:
    """Register a saved model of another library, of a format in `saved_models.FORMATS`. Its library opens it in a
    process of its own; no code that the file brings runs, unless `trust`. `origin` is where the file is from, if it is
    a copy.

    Raises SpecError for a name, classes or columns that cannot be, NotFoundError, DataError for a sample that the model
    cannot take, ArtifactError for a file that is broken or has no equal in ONNX, ParityError, and UserError if the
    library is not installed.
    """
    registry.check_name(name)
    if not file.exists():
        raise NotFoundError(f"No file {str(file)!r}")
    library = find_format(file).library
    table = _read_sample(data) if isinstance(data, pathlib.Path) else data
    if table is not None:
        _check_sample(table)
    opened, sha256 = _ask_library(file, library, table, classes, rounds, trust)
    features = dataclasses.replace(opened.features, target=_name_target(opened, classes, target))
    _check_inputs(features)
    content = to_bytes(export_model(opened.core, features, name=name, front=opened.front))
    try_model(f"The ONNX file of {file.name!r}", content)
    sample, made = _compare(opened, _answer(content, opened.rows), features.target)
    number, digest = register_model(
        content,
        name,
        why or f"converted from {file.name}",
        settings,
        source=f"{origin or file.name} ({opened.library}: {opened.summary}; sha256 {sha256})",
        parameters={
            "library": opened.library,
            **opened.parameters,
            "source_sha256": sha256,
            **({"trusted": "true"} if trust else {}),
            **{
                f"parity_{rows}": json.dumps(found.to_json()) if found else "none"
                for rows, found in (("sample", sample), ("made", made))
            },
        },
    )
    notes = opened.notes
    if features.target.task != "regression" and not classes and not opened.has_classes:
        notes = (
            *notes,
            f"classes are 0 to {len(features.target.classes) - 1}, as the file has no names of them",
        )
    inputs = tuple(column.name for column in features.raw)
    return Converted(
        number, digest, opened.library, opened.summary, inputs, sample, made, opened.made_of, notes
    )


def _copy_source(file: pathlib.Path, copy: pathlib.Path) -> str:
    """Copies a file or folder, so that what is hashed is what is opened; returns its sha256."""
    parts = [file]
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*") if part.is_symlink() or not part.is_dir())
    try:
        if any(part.is_symlink() or not part.is_file() for part in parts if part != file):
            raise ArtifactError(f"{file.name!r} has links or other things than files; copy them in")
        size = sum(part.stat().st_size for part in parts)
        if not 0 < size <= LARGEST or len(parts) > _MOST_FILES:
            raise ArtifactError(
                f"{file.name!r} has {size:,} bytes in {len(parts):,} files; expected 1 to {LARGEST:,} bytes, and "
                f"{_MOST_FILES:,} files at most"
            )
        digest = hashlib.sha256()
        for part in parts:
            below = part.relative_to(file)
            (copy / below).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, copy / below)
            if file.is_dir():
                digest.update(f"{below}\0{part.stat().st_size}\0".encode())
            digest.update((copy / below).read_bytes())
        return digest.hexdigest()
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


def _check_sample(table: pa.Table) -> None:
    if not 0 < table.num_rows <= _MOST_SAMPLE:
        raise DataError(f"The sample has {table.num_rows:,} rows; expected 1 to {_MOST_SAMPLE:,}")
    if len(set(table.column_names)) < table.num_columns:
        raise DataError("Two columns of the sample have the same name; give each its own")


def _ask_library(
    file: pathlib.Path,
    library: str,
    table: pa.Table | None,
    classes: tuple[str, ...],
    rounds: int | None,
    trust: bool,
) -> tuple[OpenedModel, str]:
    """The model with the library's own predictions, and the sha256 of what was opened."""
    with tempfile.TemporaryDirectory(prefix="raymlops-convert-") as directory:
        folder = pathlib.Path(directory)
        copy = folder / f"source{file.suffix.lower()}"
        sha256 = _copy_source(file, copy)
        request = {"file": copy.name, "rounds": rounds, "trust": trust, "classes": classes}
        (folder / "request.json").write_text(json.dumps(request))
        if table is not None:
            with pa.ipc.new_file(folder / "sample.arrow", table.schema) as writer:
                writer.write_table(table)
        what = f"The model {file.name!r}"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "raymlops.training.saved_models.process", directory],
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
            raise getattr(errors, answer["kind"])(f"{what} is not converted: {answer['error']}")
        return OpenedModel.load(folder, answer["opened"]), sha256


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _check_inputs(features: FittedFeatures) -> None:
    for column in features.raw:
        if column.name in _OUTPUTS or column.name.startswith(INNER):
            raise SpecError(
                f"A feature of the model is named {column.name!r}, which is a name of an output; rename the feature "
                "in its own library, and save it again"
            )


def _name_target(opened: OpenedModel, classes: tuple[str, ...], name: str) -> FittedTarget:
    target = dataclasses.replace(opened.features.target, name=name)
    if not classes:
        return target
    if target.task == "regression":
        raise SpecError(f"--classes: the model ({opened.summary}) predicts numbers, and has no classes")
    count = len(target.classes)
    if len(classes) != count or len(set(classes)) < count:
        raise SpecError(
            f"--classes: {len(classes)} names ({shorten(', '.join(classes))}); the model has {count} classes, and "
            "needs a name of its own for each, in the order of training"
        )
    if all(re.fullmatch(r"-?\d{1,18}", one) for one in classes):
        return dataclasses.replace(target, type="integer", classes=tuple(map(int, classes)))
    return dataclasses.replace(target, type="string", classes=classes)


def _answer(content: bytes, rows: Batch) -> Batch:
    """The file's own answers."""
    session = open_session(content)
    try:
        parts = [
            session.infer({name: values[:1] for name, values in rows.items()})
        ]  # one row is a batch, too
        parts += [
            session.infer({name: values[start : start + _AT_ONCE] for name, values in rows.items()})
            for start in range(1, count_rows(rows), _AT_ONCE)
        ]
    finally:
        session.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(
    opened: OpenedModel, answers: Batch, target: FittedTarget
) -> tuple[Parity | None, Parity | None]:
    """On the rows of the sample, and on the others. Raises ParityError."""
    found: list[Parity | None] = []
    for part, rows in (
        (slice(0, opened.sampled), f"the {opened.sampled:,} rows of the sample"),
        (slice(opened.sampled, None), opened.made_of),
    ):
        scores = opened.scores[part]
        if not len(scores):
            found.append(None)
            continue
        one = _measure(scores, {key: values[part] for key, values in answers.items()}, target)
        _require(one, rows, opened.library, _limit_of(opened, scores))
        found.append(one)
    return found[0], found[1]


def _measure(scores: npt.NDArray[Any], answers: Batch, target: FittedTarget) -> Parity:
    if target.task == "regression":  # one limit for metres and millimetres
        mean = float(np.mean(scores, dtype=np.float64))
        target = dataclasses.replace(target, mean=mean, std=_spread_of(scores))
        scores = target.standardise(np.asarray(scores, dtype=np.float64))
    return parity.compare_beyond_ties(scores, answers, target, LIMIT)


def _limit_of(opened: OpenedModel, scores: npt.NDArray[Any]) -> float:
    """LIMIT, or if more the resolution of FP32 far from zero, which sums in FP32 stray from."""
    if opened.features.target.task != "regression":
        return LIMIT
    stray = opened.sums * float(np.spacing(np.float32(np.abs(scores).max())))
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
