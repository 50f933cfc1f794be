"""Training of a network, and the search for good values of its parameters."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from raymlops import metrics
from raymlops.errors import unknown_name
from raymlops.specs import labels
from raymlops.specs.dataset import OWN_NAME
from raymlops.specs.document import Document, Renamed

_DEFAULT_METRIC = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}
"""Task -> the validation metric for early stopping and the search."""


def _check_own_name(value: str) -> str:
    if ":" in value and not re.fullmatch(OWN_NAME, value, re.ASCII):
        raise ValueError("expected module.path:Class")
    return value


@dataclasses.dataclass(frozen=True)
class Pace:
    """The numbers of a training that follow from the rows; here the fixed ones."""

    epochs: int = 10
    passes: int = 1
    batch_size: int = 1024
    patience: int = 5
    lr: float = 1e-3
    weight_decay: float = 1e-4


OwnName = Annotated[str, AfterValidator(_check_own_name)]
"""A built-in name, or module.path:Class of the user's own."""


class NetworkSpec(Document):
    """The torch network."""

    name: OwnName = Field("mlp", description="mlp, cnn, or module.path:Class of your own")
    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of its constructor")


@dataclasses.dataclass(frozen=True)
class WorkerDemand:
    """`workers` equal bundles of resources, in Ray's terms, that must run at the same time; each fits on one node."""

    workers: int
    resources: Mapping[str, float]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        cpus, gpus = (self.workers * self.resources.get(name, 0.0) for name in ("CPU", "GPU"))
        on = f" on nodes labelled {dict(self.labels)}" if self.labels else ""
        return (
            f"{cpus:g} CPUs{f' and {gpus:g} GPUs' if gpus else ''} "
            f"({self.workers} worker{'s' if self.workers > 1 else ''}){on}"
        )

    def count_places(self, resources: Mapping[str, float]) -> int:
        """Number of workers that fit on a node with these resources."""
        wanted = {name: amount for name, amount in self.resources.items() if amount > 0}
        return min(
            (int((resources.get(name, 0) + 1e-6) / amount) for name, amount in wanted.items()), default=10**6
        )


