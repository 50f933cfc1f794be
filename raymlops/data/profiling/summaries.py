"""Summaries of a column and of whole rows that can be merged, block after block in the order of rows: counts, distinct
values, frequent values, moments and quantiles, texts, order. Concludes nothing."""

import collections
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.conversions.conversion import find_beyond_fp32
from raymlops.conversions.time_formats import FormatCounts, count_formats
from raymlops.data import fitting, statistics
from raymlops.data.profiling.csv_dialect import NULLS
from raymlops.data.profiling.written_numbers import COMMAS, WRITINGS, parse_numbers
from raymlops.data.rowhash import Hashes
from raymlops.errors import DataError
from raymlops.table_profile import Kind

SKETCH = 2048
"""Hashes that are kept of a column: the number of distinct values is exact up to this, then within about 2 %."""
ROW_SKETCH = 65_536
_FREQUENT = 1000
_ODD = 40
_GOLDEN, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_IMAGES = r"\.(png|jpe?g|gif|bmp|webp|tiff?)$"
_TIME = r"^(\d{1,4}[/.\-]\d{1,2}[/.\-]\d{1,4}|\d{1,2}[ -][a-z]{3,9}[ ,-]+\d{2,4}|[a-z]{3,9} \d{1,2},? \d{4})([ ,T].*)?$"
"""How times look that are not numbers."""
MISSING_WORDS = frozenset((
    "?", "-", "--", ".", "..", "*", "unknown", "unk", "missing", "none", "nil", "na", "n.a.", "n/a", "nan", "null",
    "not available", "not applicable", "undefined", "#value!", "#ref!", "#div/0!", "#n/a", "(null)", "<na>", "\\n",
))  # fmt: skip
"""Texts that stand for a missing value, in small letters."""


def mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        found = values >> np.uint64(30)
        found ^= values
        found *= _MIX
        shifted = found >> np.uint64(27)
        found ^= shifted
        found *= np.uint64(0x94D049BB133111EB)
        np.right_shift(found, np.uint64(31), out=shifted)
        found ^= shifted
        return found


def combine(total: Hashes, column: Hashes) -> Hashes:
    """The hash of rows with one column more."""
    with np.errstate(over="ignore"):
        return mix(total * _GOLDEN + column)


@dataclasses.dataclass(frozen=True)
class Distinct:
    """The smallest hashes of values with their counts (Bar-Yossef et al. 2002): distinct values and repeats."""

    size: int
    hashes: Hashes = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))
    counts: npt.NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    full: bool = False
    """Whether larger hashes were dropped."""

    @classmethod
    def of(cls, size: int, hashes: Hashes, counts: npt.NDArray[np.int64] | None = None) -> "Distinct":
        if counts is None:
            hashes, counts = np.unique(hashes, return_counts=True)
        else:
            order = np.argsort(hashes, kind="stable")
            hashes, counts = hashes[order], counts[order]
        return cls(size, hashes[:size], counts[:size], len(hashes) > size)

    def merge(self, other: "Distinct") -> "Distinct":
        hashes, places = np.unique(np.append(self.hashes, other.hashes), return_inverse=True)
        counts = np.bincount(places, np.append(self.counts, other.counts)).astype(np.int64)
        full = self.full or other.full or len(hashes) > self.size
        # Above the largest hash of a full sketch, the other's hashes may lack some of their rows.
        for one in (self, other):
            if one.full and len(one.hashes):
                kept = hashes <= one.hashes[-1]
                hashes, counts = hashes[kept], counts[kept]
        return Distinct(self.size, hashes[: self.size], counts[: self.size], full)

    @property
    def count(self) -> int:
        if not self.full:
            return len(self.hashes)
        return round((len(self.hashes) - 1) / (float(self.hashes[-1]) / 2.0**64))

    @property
    def repeated(self) -> float:
        """Share of the rows that repeat an earlier one."""
        total = int(self.counts.sum())
        return 1 - len(self.counts) / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Texts:
    """Lengths and writings of texts that are not empty."""

    rows: int = 0
    shortest: int = 2**31
    longest: int = 0
    characters: int = 0
    words: int = 0
    images: int = 0
    written: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(WRITINGS, 0))
    absent: dict[str, int] = dataclasses.field(default_factory=dict)
    """Texts that stand for a missing value -> rows."""
    odd: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Text that is no plain number, nor missing -> rows, first row."""
    points: statistics.Numbers | None = None
    """Of its numbers with a decimal point, thousands separated or not."""
    commas: statistics.Numbers | None = None
    """Of its numbers with a decimal comma."""
    times: FormatCounts = dataclasses.field(default_factory=FormatCounts)
    """Of the texts that differ, block by block, if most of the block look like times."""
    others: int = 0
    """Texts of the other blocks."""

    def merge(self, other: "Texts", before: int) -> "Texts":
        """`before` are the rows above the other's."""
        odd = dict(self.odd)
        for text, (count, row) in other.odd.items():
            if text in odd:
                odd[text] = odd[text][0] + count, odd[text][1]
            elif len(odd) < _ODD:
                odd[text] = count, row + before
        absent = collections.Counter(self.absent)
        absent.update(other.absent)
        return Texts(
            self.rows + other.rows,
            min(self.shortest, other.shortest),
            max(self.longest, other.longest),
            self.characters + other.characters,
            self.words + other.words,
            self.images + other.images,
            {name: self.written[name] + other.written[name] for name in self.written},
            dict(absent),
            odd,
            _merge_numbers(self.points, other.points),
            _merge_numbers(self.commas, other.commas),
            self.times.merge(other.times),
            self.others + other.others,
        )


