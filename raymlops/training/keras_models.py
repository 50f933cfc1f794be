"""Keras 3 models that a user's function builds, as learners see them: the backend, what they read of packed rows, their
variables as arrays, and their ONNX graph. Trains nothing: see learners/keras.py.

Keras takes its backend when it is first imported, so a process has one.
"""

import dataclasses
import importlib.util
import inspect
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch

from raymlops.errors import SpecError
from raymlops.features import Packing
from raymlops.tensors import Batch
from raymlops.training import tensorflow_export, torch_export

BACKENDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "torch": (("keras",), "keras"),
    "tensorflow": (("keras", "tensorflow", "tf2onnx"), "tf"),
}
"""Backend -> packages that it needs beside the core, and the extra that installs them."""

MOST_VALUES = 32
"""Columns of a category in `features`: one for each of its most frequent values."""
GIVEN = ("features", "numeric", "categories", "outputs")
"""What a function may take beside its options."""


def require_packages(backend: str) -> None:
    """Raises SpecError."""
    packages, extra = BACKENDS[backend]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SpecError(
            f"training.learner: keras with backend {backend} needs {', '.join(missing)}, not installed here; run: "
            f"pip install {shlex.quote(f'raymlops[{extra}]')}"
        )


def import_keras(backend: str) -> Any:
    """Raises SpecError if it is not installed, or this process has another backend."""
    require_packages(backend)
    if "keras" not in sys.modules:
        before = os.environ.get("KERAS_BACKEND")  # which Keras reads when it is imported
        os.environ["KERAS_BACKEND"] = backend  # as above
        try:
            import keras
        finally:
            if before is None:
                del os.environ["KERAS_BACKEND"]  # as it was
            else:
                os.environ["KERAS_BACKEND"] = before  # as it was
    import keras

    if keras.backend.backend() != backend:
        raise SpecError(
            f"training.options.backend: {backend}, but Keras runs on {keras.backend.backend()} in this process, which "
            "has one backend; use that one, or start another process"
        )
    return keras


def find_function(name: object) -> Any:
    """The user's function of `module:function`. Raises SpecError."""
    if not isinstance(name, str) or ":" not in name:
        raise SpecError(
            "training.options.model: expected module.path:function, which takes features and outputs and returns a "
            f"Keras model, got {name!r}"
        )
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of the user's own module
        raise SpecError(
            f"training.options.model: cannot import {name!r}: {type(error).__name__}: {error}"
        ) from error
    taken = inspect.signature(found).parameters if callable(found) else {}
    if "outputs" not in taken or not {"features", "numeric", "categories"} & set(taken):
        raise SpecError(
            f"training.options.model: {name!r} has to be a function of outputs, and features, or numeric and categories"
        )
    return found


def options_of(function: Any) -> tuple[tuple[str, ...], bool]:
    """The options that it takes, and whether it takes any other."""
    taken = inspect.signature(function).parameters
    plain = [key for key, one in taken.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return tuple(key for key in plain if key not in GIVEN), any(
        one.kind is one.VAR_KEYWORD for one in taken.values()
    )


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a model reads: one matrix `features`, of the numbers and a column for each frequent value of a category; or
    `numeric` and `category` as they are packed."""

    packing: Packing
    joined: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each category in `features`; those of the values that are left are zero."""
        return tuple(min(size - 1, MOST_VALUES) for size in self.packing.categories)

    @property
    def given(self) -> dict[str, Any]:
        """What the user's function may take."""
        return {
            "features": self.packing.numeric + sum(self.widths),
            "numeric": self.packing.numeric,
            "categories": self.packing.categories,
        }

    def __call__(self, numeric: Any = None, category: Any = None) -> Any:
        """Tensors (rows, columns) of packed rows -> what the model is called with."""
        from keras import ops

        if not self.joined:
            parts = {"numeric": numeric, "category": category}
            held = {name: tensor for name, tensor in parts.items() if tensor is not None}
            return next(iter(held.values())) if len(held) == 1 else held
        columns = [] if numeric is None else [numeric]
        for place, width in enumerate(self.widths):
            ids = np.arange(1, width + 1, dtype=np.int64)[None]
            columns.append(ops.cast(ops.equal(category[:, place : place + 1], ids), "float32"))
        return ops.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]