class TrainingSpec(Document):
    """One training. Every number here may be searched over."""

    renamed = {"resize_seconds": Renamed("resize_s")}

    learner: OwnName = Field(
        "network",
        description="Family of models: network, the torch one of `network`; lightgbm, xgboost, ebm, forest, linear, "
        "realmlp, tabm, sklearn, catboost or keras; or module.path:Class of your own",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the learner; those of a network are network.options"
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Validations in one training; default by rows, with `passes`: 1,500 steps or more",
    )
    passes: int | None = Field(
        None,
        ge=1,
        description="Passes over the training rows in one epoch; default by rows: 1, and more for a small table, "
        "which would else be validated after every few steps",
    )
    batch_size: int | None = Field(
        None, ge=1, description="Rows per step, over all workers together; default by rows: 16 to 4,096"
    )
    lr: float | None = Field(None, gt=0, description="Peak learning rate of AdamW; default 1e-3")
    weight_decay: float | None = Field(
        None, ge=0, description="Weight decay of AdamW; default by rows and columns: 1e-4 to 0.1"
    )
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        "onecycle", description="Schedule of the learning rate over the steps"
    )
    loss: Literal["mse", "mae", "quantile", "poisson"] | None = Field(
        None,
        description="Regression: mse for the mean, the default; mae for the median; quantile; poisson for counts, "
        "whose logarithm the network predicts",
    )
    quantile: float = Field(0.5, gt=0, lt=1, description="Of the loss quantile")
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None,
        description="Classification: balanced, so that every class weighs alike, or class -> weight, by default 1. "
        "Probabilities follow the weights",
    )
    sample_weights: str | None = Field(
        None,
        description="Column with the weight of each row, 0 or above: in losses and in all metrics, those of baselines, "
        "folds, the gate and `evaluate` too",
    )
    monotonic: dict[str, Literal["up", "down"]] = Field(
        default_factory=dict,
        description="Number among the features -> up or down: where it rises and all else stays, the probability of "
        "the positive class or the prediction never falls, or never rises; learners lightgbm, xgboost, ebm and linear",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of a label that is spread over all classes"
    )
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm")
    patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better validation metric before it stops; default a quarter of epochs",
    )
    metric: str | None = Field(
        None,
        description=(
            "Validation metric for stopping and the search; default by task: roc_auc (log_loss where the rarer "
            "class is rare), log_loss, rmse"
        ),
    )
    rows: int | None = Field(
        None,
        ge=1,
        description="Train on a sample of so many of the training rows, with the classes or the spread of the target "
        "that all have; default all",
    )
    seed: int = Field(0, description="Of initial weights, dropout and the order of rows")
    workers: int = Field(
        1,
        ge=1,
        description="Data-parallel workers of one training; default 1, or more where one cannot hold the rows of "
        "a boosted model",
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Elastic training: continues with as few workers as this while nodes come and go, and grows "
        "back to `workers`; default always `workers`",
    )
    resize_s: float = Field(
        60, gt=0, description="Elastic training: seconds between two checks for room for more workers"
    )
    use_gpu: bool = Field(False, description="Train on GPUs, one per worker")
    gpus_per_worker: float = Field(
        1,
        gt=0,
        le=1,
        description="Share of a GPU; below 1 several trials run on one, each in its part of the memory",
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs that Ray reserves for a worker")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="Nodes that workers may run on: label -> value, !value, in(a, b) or !in(a, b); cluster.yaml "
        "names raymlops/pool and raymlops/market",
    )
    checkpoint_minutes: float = Field(
        10,
        gt=0,
        description="Longest time without a checkpoint; one is saved after each epoch, and at once when a node is "
        "about to be taken away",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else fp32"
    )
    resident_bytes: int = Field(
        2 * 2**30,
        ge=0,
        description="Packed rows up to this size are held in memory; of larger data each worker reads its part "
        "again in each epoch",
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str | None) -> str | None:
        if value is not None and value not in metrics.NAMES:
            raise ValueError(unknown_name("metric", value, metrics.NAMES))
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _classes_as_text(cls, value: object) -> object:
        """YAML reads `yes`, `1` and `true` as other things than text."""
        if not isinstance(value, Mapping):
            return value
        return {str(name): weight for name, weight in value.items()}

    @field_validator("class_weights")
    @classmethod
    def _weights_of_classes(cls, value: str | dict[str, float] | None) -> str | dict[str, float] | None:
        wrong = (
            {name: weight for name, weight in value.items() if not 0 <= weight < math.inf}
            if isinstance(value, dict)
            else {}
        )
        if wrong:
            raise ValueError(f"expected weights of 0 or above, got {wrong}")
        return value

    @field_validator("labels")
    @classmethod
    def _label_selectors(cls, value: dict[str, str]) -> dict[str, str]:
        if mistake := labels.explain_mistake(value):
            raise ValueError(mistake)
        return value

    @model_validator(mode="after")
    def _enough_workers(self) -> "TrainingSpec":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers: {self.min_workers} is above workers, which is {self.workers}")
        if self.batch_size is not None and self.batch_size < self.workers:
            raise ValueError(
                f"batch_size: {self.batch_size} rows a step are too few for {self.workers} workers; each takes one "
                "at least"
            )
        if self.use_gpu and self.gpus_per_worker < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker: {self.gpus_per_worker:g} is for trials of one worker; those of a team must each "
                f"have a GPU of their own, and workers is {self.workers}"
            )
        return self

    @property
    def pace(self) -> Pace:
        """With the fixed numbers in place of those that neither the spec nor the rows decided."""
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(Pace)}
        return Pace(**{name: value for name, value in held.items() if value is not None})

    def metric_of(self, task: str) -> str:
        """The validation metric for stopping and the search; a task that is unknown before the data are read counts
        as binary."""
        if self.metric is None and self.loss in ("mae", "quantile"):
            special = f"pinball_{round(100 * self.quantile):02d}"
            return special if self.loss == "quantile" and special in metrics.NAMES else "mae"
        return self.metric or _DEFAULT_METRIC.get(task, _DEFAULT_METRIC["binary"])

    @property
    def worker_resources(self) -> dict[str, float]:
        """In Ray's terms."""
        return {"CPU": self.cpus_per_worker, **({"GPU": self.gpus_per_worker} if self.use_gpu else {})}

    @property
    def demand(self) -> WorkerDemand:
        """The smallest demand of one trial."""
        return WorkerDemand(self.fewest_workers, self.worker_resources, self.labels)

    @property
    def gpus(self) -> float:
        """Resources of one worker."""
        return self.gpus_per_worker if self.use_gpu else 0.0

    @property
    def fewest_workers(self) -> int:
        return self.min_workers or self.workers


