"""TabM (Gorishniy, Kotelnikov, Babenko 2024): a torch network for tables, of many members that share most weights and
answer together."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import onnx

from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.training import table_network_export
from raymlops.training.learners import Job, Run, State, steps
from raymlops.training.learners.objectives import check_training
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.steps import TableScorer, load_scorer, train
from raymlops.training.table_networks import TableInputs, TabM

OPTIONS: Mapping[str, Option] = {**steps.OPTIONS, "members": Option("members", 1, 64, whole=True)}


def _options_for(rows: int, task: str) -> dict[str, Any]:
    return {
        **steps.steps_by_rows(rows),
        "lr": 3e-3,
        "weight_decay": 0.01,
        "dropout": 0.1,
        "width": 256,
        "layers": 3,
        "embedding": 8,
        "frequency": 1.0,
        "members": 8,
    }


class TabMLearner:
    """One process; threads are `training.cpus_per_worker`."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.lr": Dimension(low=5e-4, high=1e-2, log=True),
        "training.options.weight_decay": Dimension(low=1e-3, high=0.3, log=True),
        "training.options.dropout": Dimension(low=0.0, high=0.4),
        "training.options.width": Dimension(choices=(128, 256, 512)),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(spec, packing, target, losses=("mse", "mae", "quantile"), smooths=True)
        check_options(spec, OPTIONS)

    def fit(self, run: Run) -> None:
        options = {**_options_for(run.job.train.count, run.job.target.task), **run.spec.training.options}
        train(run, functools.partial(_make, run.job), options)

    def load(self, state: State, job: Job) -> TableScorer:
        return load_scorer(state, job, functools.partial(_make, job))

    def to_onnx(self, scorer: TableScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        assert isinstance(scorer.network, TabM)
        return table_network_export.write_network(
            scorer.network, packing.only(self.reads), scorer.objective, "tabm"
        )


def _make(job: Job, options: Mapping[str, Any], indicators: int) -> TabM:
    embedding, frequency = int(options["embedding"]), float(options["frequency"])
    inputs = TableInputs(job.packing, indicators, embedding=embedding, frequency=frequency)
    sizes = {name: int(options[name]) for name in ("members", "width", "layers")}
    return TabM(inputs, job.target.outputs, dropout=float(options["dropout"]), **sizes)
