"""Where a model's file is: a registry version, or a path. Pins an alias to the version it names now."""

import dataclasses
import pathlib

from raymlops.errors import SpecError
from raymlops.serving.hosting import find_file
from raymlops.settings import Settings
from raymlops.specs.serving import HostedModel, ServingSpec


def pin(spec: ServingSpec, settings: Settings) -> ServingSpec:
    """The same spec with exact versions and digests, so that every replica and every rollback serves the
    same files.

    Raises NotFoundError for a model that is not there, SpecError for a wrong source.
    """
    models = {name: pin_model(model, settings) for name, model in spec.models.items()}
    return spec.model_copy(update={"models": models})


def pin_model(model: HostedModel, settings: Settings) -> HostedModel:
    if model.source.startswith("models:/"):
        from raymlops.tracking.registry import resolve  # MLflow is loaded only where the registry is asked

        found = resolve(model.source, settings)
        update = {"source": found.uri, "version": model.version or found.version, "digest": found.digest}
        return model.model_copy(update=update)
    if "://" in model.source or model.source.startswith("models:"):
        raise SpecError(f"Model source {model.source!r} must be models:/name@alias, models:/name/3 or a path")
    path = pathlib.Path(model.source).expanduser().absolute()
    find_file(path)
    return model.model_copy(update={"source": str(path), "version": model.version or "1"})


@dataclasses.dataclass(frozen=True)
class Located:
    path: pathlib.Path
    model: HostedModel


def locate(model: HostedModel, settings: Settings) -> Located:
    """The file on this machine, downloaded from the registry where it must be."""
    if not model.source.startswith("models:/"):
        return Located(pathlib.Path(model.source), model)
    from raymlops.tracking.registry import resolve

    found = resolve(model.source, settings)
    update = {"version": model.version or found.version, "digest": model.digest or found.digest}
    return Located(found.path, model.model_copy(update=update))
