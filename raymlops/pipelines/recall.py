"""Recalls from the tracking store what is known of a version: its spec, its search, its data, its lineage."""

import dataclasses
import json
import math

from raymlops.errors import NotFoundError
from raymlops.evaluation.contents import Report, TrialLine, show_name, show_number
from raymlops.pipelines.rows import Rows
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import recall
from raymlops.tracking.recall import Client
from raymlops.tracking.registry import ModelVersion

_CURVES = 40  # learning curves that are fetched, one call each
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
    "raymlops.sha256": "file sha256",
    "raymlops.variant": "variant",
    "raymlops.source": "source",
    "raymlops.gate": "gate",
    "raymlops.verdict": "verdict sha256",
}

KEPT = frozenset({*_FACTS, "raymlops.test"}) - {"raymlops.sha256", "raymlops.gate", "raymlops.verdict"}
"""Tags that a version made of another one inherits."""


def read_spec(client: Client, version: ModelVersion) -> ExperimentSpec:
    """The spec a version was made with. Raises NotFoundError for one that was registered from a file."""
    text = read_text(client, version, "spec.json")
    if text is None:
        raise NotFoundError(
            f"{version.uri} has no spec: it was registered from a file; give one with --spec FILE"
        )
    return validate_document(json.loads(text), ExperimentSpec, source=f"the spec of {version.uri}")


def read_text(client: Client, version: ModelVersion, file: str) -> str | None:
    """An artifact of the version's run; None when it has none of that name."""
    return recall.read_text(client, version.uri, file)


def list_facts(version: ModelVersion) -> dict[str, str]:
    """Who, when, why, from what: the lineage in the version's tags, in reading order."""
    return {name: version.tags[tag] for tag, name in _FACTS.items() if version.tags.get(tag)}


def fill_report(client: Client, version: ModelVersion, report: Report, rows: Rows) -> Report:
    """The report with what the store knows: search, data, parity, lineage."""
    held = json.loads(read_text(client, version, "data.json") or "{}")
    metric, trials = read_trials(client, version, report.metric)
    counts = (held.get("fingerprint") or {}).get("rows") or {}
    data = {
        "measured on": rows.source,
        "trained on": str(held.get("source", "")),
        "rows": f"{held['rows']:,}" if held.get("rows") else "",
        "splits": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "fingerprint": rows.fingerprint or version.tags.get("raymlops.fingerprint", ""),
    }
    findings = [dataclasses.asdict(finding) for finding in rows.findings] or held.get("findings") or []
    return dataclasses.replace(
        report,
        facts={**list_facts(version), "parameters": _say_parameters(version), "file sha256": version.digest},
        data=data,
        findings=findings,
        trials=trials,
        trial_metric=metric,
        parity=json.loads(version.tags.get("raymlops.parity", "{}")),
    )


def _say_parameters(version: ModelVersion) -> str:
    held = json.loads(version.tags.get("raymlops.parameters", "{}"))
    return ", ".join(f"{show_name(name)} {show_number(value)}" for name, value in held.items())


def read_trials(client: Client, version: ModelVersion, metric: str) -> tuple[str, tuple[TrialLine, ...]]:
    """The metric that the search went by, and its trials in the order they began."""
    found = recall.read_trials(client, version.tags.get("raymlops.search_run", ""))
    known = [name for one in found for name in one.metrics]
    metric = metric if f"best_{metric}" in known or metric in known else _guess_metric(known, metric)
    lines = [
        TrialLine(
            name=one.name,
            parameters=one.parameters,
            value=float(one.metrics.get(f"best_{metric}", one.metrics.get(metric, float("nan")))),
            seconds=one.seconds,
            error=one.error,
        )
        for one in found
    ]
    ordered = sorted((line for line in lines if math.isfinite(line.value)), key=lambda line: line.value)
    drawn = {line.name for line in (*ordered[: _CURVES // 2], *ordered[-_CURVES // 2 :])}
    return metric, tuple(
        dataclasses.replace(line, curves={metric: recall.read_curve(client, one.run, metric)})
        if line.name in drawn
        else line
        for one, line in zip(found, lines, strict=True)
    )


def _guess_metric(known: list[str], metric: str) -> str:
    best = [name.removeprefix("best_") for name in known if name.startswith("best_")]
    return best[0] if best else metric
