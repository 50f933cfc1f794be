"""The table to read, its contract, and its split."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raymlops.conversions.conversion import Conversion, check_format
from raymlops.errors import unknown_name
from raymlops.file_endings import reader_of_name
from raymlops.specs.document import Document

READERS = (
    "audio", "avro", "bigquery", "binary_files", "clickhouse", "csv", "databricks_tables", "delta",
    "delta_sharing_tables", "hudi", "iceberg", "images", "json", "kafka", "lance", "mcap", "mongo",
    "numpy", "parquet", "snowflake", "sql", "text", "tfrecords", "unity_catalog", "videos",
    "webdataset",
)  # fmt: skip
"""The readers of ray.data, without their `read_`."""

CAPTURED = "captured"
"""Reads what endpoints captured, with its labels."""

OWN_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""`module.path:name` of the user's own code."""

ColumnType = Literal["string", "integer", "number", "boolean", "timestamp"]


class TableSpec(Document):
    """One table: a ray.data reader by name, a path and the reader's own options."""

    reader: str = Field("parquet", description="A ray.data reader (parquet, csv, json, images, ...), captured for "
                        "captured requests, or module.path:function that returns a ray.data.Dataset; default by "
                        "the ending of path, else parquet")  # fmt: skip
    path: str | tuple[str, ...] | None = Field(
        None,
        description="Any path, pattern such as data/*.csv, or URL of pyarrow or fsspec; package://NAME/FILE is a file "
        "inside an installed package; zip://INNER::OUTER reads inside an archive",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to the reader unchanged; read_options, parse_options and convert_options of csv may "
        "be mappings",
    )

    @model_validator(mode="before")
    @classmethod
    def _reader_by_ending(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "reader" in value:
            return value
        path = value.get("path")
        paths = [path] if isinstance(path, str) else path if isinstance(path, list | tuple) else []
        found = {reader_of_name(one) if isinstance(one, str) else None for one in paths}
        reader = found.pop() if len(found) == 1 else None
        return value if reader is None else {**value, "reader": reader}

    @field_validator("reader")
    @classmethod
    def _known_reader(cls, value: str) -> str:
        if ":" in value and not re.fullmatch(OWN_NAME, value, re.ASCII):
            raise ValueError("expected module.path:function")
        name = value.removeprefix("read_")
        known = (*READERS, CAPTURED)
        if ":" not in value and name not in known:
            raise ValueError(unknown_name("reader", value, known))
        return name


class JoinSpec(Document):
    """Columns of another table, at most one row of it for each row of ours."""

    table: TableSpec
    # not "on", which YAML 1.1 reads as true
    keys: tuple[str, ...] = Field(min_length=1, description="Key columns, with the same names in both tables")
    how: Literal["left", "inner"] = Field(
        "left", description="left keeps rows without a match, with null columns"
    )
    columns: tuple[str, ...] | None = Field(None, description="Columns to add; default all but the keys")
    prefix: str = Field("", description="Prefix for the names of the added columns")
    broadcast_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="Tables up to this size are copied to every node; larger ones are shuffled",
    )


class ImageColumn(Document):
    """How a column of encoded images is read."""

    size: tuple[int, int] = Field(description="Height and width of the pixels, to which images are resized")
    mode: Literal["RGB", "L"] = Field("RGB", description="RGB, or L for one channel of grey")
    folder: str = Field("", description="Where the paths begin, as any path or URL of fsspec")

    @field_validator("size")
    @classmethod
    def _some_pixels(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= 4096 for side in value):
            raise ValueError(f"expected [height, width] of 1 to 4096 pixels, got {list(value)}")
        return value


