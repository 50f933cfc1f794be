"""The model registry: versions of an ONNX file with signature, profile, digest and lineage; aliases;
resolving both."""

import dataclasses
import hashlib
import json
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import mlflow
import mlflow.onnx
import onnx
from mlflow.exceptions import MlflowException

from raymlops.errors import ArtifactError, NotFoundError, UserError, unknown_name
from raymlops.settings import Settings
from raymlops.tensors import Batch, Signature
from raymlops.tracking import signatures, store

DIGEST_TAG = "raymlops.sha256"
MODEL_FILE = "model.onnx"
PROFILE_FILE = "profile.json"
FEATURES_FILE = "features.json"

_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))$")


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """A version that was resolved: exact, downloaded, and equal to what was registered."""

    name: str
    version: str
    uri: str
    digest: str
    path: pathlib.Path
    tags: dict[str, str]

    @property
    def file(self) -> pathlib.Path:
        return self.path / MODEL_FILE


def register_version(
    client: mlflow.MlflowClient,
    *,
    name: str,
    run: str,
    model: bytes,
    signature: Signature,
    example: Batch | None,
    tags: Mapping[str, str],
    files: Mapping[str, Any],
    description: str = "",
    folder: str = "model",
) -> tuple[str, str]:
    """Store an ONNX file with a run, as MLflow's ONNX flavour, and register it. Gives the version and
    the sha256. The same file of the same run is one version, however often it is registered.

    `files` are kept beside the model as JSON: its training profile, its fitted features, its evidence.
    """
    digest = hashlib.sha256(model).hexdigest()
    if held := _find_registered(client, name, run, digest):
        return held, digest
    with tempfile.TemporaryDirectory(prefix="raymlops-") as directory:
        path = pathlib.Path(directory) / "model"
        mlflow.onnx.save_model(
            onnx.load_from_string(model),
            str(path),
            signature=signatures.to_mlflow(signature),
            input_example=signatures.to_example(example) if example else None,
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                f"onnx=={onnx.__version__}",
                "onnxruntime",
                "pandas",
            ],
            save_as_external_data=False,
            onnx_execution_providers=["CPUExecutionProvider"],  # else pyfunc complains where there is no GPU
        )
        (path / MODEL_FILE).write_bytes(
            model
        )  # to the byte what was judged; MLflow writes its own serialisation
        for file, value in files.items():
            (path / file).write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")
        client.log_artifacts(run, str(path), folder)
    ensure_model(client, name)
    created = client.create_model_version(
        name,
        source=f"{client.get_run(run).info.artifact_uri}/{folder}",
        run_id=run,
        tags={**{key: str(value)[:5000] for key, value in tags.items()}, DIGEST_TAG: digest},
        description=description,
    )
    return str(created.version), digest


def _find_registered(client: mlflow.MlflowClient, name: str, run: str, digest: str) -> str | None:
    """The version that this run registered before it was cut off; None when it did not."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run}'")
    versions = [int(one.version) for one in found if one.tags.get(DIGEST_TAG) == digest]
    return str(min(versions)) if versions else None


def ensure_model(client: mlflow.MlflowClient, name: str) -> None:
    """Make the registered model unless it is there."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def resolve(uri: str, settings: Settings) -> ModelVersion:
    """`models:/name@alias` or `models:/name/3` -> the exact version, downloaded and checked against its
    sha256.

    Raises NotFoundError for what is not registered, ArtifactError when the file is not the registered one.
    """
    client = store.connect(settings)
    found = find_version(client, uri)
    with store.reaching_artifacts(str(found.source)):
        path = pathlib.Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=str(found.source), tracking_uri=settings.tracking_uri
            )
        )
    file = path / MODEL_FILE
    if not file.is_file():
        raise ArtifactError(f"Version {uri} has no {MODEL_FILE}; expected an ONNX model")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    tags = dict(found.tags)
    recorded = tags.get(DIGEST_TAG)
    if recorded is not None and recorded != digest:
        raise ArtifactError(
            f"The file of {found.name} version {found.version} has sha256 {digest[:12]}, but "
            f"{recorded[:12]} was "
            "registered; it was changed after registration and is not loaded"
        )
    pinned = f"models:/{found.name}/{found.version}"
    return ModelVersion(found.name, str(found.version), pinned, digest, path, tags)


def find_version(client: mlflow.MlflowClient, uri: str) -> Any:
    """MLflow's entity of a version. Raises UserError for a malformed URI, NotFoundError with the near
    names."""
    parts = _URI.match(uri)
    if parts is None:
        raise UserError(f"{uri!r} names no model version; expected models:/NAME@ALIAS or models:/NAME/3")
    name = parts["name"]
    try:
        registered = client.get_registered_model(name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        raise NotFoundError(unknown_name("model", name, known)) from None
    try:
        if parts["alias"]:
            return client.get_model_version_by_alias(name, parts["alias"])
        return client.get_model_version(name, parts["version"])
    except MlflowException:
        if parts["alias"]:
            raise NotFoundError(
                f"Model {name!r}: " + unknown_name("alias", parts["alias"], registered.aliases)
            ) from None
        versions = [str(v.version) for v in client.search_model_versions(f"name='{name}'")]
        raise NotFoundError(
            f"Model {name!r} has no version {parts['version']}; it has {', '.join(sorted(versions, key=int))}"
        ) from None
