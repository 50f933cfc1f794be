"""Evaluation and gate: slices, costs, and the limits that a version must meet."""

from collections.abc import Iterable
from typing import Literal

import pydantic
from pydantic import Field

from raymlops.errors import unknown_name
from raymlops.metrics import NAMES
from raymlops.specs.document import Document

_DEFAULT_METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}
_REPLICATES = 1000
PARITY = 1e-4
"""Largest difference of a probability, or of a prediction divided by the target's spread, that counts as equal."""


class CostSpec(Document):
    """Costs of the two kinds of error of a binary model; any unit, only their ratio moves the threshold."""

    false_positive: float = Field(1.0, ge=0, description="cost of one false alarm")
    false_negative: float = Field(1.0, ge=0, description="cost of one miss")


class EvaluationSpec(Document):
    """How a model is measured on its test rows, and on later data."""

    slices: tuple[str, ...] = Field((), description="columns whose values are also measured separately")
    slice_rows: int = Field(
        100, ge=10, description="values with fewer test rows are measured together, as 'other'"
    )
    max_slices: int = Field(
        50, ge=1, le=1000, description="values per column; the rest are counted as 'other'"
    )
    folds: int = Field(
        0,
        ge=0,
        le=100,
        description="0, or 3 and more: after the search, the winner's values are trained again on so many folds of all "
        "rows and measured on the rows left out, with intervals over folds; for small tables. The registered model "
        "stays the one that was trained on the training rows",
    )
    repeats: int = Field(1, ge=1, le=100, description="how often the rows are dealt anew into folds")
    bootstrap: int | None = Field(
        None, ge=100, le=20_000, description="bootstrap replicates behind each interval; default by rows"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="probability that an interval covers")
    cost: CostSpec = CostSpec()
    """Costs that determine a binary model's threshold."""

    @pydantic.field_validator("folds")
    @classmethod
    def _enough_folds(cls, value: int) -> int:
        if 0 < value < 3:
            raise ValueError("expected 0, or 3 and more: one to test, one to validate, and others to train")
        return value

    @property
    def replicates(self) -> int:
        """Of the bootstrap, fixed if neither the spec nor the rows decided it."""
        return self.bootstrap or _REPLICATES


class LimitSpec(Document):
    """Bounds on one metric; at least one of them."""

    min: float | None = Field(None, description="smallest value that passes")
    max: float | None = Field(None, description="largest value that passes")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "LimitSpec":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class LeakSpec(Document):
    """Results that are too good to be true. Raise a limit to 1 to switch its check off."""

    column: float = Field(
        0.99,
        gt=0,
        le=1,
        description="ROC AUC (or R2) that a single column alone may reach on the target",
    )
    error_cut: float = Field(
        0.6, gt=0, le=1, description="share of the champion's error that a candidate may remove at once"
    )


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in NAMES:
            raise ValueError(unknown_name("metric", name, NAMES))


class GateSpec(Document):
    """What a version must show before it may become champion."""

    metric: str | None = Field(
        None,
        description="metric compared with the champion; default by task: roc_auc, accuracy, rmse",
    )
    limits: dict[str, LimitSpec] = Field(
        default_factory=dict, description="fixed bounds by metric, such as roc_auc: {min: 0.7}"
    )
    baselines: tuple[Literal["constant", "linear", "boosting"], ...] | None = Field(
        None,
        description="untuned models on the same rows that must not be better beyond margin and doubt; all are shown; "
        "default constant and linear, and constant alone if defaults are fixed",
    )
    margin: float = Field(
        0.02,
        ge=0,
        description="tolerated loss against the champion, as a share of the champion's value; a larger one "
        "blocks if it is statistically significant",
    )
    slice_margin: float = Field(
        0.05,
        ge=0,
        description="the same for one slice; a slice fails only if its loss is statistically significant",
    )
    slice_limits: dict[str, LimitSpec] = Field(
        default_factory=dict,
        description="bounds that every slice must keep; one fails only if its interval is wholly outside",
    )
    new_rows: int = Field(
        100,
        ge=10,
        description="where some of the rows were training rows of the champion (after another split), the least rows "
        "that neither model was trained on, on which the two are then compared",
    )
    bootstrap: int | None = Field(
        None, ge=200, le=20_000, description="replicates of the paired bootstrap; default by rows"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the comparison with the champion")
    parity: float | None = Field(
        None,
        gt=0,
        description="largest difference of a probability (or relative, of a prediction) from the network; default "
        "limits.parity",
    )
    variant_parity: float = Field(
        0.2, gt=0, description="largest difference of a smaller variant from the original"
    )
    latency_ms: float | None = Field(None, gt=0, description="p99 of one row on ONNX Runtime, one thread")
    throughput: float | None = Field(None, gt=0, description="rows per second in batches of 256, one thread")
    size_mb: float | None = Field(None, gt=0, description="size of the ONNX file in 10**6 bytes")
    leak: LeakSpec = LeakSpec()
    """Results that are too good to be true."""
    variants: tuple[Literal["fp16", "int8", "int8_static"], ...] = Field(
        (), description="smaller files that are made from the original and measured"
    )
    smallest: bool = Field(
        False, description="register the smallest variant that passes, instead of the original"
    )

    @property
    def replicates(self) -> int:
        """Of the bootstrap, fixed if neither the spec nor the rows decided it."""
        return self.bootstrap or _REPLICATES

    @property
    def beaten(self) -> tuple[str, ...]:
        """The baselines that must not be better."""
        return ("constant", "linear") if self.baselines is None else self.baselines

    def metric_of(self, task: str) -> str:
        """The metric compared with the champion."""
        return self.metric or _DEFAULT_METRIC[task]

    @pydantic.model_validator(mode="after")
    def _known_metrics(self) -> "GateSpec":
        _check_names([*([self.metric] if self.metric else []), *self.limits, *self.slice_limits])
        return self
