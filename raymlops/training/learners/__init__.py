"""The families of models that a spec may name: one file per family, behind one Protocol. Imports neither Tune nor
tracking."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt
import onnx

from raymlops.errors import RaymlopsError, SpecError, unknown_name
from raymlops.features import NETWORK_TENSORS, FittedTarget, Packing
from raymlops.specs import defaults
from raymlops.specs.code_references import find_own_names
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch
from raymlops.training.packed import PackedSplit, row_bytes

State = dict[str, Any]
"""Everything that a training needs to resume: tensors, arrays, text and plain numbers, so that it loads without
unpickling code. Its `history` holds the results of each epoch."""

Report = Callable[[dict[str, float], Callable[[], State]], bool]
"""Called after each epoch with its metrics and a function that returns the state; false asks to stop."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The data-parallel workers of one training, as one of them sees it; `torch.distributed` connects them."""

    rank: int = 0
    world: int = 1

    def gather(self, value: Any) -> list[Any]:
        """What each worker gave, by rank. All of them must call it."""
        if self.world == 1:
            return [value]
        from torch import distributed  # which takes a second to import, and one process alone does not need

        gathered: list[Any] = [None] * self.world
        distributed.all_gather_object(gathered, value)
        return gathered

    def add(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum over all workers, the same to the bit for each."""
        return values if self.world == 1 else np.asarray(sum(self.gather(values)))


ALONE = Team()


@dataclasses.dataclass(frozen=True)
class Job:
    """What a training needs beside its parameters; sent to the workers unchanged."""

    spec: ExperimentSpec
    packing: Packing
    target: FittedTarget
    train: PackedSplit
    validation: PackedSplit

    def only(self, tensors: frozenset[str]) -> "Job":
        """The same, of whose rows only these tensors are read."""
        return dataclasses.replace(
            self, train=self.train.only(tensors), validation=self.validation.only(tensors)
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, as passed to a learner: `spec` has the trial's parameters inserted."""

    job: Job
    spec: ExperimentSpec
    report: Report
    state: State | None = None
    """A state that was reported before, to resume from."""
    team: Team | None = None
    """Set in the workers of a team; None if one process trains alone."""
    until: int | None = None
    """The epoch that ends it and is taken as the best, whatever its metrics, where the validation rows are among those
    that it trains on. None for the best of all by the metric."""

    @property
    def threads(self) -> int:
        return max(1, int(self.spec.training.cpus_per_worker))

    @property
    def workers(self) -> Team:
        """The team, of one where none is set."""
        return self.team or ALONE

    def own(self, split: PackedSplit) -> PackedSplit:
        """The rows of a split that this worker reads, where each reads its share."""
        return split.share(self.workers.rank, self.workers.world)


class Scorer(Protocol):
    """A trained model. Sent to other processes by pickle."""

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        """For packed rows: probabilities (rows,) or (rows, classes), or standardised predictions (rows,)."""
        ...


class Learner(Protocol):
    """A family of models.

    Packed rows are tensors by name: `numeric` (rows, columns) FP32 without missing values, `category` (rows, columns)
    INT64 with 0 for unseen values and else the place among the values, numbers by size and others by frequency, `image`
    (rows, channels, height, width) FP32, `plain` (rows, columns) FP32 with numbers and parts of times as they are and
    NaN for missing values, `label` (rows,), and `weight` (rows,) FP32 if the spec has weights.
    """

    reads: ClassVar[frozenset[str]]
    """The packed tensors that it takes, beside label and weight; a family that does not say gets NETWORK_TENSORS."""
    teams: ClassVar[bool]
    """Whether several workers may share one training (`training.workers`)."""
    space: ClassVar[Mapping[str, Dimension]]
    """What a search varies if the spec has no `search.space`."""

    # A family may also have:
    # `options_for(rows, task)`, the options that a spec leaves open, by training rows;
    # `portfolio(rows, task)`, other options that are good on many tables, which a search tries before it samples;
    # `space_for(options)`, what a search varies instead of `space` if these options are given;
    # `streams`, whether it reads rows part by part: one of False gets no rows that are not held in memory;
    # `count_bytes(packing, rows, outputs)`, what all workers of a training together hold of so many training rows;
    # `trainer()`, the class of Ray Train that starts its teams, in place of TorchTrainer.
    # `row_us(spec, packing, target, rows)`, the microseconds that the model of a trial takes for a row at least, beside
    # the front, for so many training rows: see row_latency.py;
    # `monotonic = True`, if it keeps the directions of `training.monotonic`.

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        """Raises SpecError for what this family cannot do; called before data are read, without `packing` and
        `target`, and again when they are known."""
        ...

    def fit(self, run: Run) -> None:
        """Train, and report after each epoch, or once; `scoring.Progress` makes the `metrics` of a report."""
        ...

    def load(self, state: State, job: Job) -> Scorer:
        """The best model of a training; `job.spec` has the trial's parameters, and its splits have no rows."""
        ...

    def to_onnx(self, scorer: Any, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        """Packed rows without the label -> `outputs` (rows, outputs) FP32: logits, or standardised predictions.

        The first axis of all is free. Opset and IR version are those of `onnx_builder`. Raises ArtifactError.
        """
        ...


LEARNERS: dict[str, str] = {
    "network": "raymlops.training.learners.network:NetworkLearner",
    "lightgbm": "raymlops.training.learners.lightgbm:LightGBMLearner",
    "keras": "raymlops.training.learners.keras:KerasLearner",
    "xgboost": "raymlops.training.learners.xgboost:XGBoostLearner",
    "linear": "raymlops.training.learners.linear:LinearLearner",
    "forest": "raymlops.training.learners.forest:ForestLearner",
    "catboost": "raymlops.training.learners.catboost:CatBoostLearner",
    "sklearn": "raymlops.training.learners.sklearn:SklearnLearner",
    "ebm": "raymlops.training.learners.ebm:EBMLearner",
    "realmlp": "raymlops.training.learners.realmlp:RealMLPLearner",
    "tabm": "raymlops.training.learners.tabm:TabMLearner",
}
"""Name -> class, imported on first use: a family's library may take seconds."""


def find_learner(name: str) -> Learner:
    """The learner of that name, or of `module.path:Class`. Raises SpecError."""
    if ":" not in name and name not in LEARNERS:
        known = unknown_name("learner", name, LEARNERS)
        raise SpecError(f"training.learner: {known}, or module.path:Class of your own")
    module, _, attribute = LEARNERS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)()
    except RaymlopsError:
        raise
    except Exception as error:  # of the user's own module or constructor
        raise SpecError(f"training.learner: cannot make {name!r}: {type(error).__name__}: {error}") from error
    missing = [
        part for part in ("teams", "space", "check", "fit", "load", "to_onnx") if not hasattr(found, part)
    ]
    if missing:
        raise SpecError(
            f"training.learner: {name!r} has no {', '.join(missing)}; see raymlops.training.learners.Learner"
        )
    return cast(Learner, found)


def learner_of(spec: ExperimentSpec) -> Learner:
    return find_learner(spec.training.learner)


def read_by(learner: Learner) -> frozenset[str]:
    """The packed tensors that a learner takes."""
    return getattr(learner, "reads", NETWORK_TENSORS)


def options_for(learner: Learner, rows: int, task: str) -> dict[str, Any]:
    """The options that a spec leaves open, for so many training rows; none of a family that does not say."""
    found: Callable[[int, str], dict[str, Any]] | None = getattr(learner, "options_for", None)
    return {} if found is None else found(rows, task)


def count_bytes(learner: Learner, packing: Packing, rows: int, outputs: int) -> int:
    """What all workers of a training together hold of so many training rows; 0 of a family that does not say."""
    found: Callable[[Packing, int, int], int] | None = getattr(learner, "count_bytes", None)
    return 0 if found is None else found(packing, rows, outputs)


def holds_rows(learner: Learner) -> bool:
    """Whether the workers of a training hold its rows."""
    return hasattr(learner, "count_bytes")


def trainer_for(learner: Learner) -> Any:
    """The class of Ray Train that starts the teams of a learner."""
    found: Callable[[], Any] | None = getattr(learner, "trainer", None)
    if found is not None:
        return found()
    from ray.train.torch import TorchTrainer  # which imports torch

    return TorchTrainer


def space_for(learner: Learner, options: Mapping[str, Any]) -> Mapping[str, Dimension]:
    """What a search varies without a space of the spec, if these options are given."""
    found: Callable[[Mapping[str, Any]], Mapping[str, Dimension]] | None = getattr(learner, "space_for", None)
    return learner.space if found is None else found(options)


def portfolio_for(learner: Learner, rows: int, task: str) -> Sequence[Mapping[str, Any]]:
    """The options that a search tries after the defaults, for so many training rows; none of a family that does not
    say."""
    found: Callable[[int, str], Sequence[Mapping[str, Any]]] | None = getattr(learner, "portfolio", None)
    return () if found is None else found(rows, task)


def row_us_of(spec: ExperimentSpec, packing: Packing, target: FittedTarget, rows: int) -> float:
    """The microseconds that the model of a trial takes for a row at least, beside the front; 0 of a family that does
    not say."""
    found: Callable[..., float] | None = getattr(learner_of(spec), "row_us", None)
    return 0.0 if found is None else found(spec, packing, target, rows)


def fit(run: Run) -> None:
    """Train, on the tensors that the learner reads, of rows that may have more for others, and on `training.rows`."""
    learner, training = learner_of(run.spec), run.spec.training
    job = run.job.only(read_by(learner))
    job = dataclasses.replace(job, train=job.train.sample(training.rows, training.seed))
    try:
        learner.fit(dataclasses.replace(run, job=job))
    except SystemExit as error:  # which Tune would take for its own end of the training
        name = run.spec.training.learner
        raise RaymlopsError(
            f"Learner {name!r} called sys.exit({error.code!r}) while it trained; it has to raise or return"
        ) from None


def dimensions_of(spec: ExperimentSpec) -> Mapping[str, Dimension]:
    """What the search varies: the spec's own space, or that of its learner."""
    if spec.search.space is not None:
        return spec.search.space
    if spec.training.learner == "network" and spec.defaults == "fitted":
        return defaults.NETWORK_SPACE
    return space_for(learner_of(spec), spec.training.options)


def check_space(spec: ExperimentSpec) -> None:
    """Raises SpecError if the search has nothing to vary."""
    if spec.search.learners is not None:
        return
    if spec.search.algorithm == "optuna" and not dimensions_of(spec):
        raise SpecError(
            "search.algorithm optuna needs search.space; give one, or run `raymlops train` instead"
        )
    if spec.search.scheduler == "pbt" and not any(map(is_mutable, dimensions_of(spec))):
        raise SpecError("search.scheduler pbt changes numbers of running trainings; search.space names none")


def is_mutable(dimension: str) -> bool:
    """Whether PBT may change it during a training: numbers of the training, not the shape of the network."""
    fixed = ("batch_size", "training.batch_size", "epochs", "seed")
    return not dimension.startswith(("network.", "training.options.")) and dimension not in fixed


def check(
    spec: ExperimentSpec,
    packing: Packing | None = None,
    target: FittedTarget | None = None,
    *,
    imports: bool = True,
) -> None:
    """Checks that the learner of a spec can do what the spec says. Raises SpecError.

    What names code of the user's own is only examined if `imports` allows running its module.
    """
    if not imports and find_own_names(spec):
        return
    learner = learner_of(spec)
    if spec.training.workers > 1 and not learner.teams:
        raise SpecError(
            f"training.workers: {spec.training.workers}, but learner {spec.training.learner!r} trains in one process; "
            "set it to 1, and training.cpus_per_worker to the CPUs of one trial"
        )
    _check_monotonic(spec, learner, target)
    learner.check(spec, packing, target)


def _check_monotonic(spec: ExperimentSpec, learner: Learner, target: FittedTarget | None) -> None:
    """Raises SpecError for directions that a learner cannot keep."""
    training = spec.training
    if not training.monotonic:
        return
    if not getattr(learner, "monotonic", False):
        raise SpecError(
            f"training.monotonic: learner {training.learner!r} keeps no directions; use lightgbm, xgboost, ebm or "
            "linear"
        )
    if target is not None and target.task == "multiclass":
        raise SpecError(
            "training.monotonic: of more than two classes none can rise alone; it is for two classes or a number"
        )
    if training.loss in ("mae", "quantile"):
        raise SpecError(
            f"training.monotonic: with training.loss: {training.loss} leaves are set anew after a tree has grown, "
            "which keeps no direction; use mse or poisson"
        )


def check_size(spec: ExperimentSpec, packing: Packing, rows: int) -> None:
    """Raises SpecError if the learner reads all rows at once, and so many are not held in memory."""
    learner, training = learner_of(spec), spec.training
    size = rows * row_bytes(packing.only(read_by(learner)))
    if size > training.resident_bytes and not getattr(learner, "streams", True):
        raise SpecError(
            f"training.learner: {training.learner!r} reads all rows at once, and {rows:,} training rows take "
            f"{size / 2**20:,.0f} MiB, more than training.resident_bytes, {training.resident_bytes / 2**20:,.0f} MiB; "
            "use lightgbm, xgboost or network, or raise it if the nodes have the memory"
        )
