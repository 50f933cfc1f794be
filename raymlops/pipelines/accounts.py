"""Answers for versions: aliases moved and rolled back on the record, lineage both ways, differences."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raymlops import attestation
from raymlops.errors import ArtifactError, RaymlopsError, UnreachableError, UntrustedError, UserError
from raymlops.models.safety import read_model
from raymlops.models.session import open_session
from raymlops.pipelines import recall, trusting
from raymlops.pipelines.rows import Rows
from raymlops.pipelines.trusting import ORIGINAL, Trusted
from raymlops.settings import Settings
from raymlops.specs.document import read_json
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import evidence, history, history_writer, registry, store
from raymlops.tracking.evidence import GATE_TAG, VERDICT_TAG
from raymlops.tracking.history import Entry, Record
from raymlops.tracking.lookup import find_model
from raymlops.tracking.registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
ROLLBACK = "rollback"


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing in which two versions differ; empty where one of them lacks it."""

    part: str
    name: str
    first: str
    second: str


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
    """Move an alias, on the record. Only a version whose evidence holds gets one, and only one that the gate passed
    becomes champion, unless by `force`, which the record says.

    A rollback asks no gate: what it goes back to was champion. Raises UserError for a version that nobody signed or
    that the gate did not pass, UntrustedError when its evidence or the record was changed, NotFoundError when it is
    not there.
    """
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


def _find_objection(uri: str, alias: str, action: str, settings: Settings) -> RaymlopsError | None:
    """What speaks against giving a version an alias; by what was signed of it, and never by its tags."""
    anyway = "or promote it all the same with --force, which the record will say"
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
) -> tuple[str, str | None, Trusted | None]:
    """Make a new version challenger, ask the gate, and make it champion when it passes.

    Gives the version that is to be used, which is another where a smaller file was chosen, and its alias. A
    version that cannot be measured stays challenger, and people are told: the model is not lost by it.
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
        trusted = trusting.trust_version(client, found, spec, rows, settings, tell=tell)
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
    """As a search does, which may have been cut off after it had moved it."""
    if str(dict(find_model(client, name).aliases).get(alias, "")) != version:
        move_alias(name, version, alias, why, settings, action="search")


def _find_smallest(trusted: Trusted) -> str:
    """The kind of the smallest variant that passes and is smaller than the original; empty when none is."""
    original = next((line.size for line in trusted.variants if line.kind == ORIGINAL), 0)
    lines = [line for line in trusted.variants if line.passed and 0 < line.size < original]
    return min(lines, key=lambda line: line.size).kind if lines else ""


def _register_variant(client: Any, trusted: Trusted, kind: str, settings: Settings) -> str:
    """A variant as a version of its own, with its own verdict: that of its very file, beside the original."""
    version, verdict = trusted.version, trusted.judged[kind]
    data = read_model(trusting.variant_path(version, kind, settings), verdict.digest)
    assert isinstance(data, bytes)
    beside = {registry.PROFILE_FILE, registry.FEATURES_FILE}
    made, _ = registry.register_version(
        client,
        name=version.name,
        run=registry.find_version(client, version.uri).run_id,
        model=data,
        signature=open_session(data).signature,
        example=None,
        tags={
            **{tag: value for tag, value in version.tags.items() if tag in recall.KEPT},
            "raymlops.variant": f"{kind} of version {version.version}",
        },
        files={file: _read_beside(version, file) for file in beside if (version.path / file).is_file()},
        settings=settings,
        folder=f"model-{kind}",
    )
    uri = f"models:/{version.name}/{made}"
    trusting.store_verdict(client, uri, dataclasses.replace(verdict, candidate=uri), {}, settings)
    return made


def _read_beside(version: ModelVersion, file: str) -> Any:
    """A JSON file beside a version's model, as it was signed. Raises UntrustedError."""
    content = (version.path / file).read_bytes()
    if version.manifest and version.manifest.files.get(file) != attestation.digest_of(content):
        raise UntrustedError(f"The file {file!r} of {version.uri} is not as it was signed")
    return read_json(content, f"{file} of {version.uri}")


def roll_back(name: str, why: str, settings: Settings, alias: str = CHAMPION) -> Entry:
    """Point the alias at the version before, on the record.

    Raises UntrustedError for a record with problems, as of an alias that is not where the record says; NotFoundError
    when there was no version before.
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
    """Mend the history of a model, on the record. Gives what was done."""
    return history_writer.repair(store.connect(settings), name, settings, why)


def sign_versions(name: str, why: str, settings: Settings, version: str = "") -> list[str]:
    """Sign the versions of a model, or one, that nobody signed whose key is trusted. Gives those that were signed."""
    return evidence.adopt(store.connect(settings), name, why, settings, version)


def trace_version(uri: str, settings: Settings) -> dict[str, str]:
    """Everything that a version came from."""
    client = store.connect(settings)
    version = registry.resolve(uri, settings)
    moves = [
        str(entry).strip()
        for entry in history.read_history(client, version.name, settings).entries
        if entry.version == version.version
    ]
    data = recall.read_record_file(client, version, "data.json")
    lock = recall.read_text(client, version, "requirements.lock.txt") or ""
    return {
        "version": version.uri,
        **recall.list_facts(version),
        "data source": str(data.get("source", "")),
        "data rows": str(data.get("rows", "")),
        "environment": f"{len(lock.splitlines()) - 1} packages, {lock.splitlines()[0].lstrip('# ')}"
        if lock
        else "",
        **{f"alias move {place}": move for place, move in enumerate(moves, start=1)},
    }


def find_versions(
    settings: Settings, *, data: str = "", commit: str = ""
) -> list[tuple[str, dict[str, str]]]:
    """Versions of any model that came from this data fingerprint or commit; a beginning is enough."""
    client = store.connect(settings)
    wanted = {"raymlops.fingerprint": data, "raymlops.commit": commit}
    found = []
    for model in client.search_registered_models(max_results=1000):
        for one in client.search_model_versions(f"name='{model.name}'", max_results=10_000):
            tags = dict(one.tags)
            if all(tags.get(tag, "").startswith(start) for tag, start in wanted.items()):
                found.append((f"models:/{one.name}/{one.version}", tags))
    return sorted(found, key=lambda item: item[1].get("raymlops.when", ""))


def compare_versions(first: str, second: str, settings: Settings) -> list[Change]:
    """What differs between two versions: spec, parameters, data, code, metrics."""
    client = store.connect(settings)
    versions = [registry.resolve(uri, settings) for uri in (first, second)]
    parts: list[dict[str, dict[str, Any]]] = []
    for version in versions:
        tags = version.tags
        parts.append(
            {
                "spec": dict(_flatten(recall.read_record_file(client, version, "spec.json"))),
                "parameters": recall.read_tag(version, "raymlops.parameters"),
                "data": {"fingerprint": tags.get("raymlops.fingerprint", "")},
                "code": {"commit": tags.get("raymlops.commit", "")},
                "file": {"sha256": version.digest},
                "test metrics": recall.read_tag(version, "raymlops.test"),
                "gate": {"outcome": tags.get(GATE_TAG, "")},
            }
        )
    return [
        Change(part, name, _show(parts[0][part].get(name)), _show(parts[1][part].get(name)))
        for part in parts[0]
        for name in sorted({**parts[0][part], **parts[1][part]})
        if parts[0][part].get(name) != parts[1][part].get(name)
    ]


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flatten(inner, f"{path}[{place}]")
    else:
        yield path, value


def _show(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
