"""A process that opens a saved model of XGBoost or LightGBM with its own library, and writes down its predictions: what
a broken file does to the library ends this process alone.

    python -m raymlops.training.booster_process FOLDER

The folder has `request.json` (file, library, rounds, columns) and, if there is a sample, `sample.npy` (rows, columns).
Written are `model` in the library's present format, `rows.npy`, `scores.npy`, and `answer.json`, which says what was
refused.
"""

import contextlib
import json
import pathlib
import re
import resource
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from raymlops.errors import ArtifactError, DataError, RaymlopsError, shorten
from raymlops.training.booster_files import (
    Booster,
    Rows,
    make_rows,
    match_columns,
    read_lightgbm_file,
    read_xgboost_file,
)

MEMORY = 8 * 2**30
"""Bytes of data of the process."""


def read(library: str, model: bytes, rounds: int | None) -> Booster:
    """The model that the process wrote. Raises ArtifactError for what is not whole."""
    try:
        if library == "lightgbm":
            return read_lightgbm_file(model.decode(), rounds)
        return read_xgboost_file(json.loads(model), rounds)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"It is not a whole model of {library}: {type(error).__name__}: {shorten(str(error))}; save it again"
        ) from None


def main(folder: pathlib.Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with contextlib.suppress(OSError):  # if memory is short, the system should kill this process first
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
    request = json.loads((folder / "request.json").read_text())
    try:
        answer = _run(folder, **request)
    except RaymlopsError as error:
        answer = {"error": str(error), "of_data": isinstance(error, DataError)}
    except MemoryError:
        answer = {"error": f"Its model takes over {MEMORY // 2**30} GiB"}
    (folder / "answer.json").write_text(json.dumps(answer))


def _run(
    folder: pathlib.Path, file: str, library: str, rounds: int | None, columns: list[str] | None
) -> dict[str, Any]:
    content = pathlib.Path(file).read_bytes()
    with _library_errors(library):
        opened = _open_lightgbm(content) if library == "lightgbm" else _open_xgboost(content)
        text = content if library == "lightgbm" else bytes(opened.save_raw("json"))
    booster = read(library, text, rounds)  # before the library walks its trees
    (folder / "model").write_bytes(text)
    made = make_rows(booster)
    rows = made.astype(np.float64)
    if columns is not None:
        places = [columns.index(column) for column in match_columns(booster, columns)]
        rows = np.concatenate([np.load(folder / "sample.npy")[:, places], rows])
    np.save(folder / "rows.npy", rows)
    with _library_errors(library):
        np.save(folder / "scores.npy", _predict(opened, booster, rows))
    return {"version": f"{library} {sys.modules[library].__version__}"}


@contextlib.contextmanager
def _library_errors(library: str) -> Iterator[None]:
    """Raises ArtifactError with the library's reason, without its stack."""
    try:
        yield
    except (RaymlopsError, MemoryError):
        raise
    except Exception as error:  # each library has its own kinds, beside those of Python
        reason = re.sub(r"^\[[\d:]+\] \S+: ", "", " ".join(str(error).partition("Stack trace")[0].split()))
        name = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}[library]
        raise ArtifactError(
            f"{name} does not open it: {shorten(reason)}; save it again with save_model"
        ) from None


def _open_xgboost(content: bytes) -> Any:
    import xgboost

    opened = xgboost.Booster({"nthread": 1, "device": "cpu"})
    opened.load_model(bytearray(content))
    opened.set_param({"nthread": 1, "device": "cpu"})
    return opened


def _open_lightgbm(content: bytes) -> Any:
    import lightgbm

    text = content.decode()
    read("lightgbm", content, None)  # LightGBM itself ends the process for some broken files
    return lightgbm.Booster(model_str=text)


def _predict(opened: Any, booster: Booster, rows: Rows) -> Rows:
    """The library's own: probabilities or predictions."""
    if booster.library == "lightgbm":
        return np.asarray(opened.predict(rows, num_iteration=booster.rounds, num_threads=1))
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


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
