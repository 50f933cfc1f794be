"""Opens saved models of XGBoost, LightGBM and CatBoost with their own libraries. What is read of their files is in
training/booster_files.py."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raymlops.errors import ArtifactError, DataError, RaymlopsError, shorten
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget
from raymlops.training.booster_files import (
    LIBRARIES,
    Booster,
    Rows,
    build_columns,
    make_rows,
    match_columns,
    read_catboost_file,
    read_lightgbm_file,
    read_xgboost_file,
)
from raymlops.training.learners.catboost import import_catboost, read_json
from raymlops.training.saved_models import OpenedModel, Request
from raymlops.training.saved_models.samples import require_numbers, to_numbers


def read(library: str, model: bytes, rounds: int | None) -> Booster:
    """A model in the library's present format. Raises ArtifactError for what is not whole."""
    try:
        if library == "lightgbm":
            return read_lightgbm_file(model.decode(), rounds)
        return (read_xgboost_file if library == "xgboost" else read_catboost_file)(json.loads(model), rounds)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"It is not a whole model of {library}: {type(error).__name__}: {shorten(str(error))}; save it again"
        ) from None


def open_model(request: Request) -> OpenedModel:
    """See `Reader`."""
    library = LIBRARIES[request.file.suffix.removeprefix(".")]
    content = request.file.read_bytes()
    with _library_errors(library):
        opened, text = _OPENERS[library](content)
    booster = read(library, text, request.rounds)  # before the library walks its trees
    names, notes = _name_inputs(booster, request.sample)
    rows: Rows = make_rows(booster).astype(np.float64)
    sampled = 0
    if request.sample is not None:
        sampled = request.sample.num_rows
        rows = np.concatenate([to_numbers(request.sample, names), rows])
    with _library_errors(library):
        scores = _predict(opened, booster, rows)
    with np.errstate(over="ignore"):
        taken = rows.astype(np.float32)
    return OpenedModel(
        library=f"{library} {sys.modules[library].__version__}",
        summary=f"{booster.objective}, {booster.rounds} of {booster.grown} rounds",
        features=FittedFeatures(
            tuple(FittedColumn(name, "number", "number") for name in names), _target_of(booster)
        ),
        front=build_columns(names),
        core=booster.to_onnx(),
        rows={name: np.ascontiguousarray(taken[:, place]) for place, name in enumerate(names)},
        sampled=sampled,
        scores=scores,
        made_of="rows at its thresholds",
        has_classes=bool(booster.classes),
        sums=booster.rounds**0.5 if library == "xgboost" else 1.0,  # whose own sums are FP32
        notes=notes,
        parameters={"objective": booster.objective, "rounds": f"{booster.rounds} of {booster.grown}"},
    )


def _name_inputs(booster: Booster, sample: pa.Table | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the model's inputs, and what is said about them."""
    notes: tuple[str, ...] = ()
    if sample is None:
        names = booster.names or tuple(f"f{place}" for place in range(booster.features))
        notes = ("no --data was given, so parity was measured only on rows at the thresholds of its trees",)
    else:
        names = match_columns(booster, sample.column_names)
        require_numbers(sample, names)
    if names != booster.names:
        notes = (*notes, f"its file does not name its inputs so: {shorten(', '.join(names))}")
    return names, notes


def _target_of(booster: Booster) -> FittedTarget:
    if booster.task == "regression":
        return FittedTarget("target", "regression", "number", mean=booster.offset)
    if booster.classes:
        kind: Literal["integer", "string"] = "integer" if isinstance(booster.classes[0], int) else "string"
        return FittedTarget("target", booster.task, kind, booster.classes)
    return FittedTarget("target", booster.task, "integer", tuple(range(max(2, booster.ensemble.outputs))))


@contextlib.contextmanager
def _library_errors(library: str) -> Iterator[None]:
    """Raises ArtifactError with the library's reason, without its stack."""
    try:
        yield
    except (RaymlopsError, MemoryError):
        raise
    except Exception as error:  # each library has its own kinds, beside those of Python
        reason = re.sub(r"^\[[\d:]+\] \S+: ", "", " ".join(str(error).partition("Stack trace")[0].split()))
        name = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"}[library]
        raise ArtifactError(
            f"{name} does not open it: {shorten(reason)}; save it again with save_model"
        ) from None


def _open_xgboost(content: bytes) -> tuple[Any, bytes]:
    import xgboost

    opened = xgboost.Booster({"nthread": 1, "device": "cpu"})
    opened.load_model(bytearray(content))
    opened.set_param({"nthread": 1, "device": "cpu"})
    return opened, bytes(opened.save_raw("json"))


def _open_lightgbm(content: bytes) -> tuple[Any, bytes]:
    import lightgbm

    text = content.decode()
    read("lightgbm", content, None)  # LightGBM itself ends the process for some broken files
    return lightgbm.Booster(model_str=text), content


def _open_catboost(content: bytes) -> tuple[Any, bytes]:
    opened = import_catboost().CatBoost()
    opened.load_model(blob=content)
    return opened, json.dumps(read_json(opened)).encode()


_OPENERS = {"xgboost": _open_xgboost, "lightgbm": _open_lightgbm, "catboost": _open_catboost}
"""Library -> the opened model, and what it is in the library's present format, of which the trees are read."""
_CATBOOST_KINDS = {"logistic": "Probability", "softmax": "Probability", "log": "Exponent"}


def _predict(opened: Any, booster: Booster, rows: Rows) -> Rows:
    """The library's own: probabilities or predictions."""
    if booster.library == "lightgbm":
        return np.asarray(opened.predict(rows, num_iteration=booster.rounds, num_threads=1))
    if booster.library == "catboost":
        kind = _CATBOOST_KINDS.get(booster.link, "RawFormulaVal")
        found = np.asarray(
            opened.predict(rows, prediction_type=kind, ntree_end=booster.rounds, thread_count=1)
        )
        return found[:, 1] if booster.task == "binary" else found
    import xgboost

    if np.isinf(rows).any():
        raise DataError(
            "The sample has infinite numbers, which XGBoost does not take; leave them out, or missing"
        )
    data = xgboost.DMatrix(rows, missing=np.nan, nthread=1, feature_names=list(booster.names) or None,
                           feature_types=opened.feature_types)  # fmt: skip
    limited: dict[str, Any] = {"iteration_range": (0, booster.rounds), "strict_shape": True}
    if booster.objective == "multi:softmax":  # whose prediction is the class alone
        return booster.to_scores(np.asarray(opened.predict(data, output_margin=True, **limited)))
    found = np.asarray(opened.predict(data, **limited))
    return found if booster.task == "multiclass" else found[:, 0]
