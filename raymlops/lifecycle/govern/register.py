"""Registers ONNX files of any origin and moves aliases, with who, why and when."""

import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

from raymlops.errors import NotFoundError
from raymlops.lifecycle.govern import provenance
from raymlops.lifecycle.govern.promotion import move_alias
from raymlops.models.external_data import ModelFiles
from raymlops.models.model_trial import try_model
from raymlops.models.safety import Model, read_model
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.tracking import registry, runs, store


def register_file(file: pathlib.Path, name: str, why: str, settings: Settings) -> tuple[str, str]:
    """Register a file that ONNX Runtime can load. Returns the version and the sha256. Raises SpecError for a name that
    no model can have."""
    registry.check_name(name)
    if not file.is_file():
        raise NotFoundError(f"No ONNX file {str(file)!r}")
    content = read_model(file)
    try_model(f"The model {str(file)!r}", content)
    return register_model(content, name, why, settings, source=file.name)


def register_model(
    content: Model,
    name: str,
    why: str,
    settings: Settings,
    *,
    source: str,
    parameters: Mapping[str, str] | None = None,
    files: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Register a model that was tried. `source` says what file it comes from, `parameters` are facts of its run, and
    `files` are kept beside it as JSON. Returns the version and the sha256."""
    signature = open_session(content).signature
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, name, settings)
    stamp = provenance.now()
    run = runs.start_run(
        client,
        experiment.experiment_id,
        search=f"{name}-registered-{uuid.uuid4().hex}",  # two within a second are two
        tags={"raymlops.why": why, "mlflow.user": settings.user},
        parameters={"file": source, **(parameters or {})},
    )
    version, digest = registry.register_version(
        client,
        name=name,
        run=run,
        model=content.data if isinstance(content, ModelFiles) else content,
        weights=content.weights if isinstance(content, ModelFiles) else None,
        settings=settings,
        signature=signature,
        example=None,
        tags={
            "raymlops.who": settings.user,
            "raymlops.why": why,
            "raymlops.when": stamp,
            "raymlops.source": source,
        },
        files=files or {},
    )
    runs.finish_run(client, run, metrics={}, tags={})
    return version, digest


def promote_version(
    name: str, version: str, alias: str, why: str, settings: Settings, *, force: bool = False
) -> str | None:
    """Move an alias to an existing version, on the record. Returns the version it named before.

    Raises UserError for a champion that did not pass the gate, unless `force`.
    """
    return move_alias(name, version, alias, why, settings, force=force).before or None
