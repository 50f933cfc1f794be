"""The ranking of a search's learners: from the answers that the blend was chosen by, and from a file of each. Chooses
no winner."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import sources, target_values
from raymlops.data.split_rows import SplitRows
from raymlops.errors import last_line
from raymlops.evaluation.learner_ranking import (
    Answers,
    LearnerLine,
    LearnerRanking,
    rank_learners,
)
from raymlops.features import FittedTarget
from raymlops.models.session import open_session
from raymlops.models.speed import measure_median
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch
from raymlops.training.blends import Bag, Bags, Winner, to_learner, to_scores
from raymlops.training.row_losses import make_loss

BLEND = "blend"
_SECONDS = 1.0
"""For the files of all learners; one that was begun is ended."""
_CALLS = 50
_MOST_SLICED = 200_000
"""Rows of which the values of slices are read."""


def rank_bags(
    bags: Bags,
    winner: Winner,
    spec: TrainingSpec,
    target: FittedTarget,
    metric: str,
    slices: Mapping[str, npt.NDArray[Any]] | None = None,
    slice_rows: int = 100,
) -> LearnerRanking | None:
    """The best bag of each learner and the winner, if it is a blend of several; None for one learner alone. Bags with
    answers that are not finite are left out. `slices` are as of `read_slices`."""
    loss, weights = make_loss(spec, target, bags.labels), bags.weigh(spec, target)
    folds = len(bags.bags[0].parts)
    order = [bag for bag in bags.bags if np.isfinite(bag.margins).all()]
    by_trial = {bag.trial.name: bag.margins for bag in order}
    losses = {name: loss(margins) for name, margins in by_trial.items()}
    if folds > 1:  # which judge better than the split by which the trials are in order
        order.sort(key=lambda bag: float(np.average(losses[bag.trial.name], weights=weights)))
    best: dict[str, Bag] = {}
    for bag in order:
        best.setdefault(to_learner(bag.trial), bag)
    if len(best) < 2:
        return None

    def answer(name: str, trials: tuple[str, ...], margins: Any, seconds: float) -> Answers:
        scores = to_scores(target.task, margins)
        if target.task == "regression":
            scores = target.to_own_unit(scores.astype(np.float64))
        return Answers(name, trials, scores, loss(margins), seconds)

    answers = [answer(name, (bag.trial.name,), bag.margins, bag.trial.seconds) for name, bag in best.items()]
    if len(winner.shares) > 1 and all(share.trial.name in by_trial for share in winner.shares):
        mixed = sum(share.weight * by_trial[share.trial.name] for share in winner.shares)
        seconds = sum(share.trial.seconds for share in winner.shares)
        answers.append(answer(BLEND, tuple(share.trial.name for share in winner.shares), mixed, seconds))
    labels = bags.labels.astype(np.float64 if target.task == "regression" else np.int64)
    return rank_learners(
        answers,
        target.to_own_unit(labels) if target.task == "regression" else labels,
        task=target.task,
        metric=metric,
        classes=len(target.classes),
        weights=bags.weights,
        loss_weights=weights,
        folds=folds,
        seed=spec.seed,
        slices=slices,
        slice_rows=slice_rows,
    )


def read_slices(
    rows: SplitRows, bags: Bags, columns: Sequence[str], target: FittedTarget
) -> Mapping[str, npt.NDArray[Any]]:
    """The values of columns in the rows that bags answered, read again; none of tables that are too large for that, or
    if the rows are not the same."""
    known = rows.dataset.schema(fetch_if_missing=True)
    names = [name for name in columns if known is not None and name in known.names]
    if not names or sum(rows.scan.fingerprint.rows[split] for split in bags.splits) > _MOST_SLICED:
        return {}
    tables: list[pa.Table] = []
    with sources.reading(rows.table):
        for split in bags.splits:
            read = rows.of(split).select_columns([*dict.fromkeys([*names, target.name])])
            tables += [
                one for one in read.iter_batches(batch_size=None, batch_format="pyarrow") if one.num_rows
            ]
    table = pa.concat_tables(tables, promote_options="permissive")
    labels = target_values.encode_target(table[target.name], target)[:: bags.step][: len(bags.labels)]
    if not np.array_equal(labels, bags.labels):
        return {}
    return {name: table[name].to_pandas().to_numpy()[:: bags.step][: len(labels)] for name in names}


def measure_files(
    ranking: LearnerRanking,
    winner: Winner,
    model: bytes,
    export: Callable[[str], bytes],
    rows: Batch,
    tell: Callable[[str], None],
) -> LearnerRanking:
    """The ranking with the size of each file and its time for one of `rows`. `model` is the winner's file, `export`
    gives that of a trial. What `_SECONDS` leaves no time for is left out, and told."""
    until = time.perf_counter() + _SECONDS
    own = tuple(share.trial.name for share in winner.shares)
    lines, late = [], []
    for line in ranking.lines:
        is_winner = line.trials == own
        if line.name == BLEND and not is_winner:  # it was over a limit
            lines.append(line)
            continue
        if not is_winner and time.perf_counter() > until:
            late.append(line.name)
            lines.append(line)
            continue
        try:
            lines.append(_measure(line, model if is_winner else export(line.trials[0]), rows))
        except Exception as error:  # also of somebody's own learner, which did not win
            tell(f"The file of {line.name} is not measured: {last_line(error)}")
            lines.append(line)
    if late:
        tell(f"The files of {', '.join(late)} are not measured, for want of time")
    return dataclasses.replace(ranking, lines=tuple(lines))


def _measure(line: LearnerLine, model: bytes, rows: Batch) -> LearnerLine:
    return dataclasses.replace(
        line, size=len(model), p50_ms=measure_median(open_session(model), rows, _CALLS)
    )
