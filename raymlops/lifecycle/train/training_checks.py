"""Looks at the training set before the first trial: anomalies of its columns, and the rows and positives of each slice
in each split. Leaves no row out, and stops nothing."""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.data import anomalies, fitting, scan, sources, splits, target_values
from raymlops.data.anomalies import Anomaly
from raymlops.data.split_rows import SplitRows
from raymlops.features import FittedFeatures, FittedTarget
from raymlops.lifecycle.train.row_encoding import find_formulas
from raymlops.specs.experiment import ExperimentSpec

_MOST_TOLD = 10
_MOST_ROWS = 5_000_000
"""Rows of a table up to which its validation rows are measured, too."""
_MOST_VALUES = 15
"""Of a slice's column, that are shown."""


@dataclasses.dataclass(frozen=True)
class SliceCount:
    """The rows with one value of a column."""

    column: str
    value: str
    rows: Mapping[str, int]
    """By split."""
    means: Mapping[str, float]
    """By split: the share of positives, or of the rows that have the last class, or the mean of a number."""


@dataclasses.dataclass(frozen=True)
class TrainingChecks:
    """What is known of a training set before it trains anything."""

    anomalies: tuple[Anomaly, ...] = ()
    slices: tuple[SliceCount, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """Lines for a person; empty if there is nothing to tell."""
        lines = []
        if self.anomalies:
            count = len(self.anomalies)
            lines.append(f"{count:,} {'anomaly' if count == 1 else 'anomalies'} of the training set:")
            lines += [f"  {one}" for one in self.anomalies[:_MOST_TOLD]]
            if len(self.anomalies) > _MOST_TOLD:
                lines.append(f"  and {len(self.anomalies) - _MOST_TOLD:,} more, which the report lists")
        for one in self.slices:
            counts = ", ".join(
                f"{split} {count:,}" + (f" ({one.means[split]:.3g})" if count else "")
                for split, count in one.rows.items()
            )
            lines.append(f"  {one.column} {one.value or '(empty)'}: {counts}")
            if one is self.slices[0]:
                lines.insert(-1, "Rows of each slice, with the share of positives or the mean of the target:")
        return "\n".join(lines)


NOT_CHECKED = TrainingChecks()


def check_training_set(
    spec: ExperimentSpec, rows: SplitRows, features: FittedFeatures, profile: Mapping[str, Any]
) -> TrainingChecks:
    """`profile` are the statistics of the training rows."""
    counts = rows.scan.fingerprint.rows
    if sum(counts.values()) > _MOST_ROWS:
        return TrainingChecks(anomalies.find_anomalies(profile, {}))
    with sources.reading(rows.table):
        _, formulas = find_formulas(rows, spec.features)
        measured = fitting.measure_columns(
            rows.of("validation"), spec.features, formulas, fold=scan.choose_fold(counts["validation"])
        )
    validation = {name: value.to_json() for name, value in measured.items() if name != "types"}
    target = "target:number" if features.target.task == "regression" else "target:category"
    instants = {name for name, one in spec.features.by_column().items() if one.kind == "timestamp"}
    known = {
        name: value
        for name, value in profile.items()
        if name == target or not (name.startswith("target:") or name in instants)
    }
    slices = spec.evaluation.slices
    return TrainingChecks(
        anomalies.find_anomalies(known, validation),
        _count_slices(rows, slices, features.target) if slices else (),
    )


Sums = dict[tuple[str, str], tuple[int, float]]
"""(column, value) -> rows, and the sum of the target."""


def _count_slices(rows: SplitRows, columns: tuple[str, ...], target: FittedTarget) -> tuple[SliceCount, ...]:
    schema = rows.dataset.schema(fetch_if_missing=True)
    named = tuple(name for name in columns if schema is not None and name in schema.names)
    by_split: dict[str, Sums] = {}
    for split in splits.SPLITS:
        fold: Callable[..., Any] = scan.choose_fold(rows.scan.fingerprint.rows[split])
        total: Sums = collections.defaultdict(lambda: (0, 0.0))
        with sources.reading(rows.table):
            for part in fold(rows.of(split), _sum_block, columns=named, target=target):
                for key, (count, summed) in part.items():
                    total[key] = total[key][0] + count, total[key][1] + summed
        by_split[split] = dict(total)
    found = []
    for column in named:
        keys = {key for sums in by_split.values() for key in sums if key[0] == column}
        ordered = sorted(
            keys, key=lambda key: (-sum(sums.get(key, (0, 0.0))[0] for sums in by_split.values()), key[1])
        )
        for key in ordered[:_MOST_VALUES]:
            held = {split: sums.get(key, (0, 0.0)) for split, sums in by_split.items()}
            found.append(
                SliceCount(
                    *key,
                    {split: count for split, (count, _) in held.items()},
                    {split: summed / count if count else 0.0 for split, (count, summed) in held.items()},
                )
            )
    return tuple(found)


def _sum_block(table: pa.Table, columns: tuple[str, ...], target: FittedTarget) -> Sums:
    if table.num_rows == 0:
        return {}
    own = dataclasses.replace(target, mean=0.0, std=1.0, transform="none")
    labels = np.asarray(target_values.encode_target(table[target.name], own), dtype=np.float64)
    if target.task == "multiclass":
        labels = (labels == len(target.classes) - 1).astype(np.float64)
    found: Sums = {}
    for column in columns:
        texts = np.array(["" if one is None or one != one else str(one) for one in table[column].to_pylist()])
        values, places = np.unique(texts, return_inverse=True)
        counts, sums = np.bincount(places), np.bincount(places, weights=labels)
        for place, value in enumerate(values.tolist()):
            found[column, value] = int(counts[place]), float(sums[place])
    return found
