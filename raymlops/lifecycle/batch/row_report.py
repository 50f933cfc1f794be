"""What is told of the rows of a scoring beside its predictions: rows that were left out because a value did not
convert, kept aside in files, and values of categories that the model does not know. Scores nothing."""

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raymlops import locations
from raymlops.data import contract as contracts
from raymlops.data.contract import Broken, Finding
from raymlops.errors import DataError
from raymlops.monitoring.ticks import Tick, sum_ticks

FOLDER = "_left_out"
"""Below the output; readers of folders pass over names that begin with an underscore."""
_SAMPLES = 3
Vocabularies = Mapping[str, pa.Array]
"""Column -> the values that the model knows."""


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Values of a category that training did not see, or too rarely."""

    rows: int
    samples: tuple[str, ...]

    def merge(self, other: "Unknown") -> "Unknown":
        samples = tuple(dict.fromkeys(self.samples + other.samples))[:_SAMPLES]
        return Unknown(self.rows + other.rows, samples)

    def describe(self, column: str, rows: int) -> str:
        """A line for a person; `rows` are all that were read."""
        shown = ", ".join(map(repr, self.samples))
        return f"{column}: {self.rows:,} of {rows:,} rows have a category that the model does not know, such as {shown}"


@dataclasses.dataclass
class Counts:
    """Of blocks; those of several are added."""

    rows: int = 0
    left_out: int = 0
    findings: dict[tuple[str, str], Finding] = dataclasses.field(default_factory=dict)
    unknown: dict[str, Unknown] = dataclasses.field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        self.rows += other.rows
        self.left_out += other.left_out
        for key, finding in other.findings.items():
            self.findings[key] = self.findings[key].merge(finding) if key in self.findings else finding
        for name, unknown in other.unknown.items():
            self.unknown[name] = self.unknown[name].merge(unknown) if name in self.unknown else unknown

    def describe(self, place: str) -> list[str]:
        """Lines for a person."""
        lines = []
        if self.left_out:
            told = "; ".join(str(finding) for finding in self.findings.values())
            lines.append(f"{self.left_out:,} of {self.rows:,} rows are left out, and kept in {place}: {told}")
        return lines + [unknown.describe(name, self.rows) for name, unknown in self.unknown.items()]

    def exceeds(self, most: float) -> bool:
        return self.left_out > most * self.rows

    def judge(self, place: str, most: float) -> None:
        """Raises DataError if more than this share of the rows was left out."""
        if self.exceeds(most):
            told = "; ".join(str(finding) for finding in self.findings.values())
            raise DataError(
                f"{self.left_out:,} of {self.rows:,} rows ({self.left_out / self.rows:.2%}) do not convert, and "
                f"max_failed is {most:.1%}: {told}; the rows are in {place}, and no predictions were kept"
            )


class Tally:
    """Adds the counts of all workers; an actor."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._ticks: list[Tick] = []

    def add(self, counts: Counts) -> None:
        self._counts.add(counts)

    def total(self) -> Counts:
        return self._counts

    def add_ticks(self, ticks: Sequence[Tick]) -> None:
        self._ticks = sum_ticks([*self._ticks, *ticks])

    def ticks(self) -> list[Tick]:
        return self._ticks


@dataclasses.dataclass(frozen=True)
class RowReport:
    """Where workers report: a folder for rows, and an actor for counts."""

    location: str
    tally: Any

    @classmethod
    def start(cls, output: str) -> "RowReport":
        return cls(locations.join(output, FOLDER), ray.remote(Tally).options(num_cpus=0).remote())

    def report(self, table: pa.Table, broken: Sequence[Broken], unknown: Mapping[str, Unknown]) -> None:
        """Of one block: keep the rows that are left out, and count."""
        left_out = contracts.leave_out(table, broken, table.num_rows)
        if left_out:
            lines = [
                json.dumps({"reasons": one.reasons, "values": one.values}, ensure_ascii=False)
                for one in left_out
            ]
            files, folder = locations.open_location(self.location)
            files.makedirs(folder, exist_ok=True)
            with files.open(f"{folder}/{uuid.uuid4().hex[:12]}.jsonl", "wb") as file:
                file.write("\n".join([*lines, ""]).encode())
        findings = [dataclasses.replace(contracts.to_finding(table, one), row=0) for one in broken]
        counts = Counts(
            table.num_rows, len(left_out), {(one.column, one.rule): one for one in findings}, dict(unknown)
        )
        ray.get(self.tally.add.remote(counts))

    def total(self) -> Counts:
        return ray.get(self.tally.total.remote())  # type: ignore[no-any-return]

    def count(self, ticks: Sequence[Tick]) -> None:
        """What was counted of one block, for monitoring."""
        ray.get(self.tally.add_ticks.remote(ticks))

    def ticks(self) -> list[Tick]:
        """Of all blocks."""
        return ray.get(self.tally.ticks.remote())  # type: ignore[no-any-return]


def count_unknown(table: pa.Table, known: Vocabularies) -> dict[str, Unknown]:
    """Of columns in their types; missing values are not counted."""
    found = {}
    for name, values in known.items():
        column = table[name]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int64())
        if pa.types.is_floating(column.type):
            column = pc.cast(pc.floor(column), pa.int64(), safe=False)
        missing = (
            pc.is_null(column) if pa.types.is_integer(column.type) else pc.equal(pc.fill_null(column, ""), "")
        )
        known_rows = pc.is_in(column, value_set=values.cast(column.type))
        unknown = np.asarray(pc.invert(pc.or_(known_rows, missing)))
        if unknown.any():
            samples = column.take(pa.array(np.flatnonzero(unknown)[:50])).to_pylist()
            found[name] = Unknown(
                int(unknown.sum()), tuple(dict.fromkeys(str(value)[:40] for value in samples))[:_SAMPLES]
            )
    return found
