"""Evaluates a registered version, runs the gate, and stores the results with it. Moves no alias."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymlops.artifact import REFERENCE_FILE
from raymlops.data import sources
from raymlops.data.training_rows import TrainingRows
from raymlops.errors import ArtifactError, NotFoundError, RaymlopsError, last_line
from raymlops.evaluation import gate, results
from raymlops.evaluation.baselines import Line
from raymlops.evaluation.contents import Report, VariantLine, name_metric
from raymlops.evaluation.gate import Evidence
from raymlops.evaluation.partials import Partial, fold_small, to_exact
from raymlops.evaluation.permutation import PermutationImportance, measure_importance
from raymlops.evaluation.report import write_report
from raymlops.evaluation.results import Evaluation
from raymlops.evaluation.verdict import Verdict
from raymlops.features import FittedFeatures
from raymlops.lifecycle.govern import gate_evidence, version_record
from raymlops.lifecycle.govern.baseline_rows import compare_baselines
from raymlops.lifecycle.govern.evaluation_rows import ModelColumns, Rows, take_sample
from raymlops.lifecycle.govern.gate_evidence import Sample
from raymlops.lifecycle.govern.own_rows import OwnRows
from raymlops.lifecycle.govern.reference_rows import make_reference_file
from raymlops.lifecycle.govern.scoring import Measured, features_of, measure_marked, open_once, score_rows
from raymlops.metrics import FALLING
from raymlops.models import variants
from raymlops.models.safety import Model, read_model
from raymlops.models.session import Session
from raymlops.models.vocabularies import read_vocabularies
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import evidence, registry
from raymlops.tracking.registry import ModelVersion
from raymlops.tracking.run_reader import Client, write_files

ORIGINAL = "original"
_CALIBRATION_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """A version and the baselines on the same rows; `metric` is the gate's."""

    metric: str
    by_metric: Mapping[str, tuple[Line, ...]] = dataclasses.field(default_factory=dict)
    rows: int = 0
    """Test rows that they are measured on; a sample if there are many."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """The version first, then the baselines; none for data other than its own."""
        return self.by_metric.get(self.metric, ())

    def ranked(self) -> list[Line]:
        """The best first."""
        sign = 1 if self.metric in FALLING else -1
        return sorted(self.lines, key=lambda line: sign * line.value.value)


@dataclasses.dataclass(frozen=True)
class EvaluatedVersion:
    """The results for a version. `report` is a local copy of the one in its run."""

    version: ModelVersion
    champion: ModelVersion | None
    verdict: Verdict
    evaluation: Evaluation
    report: pathlib.Path
    variants: tuple[VariantLine, ...] = ()
    judged: Mapping[str, Verdict] = dataclasses.field(default_factory=dict)
    """Kind of a variant -> its verdict in comparison with the original."""
    own_rows: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Version -> a sentence on those of the rows that it was trained on; empty if there are none."""
    leaderboard: Leaderboard = Leaderboard("")
    """The version and its baselines; without lines for data other than its own."""
    importance: PermutationImportance | None = None
    """Of the version's raw columns."""
    reference: bytes = b""
    """What its columns and answers were on these rows, for monitoring; empty for data other than its own."""


def find_champion(client: Client, name: str, settings: Settings) -> ModelVersion | None:
    """The version that the alias `champion` names; None if there is none."""
    try:
        registry.find_version(client, f"models:/{name}@champion")
    except NotFoundError:
        return None
    return registry.resolve(f"models:/{name}@champion", settings)


@dataclasses.dataclass(frozen=True)
class OpenedVersion:
    """A version with its model, which is opened once."""

    version: ModelVersion
    model: Model
    session: Session

    @property
    def columns(self) -> ModelColumns:
        """What its columns take. Raises ArtifactError for a file without a contract, or a broken one."""
        features = features_of(self.session.contract)
        target = features.target
        entries = [
            (target.name, target.conversion),
            *((one.name, one.conversion) for one in features.columns),
        ]
        conversions = {name: conversion for name, conversion in entries if conversion is not None}
        numbers = [column.name for column in features.raw if column.type == "number"]
        categories = tuple(column for column in features.raw if column.kind in ("category", "means"))
        known = read_vocabularies(self.model, [column.name for column in categories])
        is_number = target.task == "regression"
        return ModelColumns(conversions, (*numbers, *[target.name] * is_number), categories, known)


def open_version(version: ModelVersion) -> OpenedVersion:
    """Raises ArtifactError for a broken file."""
    model = read_model(version.file, version.digest)
    return OpenedVersion(version, model, open_once(model))


