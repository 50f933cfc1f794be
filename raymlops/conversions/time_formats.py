"""In which formats the values of a column are times: counted over blocks, then one is chosen for the whole column.
Converts nothing; see `conversion`."""

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raymlops.conversions.conversion import EPOCHS, Conversion, find_missing, is_number, is_text

_DATES = (
    *(f"{order[0]}{mark}{order[1]}{mark}%{year}" for mark in "/.-" for year in "Yy"
      for order in (("%d", "%m"), ("%m", "%d"))),
    "%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d %Y", "%b %d, %Y", "%d %B %Y",
    "%B %d, %Y", "%B %d %Y",
)  # fmt: skip
_CLOCKS = (
    "", *(f"{mark}{clock}" for mark in (" ", ", ", "T")
          for clock in ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")),
)  # fmt: skip
_DIGITS = ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
"""Dates that readers take for numbers."""
_EARLIEST, _LATEST = np.datetime64("1990-01-01", "ms"), np.datetime64("2100-01-01", "ms")
"""Between which a number is taken for a time: no number is one in two units."""
_SAMPLES = 100
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class FormatCounts:
    """How many of a column's values are times in each format; those of blocks are merged."""

    values: int = 0
    """That are not missing."""
    read: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Format -> values that are times in it; "" is ISO 8601."""
    samples: tuple[str, ...] = ()

    def merge(self, other: "FormatCounts") -> "FormatCounts":
        read = collections.Counter(self.read)
        read.update(other.read)
        samples = tuple(dict.fromkeys(self.samples + other.samples))[:_SHOWN]
        return FormatCounts(self.values + other.values, dict(read), samples)

    def find(self, share: float = 1.0) -> list[str]:
        """The formats in which at least this share of the values are times; ISO 8601 first, and alone."""
        wanted = [form for form, count in self.read.items() if count >= max(1, share * self.values)]
        if "" in wanted:
            return [""]
        wanted.sort(key=lambda form: (-self.read[form], form))
        # "May" is written alike in full and in short.
        return [form for form in wanted if "%B" not in form or form.replace("%B", "%b") not in wanted]

    def choose(self, share: float) -> str:
        """The one format of a column; values that are no times in it may be 1 - `share` of all. Raises ValueError."""
        if not self.values:
            return ""
        found = self.find() or self.find(share)
        if len(found) == 1:
            return found[0]
        shown = ", ".join(map(repr, self.samples))
        if found:
            options = " or ".join(map(repr, found))
            raise ValueError(
                f"values such as {shown} are times in {len(found)} formats: set format to {options}"
            )
        best = sorted(self.read, key=lambda form: -self.read[form])[:3]
        counts = "; ".join(f"{self.read[form]:,} are {form or 'ISO 8601'}" for form in best)
        raise ValueError(
            f"values such as {shown} have no format in common ({counts or 'none is known'}); set format to one of "
            f"strptime, such as %d/%m/%Y, or to one of {', '.join(EPOCHS)}"
        )


def count_formats(column: pa.ChunkedArray) -> FormatCounts:
    """Of one block. Columns of times, and of other types than texts and numbers, need no format."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (is_text(kind) or is_number(kind)):
        return FormatCounts()
    column = column.filter(pa.array(~find_missing(column, "timestamp")))
    if not len(column):
        return FormatCounts()
    samples = tuple(dict.fromkeys(str(value)[:40] for value in column.slice(0, 50).to_pylist()))[:_SHOWN]
    if is_number(kind):
        read = {form: _count(column, form, bounded=True) for form in (*EPOCHS, *_DIGITS)}
    elif (count := _count(column, "")) == len(column):
        read = {"": count}
    else:
        distinct = pa.chunked_array([column.unique()])
        few = distinct.take(np.linspace(0, len(distinct) - 1, min(_SAMPLES, len(distinct))).astype(np.int64))
        texts = [text.strip() for text in few.to_pylist()]
        read = {"": count}
        for form, pattern in _list_patterns().items():
            if any(map(pattern.fullmatch, texts)):
                read[form] = _count(column, form)
        if any(map(str.isdecimal, texts)):
            read |= {form: _count(column, form, bounded=True) for form in EPOCHS}
    return FormatCounts(len(column), {form: count for form, count in read.items() if count}, samples)


def find_formats(values: Sequence[str | int | float]) -> list[str]:
    """The formats in which all of these values are times: several if they are ambiguous, [""] for ISO 8601."""
    return count_formats(pa.chunked_array([pa.array(values)])).find()


_PARTS = {
    "d": "[0-9]{1,2}", "m": "[0-9]{1,2}", "Y": "[0-9]{4}", "y": "[0-9]{2}", "b": "[A-Za-z]{3}", "B": "[A-Za-z]{3,9}",
    "H": "[0-9]{1,2}", "I": "[0-9]{1,2}", "M": "[0-9]{1,2}", "S": "[0-9]{1,2}", "f": "[0-9]+", "p": "[AaPp][Mm]",
}  # fmt: skip


@functools.cache
def _list_patterns() -> Mapping[str, re.Pattern[str]]:
    """Format -> how its texts look, which is tried first: it is faster than reading them."""
    return {
        form: re.compile(re.sub(r"%([A-Za-z])", lambda found: _PARTS[found[1]], form.replace(".", "[.]")))
        for form in (f"{date}{clock}" for date in _DATES for clock in _CLOCKS)
    }


def _count(column: pa.ChunkedArray, form: str, bounded: bool = False) -> int:
    converted = Conversion("timestamp", format=form).apply(column).values
    if not bounded:
        return int(len(converted) - converted.null_count)
    times = converted.drop_null().to_numpy().astype("datetime64[ms]")
    return int(((times >= _EARLIEST) & (times < _LATEST)).sum())
