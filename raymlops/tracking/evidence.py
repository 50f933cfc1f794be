"""Signed evidence of a model version: written when a version is registered, judged or adopted, and checked before it
is used. The signed verdict counts, whatever the version's tags say."""

import dataclasses
import json
import logging
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import mlflow
import onnx

from raymlops import attestation
from raymlops.artifact import CONTRACT_KEY, MODEL_FILE, PROFILE_FILE, REFERENCE_FILE
from raymlops.errors import ArtifactError, RaymlopsError, UnreachableError, UntrustedError
from raymlops.settings import Settings
from raymlops.tracking import history, history_writer, manifests, record_run, store
from raymlops.tracking.history_writer import Change
from raymlops.tracking.lookup import find_model, find_version
from raymlops.tracking.manifests import DIGEST_TAG, MANIFEST_TAG, Manifest

LOG = logging.getLogger("raymlops.tracking")
GATE_TAG, VERDICT_TAG, AGAINST_TAG = "raymlops.gate", "raymlops.verdict", "raymlops.gate.against"
PASSED = "passed"
SPEC, LOCK, DATA = "spec.json", "requirements.lock.txt", "data.json"
TRAINING_ROWS, FOLDS, LEARNERS = "training_rows.json", "folds.json", "learners.json"


def require(
    client: mlflow.MlflowClient, version: Any, settings: Settings, alias: str = ""
) -> Manifest | None:
    """The manifest of a version that is about to be used; None if no trusted key signed it.

    `alias` is the alias by which it was found. Raises UntrustedError if the record contradicts the store about the
    version's evidence or the alias. Other problems of the record are logged as warnings.
    """
    name, number = str(version.name), str(version.version)
    record = history.read_record(client, name, settings)
    if record.problems:
        LOG.warning("The record of %r is not valid: %s", name, "; ".join(record.problems[:5]))
    uri = f"models:/{name}/{number}"
    if record.head is None:
        if record_run.load_seen_head(name, settings) is not None:
            history.require_whole(name, record)  # it was signed when this user last saw it
        return None  # a signature of an untrusted key counts as none
    if alias and record.aliases.get(alias, "") != number:
        said = record.aliases.get(alias)
        raise UntrustedError(
            f"Alias {alias!r} of {name!r} is at version {number}, but the record says "
            f"{f'version {said}' if said else 'nothing of it'}; it was moved past the record. Put it back: "
            f"raymlops history {shlex.quote(name)} --repair --why REASON; then move it on the record "
            "with raymlops promote"
        )
    if not record.manifests.get(number) and not dict(version.tags).get(MANIFEST_TAG):
        return None
    problems = history.compare_version(client, record, version, attestation.load_trusted_keys(settings))
    if problems:
        raise UntrustedError(f"The evidence of {uri} is not valid: {'; '.join(problems)}")
    return manifests.read_manifest(
        client, record.run, record.manifests[number], attestation.load_trusted_keys(settings)
    )


def sign_registered(
    client: mlflow.MlflowClient,
    name: str,
    number: str,
    model: Mapping[str, str],
    contract: str,
    settings: Settings,
    files: Mapping[str, str] | None = None,
) -> None:
    """Sign a version that was just registered, unless it is signed. `model` are the digests of the model's files,
    `files` those of all stored files; None takes the files in the store.

    If it cannot be signed, the version is kept and a warning is logged: it is served with a warning and not promoted.
    """
    version = find_version(client, f"models:/{name}/{number}")
    if dict(version.tags).get(MANIFEST_TAG):
        return
    digest = attestation.digest_of_files(model)
    try:
        files = manifests.digest_files(_download(version, settings)) if files is None else files
        if any(files.get(file) != sha256 for file, sha256 in model.items()):
            raise UntrustedError("its files are not those that were to be registered")
        manifest = _make(client, version, files, digest, contract, settings, adopted=False)
        _append(client, manifest, "register", str(manifest.why), settings)
    except UnreachableError:
        raise  # the caller tries again
    except RaymlopsError as error:
        LOG.warning("models:/%s/%s is registered, but could not be signed: %s", name, number, error)


