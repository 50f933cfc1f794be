"""What versions were made from, which versions were made from something, and how two versions differ. Changes
nothing."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from raymlops.artifact import PROFILE_FILE
from raymlops.data.training_rows import FALSE_SHARE
from raymlops.errors import ArtifactError
from raymlops.lifecycle.govern import version_record
from raymlops.models.header import read_header
from raymlops.monitoring.profile_comparison import compare_profiles
from raymlops.settings import Settings
from raymlops.tracking import evidence, history, registry, store
from raymlops.tracking.evidence import GATE_TAG
from raymlops.tracking.registry import ModelVersion
from raymlops.tracking.run_reader import Client


@dataclasses.dataclass(frozen=True)
class Change:
    """One difference between two versions; a value is empty if its version lacks it."""

    part: str
    name: str
    first: str
    second: str


def trace_version(uri: str, settings: Settings) -> dict[str, str]:
    """Everything from which a version was made."""
    client = store.connect(settings)
    version = registry.resolve(uri, settings)
    moves = [
        str(entry).strip()
        for entry in history.read_history(client, version.name, settings).entries
        if entry.version == version.version
    ]
    data = version_record.read_record_file(client, version, "data.json")
    lock = version_record.read_text(client, version, "requirements.lock.txt") or ""
    return {
        "version": version.uri,
        **version_record.list_facts(version),
        "data source": str(data.get("source", "")),
        "data rows": str(data.get("rows", "")),
        "reference": _name_reference(version),
        **_list_encoders(version),
        "environment": f"{len(lock.splitlines()) - 1} packages, {lock.splitlines()[0].lstrip('# ')}"
        if lock
        else "",
        **{f"alias move {place}": move for place, move in enumerate(moves, start=1)},
    }


def _name_reference(version: ModelVersion) -> str:
    """The digest of the reference for monitoring; empty if none is signed."""
    signed = version.manifest.documents if version.manifest is not None else {}
    digest = signed.get(evidence.reference_path(version.version), "")
    return f"sha256 {digest[:12]}" if digest else ""


def _list_encoders(version: ModelVersion) -> dict[str, str]:
    """The files of others that became a part of the version's own."""
    try:
        columns = read_header(version.file.read_bytes()).contract.get("columns") or []
    except ArtifactError:  # of tensors that only other programs make
        return {}
    return {
        f"encoder of {column.get('name')}": f"{column['encoder']}, sha256 {str(column.get('encoder_sha256'))[:12]}"
        for column in columns
        if column.get("encoder")
    }


def find_versions(
    settings: Settings, *, data: str = "", commit: str = ""
) -> list[tuple[str, dict[str, str]]]:
    """Versions of any model that were made from this data fingerprint or commit; a prefix is enough."""
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
    """The differences between two versions: spec, parameters, data, code, metrics."""
    client = store.connect(settings)
    versions = [registry.resolve(uri, settings) for uri in (first, second)]
    parts: list[dict[str, dict[str, Any]]] = []
    for version in versions:
        tags = version.tags
        parts.append(
            {
                "spec": dict(_flatten(version_record.read_record_file(client, version, "spec.json"))),
                "parameters": version_record.read_tag(version, "raymlops.parameters"),
                "data": {"fingerprint": tags.get("raymlops.fingerprint", "")},
                "code": {"commit": tags.get("raymlops.commit", "")},
                "file": {"sha256": version.digest},
                "test metrics": version_record.read_tag(version, "raymlops.test"),
                "gate": {"outcome": tags.get(GATE_TAG, "")},
            }
        )
    changes = [
        Change(part, name, _show(parts[0][part].get(name)), _show(parts[1][part].get(name)))
        for part in parts[0]
        for name in sorted({**parts[0][part], **parts[1][part]})
        if parts[0][part].get(name) != parts[1][part].get(name)
    ]
    if any(change.part == "data" or change.name.startswith("split.") for change in changes):
        changes += _compare_rows(client, *versions)
        changes += _compare_training_data(*versions)
    return changes


def _compare_training_data(first: ModelVersion, second: ModelVersion) -> Iterator[Change]:
    """The columns whose training rows differ beyond chance, by the profiles of the versions."""
    profiles = [_read_profile(version) for version in (first, second)]
    if all(profiles):
        for one in compare_profiles(*profiles):
            yield Change("training data", one.column, one.first, one.second)


def _read_profile(version: ModelVersion) -> dict[str, Any]:
    """Empty for a version of another origin."""
    try:
        held = json.loads((version.path / PROFILE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    columns = held.get("columns")
    return columns if isinstance(columns, dict) else {}


def _compare_rows(client: Client, first: ModelVersion, second: ModelVersion) -> Iterator[Change]:
    """Says so if each was tested on rows that the other was trained on: their test metrics are then of other rows."""
    ours, theirs = (
        version_record.read_training_rows(client, version, lambda line: None, anew=False)
        for version in (first, second)
    )
    shares = [
        a.share_of(b) if a is not None and b is not None else None
        for a, b in ((theirs, ours), (ours, theirs))
    ]
    if any(share is None or share > 2 * FALSE_SHARE for share in shares):
        texts = ("not known" if share is None else f"about {share:.0%}" for share in shares)
        yield Change("test metrics", "test rows that the other was trained on", *texts)


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
