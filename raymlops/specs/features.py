"""The columns that a model takes, and the target that it predicts from them."""

import zoneinfo
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from raymlops import expressions
from raymlops.errors import unknown_name
from raymlops.specs.document import Document

ANSWERS_OF_TASK = {
    "binary": ("label", "probability"),
    "multiclass": ("label", "probabilities"),
    "regression": ("prediction",),
}
"""Outputs of a model."""
ANSWERS = ("label", "probability", "probabilities", "prediction")
INNER_PREFIXES = ("raymlops/", "network/", "answer/")
"""Of names inside the ONNX file."""


def _check_expression(value: str) -> str:
    if value:
        expressions.parse_feature(value)
    return value


Expression = Annotated[
    str,
    AfterValidator(_check_expression),
    Field(
        description="Computed inside the model from raw columns: arithmetic, comparisons, "
        + ", ".join(
            name for name, one in expressions.FUNCTIONS.items() if one.in_models and name[:3] != "dt_"
        )
    ),
]


class NumberFeature(Document):
    """A number, integer or boolean column, or an expression: missing values filled, standardised, an indicator
    added."""

    kind: Literal["number"]
    expression: Expression = ""
    clip: float = Field(
        4.0, gt=0, description="Standardised values are limited to this many standard deviations"
    )
    bins: int = Field(
        0,
        ge=0,
        le=256,
        description="If over 0: quantile bins, encoded piecewise-linearly (Gorishniy et al. 2022)",
    )


class CategoryFeature(Document):
    """A string, integer or boolean column, or an expression with integer values: each gets a learned embedding, or, of
    many values, the mean of the target among its rows."""

    kind: Literal["category"]
    expression: Expression = ""
    min_count: int | None = Field(
        None, ge=1, description="Rarer values in training count as unknown; default features.min_count"
    )
    max_values: int | None = Field(
        None,
        ge=1,
        description="Only the most frequent values are distinguished; default 10,000, of means and hashes 50,000",
    )
    encoding: Literal["auto", "values", "means", "hash"] = Field(
        "auto",
        description="values: each has a place of its own; means: the smoothed mean of the target among the rows of a "
        "value, of a class each, which training rows get from other folds; hash: values share `buckets` places; auto: "
        "means of more values than features.means_above, else values",
    )
    buckets: int = Field(1024, ge=2, le=100_000, description="Of encoding hash")


class TimestampFeature(Document):
    """A timestamp column, split into calendar parts."""

    kind: Literal["timestamp"]
    zone: str = Field("UTC", description="Time zone of the parts, such as America/New_York")
    parts: tuple[Literal["hour", "weekday", "day", "month", "dayofyear", "elapsed"], ...] = Field(
        ("hour", "weekday"),
        min_length=1,
        description="Cyclic parts become sine and cosine; elapsed is a standardised number",
    )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError("no such time zone; expected one such as America/New_York")
        return value


class ImageFeature(Document):
    """A tensor column of (height, width) or (height, width, channels)."""

    kind: Literal["image"]
    scale: float = Field(255.0, gt=0, description="Pixel values are divided by this")


class TextFeature(Document):
    """A string column of several words: whether it has each of the words, and pairs of words that follow each other,
    that tell most of the target."""

    kind: Literal["text"]
    ngrams: int | None = Field(
        None, ge=1, le=5_000, description="Words and pairs, at most; default by rows: 20 to 200"
    )
    pairs: bool = Field(True, description="Pairs of words too")
    min_count: int | None = Field(
        None, ge=1, description="In so many training rows at least; default features.min_count, but 5 or more"
    )


class EncodedFeature(Document):
    """A column of any type, which an ONNX file of your own turns into numbers: a text encoder, or the backbone of a
    network for images. The file becomes a part of the model, and is not trained."""

    kind: Literal["encoded"]
    encoder: str = Field(
        min_length=1,
        description="Path of an ONNX file that takes one tensor, of the column's values, and gives one, "
        "(rows, numbers)",
    )
    scale: float = Field(1.0, gt=0, description="Numbers and pixels are divided by this before")


AnyFeature = NumberFeature | CategoryFeature | TimestampFeature | ImageFeature | TextFeature | EncodedFeature
Feature = Annotated[AnyFeature, Field(discriminator="kind")]


def is_pattern(name: str) -> bool:
    """Whether it may stand for several columns; a column of exactly this name counts before."""
    return any(sign in name for sign in "*?[")


class TargetSpec(Document):
    """The target."""

    column: str = Field(description="Column, or derived column, that is predicted")
    task: Literal["auto", "binary", "multiclass", "regression"] = Field(
        "auto", description="auto: regression for numbers with a fraction, else by the number of classes"
    )
    transform: Literal["none", "log", "power"] = Field(
        "none",
        description="Regression: what is learned of the target; log(1 + y) or a power of it, for skewed values. "
        "The model answers in the target's own unit",
    )
    exponent: float = Field(0.5, gt=0, lt=10, description="Of the transform power, which keeps the sign")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="Binary: probability from which on the second class is predicted"
    )
    positive: str | int | bool | None = Field(
        None, description="Binary: the class whose probability is predicted; default the larger"
    )


