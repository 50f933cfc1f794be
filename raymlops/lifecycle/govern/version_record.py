"""Reads what the tracking store has on a version: its spec, its search, its data, its lineage."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymlops.artifact import DEFAULTS_FILE
from raymlops.attestation import digest_of
from raymlops.data.split_rows import scan_rows
from raymlops.data.training_rows import TrainingRows
from raymlops.errors import ForbiddenError, NotFoundError, RaymlopsError, SpecError, UntrustedError
from raymlops.evaluation.contents import MemberLine, Report, TrialLine, name_metric, show_name, show_number
from raymlops.evaluation.intervals import Interval
from raymlops.evaluation.learner_ranking import LearnerRanking
from raymlops.lifecycle.govern.evaluation_rows import Rows
from raymlops.metrics import FALLING
from raymlops.specs.code_references import find_code
from raymlops.specs.dataset import with_version
from raymlops.specs.document import read_json, validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import run_reader
from raymlops.tracking.evidence import FOLDS, LEARNERS, TRAINING_ROWS
from raymlops.tracking.registry import ModelVersion
from raymlops.tracking.run_reader import Client
from raymlops.training.blends import Distilled
from raymlops.training.importance import rank_parameters

_CURVES = 40  # number of learning curves that are fetched, with one call each
_FACTS = {
    "raymlops.who": "who",
    "raymlops.when": "when",
    "raymlops.why": "why",
    "raymlops.commit": "code commit",
    "raymlops.fingerprint": "data fingerprint",
    "raymlops.search_run": "search run",
    "raymlops.trial": "trial",
    "raymlops.trial_run": "trial's run",
    "raymlops.parameters": "parameters",
    "raymlops.members": "members",
    "raymlops.sha256": "file sha256",
    "raymlops.variant": "variant",
    "raymlops.source": "source",
    "raymlops.gate": "gate",
    "raymlops.verdict": "verdict sha256",
}

KEPT = frozenset({*_FACTS, "raymlops.test"}) - {"raymlops.sha256", "raymlops.gate", "raymlops.verdict"}
"""Tags that a version made from another one inherits."""


def read_spec(
    client: Client,
    version: ModelVersion,
    *,
    trusted: bool = False,
    training: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> ExperimentSpec:
    """The spec of a version. Code that it would run is printed, and accepted only from a trusted record: trusted by
    the caller, or signed by a trusted key. `training` says whether its network will be built.

    Raises NotFoundError for a version that was registered from a file, ForbiddenError for code of an untrusted
    record.
    """
    text = read_text(client, version, "spec.json")
    if text is None:
        raise NotFoundError(
            f"{version.uri} has no spec: it was registered from a file; give one with --spec FILE"
        )
    source = f"the spec of {version.uri}"
    document = read_json(text, source)
    spec = validate_document(document, ExperimentSpec, source=source, recorded=True)
    if "version" not in document.get("split", {}):  # as all that were recorded by versions before 0.2
        spec = spec.model_copy(update={"split": with_version(spec.split, 1)})
    require_trust(
        version, find_code(spec, training=training), trusted or is_signed(version, "spec.json", text), tell
    )
    return spec


def read_training_rows(
    client: Client, version: ModelVersion, tell: Callable[[str], None], *, anew: bool = True
) -> TrainingRows | None:
    """The record of a version's training rows; None if it has none. With `anew`, those of a version that was made
    before versions had one are found again by its recorded split, if its data are as they were."""
    held = read_record_file(client, version, TRAINING_ROWS)
    if held:
        return TrainingRows.from_json(held)
    recorded = version.tags.get("raymlops.fingerprint", "")
    if not recorded or not anew:
        return None
    try:
        spec = read_spec(client, version, training=False)
        tell(f"{version.uri} has no record of its training rows: splitting its data again, as its spec says")
        scanned = scan_rows(spec.dataset, spec.contract, spec.split, spec.features).scan
    except RaymlopsError:
        return None
    return scanned.training if scanned.fingerprint.matches(recorded) else None


def require_trust(
    version: ModelVersion, code: Sequence[str], trusted: bool, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Print the code that the record of a version runs. Raises ForbiddenError if the record is not trusted."""
    if not code:
        return
    if not trusted:
        raise ForbiddenError(
            f"The record of {version.uri} would run code that it names: {'; '.join(code)}. Nothing was run. If "
            "you trust who recorded it, run this again with --trust, or list their key in "
            "RAYMLOPS_TRUSTED_KEYS; evaluate and gate also take a spec of yours with --spec FILE"
        )
    tell(f"The record of {version.uri} is trusted, and runs: {'; '.join(code)}")


