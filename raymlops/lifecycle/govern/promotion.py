"""Promotion: moves aliases and rolls them back, on the record; makes a new version challenger or champion."""

import dataclasses
import re
import shlex
from collections.abc import Callable
from typing import Any

from raymlops import attestation
from raymlops.artifact import FEATURES_FILE, PROFILE_FILE
from raymlops.errors import (
    ArtifactError,
    RaymlopsError,
    SpecError,
    UnreachableError,
    UntrustedError,
    UserError,
    shorten,
)
from raymlops.lifecycle.govern import evaluate, version_record
from raymlops.lifecycle.govern.evaluate import ORIGINAL, EvaluatedVersion
from raymlops.lifecycle.govern.evaluation_rows import Rows
from raymlops.models.safety import read_model
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.document import read_json
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import evidence, history, history_writer, registry, store
from raymlops.tracking.evidence import VERDICT_TAG
from raymlops.tracking.history import Entry, Record
from raymlops.tracking.lookup import find_model
from raymlops.tracking.registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
ROLLBACK = "rollback"


def move_alias(
    name: str,
    version: str,
    alias: str,
    why: str,
    settings: Settings,
    *,
    force: bool = False,
    action: str = "promote",
) -> Entry:
    """Move an alias, on the record. A version needs valid evidence, and a champion also needs a passed gate, unless
    `force` is given, which is recorded.

    A rollback needs no gate: its target was champion before. Raises UserError for a version that is unsigned or did
    not pass the gate, UntrustedError if its evidence or the record was changed, NotFoundError if it does not exist.
    """
    _check_alias(alias)
    client = store.connect(settings)
    uri = f"models:/{name}/{version}"
    found = registry.find_version(client, uri)
    against = _find_objection(uri, alias, action, settings)
    if against is not None and not force:
        raise against
    return history_writer.move_alias(
        client,
        name,
        alias,
        str(found.version),
        settings=settings,
        why=why,
        action=action,
        forced=force and against is not None,
        verdict=str(found.tags.get(VERDICT_TAG, "")),
    )