class DatasetSpec(TableSpec):
    """The table to learn from, with its joins, derived columns and images, in the order: joins, where, derive,
    images."""

    joins: tuple[JoinSpec, ...] = ()
    where: str | None = Field(
        None, description="Keep the rows for which this expression holds; see raymlops/expressions"
    )
    derive: dict[str, str] = Field(
        default_factory=dict,
        max_length=1000,
        description="New column -> expression over columns, in order; see raymlops/expressions",
    )
    images: dict[str, ImageColumn] = Field(
        default_factory=dict,
        description="Column of PNG, JPEG or other image files, as bytes or as paths -> how it becomes pixels",
    )
    limit: int | None = Field(None, ge=1, description="Use only the first rows: for a quick try")
    cache: bool = Field(
        True,
        description="Keep the joined table in the object store (it spills to disk); "
        "false reads again each pass",
    )

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The table and those that are joined to it."""
        return (self, *(join.table for join in self.joins))


class ColumnRule(Document):
    """Constraints on a column."""

    type: ColumnType | None = Field(
        None,
        description="Values are converted to it, by one function wherever the model is used; those that do not "
        "convert fail",
    )
    format: str = Field(
        "",
        description="Of times: as in strptime, such as %d/%m/%Y, or epoch_s, epoch_ms, epoch_us, epoch_ns; default "
        "ISO 8601, or the one format that all blocks and files have in common",
    )
    words: dict[str, bool] = Field(
        default_factory=dict,
        description="Texts that are true or false, in any case; default yes, y, true, t, on, 1 and no, n, false, f, "
        "off, 0",
    )
    decimal: Literal[".", ","] = Field(".", description="Mark before the decimals of numbers")
    thousands: Literal["", ".", ",", " ", "'", "_"] = Field(
        "", description="Separator of thousands in numbers"
    )
    ignore_case: bool = Field(False, description="Texts that differ only in case are one")
    ignore_blanks: bool = Field(
        False, description="Texts that differ only in blanks at their ends or in the number of blanks are one"
    )
    nulls: bool = Field(True, description="Whether values may be missing")
    min: float | str | None = Field(None, description="Smallest allowed value")
    max: float | str | None = Field(None, description="Largest allowed value")
    allowed: tuple[str | int | float | bool, ...] | None = Field(None, description="The only values allowed")

    @model_validator(mode="after")
    def _ordered(self) -> "ColumnRule":
        if isinstance(self.min, float) and isinstance(self.max, float) and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    @field_validator("format")
    @classmethod
    def _readable(cls, value: str) -> str:
        check_format(value)
        return value

    @model_validator(mode="after")
    def _of_its_type(self) -> "ColumnRule":
        for option, kinds in CONVERSION_OPTIONS.items():
            if getattr(self, option) != type(self).model_fields[option].get_default(
                call_default_factory=True
            ):
                if self.type is None:
                    object.__setattr__(self, "type", kinds[0])
                elif self.type not in kinds:
                    raise ValueError(f"{option} needs type: {' or '.join(kinds)}, got {self.type}")
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        return self

    @property
    def conversion(self) -> Conversion | None:
        """How values are converted; None if they are left as they are."""
        if self.type is None:
            return None
        return Conversion(
            self.type, self.format, tuple(self.words.items()), self.decimal, self.thousands, self.ignore_case,
            self.ignore_blanks,
        )  # fmt: skip


CONVERSION_OPTIONS: dict[str, tuple[ColumnType, ...]] = {
    "format": ("timestamp",),
    "words": ("boolean",),
    "decimal": ("number", "integer"),
    "thousands": ("number", "integer"),
    "ignore_case": ("string",),
    "ignore_blanks": ("string",),
}
"""Option of a rule -> the types that it is for, of which the first is meant if none is given."""


class ContractSpec(Document):
    """Constraints on the rows; those that fail are counted and sampled into the report."""

    columns: dict[str, ColumnRule] = Field(default_factory=dict)
    unique: tuple[str, ...] = Field(
        (), description="Columns whose values together identify a row; rows that share them all fail"
    )
    on_failure: Literal["drop", "fail"] = Field("drop", description="drop the rows that fail, or stop")
    max_failed: float = Field(
        0.05, ge=0, le=1, description="Share of failing rows above which it stops in any case"
    )


Fractions = Annotated[
    tuple[float, float, float],
    Field(description="Shares of the rows for training, validation and test; they sum to 1"),
]


class TimeSplit(Document):
    """The earliest rows train, the latest test; rows of one time stay together."""

    by: Literal["time"]
    column: str = Field(description="Timestamp, date or integer column that orders the rows")
    gap: int | str = Field(
        0,
        description="Leave out rows so long before validation and before test: 7d, 12h, 30min, 10s, or a whole number "
        "where the column is one; for targets that are known only later",
    )
    fractions: Fractions = (0.7, 0.15, 0.15)

    @field_validator("gap")
    @classmethod
    def _known_duration(cls, value: int | str) -> int | str:
        if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}(d|h|min|s)", value):
            raise ValueError("expected a number with d, h, min or s, such as 7d, or a whole number")
        if isinstance(value, int) and value < 0:
            raise ValueError("expected 0 or more")
        return value

    @property
    def gap_ms(self) -> int:
        """A gap in time, in milliseconds."""
        text = str(self.gap)
        unit = text.lstrip("0123456789")
        return (
            int(text.removesuffix(unit)) * {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1000}[unit]
        )


class RandomSplit(Document):
    """By a hash of the row as it was read, so that joins, derived columns and the order of rows and files move none;
    identical rows are told apart by a running number. Below 10,000 rows each class gets its exact shares."""

    by: Literal["random"] = "random"
    key: tuple[str, ...] = Field(
        (),
        description="Columns that name a row, to go by in place of all; rows that share them stay together",
    )
    seed: int = Field(0, description="Another number deals the rows anew")
    version: Literal[1, 2] = Field(
        2,
        description="1 deals rows as versions before 0.2 did, by all columns with the derived ones; set by raymlops",
    )
    fractions: Fractions = (0.7, 0.15, 0.15)


class GroupSplit(Document):
    """By a hash of one column: all rows of a group fall to the same side; a row without a group is one of its own."""

    by: Literal["group"]
    column: str = Field(description="Column that names the group of a row, such as a customer")
    seed: int = Field(0, description="Another number deals the rows anew")
    version: Literal[1, 2] = Field(
        2,
        description="1 deals rows as versions before 0.2 did, by all columns with the derived ones; set by raymlops",
    )
    fractions: Fractions = (0.7, 0.15, 0.15)


SplitSpec = Annotated[TimeSplit | RandomSplit | GroupSplit, Field(discriminator="by")]


def with_version(
    split: TimeSplit | RandomSplit | GroupSplit, version: int
) -> TimeSplit | RandomSplit | GroupSplit:
    """The split as another version of raymlops assigns rows."""
    return split if isinstance(split, TimeSplit) else split.model_copy(update={"version": version})


def check_fractions(split: TimeSplit | RandomSplit | GroupSplit) -> None:
    """Raises ValueError unless the three shares are positive and sum to 1."""
    if any(share <= 0 for share in split.fractions) or abs(sum(split.fractions) - 1) > 1e-6:
        raise ValueError(
            f"split.fractions: {list(split.fractions)} must be positive and sum to 1 "
            "(train, validation, test)"
        )