def _merge_numbers(
    one: statistics.Numbers | None, other: statistics.Numbers | None
) -> statistics.Numbers | None:
    return one.merge(other) if one is not None and other is not None else (one or other)


@dataclasses.dataclass(frozen=True)
class Order:
    """Whether present values rise or fall from row to row, and by one; strict types only."""

    first: Any = None
    last: Any = None
    rising: bool = True
    falling: bool = True
    steps: bool = True

    def merge(self, other: "Order") -> "Order":
        if self.first is None or other.first is None:
            held = other if self.first is None else self
            return dataclasses.replace(held, steps=self.steps and other.steps)
        return Order(
            self.first,
            other.last,
            self.rising and other.rising and self.last <= other.first,
            self.falling and other.falling and self.last >= other.first,
            self.steps and other.steps and other.first - self.last == 1,
        )


@dataclasses.dataclass(frozen=True)
class Column:
    """The summary of one column of a block, or of all blocks so far."""

    kind: Kind
    stored: frozenset[str]
    rows: int
    nulls: int
    distinct: Distinct
    frequent: dict[Any, int]
    numbers: statistics.Numbers | None
    texts: Texts | None
    order: Order
    digest: int
    """Equal for columns with equal values in all rows."""
    beyond: int = 0
    """Finite numbers beyond FP32; they are counted among `nulls`, too."""
    infinite: int = 0
    """Likewise."""
    absent: int = 0
    """Rows of blocks that do not have the column."""

    def merge(self, other: "Column") -> "Column":
        frequent = collections.Counter(self.frequent)
        frequent.update(other.frequent)
        texts = self.texts
        if other.texts is not None:
            texts = (texts or Texts()).merge(other.texts, self.rows)
        return Column(
            _wider(self.kind, other.kind),
            self.stored | other.stored,
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.distinct.merge(other.distinct),
            dict(frequent.most_common(_FREQUENT)),
            _merge_numbers(self.numbers, other.numbers),
            texts,
            self.order.merge(other.order) if self.kind == other.kind else Order(0, 0, False, False, False),
            (self.digest + other.digest) % 2**64,
            self.beyond + other.beyond,
            self.infinite + other.infinite,
            self.absent + other.absent,
        )


_WIDTH: tuple[Kind, ...] = ("nothing", "boolean", "integer", "number", "timestamp", "text", "image", "other")


def _wider(one: Kind, other: Kind) -> Kind:
    if "nothing" in (one, other) or {one, other} <= {"integer", "number"}:
        return max(one, other, key=_WIDTH.index)
    return one if one == other else "text"


def measure(column: pa.ChunkedArray) -> tuple[Column, Hashes, Hashes]:
    """The summary of a block's column, a hash of each value, and one of each value rounded or folded."""
    kind = kind_of(column.type)
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if kind == "text":
        return _measure_texts(array, str(column.type))
    if kind in ("image", "other", "nothing"):
        hashes = np.zeros(len(array), np.uint64)
        held = Column(
            kind, frozenset([str(column.type)]), len(array), array.null_count, Distinct(SKETCH), {}, None, None,
            Order(0, 0, False, False, False), 0,
        )  # fmt: skip
        return held, hashes, hashes
    return _measure_numbers(array, kind)