def _check_alias(alias: str) -> None:
    """Before anything is recorded. Raises SpecError for what the registry does not take as an alias."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,250}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise SpecError(
            f"{shorten(alias)!r} cannot be an alias; expected letters, digits, dashes or underscores, and neither "
            "'latest' nor a version such as v1"
        )


def _find_objection(uri: str, alias: str, action: str, settings: Settings) -> RaymlopsError | None:
    """Reasons against giving a version an alias, from its signed evidence only, never from its tags."""
    anyway = "or promote it anyway with --force, which is recorded"
    try:
        version = registry.resolve(uri, settings)
    except ArtifactError as error:
        return error
    manifest = version.manifest
    if manifest is None:
        if action == ROLLBACK:
            return None  # it was champion before versions were signed
        return UserError(
            f"{uri} has no evidence that a trusted key signed: run `raymlops history "
            f"{shlex.quote(version.name)} --sign --why REASON`, {anyway}"
        )
    if alias != CHAMPION or action == ROLLBACK or manifest.passed:
        return None
    if manifest.verdict is None:
        return UserError(f"{uri} was never judged; run `raymlops gate {shlex.quote(uri)}`, {anyway}")
    outcome = str(manifest.verdict["outcome"])
    said = "judged as another file" if manifest.verdict["passed"] else outcome
    return UserError(f"{uri} was {said}; see `raymlops gate {shlex.quote(uri)}`, {anyway}")


def admit_version(
    name: str,
    version: str,
    spec: ExperimentSpec,
    rows: Rows,
    settings: Settings,
    why: str,
    tell: Callable[[str], None],
) -> tuple[str, str | None, EvaluatedVersion | None]:
    """Make a new version challenger, run the gate, and make it champion if it passes.

    Returns the version to use, which is another one if a smaller file was chosen, and its alias. A version that
    cannot be measured stays challenger, with a warning: the model is not lost.
    """
    client = store.connect(settings)
    try:
        _move_once(client, name, version, CHALLENGER, why, settings)
        found = registry.resolve(f"models:/{name}/{version}", settings)
    except (ArtifactError, UserError) as error:
        if isinstance(error, UnreachableError):
            raise  # the caller waits for the store
        tell(f"models:/{name}/{version} is registered and gets no alias: {error}")
        return version, None, None
    try:
        opened = evaluate.open_version(found)
        trusted = evaluate.evaluate_version(client, opened, spec, rows, settings, tell=tell)
        for sentence in filter(None, trusted.own_rows.values()):
            tell(sentence)
    except UnreachableError:
        raise  # the caller waits for the store
    except RaymlopsError as error:
        tell(f"{found.uri} stays {CHALLENGER}, since it could not be judged: {error}")
        return version, CHALLENGER, None
    if not trusted.verdict.passed:
        return version, CHALLENGER, trusted
    smallest = _find_smallest(trusted) if spec.gate.smallest else ""
    if smallest:
        version = _register_variant(client, trusted, smallest, settings)
        tell(f"The smallest file that passes is {smallest}: registered as models:/{name}/{version}")
    _move_once(client, name, version, CHAMPION, f"the gate passed; {why}", settings)
    return version, CHAMPION, trusted


def _move_once(client: Any, name: str, version: str, alias: str, why: str, settings: Settings) -> None:
    """As in a search that was cut off after it had moved the alias."""
    if str(dict(find_model(client, name).aliases).get(alias, "")) != version:
        move_alias(name, version, alias, why, settings, action="search")


def _find_smallest(trusted: EvaluatedVersion) -> str:
    """The kind of the smallest variant that passes and is smaller than the original; empty if there is none."""
    original = next((line.size for line in trusted.variants if line.kind == ORIGINAL), 0)
    lines = [line for line in trusted.variants if line.passed and 0 < line.size < original]
    return min(lines, key=lambda line: line.size).kind if lines else ""


def _register_variant(client: Any, trusted: EvaluatedVersion, kind: str, settings: Settings) -> str:
    """Registers a variant as its own version, with its own verdict: that of exactly this file, compared with the
    original."""
    version, verdict = trusted.version, trusted.judged[kind]
    data = read_model(evaluate.variant_path(version, kind, settings), verdict.digest)
    assert isinstance(data, bytes)
    beside = {PROFILE_FILE, FEATURES_FILE}
    made, _ = registry.register_version(
        client,
        name=version.name,
        run=registry.find_version(client, version.uri).run_id,
        model=data,
        signature=open_session(data).signature,
        example=None,
        tags={
            **{tag: value for tag, value in version.tags.items() if tag in version_record.KEPT},
            "raymlops.variant": f"{kind} of version {version.version}",
        },
        files={file: _read_beside(version, file) for file in beside if (version.path / file).is_file()},
        settings=settings,
        folder=f"model-{kind}",
    )
    uri = f"models:/{version.name}/{made}"
    evaluate.store_verdict(client, uri, dataclasses.replace(verdict, candidate=uri), {}, settings)
    return made


def _read_beside(version: ModelVersion, file: str) -> Any:
    """A JSON file beside a version's model, verified as signed. Raises UntrustedError."""
    content = (version.path / file).read_bytes()
    if version.manifest and version.manifest.files.get(file) != attestation.digest_of(content):
        raise UntrustedError(f"The file {file!r} of {version.uri} is not as it was signed")
    return read_json(content, f"{file} of {version.uri}")


def roll_back(name: str, why: str, settings: Settings, alias: str = CHAMPION) -> Entry:
    """Move the alias back to its previous version, on the record.

    Raises UntrustedError if the record has problems, such as an alias that is not where the record says;
    NotFoundError if there is no previous version.
    """
    client = store.connect(settings)
    record = history.read_history(client, name, settings)
    history.require_whole(name, record)
    version = history.find_previous(record, alias)
    return move_alias(name, version, alias, why, settings, action=ROLLBACK)


def read_record(name: str, settings: Settings) -> Record:
    """The history of a model, verified, with its versions."""
    return history.read_history(store.connect(settings), name, settings)


def repair_record(name: str, why: str, settings: Settings) -> list[str]:
    """Repair the history of a model, on the record. Returns what was done."""
    return history_writer.repair(store.connect(settings), name, settings, why)


def sign_versions(name: str, why: str, settings: Settings, version: str = "") -> list[str]:
    """Sign the versions of a model, or one, that no trusted key signed. Returns those that were signed."""
    return evidence.adopt(store.connect(settings), name, why, settings, version)
