"""What a pass over a table found, and what was concluded for each column: plain values, which the engine that measures,
the page that shows and the verb that writes a spec share. Computes nothing."""

import dataclasses
from typing import Literal

Kind = Literal["number", "integer", "boolean", "text", "timestamp", "image", "nothing", "other"]
"""The type of a column's values; `text` also of dates in texts, `nothing` of nulls only."""

Role = Literal[
    "target", "number", "category", "boolean", "timestamp", "image",
    "prose", "image path", "id", "group", "constant", "leak", "duplicate", "unusable",
]  # fmt: skip
"""What a column is to a model; `MODELLED` are those that become features."""

MODELLED: tuple[Role, ...] = ("number", "category", "boolean", "timestamp", "image", "prose")


@dataclasses.dataclass(frozen=True)
class NumberProfile:
    """Moments and quantiles of a column's numbers; of timestamps in milliseconds since 1970, UTC."""

    mean: float
    std: float
    min: float
    max: float
    quantiles: tuple[float, ...]
    """65 of them, at equal steps of the share of rows."""
    whole: bool


@dataclasses.dataclass(frozen=True)
class TextProfile:
    """How a column's texts are written."""

    shortest: int
    longest: int
    characters: float
    """The mean length."""
    words: float
    """The mean number of words."""
    written: str = ""
    """How its numbers are written, if nearly all texts are numbers: see `data.profiling.written_numbers`."""
    formats: tuple[str, ...] = ()
    """Formats of dates that every text keeps, in the form of strptime."""
    image_paths: float = 0.0
    """Share of texts that end like names of image files."""
    absent: tuple[str, ...] = ()
    """Texts that stand for a missing value."""
    odd: tuple[tuple[str, int, int], ...] = ()
    """Texts that are no numbers among numbers: text, rows, first row counted from 1."""
    odd_rows: int = 0
    """Rows with such a text, by the way in which its numbers are written."""


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """One column over all rows."""

    name: str
    kind: Kind
    stored: str
    """Arrow's type, or types if blocks differ."""
    rows: int
    nulls: int
    distinct: int
    """Different values; an estimate within about 3 % above 2,048."""
    top: tuple[tuple[str | float, int], ...] = ()
    """The most frequent values with their rows."""
    numbers: NumberProfile | None = None
    text: TextProfile | None = None
    order: Literal["", "rising", "falling"] = ""
    """Whether the values never fall, or never rise, from row to row."""
    counts_rows: bool = False
    """Whole numbers that rise by one from row to row."""
    twin: str = ""
    """An earlier column with the same values."""
    beyond: int = 0
    """Rows with finite numbers that models, which take FP32, cannot hold; `nulls` counts them, too."""
    infinite: int = 0
    """Rows with infinite numbers; `nulls` counts them, too."""
    absent: int = 0
    """Rows of files that do not have the column."""

    @property
    def present(self) -> int:
        return self.rows - self.nulls

    @property
    def repeats(self) -> float:
        """Rows per different value."""
        return self.present / max(self.distinct, 1)


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """What one column is to the model, why, and what a person should look at."""

    role: Role
    why: str = ""
    unsure: str = ""
    relation: float | None = None
    """How well it alone predicts the target: ROC AUC, R2, or the share of errors removed."""
    sentinels: tuple[float, ...] = ()
    """Numbers that stand for a missing value."""


@dataclasses.dataclass(frozen=True)
class TableProfile:
    """The whole table."""

    source: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    duplicates: int
    """Rows that repeat an earlier one; an estimate in large tables."""
    near_duplicates: int
    """The same for rows without their ids, in rounded numbers and folded texts."""
    exact: bool = True
    """Whether duplicates are counted, not estimated."""

    def column(self, name: str) -> ColumnProfile:
        return next(column for column in self.columns if column.name == name)