def is_signed(version: ModelVersion, file: str, text: str) -> bool:
    """Whether a trusted key signed this file of the version's record when it was made: a person who signs a version
    later vouches for the model, not for the code that its record names."""
    manifest = version.manifest
    return (
        manifest is not None
        and not manifest.adopted
        and manifest.documents.get(file) == digest_of(text.encode())
    )


def read_text(client: Client, version: ModelVersion, file: str) -> str | None:
    """An artifact of the version's run; None if the run does not have it. Raises UntrustedError if it was changed
    after it was signed."""
    text = run_reader.read_text(client, version.uri, file)
    expected = version.manifest.documents.get(file) if version.manifest else None
    if expected and (text is None or digest_of(text.encode()) != expected):
        raise UntrustedError(f"The file {file!r} of {version.uri} is not as it was signed; it is not read")
    return text


def read_record_file(client: Client, version: ModelVersion, file: str) -> dict[str, Any]:
    """A JSON artifact of the version's run; empty if the run does not have it. Raises SpecError."""
    return _to_mapping(read_text(client, version, file), f"{file} of {version.uri}")


def read_tag(version: ModelVersion, tag: str) -> dict[str, Any]:
    """A tag that holds JSON; empty if there is none. Raises SpecError."""
    return _to_mapping(version.tags.get(tag), f"the tag {tag} of {version.uri}")


def _to_mapping(text: str | None, source: str) -> dict[str, Any]:
    held = read_json(text or "{}", source)
    if not isinstance(held, dict):
        raise SpecError(f"{source} holds {type(held).__name__}; expected a mapping")
    return held


def list_facts(version: ModelVersion) -> dict[str, str]:
    """Who, when, why, from what: the lineage in the version's tags, in reading order."""
    return {name: version.tags[tag] for tag, name in _FACTS.items() if version.tags.get(tag)}


def fill_report(client: Client, version: ModelVersion, report: Report, rows: Rows) -> Report:
    """The report with what the store has: search, data, parity, lineage."""
    held = read_record_file(client, version, "data.json")
    metric, trials = read_trials(client, version, report.metric)
    counts = (held.get("fingerprint") or {}).get("rows") or {}
    data = {
        "measured on": rows.source,
        "trained on": str(held.get("source", "")),
        "rows": f"{held['rows']:,}" if held.get("rows") else "",
        "splits": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "how they were split": "; ".join(map(str, held.get("split") or ())),
        "fingerprint": rows.fingerprint or version.tags.get("raymlops.fingerprint", ""),
    }
    folds = read_record_file(client, version, FOLDS)
    if folds:
        data["folds"] = _say_folds(folds)
    findings = [dataclasses.asdict(finding) for finding in rows.findings] or held.get("findings") or []
    return dataclasses.replace(
        report,
        facts={
            **list_facts(version),
            "parameters": _say_parameters(version),
            "members": _say_members(version),
            "file sha256": version.digest,
        },
        data=data,
        findings=findings,
        anomalies=held.get("anomalies") or (),
        slice_counts=held.get("slices") or (),
        trials=trials,
        trial_metric=metric,
        members=_read_members(version),
        taught=_say_taught(version),
        learners=_read_ranking(client, version),
        chosen=read_record_file(client, version, DEFAULTS_FILE),
        importance=rank_parameters(
            [trial.parameters for trial in trials],
            [trial.value for trial in trials],
            falling=metric in FALLING,
        ),
        parity=read_tag(version, "raymlops.parity"),
    )