def kind_of(stored: pa.DataType) -> Kind:
    if pa.types.is_null(stored):
        return "nothing"
    if pa.types.is_string_view(stored):
        return "text"
    try:
        found = fitting.type_of(stored, "")
    except DataError:
        return "other"
    if pa.types.is_list(stored) or pa.types.is_fixed_size_list(stored):
        return "other"
    return "text" if found == "string" else found  # type: ignore[return-value]


def to_floats(array: pa.Array) -> npt.NDArray[np.float64]:
    """Numbers, booleans or instants (milliseconds) as float64, NaN where missing."""
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        array = array.cast(pa.timestamp("ms", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _measure_numbers(array: pa.Array, kind: Kind) -> tuple[Column, Hashes, Hashes]:
    stored = array.type
    values = to_floats(array)
    missing = np.isnan(values)
    exact = values
    if pa.types.is_integer(stored) and not array.null_count and len(array) and np.abs(values).max() > 2**53:
        exact = array.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    hashes = _hash_numbers(exact)
    hashes[missing] = 0
    present = exact[~missing] if missing.any() else exact
    ordered = np.sort(present)
    starts = (
        np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.empty(0, int)
    )
    unique, counts = ordered[starts], np.diff(np.append(starts, len(ordered)))
    numbers = statistics.measure_counts(unique.astype(np.float64, copy=False), counts, int(missing.sum()))
    most = np.arange(len(counts))
    if len(counts) > _FREQUENT:  # values that occur once tell nothing among so many
        most = np.argsort(-counts, kind="stable")[:_FREQUENT]
        most = most[counts[most] > 1]
    column = Column(
        kind,
        frozenset([str(stored)]),
        len(values),
        numbers.missing,
        Distinct.of(SKETCH, _hash_numbers(unique), counts),
        dict(zip(unique[most].tolist(), counts[most].tolist(), strict=True)),
        numbers,
        None,
        _find_order(present),
        _digest(hashes),
        *(_count_beyond(unique, counts) if numbers.missing > missing.sum() else (0, 0)),
    )
    return column, hashes, _hash_rounded(values, numbers.std, hashes)


def _count_beyond(unique: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Rows with finite numbers beyond FP32, and with infinite ones."""
    beyond = find_beyond_fp32(pa.chunked_array([unique.astype(np.float64)]))
    return int(counts[beyond].sum()), int(counts[np.isinf(unique)].sum())


def _hash_numbers(values: npt.NDArray[Any]) -> Hashes:
    return mix((values + 0).view(np.uint64) + _GOLDEN)  # -0.0 becomes 0.0


def _hash_rounded(values: npt.NDArray[np.float64], std: float, hashes: Hashes) -> Hashes:
    """Numbers to a ten thousandth of their spread, so that those that differ in the last digits fall together."""
    if not std or not np.isfinite(std):
        return hashes
    with np.errstate(all="ignore"):
        step = 10.0 ** np.floor(np.log10(std) - 4)  # by powers of ten: blocks round alike
        rounded = np.round(values / step) + 0.0
    found = mix(rounded.view(np.uint64) + _GOLDEN)
    found[np.isnan(values)] = 0
    return found


def _find_order(values: npt.NDArray[Any]) -> Order:
    if not len(values):
        return Order()
    with np.errstate(all="ignore"):
        gaps = np.diff(values)
    return Order(
        values[0].item(),
        values[-1].item(),
        bool((gaps >= 0).all()),
        bool((gaps <= 0).all()),
        bool((gaps == 1).all()),
    )


def _digest(hashes: Hashes) -> int:
    weights = mix(np.arange(1, len(hashes) + 1, dtype=np.uint64))
    return int(mix(hashes ^ weights).sum(dtype=np.uint64))


def _measure_texts(array: pa.Array, stored: str) -> tuple[Column, Hashes, Hashes]:
    rows = len(array)
    encoded = (
        array if pa.types.is_dictionary(array.type) else array.cast(pa.large_string()).dictionary_encode()
    )
    words = encoded.dictionary.cast(pa.large_string())
    codes = np.asarray(
        pc.fill_null(encoded.indices.cast(pa.int64()), len(words)).to_numpy(zero_copy_only=False)
    )
    counts = np.bincount(codes, minlength=len(words) + 1)
    lengths = np.asarray(pc.utf8_length(words), dtype=np.int64)
    held = (lengths > 0) & (counts[:-1] > 0)  # an empty text stands for a missing value, as in models
    places = np.flatnonzero(held)
    hashed, folded = _hash_texts(words), _hash_texts(_fold(words))
    hashed[lengths == 0] = 0
    hashes, near = np.append(hashed, np.uint64(0))[codes], np.append(folded, np.uint64(0))[codes]
    most = places[np.argsort(-counts[places], kind="stable")[:_FREQUENT]]
    frequent = dict(zip(words.take(pa.array(most)).to_pylist(), counts[most].tolist(), strict=True))
    column = Column(
        "text" if len(places) else "nothing",
        frozenset([stored]),
        rows,
        rows - int(counts[places].sum()),
        Distinct.of(SKETCH, hashed[places], counts[places]),
        frequent,
        None,
        _describe_texts(words, codes, counts, places) if len(places) else None,
        Order(0, 0, False, False, False),
        _digest(hashes),
    )
    return column, hashes, near


def _fold(words: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_lower(pc.utf8_trim_whitespace(words)), r"\s+", " ")


def _hash_texts(words: pa.Array) -> Hashes:
    if not len(words):
        return np.empty(0, np.uint64)
    held = np.asarray(words.to_pandas(), dtype=object)
    return np.array(pd.util.hash_array(held, categorize=False), dtype=np.uint64)


def _describe_texts(
    words: pa.Array,
    codes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
) -> Texts:
    """Of the distinct texts of a block at `places`, with the rows of each; `codes` are those of the rows."""
    words, times = words.take(pa.array(places)), counts[places]
    lengths = np.asarray(pc.utf8_length(words), dtype=np.int64)
    blanks = np.asarray(pc.count_substring(words, " "), dtype=np.int64)
    clean = pc.utf8_trim_whitespace(words)
    missing = np.asarray(
        pc.is_in(pc.utf8_lower(clean), value_set=pa.array(sorted(MISSING_WORDS), clean.type))
    )
    missing |= np.asarray(pc.is_in(clean, value_set=pa.array(NULLS, clean.type)))
    matched = {name: _match(clean, pattern) & ~missing for name, pattern in WRITINGS.items()}
    odd = np.flatnonzero(~matched["plain"] & ~missing)
    found = {}
    if matched["plain"].any() or missing.any():
        for place in odd[np.argsort(-times[odd], kind="stable")[:_ODD]]:
            found[words[int(place)].as_py()] = int(times[place]), int(np.argmax(codes == places[place]))
    return Texts(
        int(times.sum()),
        int(lengths.min()),
        int(lengths.max()),
        int((lengths * times).sum()),
        int(((blanks + 1) * times).sum()),
        int(times[_match(clean, _IMAGES)].sum()),
        {name: int(times[holds].sum()) for name, holds in matched.items()},
        {words[int(place)].as_py(): int(times[place]) for place in np.flatnonzero(missing)[:_ODD]},
        found,
        _measure_written(clean, times, matched, "money", "percent", "thousands", "blanks", "apostrophes"),
        _measure_written(clean, times, matched, *COMMAS),
        *_count_times(clean.filter(pa.array(~missing))),
    )


def _count_times(texts: pa.Array) -> tuple[FormatCounts, int]:
    """The formats in which these texts are times, or how many look like none."""
    if not len(texts) or _match(texts, _TIME).mean() < 0.9:
        return FormatCounts(), len(texts)
    return count_formats(pa.chunked_array([texts])), 0


def _measure_written(
    clean: pa.Array, times: npt.NDArray[np.int64], matched: dict[str, npt.NDArray[np.bool_]], *writings: str
) -> statistics.Numbers | None:
    """Of the texts that are numbers in one of these writings."""
    holds = np.logical_or.reduce([matched[name] for name in writings])
    if int(times[holds].sum()) < 0.5 * times.sum():
        return None
    return statistics.measure_numbers(
        np.repeat(parse_numbers(clean.filter(pa.array(holds)), writings[0]), times[holds])
    )


def _match(words: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(words, pattern, ignore_case=True))
