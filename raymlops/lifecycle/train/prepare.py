"""From a spec to packed rows: the stages before the search, in sequence. Trains nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

from raymlops.artifact import LEFT_OUT_FILE
from raymlops.data import scan
from raymlops.data.split_rows import SplitRows, describe_source
from raymlops.features import FittedFeatures, packing_of
from raymlops.lifecycle.train import stages
from raymlops.lifecycle.train.resolve_features import resolve_features
from raymlops.lifecycle.train.training_checks import NOT_CHECKED, TrainingChecks, check_training_set
from raymlops.specs import defaults
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training.learners import Job
from raymlops.training.packed import PackedSplit


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The input of training and evaluation."""

    spec: ExperimentSpec
    """With the features that its patterns stand for."""
    rows: SplitRows
    features: FittedFeatures
    profile: dict[str, Any]
    encoder: bytes
    train: PackedSplit
    validation: PackedSplit
    chosen: tuple[defaults.Choice, ...] = ()
    """What the spec that was read left open; `spec` says it."""
    checks: TrainingChecks = NOT_CHECKED

    @property
    def job(self) -> Job:
        return Job(self.spec, packing_of(self.features), self.features.target, self.train, self.validation)


def prepare(spec: ExperimentSpec, tell: Callable[[str], None] = lambda line: None) -> Prepared:
    """Read, check, split, fit and encode the dataset of a spec; joins no cluster."""
    tell(f"Reading {describe_source(spec.dataset)}")
    (rows,) = stages.scan(spec)
    tell(describe_scan(rows.scan))
    spec = resolve_features(spec, rows, tell)
    features, profile = stages.fit(spec, rows)
    stages.check_learner(spec, features)  # before the rows are encoded, which may take hours
    checks = check_training_set(spec, rows, features, profile)
    if told := checks.describe():
        tell(told)
    chosen = stages.decide(spec, features, rows.scan.fingerprint.rows, tell)
    spec = defaults.settle(spec, chosen)
    encoded = stages.encode(spec, rows, features)
    return Prepared(spec, rows, features, profile, *encoded, chosen=chosen, checks=checks)


def describe_scan(scanned: scan.Scan) -> str:
    """One or more lines for a person: rows, splits, fingerprint, findings."""
    rows = ", ".join(f"{name} {count:,}" for name, count in scanned.fingerprint.rows.items())
    lines = [f"{scanned.rows:,} rows ({rows}); data fingerprint {scanned.fingerprint.digest}"]
    lines += scan.describe_split(scanned)
    if scanned.failed:
        kept = len(scanned.left_out)
        aside = f"; the first {kept:,} are" if kept < scanned.failed else ";"
        lines.append(
            f"{scanned.failed:,} rows break the contract and are left out{aside} kept in {LEFT_OUT_FILE} of the run:"
        )
        lines += [f"  {finding}" for finding in scanned.findings]
    return "\n".join(lines)
