"""Saved models of other libraries: which file is of which format, and what is read of it. One module a format behind
one Protocol, which a process of its own imports and runs: see `process`.

Imports none of the libraries, and opens no file.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa

from raymlops.errors import ArtifactError, shorten
from raymlops.features import FittedFeatures
from raymlops.tensors import Batch

LARGEST = 2**30
"""Bytes of a file, or of all files of a folder."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a reader is asked. `sample` has rows as the model was trained on them, if any were given."""

    file: pathlib.Path
    """A copy of the file or folder, with its ending."""
    sample: pa.Table | None = None
    rounds: int | None = None
    """The first rounds of a boosted model; None for those that its file says, or all."""
    trust: bool = False
    """Whether code, and operations on files, that the model brings may run."""
    classes: tuple[str, ...] = ()
    """Names of the classes, if they were given."""


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """What a reader answers: the model as ONNX graphs, and its library's own predictions."""

    library: str
    """Name and version."""
    summary: str
    """What it is, for people."""
    features: FittedFeatures
    """The columns that `front` takes, and what is predicted. Classes without names are numbers from 0."""
    front: onnx.ModelProto
    """The columns by name -> `raymlops/NAME` for each input NAME of `core`; see `export_model`."""
    core: onnx.ModelProto
    """-> `outputs` (rows, outputs): logits, or predictions less the target's mean, over its std."""
    rows: Batch
    """The columns as `front` takes them: rows of the sample, then rows that were made, where the two may differ."""
    sampled: int
    """How many of them are of the sample."""
    scores: npt.NDArray[Any]
    """Of `rows` by the library: probabilities (rows,) or (rows, classes), or predictions in the target's unit."""
    made_of: str = "made rows"
    """What the rows after those of the sample are."""
    has_classes: bool = False
    """Whether the file names its classes."""
    sums: float = 1.0
    """How many times the rounding of FP32 the library's own predictions of a regression may stray."""
    notes: tuple[str, ...] = ()
    """What was decided because nothing said it."""
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Recorded with the version."""

    def save(self, folder: pathlib.Path) -> None:
        for name, graph in (("front", self.front), ("core", self.core)):
            (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
        for place, values in enumerate(self.rows.values()):
            np.save(folder / f"rows_{place}.npy", values.astype(str) if values.dtype == object else values)
        np.save(folder / "scores.npy", self.scores)

    def to_json(self) -> dict[str, Any]:
        """What `save` does not write."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "features": self.features.to_json(),
            "rows": list(self.rows),
            "notes": list(self.notes),
            "parameters": dict(self.parameters),
        }

    @classmethod
    def load(cls, folder: pathlib.Path, value: Mapping[str, Any]) -> "OpenedModel":
        """The inverse of `save` and `to_json`."""
        arrays = [np.load(folder / f"rows_{place}.npy") for place in range(len(value["rows"]))]
        return cls(
            **{name: value[name] for name in _PLAIN},
            features=FittedFeatures.from_json(value["features"]),
            front=onnx.load(folder / "front.onnx"),
            core=onnx.load(folder / "core.onnx"),
            rows={
                name: array.astype(object) if array.dtype.kind == "U" else array
                for name, array in zip(value["rows"], arrays, strict=True)
            },
            scores=np.load(folder / "scores.npy"),
            notes=tuple(value["notes"]),
            parameters=value["parameters"],
        )


_PLAIN = ("library", "summary", "sampled", "made_of", "has_classes", "sums")


class Reader(Protocol):
    """A module that reads one format; imported in a process that has nothing else to lose."""

    def open_model(self, request: Request) -> OpenedModel:
        """Raises ArtifactError for a file that is broken or has no equal in ONNX, DataError for a sample that the model
        cannot take, SpecError. What else it raises is told as that the library does not open the file."""
        ...


@dataclasses.dataclass(frozen=True)
class Format:
    """`library` is as people write it, and `saved_by` what writes such a file."""

    library: str
    saved_by: str
    reader: str
    """Module with the functions of a Reader."""
    packages: tuple[str, ...] = ()
    """Modules that it imports beside those of the core."""
    extra: str = ""
    """The extra of raymlops that installs them."""


_BOOSTERS = "raymlops.training.saved_models.boosters"
_XGBOOST = Format("XGBoost", "save_model", _BOOSTERS)
_LIGHTGBM = Format("LightGBM", "save_model", _BOOSTERS)

FORMATS: Mapping[str, Format] = {
    ".json": _XGBOOST,
    ".ubj": _XGBOOST,
    ".txt": _LIGHTGBM,
    ".lgb": _LIGHTGBM,
    ".keras": Format("Keras", "model.save", "raymlops.training.saved_models.keras_file", ("keras",), "keras"),
    ".cbm": Format("CatBoost", "save_model", _BOOSTERS, ("catboost",), "catboost"),
    ".skops": Format("skops", "skops.io.dump", "raymlops.training.saved_models.skops_file"),
    ".pt2": Format("torch", "torch.export.save", "raymlops.training.saved_models.exported_program"),
}
"""Ending of a file -> its format."""

FOLDERS: Mapping[str, Format] = {
    "saved_model.pb": Format(
        "TensorFlow",
        "tf.saved_model.save",
        "raymlops.training.saved_models.tensorflow_folder",
        ("tensorflow", "tf2onnx"),
        "tf",
    )
}
"""A file that a folder has -> the format of the folder."""


def find_format(file: pathlib.Path) -> Format:
    """By the ending of a file, or what a folder has. Raises ArtifactError."""
    if file.is_dir():
        for inner, found in FOLDERS.items():
            if (file / inner).is_file():
                return found
        raise ArtifactError(f"{shorten(file.name)!r} is a folder of no known format; {_describe_formats()}")
    if file.suffix.lower() not in FORMATS:
        ending = repr(file.suffix) if file.suffix else "of no format"
        raise ArtifactError(f"{shorten(file.name)!r} has the ending {ending}; {_describe_formats()}")
    return FORMATS[file.suffix.lower()]


def _describe_formats() -> str:
    endings: dict[Format, list[str]] = {}
    for ending, found in FORMATS.items():
        endings.setdefault(found, []).append(ending)
    known = [f"{' and '.join(names)} of {one.library} ({one.saved_by})" for one, names in endings.items()]
    known += [f"folders with {inner} of {one.library} ({one.saved_by})" for inner, one in FOLDERS.items()]
    return (
        f"converted are {', '.join(known)}. Pickles are never loaded, as loading them may run code. An ONNX file: "
        "raymlops register"
    )
