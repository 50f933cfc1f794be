"""Makes the reference of a version that is evaluated: of its test rows, and of its validation rows where these trained
nothing, with their labels and times."""

import numpy as np

from raymlops.data import sources
from raymlops.features import FittedFeatures
from raymlops.lifecycle.batch.watched_rows import reference_of_batch
from raymlops.lifecycle.govern.evaluation_rows import Rows, draw_sample
from raymlops.lifecycle.govern.gate_evidence import SAMPLE, Sample
from raymlops.models.safety import Model
from raymlops.specs.experiment import ExperimentSpec

_MOST_VALUES = 20_000_000


def make_reference_file(
    model: Model, features: FittedFeatures, rows: Rows, test: Sample, spec: ExperimentSpec
) -> bytes:
    """Of the test rows in `test` and as many validation rows, if `rows` has any: on rows that trained a model its
    scores are surer than on others. Of data other than the version's own, of `test`."""
    samples, count = [test], rows.counts.get("test", len(test.labels))
    held = rows.counts.get("validation", 0)
    if rows.validation is not None and held:
        with sources.reading(rows.table):
            drawn = draw_sample(rows, "validation", features, _find_most(test))
        if _fit_together(test, drawn):
            samples.append(drawn)
            count += held
    times = [one.times for one in samples if one.times is not None]
    made = reference_of_batch(
        model,
        {name: np.concatenate([one.columns[name] for one in samples]) for name in test.columns},
        count,
        np.concatenate([one.labels for one in samples]),
        np.concatenate(times) if len(times) == len(samples) else None,
        spec.evaluation.slices,
    )
    return made.to_bytes()


def _find_most(test: Sample) -> int:
    """Rows of a sample: of wide ones, as of images, fewer are drawn."""
    values = sum(column.size for column in test.columns.values()) / max(len(test.labels), 1)
    return min(SAMPLE, max(1000, int(_MOST_VALUES / max(values, 1))))


def _fit_together(first: Sample, second: Sample) -> bool:
    """Whether rows of both have tensors of one shape: those of images may differ in size."""
    return all(first.columns[name].shape[1:] == second.columns[name].shape[1:] for name in first.columns)
