"""The document of a model: dataset, contract, split, features, network, training, search, limits."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from raymlops import expressions, metrics
from raymlops.errors import unknown_name
from raymlops.specs.dataset import ContractSpec, DatasetSpec, RandomSplit, SplitSpec, check_fractions
from raymlops.specs.document import Document, validate_document
from raymlops.specs.evaluation import PARITY, EvaluationSpec, GateSpec
from raymlops.specs.features import FeaturesSpec
from raymlops.specs.training import NetworkSpec, SearchSpec, TrainingSpec

_OF_ONE_LEARNER = frozenset(("learners", "space", "perturb_epochs"))
"""Keys of `search` after which nothing is left to choose for the spec."""
_OF_ALL_LEARNERS = frozenset((
    "metric", "loss", "quantile", "class_weights", "sample_weights", "seed", "cpus_per_worker", "labels",
    "resident_bytes", "monotonic",
))  # fmt: skip
"""Keys of `training` that mean the same for every learner; the others are of networks, or name the learner."""


def _said(part: Any) -> set[str]:
    """The keys that a part of a document gives."""
    if isinstance(part, Document):
        return set(part.model_fields_set)
    if not isinstance(part, Mapping):
        return set()
    given = set(part)
    if part.get("algorithm") == "grid" or part.get("scheduler") == "pbt":
        given.add("space")  # which both need
    return given


def _has_images(part: Any) -> bool:
    if isinstance(part, FeaturesSpec):
        return any(feature.kind == "image" for feature in part.by_column().values())
    if not isinstance(part, Mapping):
        return False
    columns = part.get("columns")
    single = columns.values() if isinstance(columns, Mapping) else ()
    return bool(part.get("images")) or any(
        isinstance(one, Mapping) and one.get("kind") == "image" for one in single
    )


class LimitsSpec(Document):
    """Limits that an exported model must keep before it is registered."""

    parity: float = Field(
        PARITY, gt=0, description="Largest difference allowed between the network and its ONNX file"
    )
    flipped: int = Field(0, ge=0, description="Labels of the test split that may differ between the two")


NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,62}$"


class ExperimentSpec(Document):
    """A model, from the table it learns from to the limits it must keep."""

    name: str = Field(pattern=NAME, description="Names the experiment and the registered model")
    description: str = Field("", description="What the model is for; shown with the version")
    defaults: Literal["fitted", "fixed"] = Field(
        "fitted",
        description="What the spec does not say: fitted to the rows, columns and classes of the training data, or "
        "fixed numbers (10 epochs, batches of 1,024, categories from 20 rows)",
    )
    dataset: DatasetSpec
    contract: ContractSpec = ContractSpec()
    split: SplitSpec = RandomSplit()
    features: FeaturesSpec
    network: NetworkSpec = NetworkSpec()
    training: TrainingSpec = TrainingSpec()
    search: SearchSpec = SearchSpec()
    limits: LimitsSpec = LimitsSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gate: GateSpec = GateSpec()

    @model_validator(mode="before")
    @classmethod
    def _features_in_short(cls, value: Any) -> Any:
        """`features: auto` with `target: COLUMN` beside it."""
        if not isinstance(value, dict) or value.get("features") != "auto":
            return value
        target = value.get("target")
        if not target:
            raise ValueError("features: auto needs target: COLUMN beside it")
        rest = {key: held for key, held in value.items() if key != "target"}
        return {
            **rest,
            "features": {"target": {"column": target} if isinstance(target, str) else target, "auto": True},
        }

    @model_validator(mode="before")
    @classmethod
    def _fixed_as_before(cls, value: Any, info: ValidationInfo) -> Any:
        """Specs were recorded without `defaults` when every default was fixed; nothing was fitted to compare with."""
        if not isinstance(value, Mapping):
            return value
        if (info.context or {}).get("recorded") and "defaults" not in value:
            value = {**value, "defaults": "fixed"}
        gate = value.get("gate") or {}
        if value.get("defaults") != "fixed" or not isinstance(gate, Mapping):
            return value
        return {**value, "gate": {"baselines": ["constant"], **gate}}

    @model_validator(mode="before")
    @classmethod
    def _all_learners_unless_said(cls, value: Any, info: ValidationInfo) -> Any:
        """A spec that says nothing of one family is for all; those that were recorded say it."""
        if not isinstance(value, Mapping) or (info.context or {}).get("recorded"):
            return value
        search = _said(value.get("search"))
        if value.get("defaults") == "fixed" or _said(value.get("network")) or search & _OF_ONE_LEARNER:
            return value
        if _said(value.get("training")) - _OF_ALL_LEARNERS or _has_images(value.get("features")):
            return value
        held = value.get("search") or {}
        if isinstance(held, SearchSpec):
            return {**value, "search": held.model_copy(update={"learners": "auto"})}
        return {**value, "search": {**held, "learners": "auto"}} if isinstance(held, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> "ExperimentSpec":
        check_fractions(self.split)
        self._check_expressions()
        task = self.features.target.task
        if self.training.metric and task != "auto" and self.training.metric not in metrics.METRICS[task]:
            raise ValueError(
                "training.metric: "
                + unknown_name(f"metric of a {task} task", self.training.metric, metrics.METRICS[task])
            )
        for key in self.search.varied:
            self._check_dimension(key)
        named = self.features.by_column()
        if self.training.sample_weights in (self.features.target.column, *named):
            raise ValueError(
                f"training.sample_weights: {self.training.sample_weights!r} is also a feature or the target; a weight "
                "says how much a row counts"
            )
        try:
            self.features.check_monotonic(self.training.monotonic)
        except ValueError as error:
            raise ValueError(f"training.monotonic: {error}") from None
        if self.training.monotonic and self.search.distill:
            raise ValueError(
                "search.distill: a network keeps none of the directions of training.monotonic; leave one of them out"
            )
        self._check_options()
        if self.search.folds and (not isinstance(self.split, RandomSplit) or self.split.key):
            raise ValueError(
                "search.folds: folds deal single rows, and would part those that the split keeps together or in order; "
                "set it to 0, or split by random without a key"
            )
        if self.search.algorithm == "grid" and any(d.choices is None for d in self.search.varied.values()):
            raise ValueError("search.algorithm: grid needs choices for every dimension of search.space")
        return self

    def _check_expressions(self) -> None:
        named = {f"dataset.derive.{name}": expression for name, expression in self.dataset.derive.items()}
        if self.dataset.where is not None:
            named["dataset.where"] = self.dataset.where
        for key, expression in named.items():
            try:
                expressions.parse(expression)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None

    def _check_dimension(self, key: str) -> None:
        if space_key(key)[0] == "training" and (name := space_key(key)[1]) not in TrainingSpec.model_fields:
            known = [*TrainingSpec.model_fields, "training.options.NAME", "network.options.NAME"]
            raise ValueError(f"search.space.{key}: " + unknown_name("parameter", name, known))

    def _check_options(self) -> None:
        """Keys that the learner would ignore are mistakes."""
        parts = {space_key(key)[0]: key for key in self.search.varied}
        learner = self.training.learner
        if self.search.learners is not None and (learner != "network" or self.training.options):
            raise ValueError(
                "search.learners: the search chooses the learner, so give neither training.learner nor "
                "training.options; search.learners: {NAME: {OPTION: value}} holds an option"
            )
        if learner == "network":
            if self.training.options:
                raise ValueError("training.options: a network takes network.options")
            if "training.options" in parts:
                raise ValueError(
                    f"search.space.{parts['training.options']}: a network takes network.options.NAME"
                )
        elif self.network != NetworkSpec():
            raise ValueError(f"network: learner {learner!r} reads training.options; leave network out")
        elif "network.options" in parts:
            raise ValueError(
                f"search.space.{parts['network.options']}: learner {learner!r} takes training.options.NAME"
            )


def space_key(key: str) -> tuple[str, str]:
    """A key of the search space -> (part of the spec, name): `lr` is ("training", "lr")."""
    for part in ("network.options", "training.options"):
        if key.startswith(f"{part}."):
            return part, key.removeprefix(f"{part}.")
    return "training", key.removeprefix("training.")


def with_parameters(spec: ExperimentSpec, parameters: dict[str, Any]) -> ExperimentSpec:
    """The spec with a trial's parameters inserted. Raises SpecError if a value is not allowed there."""
    value = spec.model_dump()
    for key, parameter in parameters.items():
        part, name = space_key(key)
        target = value
        for step in part.split("."):
            target = target[step]
        target[name] = parameter
    if value["training"]["learner"] != "network":  # what the spec says of networks is for other trials
        value["network"] = NetworkSpec().model_dump()
    if "training.learner" in parameters:
        value["search"].update(learners=None, glassbox=False, distill=None, refit=None, space={})
    return validate_document(value, ExperimentSpec, source=f"the parameters {parameters}")


def to_one_trial(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec with a search of one trial, with the values of the spec as they are."""
    alone = {
        "algorithm": "random",
        "scheduler": "none",
        "trials": 1,
        "space": {},
        "learners": None,
        "glassbox": False,
        "distill": None,
        "refit": None,
    }
    return spec.model_copy(update={"search": spec.search.model_copy(update=alone)})
