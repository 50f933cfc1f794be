"""Opens models of Keras 3 (`model.save`, .keras), on torch. Keras itself imports classes of Keras alone while it loads;
what else a file asks for is named before."""

import importlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raymlops.errors import ArtifactError, SpecError, shorten
from raymlops.tensors import count_rows
from raymlops.training.keras_models import import_keras
from raymlops.training.saved_models import LARGEST, OpenedModel, Request
from raymlops.training.saved_models.answers import read_answers, to_opened
from raymlops.training.saved_models.archives import open_archive
from raymlops.training.saved_models.tensor_inputs import InputColumns, TensorInput, match_columns
from raymlops.training.torch_export import export_listed

_AT_ONCE = 1024  # rows
_FILES = ("metadata.json", "config.json", "model.weights.h5")
_RUN = {
    "Lambda": "a Lambda layer runs Python code that is saved in the file",
    "__lambda__": "a lambda is Python code that is saved in the file",
    "__typespec__": "a TypeSpec is made by TensorFlow's own code",
    "TorchModuleWrapper": "it unpickles a torch module",
    "TFSMLayer": "it loads a SavedModel from a path",
    "JaxLayer": "it calls a function of its own",
    "FlaxLayer": "it calls a function of its own",
}
"""Class -> what it runs."""
_LOOKUPS = frozenset(("StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"))


def open_model(request: Request) -> OpenedModel:
    """See `Reader`."""
    if request.sample is None:
        raise SpecError(
            "A file of Keras does not say what its columns are; give --data with rows as it was trained on them"
        )
    keras = import_keras("torch")  # before a module of the user does
    custom = _check_file(request.file, trust=request.trust)
    torch.set_num_threads(1)
    with keras.device("cpu"):
        model = keras.saving.load_model(
            str(request.file), custom_objects=custom, compile=False, safe_mode=not request.trust
        )
        inputs = _inputs_of(model)
        columns = match_columns(inputs, request.sample)
        rows = columns.read(request.sample)
        own = _predict(model, columns, rows)
        example = columns.join({name: values[:2] for name, values in _at_least_two(rows).items()})
        network = _Listed(model, tuple(example))
        core = export_listed(network, {name: torch.from_numpy(values) for name, values in example.items()})
    answers = read_answers(core, own, request.classes)
    return to_opened(
        f"keras {keras.__version__}",
        f"{type(model).__name__} of {len(model.layers)} layers",
        columns,
        rows,
        answers,
    )


def _check_file(file: pathlib.Path, *, trust: bool) -> dict[str, Any]:
    """The custom classes and functions of a trusted file, by name. Raises ArtifactError."""
    with open_archive(file) as archive:
        missing = [name for name in _FILES if name not in archive.namelist()]
        if missing:
            raise ArtifactError(
                f"It is no whole file of Keras 3: the archive lacks {', '.join(missing)}. HDF5 files of Keras 2 are "
                "not read: load it, and save it as .keras"
            )
        if (damaged := archive.testzip()) is not None:
            raise ArtifactError(f"Its file {damaged!r} is damaged; save or copy it again")
        config = json.loads(archive.read("config.json"))
        if not isinstance(config, dict):
            raise ArtifactError("Its config.json is no model; save it again")
        config.pop("compile_config", None)  # which is not loaded
        with archive.open("model.weights.h5") as weights:
            _check_weights(weights)
    custom = {}
    for name, module, part in _classes_of(config):
        if name in _LOOKUPS:
            raise ArtifactError(
                f"{name} looks values up, which has no equal in ONNX; keep it outside the model"
            )
        own = module is not None and module.partition(".")[0] not in ("keras", "builtins")
        if not own and name not in _RUN and ">" not in part:
            continue
        if not trust:
            reason = _RUN.get(name, f"{module or part} is no module of Keras, and its code would be imported")
            raise ArtifactError(
                f"It has {shorten(part)}: {reason}. If you trust the file, convert it with --trust"
            )
        if own:
            custom[part] = _import(str(module), part)
    return custom


def _classes_of(value: Any) -> Iterator[tuple[str, str | None, str]]:
    """(class, module, name of the class or function) of each object in a config."""
    if isinstance(value, dict):
        name = value.get("class_name")
        if isinstance(name, str):
            module, inner = value.get("module"), value.get("config")
            part = inner if name == "function" and isinstance(inner, str) else name
            registered = value.get("registered_name")
            package = isinstance(registered, str) and ">" in registered
            yield name, module if isinstance(module, str) else None, str(registered) if package else part
        for inner in value.values():
            yield from _classes_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes_of(inner)


def _import(module: str, part: str) -> Any:
    name = part.rpartition(">")[2]
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # of the user's own module
        raise ArtifactError(
            f"Its class or function {shorten(part)} cannot be imported: {type(error).__name__}: {error}; run the "
            f"command where {module}.py is"
        ) from None


def _check_weights(file: Any) -> None:
    """That they lie in the file itself, and are not large."""
    import h5py

    total = 0

    def visit(group: Any) -> None:
        nonlocal total
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ArtifactError(f"Its weights {shorten(name)!r} are a link to elsewhere; save it again")
            held = group[name]
            if isinstance(held, h5py.Group):
                visit(held)
                continue
            if held.external or held.is_virtual:
                raise ArtifactError(f"Its weights {shorten(name)!r} lie in another file; save it again")
            total += int(np.prod(held.shape, dtype=np.float64)) * held.dtype.itemsize
            if total > LARGEST:
                raise ArtifactError(f"Its weights take more than {LARGEST:,} bytes")

    with h5py.File(file, "r") as weights:
        visit(weights)


def _inputs_of(model: Any) -> tuple[TensorInput, ...]:
    if not getattr(model, "inputs", None):
        raise ArtifactError(
            "It has no inputs of known shapes; call the model once on rows, and save it again"
        )
    found = []
    for tensor in model.inputs:
        if len(tensor.shape) < 1 or tensor.shape[0] is not None:
            raise ArtifactError(
                f"Its input {tensor.name!r} has the shape {tensor.shape}; expected any number of rows, None"
            )
        sizes = tuple(-1 if size is None else int(size) for size in tensor.shape[1:])
        found.append(TensorInput(str(tensor.name), sizes, str(tensor.dtype)))
    return tuple(found)


class _Listed(torch.nn.Module):
    """A model that takes the list of its inputs."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, tensors: list[torch.Tensor]) -> Any:
        return self.model(_given(dict(zip(self._names, tensors, strict=True))), training=False)


def _given(inputs: Mapping[str, Any]) -> Any:
    return next(iter(inputs.values())) if len(inputs) == 1 else dict(inputs)


def _at_least_two(rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """An example of one row would fix the number of rows at one."""
    return {name: np.concatenate([values, values]) for name, values in rows.items()}


def _predict(model: Any, columns: InputColumns, rows: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Its own answers, in the order of the rows."""
    count, parts = count_rows(rows), []
    for start in range(0, count, _AT_ONCE):
        part = columns.join({name: values[start : start + _AT_ONCE] for name, values in rows.items()})
        answer = model.predict_on_batch(_given(part))
        if isinstance(answer, dict | list | tuple):
            answer = (
                next(iter(answer.values() if isinstance(answer, dict) else answer))
                if len(answer) == 1
                else None
            )
        if answer is None or np.ndim(answer) < 1 or len(answer) != count_rows(part):
            raise ArtifactError(
                "It has several outputs, or not one for each row; converted are models with one: save a model of that "
                "output alone"
            )
        parts.append(np.asarray(answer))
    return np.concatenate(parts)
