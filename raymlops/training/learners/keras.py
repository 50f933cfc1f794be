"""Keras 3 models that a function of the user's own builds, on torch or TensorFlow: steps of AdamW in equal parts, each
measured, with the best of them kept. Imports Keras when it trains or checks, not before.

The random numbers depend on seed and step alone, so that a training resumes from any of its states as if it had not
been interrupted.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch

from raymlops.errors import SpecError
from raymlops.features import FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch, count_rows
from raymlops.training import keras_models
from raymlops.training.keras_models import Answer, Source, copy_variables, set_variables
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.boosting import MOST_PARTS, REPORT_SECONDS
from raymlops.training.learners.objectives import MOST_LOG, Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.learners.steps import bounds_of, flat_then_falling, rising_then_falling, steps_by_rows

OPTIONS: Mapping[str, Option] = {
    "model": Option("module:function that builds the model", free=True),
    "backend": Option("what Keras runs on", words=tuple(keras_models.BACKENDS)),
    "steps": Option("steps of the optimiser, at most", 1, 10**7, whole=True),
    "batch_size": Option("rows of a step", 2, 10**6, whole=True),
    "lr": Option("peak learning rate of AdamW", 1e-6, 10),
    "weight_decay": Option("weight decay of AdamW in the first half of the steps", 0, 10),
}
"""Beside those of the user's function."""

_SCORED_ROWS = 8192  # at a time


class KerasScorer:
    """A trained model as its variables; builds the model in the process that asks it first."""

    def __init__(
        self,
        source: Source,
        variables: Mapping[str, torch.Tensor],
        objective: Objective,
        bounds: tuple[float, float],
    ) -> None:
        self.source, self.objective, self.bounds = source, objective, bounds
        self._variables = dict(variables)
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = self.source.build()
            set_variables(self._model.variables, self._variables)
        return self._model

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        return _score(self.model, self.source, batch, self.objective, self.bounds)

    def to_answer(self) -> Answer:
        target, poisson = self.objective.target, None
        if self.objective.loss == "poisson":
            poisson = (MOST_LOG, target.mean / target.std)
        return Answer(self.model, self.source.reading, *self.bounds, poisson)


def _score(
    model: Any,
    source: Source,
    batch: Batch,
    objective: Objective,
    bounds: tuple[float, float],
    device: str = "cpu",
) -> npt.NDArray[np.floating[Any]]:
    import keras

    reading, given = source.reading, {name: batch[name] for name in keras_models.zeros(source.packing, 1)}
    found = [np.zeros((0, objective.target.outputs))]
    with keras.device(device):
        for start in range(0, count_rows(given), _SCORED_ROWS):
            part = {name: values[start : start + _SCORED_ROWS] for name, values in given.items()}
            found.append(np.asarray(model.predict_on_batch(reading(**part))))
    return objective.to_scores(np.clip(np.concatenate(found), *bounds))


def _loss_of(objective: Objective) -> Any:
    from keras import losses, ops

    def quantile(labels: Any, margins: Any) -> Any:
        short = labels - margins
        return ops.mean(ops.maximum(objective.quantile * short, (objective.quantile - 1) * short), axis=-1)

    def poisson(labels: Any, margins: Any) -> Any:
        return ops.mean(ops.exp(ops.minimum(margins, MOST_LOG)) - labels * margins, axis=-1)

    if objective.target.task == "multiclass":
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    if objective.target.task == "binary":
        return losses.BinaryCrossentropy(from_logits=True)
    known = {"mse": losses.MeanSquaredError(), "mae": losses.MeanAbsoluteError()}
    return {**known, "quantile": quantile, "poisson": poisson}[objective.loss]