class Dimension(Document):
    """Values a parameter may take: a range or choices."""

    low: float | None = Field(None, description="Smallest value of a range")
    high: float | None = Field(None, description="Largest value of a range")
    log: bool = Field(False, description="Sample uniformly in the logarithm")
    integer: bool = Field(
        False,
        description="Integers only; default where low and high are, and the parameter takes nothing else",
    )
    choices: tuple[Any, ...] | None = Field(None, description="Values to choose from, instead of a range")

    @model_validator(mode="after")
    def _range_or_choices(self) -> "Dimension":
        if self.choices is not None:
            if self.low is not None or self.high is not None:
                raise ValueError("give choices, or low and high, not both")
            if not self.choices:
                raise ValueError("choices is empty")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low}")
        return self

    def takes(self, value: Any) -> bool:
        """Whether it may take that value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high

    def nearest(self, value: Any) -> Any:
        """The value that it may take next to that one; of choices that are no numbers the first."""
        if self.takes(value):
            return round(value) if self.integer else value
        if self.choices is not None:
            numbers = [one for one in self.choices if isinstance(one, int | float)]
            if not numbers or not isinstance(value, int | float):
                return self.choices[0]
            return min(numbers, key=lambda one: abs(one - value))
        assert self.low is not None
        assert self.high is not None
        held = min(max(value, self.low), self.high)
        return (
            math.ceil(held)
            if self.integer and held == self.low
            else math.floor(held)
            if self.integer
            else held
        )


_MOST_TRIALS = 10_000
"""Where the time alone ends a search."""
Fixed = bool | int | float | str
"""A value that a search does not vary."""


def _read_space(learner: str, value: object) -> dict[str, Any]:
    """Of one learner in `search.learners`. Raises ValueError."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(
            f"{learner}: expected a mapping of parameters to dimensions or values, or {{}} for its own space"
        )
    space: dict[str, Any] = {}
    for key, held in _flatten(value or {}).items():
        part = str(key).rpartition(".")[0].removesuffix("parameters").removesuffix(".")
        if key == "training.learner" or part not in ("", "training", "training.options", "network.options"):
            raise ValueError(f"{learner}: {key} is no parameter that a search chooses")
        if (part == "network.options") > (learner == "network"):
            raise ValueError(f"{learner}: {key} is of networks")
        if isinstance(held, Mapping):
            try:
                space[key] = Dimension.model_validate(held)
            except ValidationError as error:
                raise ValueError(f"{learner}: {key}: {error.errors()[0]['msg']}") from None
        elif isinstance(held, Dimension | bool | int | float | str):
            space[key] = held
        else:
            raise ValueError(
                f"{learner}: {key}: expected a value, {{low: , high: }}, or {{choices: [...]}}, got {held!r}"
            )
    return space