def sign_verdict(
    client: mlflow.MlflowClient,
    manifest: Manifest,
    verdict: Mapping[str, Any],
    documents: Mapping[str, str | bytes],
    settings: Settings,
) -> None:
    """Sign the gate's verdict on a version: `verdict` has `sha256`, `passed`, `digest`, `against` and `outcome`;
    `documents` are files of the version's run that give details. Raises UntrustedError if the record has problems."""
    facts = {
        **manifest.facts,
        GATE_TAG: str(verdict["outcome"]),
        VERDICT_TAG: str(verdict["sha256"]),
        AGAINST_TAG: str(verdict["against"]),
    }
    digests = {
        path: attestation.digest_of(content.encode() if isinstance(content, str) else content)
        for path, content in documents.items()
    }
    judged = dataclasses.replace(
        manifest, facts=facts, verdict=verdict, documents={**manifest.documents, **digests}
    )
    _append(client, judged, "gate", str(verdict["outcome"]), settings, verdict=str(verdict["sha256"]))


def sign_reference(
    version: Any, content: bytes, why: str, settings: Settings, client: mlflow.MlflowClient
) -> None:
    """Sign the reference of a version (a `registry.ModelVersion`), which was stored in its run; does nothing if the
    version is not signed. Raises UntrustedError if the record has problems."""
    if version.manifest is None:
        return
    documents = {
        **version.manifest.documents,
        reference_path(version.version): attestation.digest_of(content),
    }
    manifest = dataclasses.replace(version.manifest, documents=documents)
    _append(client, manifest, "reference", why or "a reference for monitoring", settings)


def read_reference(client: mlflow.MlflowClient, version: Any) -> bytes | None:
    """The reference of a version; None if there is none. Raises UntrustedError if it is not the one that was signed."""
    path = reference_path(version.version)
    content = manifests.read_document(client, str(find_version(client, version.uri).run_id or ""), path)
    if version.manifest is None:
        return content
    signed = version.manifest.documents.get(path)
    found = attestation.digest_of(content) if content is not None else None
    if found != signed:
        state = (
            "gone"
            if content is None
            else "not as it was signed"
            if signed
            else "not signed, but the version is"
        )
        raise UntrustedError(
            f"The reference of {version.uri} is {state}; make it again: "
            f"raymlops reference {shlex.quote(version.uri)} DATA"
        )
    return content


def reference_path(version: str) -> str:
    """Where the run of a version has its reference."""
    return f"trust/version-{version}/{REFERENCE_FILE}"


def adopt(client: mlflow.MlflowClient, name: str, why: str, settings: Settings, only: str = "") -> list[str]:
    """Sign versions that no trusted key signed: all of a model, or one. Returns those that were signed.

    Raises UntrustedError if the record has problems, or a file is not the registered one.
    """
    find_model(client, name)
    record = history.read_history(client, name, settings)
    history.require_whole(name, record)
    versions = client.search_model_versions(f"name='{name}'", max_results=10_000)
    if only:
        versions = [find_version(client, f"models:/{name}/{only}")]
    signed = []
    for version in sorted(versions, key=lambda one: int(one.version)):
        number = str(version.version)
        if number in record.manifests:
            continue
        manifest = _adopt(client, version, settings)
        _append(client, dataclasses.replace(manifest, why=why), "sign", why, settings)
        signed.append(number)
    return signed


def _adopt(client: mlflow.MlflowClient, version: Any, settings: Settings) -> Manifest:
    uri = f"models:/{version.name}/{version.version}"
    path = _download(version, settings)
    model = path / MODEL_FILE
    if not model.is_file():
        raise ArtifactError(f"{uri} has no {MODEL_FILE}; only ONNX models are signed")
    loaded = onnx.load(str(model), load_external_data=False)
    weights = sorted(_find_weights(loaded))
    digest = attestation.digest_of_files(manifests.digest_files(path, [MODEL_FILE, *weights]))
    files = manifests.digest_files(path)
    recorded = dict(version.tags).get(DIGEST_TAG)
    if recorded and recorded != digest:
        raise UntrustedError(
            f"The file of {uri} has sha256 {digest[:12]}, but {recorded[:12]} was registered; it is not signed"
        )
    if not recorded:
        client.set_model_version_tag(version.name, version.version, DIGEST_TAG, digest)
        version = find_version(client, uri)
    return _make(client, version, files, digest, digest_contract(loaded), settings, adopted=True)