class _Course:
    """A training under way."""

    def __init__(self, run: Run, source: Source, options: Mapping[str, Any]) -> None:
        self._run, self._source, self._options = run, source, options
        training, self._seed = run.spec.training, run.spec.training.seed
        self._keras = keras_models.import_keras(source.backend)
        self._device = "gpu:0" if training.use_gpu else "cpu"
        self._keras.utils.clear_session()  # which held the models of earlier trials
        self._objective, self._rows = objective_of(run.spec, run.job.target), run.job.train.load()
        self._bounds = bounds_of(self._objective, self._rows)
        self._weights = self._objective.weigh(self._rows)
        labels = self._objective.label(self._rows)
        self._labels = labels if run.job.target.task == "multiclass" else labels.reshape(-1, 1)
        self._size = min(int(options["batch_size"]), max(1, len(labels)))
        self._model = source.build(self._seed, self._device)
        self._done, self._best = 0, copy_variables(self._model.variables)
        with self._keras.device(self._device):
            self._optimiser = self._keras.optimizers.AdamW(float(options["lr"]), beta_2=0.95)
            self._optimiser.build(self._model.trainable_variables)
            self._model.compile(optimizer=self._optimiser, loss=_loss_of(self._objective), jit_compile=False)
            if run.state is not None:
                set_variables(self._model.variables, run.state["variables"])
                set_variables(self._optimiser.variables, run.state["optimiser"])
                self._done, self._best = int(run.state["steps"]), run.state["best_variables"]

    def run(self) -> None:
        steps, progress = int(self._options["steps"]), Progress(self._run, least_seconds=REPORT_SECONDS)
        parts = min(MOST_PARTS, self._run.spec.training.pace.epochs, steps)
        for part in range(progress.epoch + 1, parts + 1):
            with self._keras.device(self._device):
                self._train_to(round(steps * part / parts), steps)
            progress.measure(self)
            if progress.waited == 0:
                self._best = copy_variables(self._model.variables)
            if not progress.tell(self._snapshot, last=part == parts):
                return

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        return _score(self._model, self._source, batch, self._objective, self._bounds, self._device)

    def _snapshot(self) -> State:
        return {
            "variables": copy_variables(self._model.variables),
            "optimiser": copy_variables(self._optimiser.variables),
            "best_variables": self._best,
            "steps": self._done,
            "bounds": list(self._bounds),
            "options": dict(self._options),
        }

    def _train_to(self, wanted: int, steps: int) -> None:
        self._keras.utils.set_random_seed((self._seed * 1_000_003 + self._done) % 2**32)  # of dropout
        reading, names = self._source.reading, list(keras_models.zeros(self._source.packing, 1))
        for places in self._batches(wanted):
            done = self._done / steps
            self._optimiser.learning_rate = float(self._options["lr"]) * rising_then_falling(done)
            self._optimiser.weight_decay = float(self._options["weight_decay"]) * flat_then_falling(done)
            self._model.train_on_batch(
                reading(**{name: self._rows[name][places] for name in names}),
                self._labels[places],
                sample_weight=None if self._weights is None else self._weights[places],
            )
            self._done += 1

    def _batches(self, wanted: int) -> Iterator[npt.NDArray[np.int64]]:
        """Places of the rows of each step up to the wanted one: each pass has an order of its own, and leaves out a
        last batch that is too small."""
        rows = len(self._labels)
        of_pass, order, ordered = max(1, rows // self._size), np.arange(0), -1
        while self._done < wanted:
            number, step = divmod(self._done, of_pass)
            if number != ordered:
                order, ordered = np.random.default_rng((self._seed % 2**63, number)).permutation(rows), number
            yield order[step * self._size : (step + 1) * self._size]


class KerasLearner:
    """See the module. One process; threads are `training.cpus_per_worker`."""

    reads: ClassVar[frozenset[str]] = frozenset(("numeric", "category"))
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.lr": Dimension(low=3e-4, high=3e-2, log=True),
        "training.options.weight_decay": Dimension(low=1e-4, high=0.1, log=True),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        return {**steps_by_rows(rows), "lr": 3e-3, "weight_decay": 0.01, "backend": "torch"}

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        kept = packing and packing.only((*self.reads, "image"))
        read = kept and dataclasses.replace(kept, plain=kept.numeric)
        check_training(spec, read, target, losses=("mse", "mae", "quantile", "poisson"))
        backend = spec.training.options.get("backend", "torch")
        if not OPTIONS["backend"].takes(backend):
            raise SpecError(f"training.options.backend: expected {OPTIONS['backend']}, got {backend!r}")
        keras_models.import_keras(
            backend
        )  # before the user's module does, which would choose another backend
        known, names = dict(OPTIONS), _functions_of(spec)
        for name in names:
            own, any_other = keras_models.options_of(keras_models.find_function(name))
            others = set(spec.training.options) - set(OPTIONS) if any_other else ()
            known |= {
                key: Option("of the function", free=True) for key in (*own, *others) if key not in OPTIONS
            }
        check_options(spec, known)
        if packing is not None and target is not None:
            for name in names:
                source = _source_of(spec, packing.only(self.reads), target)
                dataclasses.replace(source, function=str(name)).build()

    def fit(self, run: Run) -> None:
        options = {**self.options_for(run.job.train.count, run.job.target.task), **run.spec.training.options}
        source = _source_of(run.spec, run.job.packing.only(self.reads), run.job.target)
        _set_threads(source.backend, run.threads)
        _Course(run, source, {name: options[name] for name in OPTIONS}).run()

    def load(self, state: State, job: Job) -> KerasScorer:
        source = _source_of(job.spec, job.packing.only(self.reads), job.target)
        objective, (low, high) = objective_of(job.spec, job.target), state["bounds"]
        return KerasScorer(source, state["best_variables"], objective, (float(low), float(high)))

    def to_onnx(self, scorer: KerasScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        return keras_models.export_answer(scorer.to_answer(), scorer.source.backend)


def _functions_of(spec: ExperimentSpec) -> tuple[Any, ...]:
    """That of the options, or those among which a search chooses."""
    dimension = spec.search.varied.get("training.options.model")
    if dimension is None or dimension.choices is None:
        return (spec.training.options.get("model"),)
    return tuple(dimension.choices)


def _source_of(spec: ExperimentSpec, packing: Packing, target: FittedTarget) -> Source:
    options = dict(spec.training.options)
    own = {name: value for name, value in options.items() if name not in OPTIONS}
    return Source(
        str(options.get("model")), str(options.get("backend", "torch")), own, packing, target.outputs
    )


def _set_threads(backend: str, threads: int) -> None:
    if backend == "torch":
        torch.set_num_threads(threads)
        return
    import tensorflow

    with contextlib.suppress(RuntimeError):  # it takes them before its first operation alone
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