class FeaturesSpec(Document):
    """Inputs by column name, in groups that share their settings, and the target."""

    target: TargetSpec
    numbers: tuple[str, ...] = Field(
        (),
        description="Columns with the default settings of kind number; here and below, or patterns such as f_*",
    )
    categories: tuple[str, ...] = Field((), description="Columns with the default settings of kind category")
    timestamps: tuple[str, ...] = Field((), description="Columns with the default settings of kind timestamp")
    images: tuple[str, ...] = Field((), description="Columns with the default settings of kind image")
    texts: tuple[str, ...] = Field((), description="Columns with the default settings of kind text")
    columns: dict[str, Feature] = Field(default_factory=dict, description="Columns with their own settings")
    auto: bool = Field(
        False,
        description="Columns that are not named get the kind that raymlops init would give them, by the training rows",
    )
    exclude: tuple[str, ...] = Field((), description="Columns, or patterns, that auto and patterns leave out")
    min_count: int | None = Field(
        None,
        ge=1,
        description="Categories that are rarer in training count as unknown; default by rows: 2 up to 20",
    )

    means_above: int | None = Field(
        None,
        ge=0,
        description="Categories of encoding auto with more values than this become target means; 0 for none; default "
        "1,000",
    )

    @model_validator(mode="before")
    @classmethod
    def _values_as_before(cls, value: Any, info: ValidationInfo) -> Any:
        """Specs were recorded without `means_above` when there were no means."""
        if (info.context or {}).get("recorded") and isinstance(value, Mapping) and "means_above" not in value:
            return {**value, "means_above": 0}
        return value

    @model_validator(mode="after")
    def _each_column_once(self) -> "FeaturesSpec":
        names = [*self.listed, *self.columns]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"column {doubled[0]!r} is named twice; keep one place")
        if self.target.column in names:
            raise ValueError(
                f"the target {self.target.column!r} is also a feature; a model must not get its answer as input"
            )
        if not names and not self.auto:
            raise ValueError(
                "no column is named; list some under numbers, categories, timestamps, images, texts or columns, or set "
                "auto"
            )
        if shared := sorted({*names, self.target.column} & {*self.exclude}):
            raise ValueError(f"column {shared[0]!r} is named, and also under exclude; keep one")
        return self

    @model_validator(mode="after")
    def _inputs_have_names_of_their_own(self, info: ValidationInfo) -> "FeaturesSpec":
        if not (info.context or {}).get("recorded"):
            self.check_input_names()
        return self

    @model_validator(mode="after")
    def _target_stays_out(self) -> "FeaturesSpec":
        for name, expression in self.expressions().items():
            if self.target.column in expressions.columns_in(expression):
                raise ValueError(
                    f"the expression of {name!r} reads the target; a model must not get its answer as input"
                )
        return self

    @property
    def is_open(self) -> bool:
        """Whether the columns are known only once the table is read."""
        return self.auto or bool(self.exclude) or any(is_pattern(name) for name in self.listed)

    @property
    def listed(self) -> tuple[str, ...]:
        """The names and patterns with the default settings of their kind."""
        return (*self.numbers, *self.categories, *self.timestamps, *self.images, *self.texts)

    def check_input_names(self) -> None:
        """Inputs of the ONNX file are the raw columns: raises ValueError for a name that is taken there."""
        answers = ANSWERS if self.target.task == "auto" else ANSWERS_OF_TASK[self.target.task]
        for name in self.raw_columns():
            if not name.strip():
                raise ValueError(
                    "a column without a name cannot be an input of a model; name it, as by dataset.derive or "
                    "dataset.options.read_options.column_names"
                )
            if name in answers:
                said = (
                    ""
                    if self.target.task != "auto" or name == "prediction"
                    else (", or, if the target is a number, set features.target.task: regression")
                )
                raise ValueError(
                    f"column {name!r} has the name of an output of the model ({', '.join(answers)}); give it another: "
                    f"dataset.derive: {{{name}_in: {name}}}, and name {name}_in as the feature{said}"
                )
            if name.startswith(INNER_PREFIXES):
                raise ValueError(
                    f"column {name!r} begins like a name inside the model ({', '.join(INNER_PREFIXES)}); give it "
                    "another by dataset.derive"
                )

    def check_monotonic(self, names: Collection[str]) -> None:
        """Raises ValueError unless each is a number, which no other feature reads."""
        named, expressions_of = self.by_column(), self.expressions()
        for name in names:
            if name not in named:
                if self.is_open:
                    continue
                raise ValueError(unknown_name("feature", name, named))
            if named[name].kind != "number":
                raise ValueError(
                    f"{name!r} is of kind {named[name].kind}, which does not rise; name a number"
                )
            for other, expression in expressions_of.items():
                if name in expressions.columns_in(expression):
                    raise ValueError(
                        f"{name!r} is also read by the expression of {other!r}, which moves with it; leave one of "
                        "them out"
                    )

    def raw_columns(self) -> set[str]:
        """The columns that the model takes, also those that only expressions read."""
        expressed = self.expressions()
        return {name for name in self.by_column() if name not in expressed}.union(
            *(expressions.columns_in(expression) for expression in expressed.values())
        )

    def expressions(self) -> dict[str, str]:
        """Feature -> expression, for features that are computed."""
        found = {name: getattr(feature, "expression", "") for name, feature in self.columns.items()}
        return {name: expression for name, expression in found.items() if expression}

    @property
    def least_count(self) -> int:
        """Rows of a category that is told from others, fixed if neither the spec nor the rows decided it."""
        return self.min_count or 20

    def by_column(self) -> dict[str, AnyFeature]:
        """Column -> its settings, in the order of the model's inputs."""
        return {
            **{name: NumberFeature(kind="number") for name in self.numbers},
            **{name: CategoryFeature(kind="category") for name in self.categories},
            **{name: TimestampFeature(kind="timestamp") for name in self.timestamps},
            **{name: ImageFeature(kind="image") for name in self.images},
            **{name: TextFeature(kind="text") for name in self.texts},
            **self.columns,
        }