def _say_folds(folds: Mapping[str, Any]) -> str:
    intervals = {name: Interval.from_json(value) for name, value in folds["intervals"].items()}
    means = ", ".join(f"{name_metric(name)} {interval}" for name, interval in intervals.items())
    return f"{means}: the winner's values, trained anew on {folds['folds']} folds of all rows, {folds['repeats']} times"


def _say_parameters(version: ModelVersion) -> str:
    held = read_tag(version, "raymlops.parameters")
    return ", ".join(f"{show_name(name)} {show_number(value)}" for name, value in held.items())


def _read_ranking(client: Client, version: ModelVersion) -> LearnerRanking | None:
    """None if there is none, or what an unsigned record has is not one."""
    held = read_record_file(client, version, LEARNERS)
    try:
        return LearnerRanking.from_json(held) if held else None
    except (KeyError, TypeError, ValueError):
        return None


def _read_members(version: ModelVersion) -> tuple[MemberLine, ...]:
    """None of a version that is one model."""
    held = [
        MemberLine(one["trial"], one["parameters"].get("training.learner", ""), one["weight"], one["models"])
        for one in _list_members(version)
    ]
    taught = bool(read_tag(version, "raymlops.members").get("teacher"))
    return tuple(held) if taught or sum(one.models for one in held) > 1 else ()


def _list_members(version: ModelVersion) -> Sequence[Mapping[str, Any]]:
    """Those of the blend that answers, or that the version learned from."""
    held = read_tag(version, "raymlops.members")
    found: Sequence[Mapping[str, Any]] = held.get("teacher") or held.get("members", ())
    return found


def trained_on_validation(version: ModelVersion) -> bool:
    """Whether models that answer were trained on the validation rows: on folds of them, or on all rows."""
    members = read_tag(version, "raymlops.members").get("members", ())
    return any(one["models"] > 1 or one.get("whole", False) for one in members)


def _say_taught(version: ModelVersion) -> str:
    """How good a network is that learned from a blend; empty for other versions."""
    found = read_tag(version, "raymlops.members").get("distilled")
    return Distilled(**found).describe() if found else ""


def _say_members(version: ModelVersion) -> str:
    taught = bool(read_tag(version, "raymlops.members").get("teacher"))
    said = ", ".join(
        f"{one['weight']:.2f} {one['trial']} {one['parameters'].get('training.learner', '')}".strip()
        + (f" in {one['models']} folds" if one["models"] > 1 else "")
        + (" of training and validation rows" if one.get("whole") else "")
        for one in _list_members(version)
    )
    return f"a network that learned from {said}" if taught else said


def read_trials(client: Client, version: ModelVersion, metric: str) -> tuple[str, tuple[TrialLine, ...]]:
    """The metric that the search optimised, and its trials in the order of their start."""
    found = run_reader.read_trials(client, version.tags.get("raymlops.search_run", ""))
    known = [name for one in found for name in one.metrics]
    metric = metric if f"best_{metric}" in known or metric in known else _guess_metric(known, metric)
    first = min((one.ended - one.seconds for one in found), default=0.0)
    lines = [
        TrialLine(
            name=one.name,
            parameters=one.parameters,
            value=float(one.metrics.get(f"best_{metric}", one.metrics.get(metric, float("nan")))),
            seconds=one.seconds,
            error=one.error,
            ended=one.ended - first,
        )
        for one in found
    ]
    ordered = sorted((line for line in lines if math.isfinite(line.value)), key=lambda line: line.value)
    drawn = {line.name for line in (*ordered[: _CURVES // 2], *ordered[-_CURVES // 2 :])}
    return metric, tuple(
        dataclasses.replace(line, curves={metric: run_reader.read_curve(client, one.run, metric)})
        if line.name in drawn
        else line
        for one, line in zip(found, lines, strict=True)
    )


def _guess_metric(known: list[str], metric: str) -> str:
    best = [name.removeprefix("best_") for name in known if name.startswith("best_")]
    return best[0] if best else metric
