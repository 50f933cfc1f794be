"""The signed manifest of a model version: an in-toto statement on its files, its origin and its verdict.

Makes, reads and compares manifests; the record (raymlops.tracking.history) says which manifest belongs to a version.
"""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from raymlops import attestation
from raymlops.attestation import TrustedKeys
from raymlops.errors import UntrustedError
from raymlops.tracking import record_run, store

KIND = "https://raymlops.dev/attestation/model-version/v1"
MANIFEST_TAG = "raymlops.manifest"
DIGEST_TAG = "raymlops.sha256"
ANCHOR_TAG = "raymlops.history"
PREFIX = "raymlops."
UNSIGNED_TAGS = {MANIFEST_TAG, ANCHOR_TAG}
"""Tags that the record itself holds."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was signed for a version. Digests are sha256 in hex, empty for files that do not exist."""

    model: str
    version: str
    run: str
    digest: str
    """Digest of the model with its external weights, in the form in which a session is opened from it."""
    files: Mapping[str, str]
    """File of the version's folder -> digest: the model, each weights file, profile, fitted features, and MLflow's
    own metadata."""
    documents: Mapping[str, str]
    """File of the version's run -> digest: spec, package lock, data, verdict, evaluation, report."""
    facts: Mapping[str, str]
    """The version's tags: who, when, why, from which data and code, the gate's outcome."""
    contract: str = ""
    profile: str = ""
    spec: str = ""
    lock: str = ""
    data: str = ""
    """Fingerprint of the dataset."""
    verdict: Mapping[str, Any] | None = None
    """`sha256`, `passed`, `digest` of the judged file, and `against`, the champion that it was compared with."""
    who: str = ""
    when: str = ""
    why: str = ""
    adopted: bool = False
    """Signed later by a person who inspected the version, not by the process that made it."""

    @property
    def passed(self) -> bool:
        """Whether the gate passed exactly this file."""
        return (
            self.verdict is not None
            and self.verdict["passed"] is True
            and bool(self.digest)
            and self.verdict["digest"] == self.digest
        )

    def to_statement(self) -> bytes:
        held = dataclasses.asdict(self)
        return attestation.make_statement(held.pop("files"), KIND, held)


def read_manifest(client: mlflow.MlflowClient, run: str, digest: str, keys: TrustedKeys) -> Manifest:
    """A manifest from the run that keeps a record. Raises UntrustedError if it is missing or not as signed."""
    payload = attestation.verify(
        record_run.read_manifest(client, run, digest), attestation.STATEMENT_PAYLOAD, keys
    ).payload
    if attestation.digest_of(payload) != digest:
        raise UntrustedError(f"The manifest {digest[:12]} was replaced by another one of the same name")
    files, predicate = attestation.read_statement(payload, KIND)
    try:
        return Manifest(files=files, **predicate)
    except TypeError as error:
        raise UntrustedError(f"The manifest {digest[:12]} cannot be read: {error}") from None


def compare_version(manifest: Manifest, version: Any) -> list[str]:
    """Differences between a manifest and MLflow's entity of the version; empty if there are none."""
    if (manifest.model, manifest.version) != (str(version.name), str(version.version)):
        return [f"the manifest is of models:/{manifest.model}/{manifest.version}"]
    problems = []
    if manifest.run != str(version.run_id or ""):
        problems.append("the version was made again by another run than the manifest names")
    held = {key: str(value) for key, value in dict(version.tags).items() if key.startswith(PREFIX)}
    for tag in sorted({*held, *manifest.facts} - UNSIGNED_TAGS):
        if tag not in held:
            problems.append(f"its tag {tag} is gone")
        elif held[tag] != manifest.facts.get(tag):
            problems.append(f"its tag {tag} is not as it was signed")
    return problems


def digest_files(folder: pathlib.Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """sha256 of the named files of a folder, or of all. Raises UntrustedError if one is missing or is not a plain
    file inside the folder."""
    digests = {}
    root = folder.resolve()
    if names is None:
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    for name in names:
        path = root / name
        if not path.resolve().is_relative_to(root) or not path.is_file():
            raise UntrustedError(f"The file {name!r} of the manifest is not in {str(folder)!r}")
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def compare_files(manifest: Manifest, folder: pathlib.Path) -> None:
    """Raises UntrustedError if files of a version are not those that were signed."""
    for name, found in digest_files(folder, manifest.files).items():
        if found != manifest.files[name]:
            raise UntrustedError(
                f"The file {name!r} of models:/{manifest.model}/{manifest.version} has sha256 {found[:12]}, but "
                f"{manifest.files[name][:12]} was registered; it was changed after registration and is not loaded"
            )


def compare_documents(client: mlflow.MlflowClient, manifest: Manifest) -> list[str]:
    """Files of the version's run that are not as they were signed."""
    found = digest_documents(client, manifest.run, manifest.documents)
    return [
        f"the file {path} of its run is {'not as it was signed' if path in found else 'gone'}"
        for path, digest in manifest.documents.items()
        if found.get(path) != digest
    ]


def digest_documents(client: mlflow.MlflowClient, run: str, paths: Iterable[str]) -> dict[str, str]:
    """sha256 of those of the named files that a run has."""
    found = {}
    for path in paths:
        text = read_document(client, run, path)
        if text is not None:
            found[path] = attestation.digest_of(text)
    return found


def read_document(client: mlflow.MlflowClient, run: str, path: str) -> bytes | None:
    """A file of a run; None if the run does not have it, or there is no run."""
    if not run:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            return pathlib.Path(store.artifacts_of(client, run).download_artifacts(path, folder)).read_bytes()
        except (OSError, MlflowException):
            return None