def _flatten(space: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of `parameters`, an option that has names of its own, as `parameters.NAME`."""
    flat: dict[str, Any] = {}
    for key, held in space.items():
        if str(key).rpartition(".")[2] == "parameters" and isinstance(held, Mapping):
            flat |= {f"{key}.{name}": value for name, value in held.items()}
        else:
            flat[str(key)] = held
    return flat


class SearchSpec(Document):
    """The search over trainings."""

    algorithm: Literal["optuna", "random", "grid"] = Field(
        "optuna",
        description="optuna uses earlier trials (TPE); random samples; grid runs every combination of choices",
    )
    scheduler: Literal["asha", "pbt", "none"] = Field(
        "asha", description="asha stops poor trials early; pbt copies good ones"
    )
    trials: int | None = Field(
        None,
        ge=1,
        description="Trials to run; a grid runs all its points this many times; default by rows, at most 10",
    )
    concurrent: int | None = Field(
        None, ge=1, description="Trials at a time; default as many as fit on the cluster"
    )
    grace_epochs: int | None = Field(
        None, ge=1, description="asha: epochs before a trial may be stopped; default a sixth of them"
    )
    reduction: int = Field(3, ge=2, description="asha: one in this many continues at each rung")
    perturb_epochs: int = Field(2, ge=1, description="pbt: epochs between exploitations")
    retries: int = Field(2, ge=0, description="Times that a failed trial restarts from its checkpoint")
    seed: int = Field(0, description="Of the suggested values")
    first: Literal["spec", "suggested"] | None = Field(
        None,
        description="Values of the first trial: those that the spec or the rows give, where the space has them, or "
        "suggested ones like all others; default spec",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="From the command to the registered model: trials end early enough for the stages after them, of "
        "which the time is estimated, and the best of what they reached is exported and registered",
    )
    sample_rows: int | None = Field(
        None,
        ge=0,
        description="With several learners: values are tried on a sample of so many training rows first, and the best "
        "of a learner then on all; 0 or null, the default, for none",
    )
    warm_start: Literal["auto"] | bool = Field(
        "auto",
        description="With several learners: try the best values of earlier searches of the same table early, from the "
        "runs of the experiment; false for none",
    )
    trial_minutes: float | None = Field(
        None,
        gt=0,
        description="Longest time of one trial, which is then ended and keeps the model of its last report; default "
        "none, but with several learners a trial that reports nothing for 10 times as long as expected is ended",
    )
    learners: Literal["auto"] | tuple[OwnName, ...] | dict[OwnName, dict[str, Dimension | Fixed]] | None = (
        Field(
            None,
            description="Families among which the search chooses: auto for all that suit the table; a list; or name -> "
            "its space, of training.options.NAME by NAME -> dimension or a value to hold. Default auto, unless "
            "the spec gives a learner, a network or a space",
        )
    )
    space: dict[str, Dimension] | None = Field(
        None,
        description="training.KEY, training.options.KEY or network.options.KEY -> dimension; the prefix may be "
        "omitted for keys of training; default that of the learner",
    )

    glassbox: bool = Field(
        False,
        description="Only models that people can read: learners linear and ebm, one trial alone",
    )
    blend: bool = Field(
        True,
        description="With several learners: take a weighted mean of the best trials, as one file, where that gains "
        "beyond doubt",
    )

    distill: bool | None = Field(
        None,
        description="Where the winner is a blend, train a small network (that of `network`, by default an mlp) on its "
        "answers, and take it if it is better than the best trial; default where the blend is over gate.latency_ms or "
        "gate.size_mb",
    )

    folds: int | None = Field(
        None,
        ge=0,
        description="With several learners: the best trials are trained again on so many folds of the training and "
        "validation rows, and each answers as the mean of its folds; 0 for none; default by rows, 5 for few",
    )
    refit: bool | None = Field(
        None,
        description="With several learners: the winner's models are trained again on training and validation rows "
        "together, for as long as was best without the latter, where they are not on folds; default where "
        "max_minutes is given and leaves the time",
    )

    @field_validator("learners", mode="before")
    @classmethod
    def _names_or_spaces(cls, value: object) -> object:
        """In one form, so that a mistake is told once and not for each form."""
        if value is None or value == "auto":
            return value
        if isinstance(value, str):
            return (value,)
        if isinstance(value, Mapping):
            return {name: _read_space(str(name), space) for name, space in value.items()}
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise ValueError("expected auto, a list of names, or name -> space")
        if len(set(value)) < len(value):
            raise ValueError(f"a name stands twice in {list(value)}")
        return tuple(value)

    @field_validator("folds")
    @classmethod
    def _two_folds(cls, value: int | None) -> int | None:
        if value == 1:
            raise ValueError("expected 0, or 2 and more")
        return value

    @model_validator(mode="after")
    def _one_space(self) -> "SearchSpec":
        if self.learners is None:
            if self.glassbox:
                raise ValueError("glassbox chooses among learners; give learners: auto, and no space")
            return self
        if not self.learners:
            raise ValueError("learners names none; give auto, a list, or name -> space")
        if self.space:
            raise ValueError(
                "space is for one learner; with learners give each its own, learners: {NAME: {...}}"
            )
        if self.algorithm == "grid" or self.scheduler == "pbt":
            wrong = "algorithm: grid" if self.algorithm == "grid" else "scheduler: pbt"
            raise ValueError(f"{wrong} searches one learner; leave learners out, or take optuna with asha")
        return self

    @model_validator(mode="after")
    def _something_to_blend(self) -> "SearchSpec":
        for key, does in (("distill", "takes a blend"), ("refit", "trains the winner")):
            if getattr(self, key) and not self.blends:
                raise ValueError(
                    f"{key}: true {does} of several learners; it needs learners (auto, or some), and neither "
                    "blend: false, glassbox: true nor explanations: true of all learners"
                )
        return self

    @property
    def blends(self) -> bool:
        """Whether the winner may be a blend; not where all learners are to explain their answers, as no blend does."""
        return self.blend and self.learners is not None and not self.glassbox and not self._explains

    @property
    def _explains(self) -> bool:
        """Whether each learner holds `explanations: true`."""
        if not isinstance(self.learners, Mapping):
            return False
        held = ("explanations", "training.options.explanations")
        return all(any(space.get(key) is True for key in held) for space in self.learners.values())

    @property
    def planned(self) -> int | None:
        """Trials to run, fixed if neither the spec nor the rows decided it; None where the time decides."""
        return self.trials or (None if self.learners and self.max_minutes else 10)

    @property
    def budget(self) -> int:
        """The same, with more than there is time for where the time decides."""
        return self.planned or _MOST_TRIALS

    @property
    def varied(self) -> Mapping[str, Dimension]:
        """What the spec itself varies."""
        return self.space or {}