def evaluate_version(
    client: Client,
    opened: OpenedVersion,
    spec: ExperimentSpec,
    rows: Rows,
    settings: Settings,
    *,
    store: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> EvaluatedVersion:
    """Measure a version and the champion on the same rows, judge it, and store report, verdict and numbers.

    Raises ArtifactError for a version without a contract on its columns.
    """
    version = opened.version
    champion = find_champion(client, version.name, settings)
    if champion is not None and champion.version == version.version:
        champion = None  # no gain is required over itself
    models = {version.uri: opened.model}
    features = features_of(opened.session.contract)
    if champion is not None:
        models[champion.uri] = read_model(champion.file, champion.digest)
    known = _read_training_rows(client, [version, *([champion] if champion else [])], tell)
    tell(f"Measuring {' and '.join(models)} on {rows.source}")
    measured = _measure(models, version.uri, rows, spec, known, tell)
    if champion is not None and champion.uri not in measured.whole:
        champion = None
    metric = spec.gate.metric_of(features.target.task)
    said = {one.uri: _describe_own(measured, one, rows, metric) for one in (version, champion) if one}
    with sources.reading(rows.table):
        ahead = rows.fitting.test if rows.fitting and rows.fitting.whole else None
        sample = ahead or take_sample(rows, features)
    limits = _limits_of(spec)
    evidence = _gather(version, measured, said[version.uri], sample)
    evidence, leaderboard = _compare(evidence, opened.session, features, rows, spec, tell)
    against = _gather(champion, measured, said[champion.uri], None) if champion else None
    verdict = gate.judge(evidence, against, limits)
    evaluation = results.finish(measured.whole[version.uri], spec.evaluation)
    importance = _permute(opened.session, features, sample, evidence.columns, spec, tell)
    lines, judged = _try_variants(opened, spec, rows, sample, features, evidence, evaluation, settings, tell)
    report = version_record.fill_report(
        client,
        version,
        Report(
            title=f"{version.name}, version {version.version}",
            metric=metric,
            epochs=spec.training.pace.epochs,
            grid=spec.search.algorithm == "grid",
            evaluation=evaluation,
            classes=tuple(str(name) for name in features.target.classes),
            champion=results.finish(measured.whole[champion.uri], spec.evaluation) if champion else None,
            champion_name=f"version {champion.version}" if champion else "",
            verdict=verdict,
            columns=evidence.columns,
            permuted=importance,
            variants=lines,
            leaderboard=leaderboard.lines,
            constraints=_list_constraints(spec),
        ),
        rows,
    )
    path = _write_report(_describe_data(report, rows, said), version, rows, settings)
    reference = _make_reference(opened, features, rows, sample, spec) if store else b""
    trusted = EvaluatedVersion(
        version, champion, verdict, evaluation, path, lines, judged, said, leaderboard, importance, reference
    )
    if store:
        store_findings(client, trusted, settings)
    return trusted


def _make_reference(
    opened: OpenedVersion, features: FittedFeatures, rows: Rows, sample: Sample, spec: ExperimentSpec
) -> bytes:
    """Of rows that trained none of the version's models."""
    if version_record.trained_on_validation(opened.version):
        rows = dataclasses.replace(rows, validation=None)
    return make_reference_file(opened.model, features, rows, sample, spec)


def _list_constraints(spec: ExperimentSpec) -> tuple[str, ...]:
    """What the spec says of what a model may be, beside its size and speed."""
    directions = ", ".join(f"{name} {way}" for name, way in spec.training.monotonic.items())
    found = {"search.glassbox": "true" * spec.search.glassbox, "training.monotonic": directions}
    return tuple(f"{key}: {value}" for key, value in found.items() if value)


def _describe_data(report: Report, rows: Rows, own: Mapping[str, str]) -> Report:
    """With the weights of the rows, and those of them that were trained on; `own` are sentences by version."""
    said = {
        "rows weigh by": rows.weights.name if rows.weights else "",
        "training rows": "; ".join(filter(None, own.values())),
    }
    return dataclasses.replace(
        report, data={**report.data, **{key: text for key, text in said.items() if text}}
    )


def _write_report(report: Report, version: ModelVersion, rows: Rows, settings: Settings) -> pathlib.Path:
    other = "" if rows.fingerprint else "-other-data"
    path = settings.home / "reports" / f"{version.name}-{version.version}{other}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(write_report(report), encoding="utf-8")
    if rows.left_out:
        path.with_suffix(".left_out.jsonl").write_text("\n".join([*rows.left_out, ""]), encoding="utf-8")
    return path


def store_findings(client: Client, trusted: EvaluatedVersion, settings: Settings) -> None:
    """Store report, verdict and evaluation in the run of the version, and sign the outcome."""
    files: dict[str, str | bytes] = {
        "report.html": trusted.report.read_text(encoding="utf-8"),
        "evaluation.json": json.dumps(trusted.evaluation.to_json()),
        "leaderboard.json": json.dumps(
            {
                "metric": trusted.leaderboard.metric,
                "lines": [line.to_json() for line in trusted.leaderboard.ranked()],
            }
        ),
    }
    if trusted.importance is not None:
        files["importance.json"] = json.dumps(trusted.importance.to_json())
    if trusted.reference:
        files[REFERENCE_FILE] = trusted.reference
    store_verdict(client, trusted.version.uri, trusted.verdict, files, settings)


def store_verdict(
    client: Client, uri: str, verdict: Verdict, files: Mapping[str, str | bytes], settings: Settings
) -> None:
    """Store a verdict, with other files, in the run of a version, and sign the outcome.

    For a version without evidence only the files are stored: its verdict does not count before it is signed.
    """
    version = registry.find_version(client, uri)
    folder = f"trust/version-{version.version}"
    held = {**files, "verdict.json": json.dumps(verdict.to_json(), indent=1)}
    documents = {f"{folder}/{name}": content for name, content in held.items()}
    write_files(client, uri, documents)
    manifest = evidence.require(client, version, settings)
    if manifest is None:
        return
    failures = ", ".join(check.name for check in verdict.failures)
    found = {
        "sha256": verdict.sha256,
        "passed": verdict.passed,
        "digest": verdict.digest,
        "against": verdict.champion or "no champion",
        "outcome": evidence.PASSED if verdict.passed else f"blocked: {failures}"[:4000],
    }
    evidence.sign_verdict(client, manifest, found, documents, settings)


def variant_path(version: ModelVersion, kind: str, settings: Settings) -> pathlib.Path:
    """The folder in which variants of a version are made."""
    return settings.home / "variants" / f"{version.name}-{version.version}-{kind}.onnx"


def _limits_of(spec: ExperimentSpec) -> Any:
    return spec.gate.model_copy(update={"parity": spec.gate.parity or spec.limits.parity})


def _read_training_rows(
    client: Client, versions: Sequence[ModelVersion], tell: Callable[[str], None]
) -> dict[str, TrainingRows]:
    """Of the versions that have a record of them."""
    found = {one.uri: version_record.read_training_rows(client, one, tell) for one in versions}
    return {uri: rows for uri, rows in found.items() if rows is not None}


def _describe_own(measured: Measured, version: ModelVersion, rows: Rows, metric: str) -> str:
    """A sentence on the rows that a version was trained on, or on why they are not known; empty if there are none."""
    own = measured.own.get(version.uri, OwnRows())
    if own.known:
        said, new = own.describe(version.uri), measured.new[version.uri]
        if not said or not new.rows:
            return said
        found = results.measure_once(new, metric)
        return f"{said}; its {name_metric(metric)} on the {new.rows:,} rows of no training is {found:.4g}"
    if rows.mark is None:
        return ""
    why = "the table lacks columns that it had" if own.rows else "it has no record of them"
    return f"it is not known which of the rows {version.uri} was trained on: {why}"


def _measure(
    models: dict[str, Model],
    first: str,
    rows: Rows,
    spec: ExperimentSpec,
    known: Mapping[str, TrainingRows],
    tell: Callable[[str], None],
) -> Measured:
    """All models in one pass; only the first if the rows no longer suit the champion."""
    try:
        return _measure_slices(models, rows, spec, known)
    except RaymlopsError as error:
        if len(models) == 1:
            raise
        tell(f"The champion cannot be measured on these rows, so there is no comparison: {error}")
        return _measure_slices({first: models[first]}, rows, spec, known)


def _measure_slices(
    models: dict[str, Model], rows: Rows, spec: ExperimentSpec, known: Mapping[str, TrainingRows]
) -> Measured:
    """Only slices with enough rows, for both gate and report; exact where rows are few."""
    marks = {uri: f"__rows_of_{place}__" for place, uri in enumerate(models) if uri in known and rows.mark}
    with sources.reading(rows.table):
        dataset = rows.marked({column: known[uri] for uri, column in marks.items()})
        measured = measure_marked(
            dataset,
            models,
            marks,
            spec.evaluation.slices,
            rows.conversions,
            count=rows.counts.get("test"),
            weights=rows.weights,
        )

    def settle(parts: Mapping[str, Partial]) -> dict[str, Partial]:
        return {name: to_exact(fold_small(part, spec.evaluation.slice_rows)) for name, part in parts.items()}

    return Measured(settle(measured.whole), settle(measured.new), measured.own)


def _gather(version: ModelVersion, measured: Measured, own: str, sample: Sample | None) -> Evidence:
    recorded = version_record.read_tag(version, "raymlops.parity").get("difference")
    parity = float(recorded) if recorded is not None else None
    evidence = gate_evidence.gather_evidence(
        version.uri, version.file, measured.whole[version.uri], sample, parity=parity, serves=True
    )
    evidence = dataclasses.replace(evidence, new=measured.new[version.uri])
    if measured.own.get(version.uri, OwnRows()).found:
        evidence = dataclasses.replace(evidence, own=own)
    else:
        evidence = dataclasses.replace(evidence, unknown=own)
    if evidence.unsafe:
        return dataclasses.replace(evidence, digest=version.digest)
    if version.digest and evidence.digest != version.digest:
        raise ArtifactError(f"The file of {version.uri} changed while it was measured; run again")
    return evidence


def _compare(
    found: Evidence,
    session: Session,
    features: FittedFeatures,
    rows: Rows,
    spec: ExperimentSpec,
    tell: Callable[[str], None],
) -> tuple[Evidence, Leaderboard]:
    """The evidence with that of the baselines, and the leaderboard; as it is if there is nothing to compare with."""
    metric = spec.gate.metric_of(features.target.task)
    if found.unsafe or found.partial is None:
        return found, Leaderboard(metric)
    compared = compare_baselines(session, features, found.partial.layout, rows, tell)
    if compared is None:
        return found, Leaderboard(metric)
    evidence = dataclasses.replace(found, sampled=compared.model, baselines=compared.baselines)
    return evidence, Leaderboard(metric, compared.rank(spec.evaluation), compared.rows)


def _permute(
    session: Session,
    features: FittedFeatures,
    sample: Sample,
    alone: Mapping[str, float],
    spec: ExperimentSpec,
    tell: Callable[[str], None],
) -> PermutationImportance | None:
    """None if the model refuses a mixture of rows: nothing is judged by it. `alone` are the columns with what each
    says alone: those that say most come first, as there may not be time for all."""
    ordered = sorted(sample.columns, key=lambda name: -alone.get(name, 0.0))
    try:
        return measure_importance(
            lambda columns: score_rows(session, columns, features.target),
            {name: sample.columns[name] for name in ordered},
            sample.labels,
            task=features.target.task,
            loss=spec.training.loss,
            quantile=spec.training.quantile,
            weights=sample.weights,
            confidence=spec.evaluation.confidence,
        )
    except RaymlopsError as error:
        tell(f"The importance of columns could not be measured: {last_line(error)}")
        return None


def _try_variants(
    opened: OpenedVersion,
    spec: ExperimentSpec,
    rows: Rows,
    sample: Sample,
    features: FittedFeatures,
    original: Evidence,
    evaluation: Evaluation,
    settings: Settings,
    tell: Callable[[str], None],
) -> tuple[tuple[VariantLine, ...], dict[str, Verdict]]:
    """The original's line, and one for each smaller file that the spec asks for, compared with it; their verdicts."""
    version, session = opened.version, opened.session
    line = _to_line(ORIGINAL, original, evaluation)
    if not spec.gate.variants:
        return (line,), {}
    expected = score_rows(session, sample.columns, features.target)
    calibration = take_sample(
        dataclasses.replace(rows, dataset=rows.train or rows.dataset), features, _CALIBRATION_ROWS
    ).columns
    limits = spec.gate.model_copy(update={"parity": spec.gate.variant_parity})
    made: dict[str, pathlib.Path] = {}
    lines, judged = [line], dict[str, Verdict]()
    for kind in spec.gate.variants:
        target = variant_path(version, kind, settings)
        try:
            made[kind] = variants.make_variant(kind, version.file, target, calibration, version.digest).path
        except ArtifactError as error:
            nothing = float("nan")
            lines.append(VariantLine(kind, 0, nothing, nothing, nothing, {}, passed=False, note=str(error)))
    tell(f"Measuring the variants {', '.join(made)}")
    models = {kind: read_model(path) for kind, path in made.items()}
    for name, partial in _measure_slices(models, rows, spec, {}).whole.items():
        evidence = gate_evidence.gather_evidence(name, made[name], partial, sample, expected, serves=True)
        verdict = judged[name] = gate.judge(evidence, original, limits)
        found = results.finish(partial, spec.evaluation)
        note = "; ".join(f"{check.name}: {check.text}" for check in verdict.failures)
        lines.append(dataclasses.replace(_to_line(name, evidence, found), passed=verdict.passed, note=note))
    return tuple(lines), judged


def _to_line(kind: str, evidence: Evidence, found: Evaluation) -> VariantLine:
    return VariantLine(
        kind=kind,
        size=evidence.size or 0,
        p50_ms=evidence.median_ms or float("nan"),
        p99_ms=evidence.latency_ms or float("nan"),
        rows_per_second=evidence.throughput or float("nan"),
        metrics=found.metrics,
        difference=(evidence.parity or 0.0) if kind != ORIGINAL else 0.0,
    )
