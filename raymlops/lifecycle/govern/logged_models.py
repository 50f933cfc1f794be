"""Converts models that others logged in MLflow: finds the saved file of their flavour and the example of its inputs.
No pickle is opened."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import yaml

from raymlops.errors import ArtifactError, shorten
from raymlops.lifecycle.govern.convert import Converted, convert_file
from raymlops.settings import Settings
from raymlops.tracking.logged_models import fetch_model, is_logged


@dataclasses.dataclass(frozen=True)
class _Flavour:
    """`keys` of its settings may have the path of what is saved; `endings` are of files that it saves, with those that
    `convert` knows them by. An empty ending is that of a folder."""

    keys: tuple[str, ...]
    endings: Mapping[str, str]


_KERAS = _Flavour(("data", "saved_model_dir"), {".keras": ".keras", "": ""})
_FLAVOURS: Mapping[str, _Flavour] = {
    "xgboost": _Flavour(("data",), {".ubj": ".ubj", ".json": ".json"}),
    "lightgbm": _Flavour(("data",), {".lgb": ".lgb", ".txt": ".txt", ".skops": ".skops"}),
    "catboost": _Flavour(("data",), {".cb": ".cbm", ".cbm": ".cbm"}),
    "keras": _KERAS,
    "tensorflow": _KERAS,
    "pytorch": _Flavour(("model_data",), {".pt2": ".pt2"}),
    "sklearn": _Flavour(("pickled_model",), {".skops": ".skops"}),
}
"""Flavour of MLflow -> how it saves. A pickle has none of the endings."""
_REMEDY = {
    "sklearn": "serialization_format='skops'",
    "lightgbm": "serialization_format='skops', or log the booster (model.booster_)",
    "pytorch": "serialization_format='pt2' and an input_example",
}
_MOST_EXAMPLE = 100 * 2**20


def convert_model(
    source: str, name: str, settings: Settings, *, data: pathlib.Path | pa.Table | None = None, **options: Any
) -> Converted:
    """`convert_logged` for what is logged in MLflow, and `convert_file` for a file; `options` are those of both."""
    if is_logged(source):
        return convert_logged(source, name, settings, data=data, **options)
    return convert_file(pathlib.Path(source), name, settings, data=data, **options)


def convert_logged(
    uri: str,
    name: str,
    settings: Settings,
    *,
    why: str = "",
    data: pathlib.Path | pa.Table | None = None,
    **options: Any,
) -> Converted:
    """Register a model that was logged in MLflow, by a name that `fetch_model` takes, as `convert_file` does its saved
    file. Without `data` the input example that was logged with it, if any, is the sample."""
    with tempfile.TemporaryDirectory(prefix="raymlops-convert-") as directory:
        folder = fetch_model(uri, settings, pathlib.Path(directory))
        told = _read_description(folder, uri)
        file = _find_saved(folder, told, uri)
        sample = data if data is not None else _read_example(folder, told)
        found = convert_file(
            file, name, settings, why=why or f"converted from {uri}", data=sample, origin=uri, **options
        )
    if data is None and sample is not None:
        note = "no --data was given; the sample is the input example that was logged with the model"
        return dataclasses.replace(found, notes=(*found.notes, note))
    return found


def _read_description(folder: pathlib.Path, uri: str) -> Mapping[str, Any]:
    file = folder / "MLmodel"
    if not file.is_file():
        raise ArtifactError(
            f"{uri} has no file MLmodel, so it is no model of MLflow; give the path of the model itself"
        )
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"Cannot read MLmodel of {uri}: {shorten(' '.join(str(error).split()))}"
        ) from None
    if not isinstance(told, dict) or not isinstance(told.get("flavors"), dict):
        raise ArtifactError(f"MLmodel of {uri} names no flavors; log the model again")
    return told


def _find_saved(folder: pathlib.Path, told: Mapping[str, Any], uri: str) -> pathlib.Path:
    """The saved file or folder, by an ending that `convert` knows. Raises ArtifactError."""
    flavours = told["flavors"]
    if "onnx" in flavours:
        raise ArtifactError(f"{uri} is an ONNX file already; register that: raymlops register FILE")
    known = [name for name in _FLAVOURS if isinstance(flavours.get(name), dict)]
    if not known:
        named = ", ".join(sorted(map(str, flavours))) or "none"
        raise ArtifactError(
            f"{uri} has the flavors {shorten(named)}; converted are {', '.join(_FLAVOURS)}. Models of python_function "
            "alone are pickles, which are never loaded; log the model by the flavor of its library"
        )
    for name in known:
        flavour, settings = _FLAVOURS[name], flavours[name]
        for key in flavour.keys:
            if isinstance(settings.get(key), str):
                found = _find_below(folder, settings[key], flavour.endings)
                if found is not None:
                    return found
    name = known[0]
    remedy = _REMEDY.get(name, "its library's own format")
    raise ArtifactError(
        f"{uri} is saved by its flavor {name} as a pickle or in a format that is not converted; loading a pickle may "
        f"run code, so none is loaded. Log the model again with {remedy}"
    )


def _find_below(folder: pathlib.Path, path: str, endings: Mapping[str, str]) -> pathlib.Path | None:
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ArtifactError(f"MLmodel names {shorten(repr(path))}, which lies outside the model")
    parts = [place, *sorted(place.rglob("*"))] if place.is_dir() else [place]
    for part in parts:
        if part.is_file() and part.suffix in endings and part.suffix:
            ending = endings[part.suffix]
            return part if ending == part.suffix else part.rename(part.with_suffix(ending))
        if "" in endings and part.is_dir() and (part / "saved_model.pb").is_file():
            return part
    return None


def _read_example(folder: pathlib.Path, told: Mapping[str, Any]) -> pa.Table | None:
    """Rows that were logged as an example of inputs: of a table, or a matrix of numbers."""
    held = told.get("saved_input_example_info")
    if not isinstance(held, dict) or not isinstance(held.get("artifact_path"), str):
        return None
    file = (folder / held["artifact_path"]).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file() or file.stat().st_size > _MOST_EXAMPLE:
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        rows = value["data"] if isinstance(value, dict) else value
        names = (
            value["columns"] if isinstance(value, dict) else [f"f{place}" for place in range(len(rows[0]))]
        )
        return pa.table({str(name): [row[place] for row in rows] for place, name in enumerate(names)})
    except (ValueError, KeyError, IndexError, TypeError, pa.ArrowException):  # an example of another form
        return None