def _download(version: Any, settings: Settings) -> pathlib.Path:
    with store.reaching_artifacts(str(version.source)):
        return pathlib.Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=str(version.source), tracking_uri=settings.tracking_uri
            )
        )


def _find_weights(model: Any) -> set[str]:
    """Paths of files in which a model keeps weights. The model is unchecked here: it is checked when it is loaded."""
    found, waiting = set(), [model]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += value if field.is_repeated else [value]
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
            found |= {entry.value for entry in message.external_data if entry.key == "location"}
    return found


def _make(
    client: mlflow.MlflowClient,
    version: Any,
    files: Mapping[str, str],
    digest: str,
    contract: str,
    settings: Settings,
    *,
    adopted: bool,
) -> Manifest:
    run = str(version.run_id or "")
    tags = {key: str(value) for key, value in dict(version.tags).items() if key.startswith(manifests.PREFIX)}
    facts = {key: value for key, value in tags.items() if key not in (MANIFEST_TAG, manifests.ANCHOR_TAG)}
    folder = f"trust/version-{version.version}"
    paths = [
        SPEC,
        LOCK,
        DATA,
        TRAINING_ROWS,
        LEARNERS,
        *(f"{folder}/{file}" for file in ("verdict.json", "evaluation.json", REFERENCE_FILE)),
    ]
    documents = manifests.digest_documents(client, run, paths)
    verdict = _read_verdict(client, run, f"{folder}/verdict.json", facts) if adopted else None
    return Manifest(
        model=str(version.name),
        version=str(version.version),
        run=run,
        digest=digest,
        files=files,
        documents=documents,
        facts=facts,
        contract=contract,
        profile=files.get(PROFILE_FILE, ""),
        spec=documents.get(SPEC, ""),
        lock=documents.get(LOCK, ""),
        data=facts.get("raymlops.fingerprint", ""),
        verdict=verdict,
        who=settings.user,
        when=facts.get("raymlops.when", ""),
        why=facts.get("raymlops.why", ""),
        adopted=adopted,
    )


def digest_contract(model: onnx.ModelProto) -> str:
    """sha256 of the model's contract on its columns; empty for a model of another origin."""
    held = {entry.key: entry.value for entry in model.metadata_props}.get(CONTRACT_KEY, "")
    return attestation.digest_of(held.encode()) if held else ""


def _read_verdict(
    client: mlflow.MlflowClient, run: str, path: str, facts: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """The verdict stored with a version before verdicts were signed; None if there is none.

    Raises UntrustedError if it is not the one that the version's tags name.
    """
    content = manifests.read_document(client, run, path)
    if content is None or VERDICT_TAG not in facts:
        return None
    try:
        held = json.loads(content)
        sha256 = attestation.digest_of(json.dumps(held, sort_keys=True).encode())
        verdict = {
            "sha256": sha256,
            "passed": held["passed"] is True,
            "digest": str(held["digest"]),
            "against": str(held["champion"]) or "no champion",
            "outcome": facts.get(GATE_TAG, ""),
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UntrustedError(f"The verdict {path!r} cannot be read; judge the version again") from None
    if sha256 != facts[VERDICT_TAG] or (verdict["outcome"] == PASSED) != verdict["passed"]:
        raise UntrustedError(
            f"The verdict {path!r} is not the one that the version's tags name; judge the version again"
        )
    return verdict


def _append(
    client: mlflow.MlflowClient,
    manifest: Manifest,
    action: str,
    why: str,
    settings: Settings,
    verdict: str = "",
) -> None:
    change = Change(action, manifest.version, why, settings.user, verdict=verdict, manifest=manifest)
    history_writer.append(client, manifest.model, settings, change)
