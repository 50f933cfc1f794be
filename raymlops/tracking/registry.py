"""The model registry: versions of an ONNX file with signature, profile, digest and lineage; aliases; and the
resolution of both."""

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
import shlex
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import mlflow
import mlflow.onnx
import onnx
from mlflow.exceptions import MlflowException

from raymlops import attestation
from raymlops.artifact import MODEL_FILE
from raymlops.errors import ArtifactError, SpecError, UntrustedError, shorten
from raymlops.settings import Settings
from raymlops.tensors import Batch, Signature
from raymlops.tracking import evidence, manifests, signatures, store
from raymlops.tracking.lookup import alias_of, find_version
from raymlops.tracking.manifests import DIGEST_TAG, Manifest

__all__ = [
    "DIGEST_TAG",
    "ModelVersion",
    "check_name",
    "ensure_model",
    "find_version",
    "register_version",
    "resolve",
]

_PAUSES = (0.3, 1.0, 0.0)  # seconds after which invalid evidence is read again
LOG = logging.getLogger("raymlops.tracking")


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """A resolved version: exact, downloaded, and equal to what was registered.

    `digest` is the model's; the file is compared with it again when it is read. Empty if none was registered.
    """

    name: str
    version: str
    uri: str
    digest: str
    path: pathlib.Path
    tags: dict[str, str]
    manifest: Manifest | None = None
    """Its signed manifest; None if no trusted key signed it."""

    @property
    def file(self) -> pathlib.Path:
        return self.path / MODEL_FILE


def check_name(name: str) -> None:
    """Raises SpecError for what cannot name a model: a version is found by `models:/NAME/VERSION`, and files of a run
    are in a folder of that name."""
    if not re.fullmatch(r"[\w][\w .-]{0,199}", name) or name != name.strip() or name.endswith("."):
        raise SpecError(
            f"A model cannot be named {shorten(name)!r}; expected up to 200 letters, digits, blanks, dots, dashes or "
            "underscores, of which the first is a letter, digit or underscore"
        )


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
    settings: Settings,
    weights: Mapping[str, bytes] | None = None,
    description: str = "",
    folder: str = "model",
) -> tuple[str, str]:
    """Log an ONNX file with a run, in MLflow's ONNX flavour, register it and sign it. Returns the version and the
    sha256. Registering the same file of the same run again gives the same version.

    `files` are stored beside the model as JSON: its training profile, its fitted features, its evidence. `weights`
    are its external weights files, by path relative to the model.
    """
    contents = {MODEL_FILE: model, **(weights or {})}
    digests = {file: attestation.digest_of(content) for file, content in contents.items()}
    digest = attestation.digest_of_files(digests)
    texts = {file: json.dumps(value, indent=1, default=str) for file, value in files.items()}
    tags = {**{key: str(value)[:5000] for key, value in tags.items()}, DIGEST_TAG: digest}
    loaded = onnx.load_from_string(model)
    contract = evidence.digest_contract(loaded)
    if held := _find_registered(client, name, run, digest):
        evidence.sign_registered(client, name, held, digests, contract, settings)
        return held, digest
    with tempfile.TemporaryDirectory(prefix="raymlops-") as directory:
        path = pathlib.Path(directory) / "model"
        mlflow.onnx.save_model(
            loaded,
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
            onnx_execution_providers=["CPUExecutionProvider"],  # else pyfunc warns on machines without a GPU
        )
        for file, content in contents.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            # the bytes that were judged: MLflow writes its own serialisation
            (path / file).write_bytes(content)
        for file, text in texts.items():
            (path / file).write_text(text, encoding="utf-8")
        files_there = manifests.digest_files(path)
        client.log_artifacts(run, str(path), folder)
    ensure_model(client, name)
    created = client.create_model_version(
        name,
        source=f"{client.get_run(run).info.artifact_uri}/{folder}",
        run_id=run,
        tags=tags,
        description=description,
    )
    evidence.sign_registered(client, name, str(created.version), digests, contract, settings, files_there)
    return str(created.version), digest


def _find_registered(client: mlflow.MlflowClient, name: str, run: str, digest: str) -> str | None:
    """The version that this run registered before it was cut off; None if there is none."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run}'")
    versions = [int(one.version) for one in found if one.tags.get(DIGEST_TAG) == digest]
    return str(min(versions)) if versions else None


def ensure_model(client: mlflow.MlflowClient, name: str) -> None:
    """Create the registered model unless it exists."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find_proven(client: mlflow.MlflowClient, uri: str, settings: Settings) -> tuple[Any, Manifest | None]:
    """A version and its manifest; read again if a writer changes them in between."""
    for pause in _PAUSES:
        found = find_version(client, uri)
        try:
            return found, evidence.require(client, found, settings, alias_of(uri))
        except UntrustedError:
            if not pause:
                raise
            time.sleep(pause)
    raise AssertionError("the last pause is none")


def resolve(uri: str, settings: Settings) -> ModelVersion:
    """`models:/name@alias` or `models:/name/3` -> the exact version, downloaded and compared with its signed
    manifest.

    An unsigned version is returned with a warning. Raises NotFoundError if it is not registered, ArtifactError if a
    file is not the registered one, UntrustedError if evidence was changed or the alias was moved without the record.
    """
    client = store.connect(settings)
    found, manifest = _find_proven(client, uri, settings)
    name, version = str(found.name), str(found.version)
    pinned = f"models:/{name}/{version}"
    with store.reaching_artifacts(str(found.source)):
        path = pathlib.Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=str(found.source), tracking_uri=settings.tracking_uri
            )
        )
    file = path / MODEL_FILE
    if not file.is_file():
        raise ArtifactError(f"Version {uri} has no {MODEL_FILE}; expected an ONNX model")
    tags = {str(key): str(value) for key, value in dict(found.tags).items()}
    if manifest is not None:
        manifests.compare_files(manifest, path)
        return ModelVersion(name, version, pinned, manifest.digest, path, tags, manifest)
    LOG.warning(
        "%s has no evidence that a trusted key signed; look at it, then: raymlops history %s --sign --why REASON",
        pinned,
        shlex.quote(name),
    )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    recorded = tags.get(DIGEST_TAG)
    if recorded is not None and recorded != digest:
        raise ArtifactError(
            f"The file of {name} version {version} has sha256 {digest[:12]}, but "
            f"{recorded[:12]} was "
            "registered; it was changed after registration and is not loaded"
        )
    return ModelVersion(name, version, pinned, recorded or "", path, tags)