@dataclasses.dataclass(frozen=True)
class Source:
    """A user's function with what it is called with; builds equal models in any process."""

    function: str
    backend: str
    options: Mapping[str, Any]
    packing: Packing
    outputs: int

    @property
    def reading(self) -> Reading:
        return Reading(self.packing, "features" in inspect.signature(find_function(self.function)).parameters)

    def build(self, seed: int = 0, device: str = "cpu") -> Any:
        """An untrained model that was called once, so that it has all its variables. Raises SpecError."""
        keras, function = import_keras(self.backend), find_function(self.function)
        reading, taken = self.reading, inspect.signature(function).parameters
        given = {name: value for name, value in reading.given.items() if name in taken}
        keras.utils.set_random_seed(seed % 2**32)
        with keras.device(device):
            try:
                model = function(**given, outputs=self.outputs, **self.options)
                if not isinstance(model, keras.Model):
                    raise SpecError(f"it returned {type(model).__name__}, and not a keras.Model")
                found = model(reading(**zeros(self.packing, 2)), training=False)
            except Exception as error:  # of the user's own code
                cause = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
                raise SpecError(f"training.options.model: {self.function!r}: {cause}") from error
        _check_model(self, model, found)
        return model


def zeros(packing: Packing, rows: int) -> Batch:
    """Packed rows of zeros."""
    found: Batch = {}
    if packing.numeric:
        found["numeric"] = np.zeros((rows, packing.numeric), dtype=np.float32)
    if packing.categories:
        found["category"] = np.zeros((rows, len(packing.categories)), dtype=np.int64)
    return found


def _check_model(source: Source, model: Any, found: Any) -> None:
    name = f"training.options.model: {source.function!r}"
    shape = tuple(getattr(found, "shape", ()))
    if shape != (2, source.outputs):
        raise SpecError(f"{name}: for 2 rows it answered {shape}, expected (2, {source.outputs})")
    last = model.layers[-1] if model.layers else None
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    if type(last).__name__ == "Softmax" or activation != "linear":
        raise SpecError(
            f"{name}: its last layer is {type(last).__name__} with activation {activation}; expected logits or "
            "standardised predictions, so leave the activation of the last layer out"
        )
    if model.compiled:
        raise SpecError(
            f"{name}: the model is compiled; leave compile() out: optimiser, loss and weights are those of the spec"
        )


def copy_variables(variables: Any) -> dict[str, torch.Tensor]:
    """Position -> value."""
    from keras import ops

    arrays = (np.array(ops.convert_to_numpy(one.value)) for one in variables)
    return {str(place): torch.from_numpy(array) for place, array in enumerate(arrays)}


def set_variables(variables: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Raises SpecError if the user's function builds another model than it did."""
    if len(variables) != len(values) or any(
        tuple(one.shape) != tuple(values[str(place)].shape) for place, one in enumerate(variables)
    ):
        raise SpecError(
            "training.options.model: the function builds other layers than when the training began; a training goes "
            "on, and a model loads, with the code that it began with"
        )
    for place, one in enumerate(variables):
        one.assign(values[str(place)].numpy())


@dataclasses.dataclass(frozen=True)
class Answer:
    """From packed tensors to `outputs`, as they leave the graph."""

    model: Any
    reading: Reading
    low: float
    high: float
    poisson: tuple[float, float] | None
    """The largest logarithm, and what the factor less 1 is multiplied with."""

    def __call__(self, numeric: Any = None, category: Any = None) -> Any:
        from keras import ops

        found = self.model(self.reading(numeric, category), training=False)
        if np.isfinite(self.low) or np.isfinite(self.high):
            found = ops.clip(found, self.low, self.high)
        if self.poisson is not None:
            most, scale = self.poisson
            found = (ops.exp(ops.minimum(found, most)) - 1) * scale
        return found


def export_answer(answer: Answer, backend: str) -> onnx.ModelProto:
    """A graph that takes packed rows by name and returns `outputs` (rows, outputs). Raises ArtifactError."""
    packing = answer.reading.packing
    if backend == "torch":
        return torch_export.export_network(_Network(answer), packing)
    import tensorflow

    given = {
        name: tensorflow.TensorSpec([None, values.shape[1]], values.dtype, name=name)
        for name, values in zeros(packing, 1).items()
    }
    function = tensorflow.function(lambda **tensors: answer(**tensors)).get_concrete_function(**given)
    return tensorflow_export.export_function(function, sorted(given))  # as TensorFlow sorts keywords


class _Network(torch.nn.Module):
    """An answer as torch exports it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.model, self._answer = answer.model, answer

    def forward(self, numeric: Any = None, category: Any = None) -> Any:
        return self._answer(numeric, category)
