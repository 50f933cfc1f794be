"""Ticks: what was counted in one stretch of time (a minute, as a rule) of what one version answered. Values, and their
form as a table; `tick_store` keeps them in files. Judges nothing.

Adding is exact in any order: counts are whole numbers, and the bitmaps of repeated rows are joined by OR.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.histograms import TIMES_NS
from raymlops.monitoring.cells import CATEGORY_CELLS, Counts

REPEAT_BITS = 16_384
"""Bits of the map of row hashes: of rows that are all different, about `REPEAT_BITS * (1 - exp(-rows / REPEAT_BITS))`
are set."""
NO_REPEATS = bytes(REPEAT_BITS // 8)
NO_LATENCY = (0,) * (len(TIMES_NS) + 1)
ALL_ROWS = ""
"""The segment of all rows."""


class Place(NamedTuple):
    """What was counted."""

    path: str
    """The endpoint's name; of a node of a graph, the graph's and the node's: `flights/challenger`."""
    role: str
    """`endpoint`, `node`, `shadow`, `canary` (a branch of a split), or `table` (predictions of a file)."""
    model: str
    """The registered model, or the endpoint's name if it serves a file."""
    version: str
    reference: str
    """SHA-256 of the reference to whose cells the counts belong."""
    segment: str = ALL_ROWS
    """`column=value`; empty for all rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tick:
    """`start` is in seconds since 1970 UTC, a multiple of `seconds`. Rows that were answered are counted, retried, lost
    or left out of the sample: `answered = rows + retried + lost + left_out`."""

    place: Place
    start: int
    seconds: int
    counts: Counts
    """(columns, 32), as `Reference.count` makes them; (0, 32) if no row was counted."""
    rows: int = 0
    """Rows in `counts`."""
    answered: int = 0
    retried: int = 0
    """Rows of requests whose id had been answered before in this tick: counted once."""
    lost: int = 0
    """Rows that were answered and not counted: the observer's queue was full, or the replica was killed."""
    requests: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Requests by class of status: `2xx`, `4xx`, `499` (the caller disconnected), `5xx`. Of all rows only."""
    latency: tuple[int, ...] = NO_LATENCY
    """Answered requests by time, `histograms.TIMES_NS`. Of all rows only."""
    repeats: bytes = NO_REPEATS
    """Bit h is set if a counted row has the hash h."""
    first: float = 0.0
    last: float = 0.0
    """Times of the first and the last answer, in seconds since 1970; 0 if there is none."""
    replica: str = ""
    """Who counted; empty for a sum of several."""

    @property
    def left_out(self) -> int:
        """Rows that were not counted because the sample of a large load leaves them out."""
        return self.answered - self.rows - self.retried - self.lost

    @property
    def share(self) -> float:
        """Of the rows that were to be counted, those that were; 1 without rows."""
        wanted = self.answered - self.retried
        return self.rows / wanted if wanted else 1.0

    @property
    def different_rows(self) -> float:
        """About how many counted rows differ (linear counting: Whang et al., 1990); infinite if the map is full."""
        unset = REPEAT_BITS - int.from_bytes(self.repeats, "little").bit_count()
        return REPEAT_BITS * float(np.log(REPEAT_BITS / unset)) if unset else float("inf")

    def __add__(self, other: "Tick") -> "Tick":
        """Of the same place and time."""
        assert (self.place, self.start, self.seconds) == (other.place, other.start, other.seconds)
        return _merge(self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tick):
            return NotImplemented
        return self._key == other._key and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.place, self.start, self.rows))

    @property
    def _key(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "counts")
        return tuple(dict(value) if isinstance(value, Mapping) else value for value in values)


def _merge(one: Tick, other: Tick) -> Tick:
    """With the place, the time and the width of `one`."""
    repeats = int.from_bytes(one.repeats, "little") | int.from_bytes(other.repeats, "little")
    firsts = [tick.first for tick in (one, other) if tick.first]
    return dataclasses.replace(
        one,
        counts=add_counts(one.counts, other.counts),
        rows=one.rows + other.rows,
        answered=one.answered + other.answered,
        retried=one.retried + other.retried,
        lost=one.lost + other.lost,
        requests={
            name: one.requests.get(name, 0) + other.requests.get(name, 0)
            for name in sorted({*one.requests, *other.requests})
        },
        latency=tuple(a + b for a, b in zip(one.latency, other.latency, strict=True)),
        repeats=repeats.to_bytes(REPEAT_BITS // 8, "little"),
        first=min(firsts, default=0.0),
        last=max(one.last, other.last),
        replica=one.replica if one.replica == other.replica else "",
    )


def add_counts(one: Counts, other: Counts) -> Counts:
    """A new array; one without columns adds nothing."""
    if not len(one) or not len(other):
        return (one if len(one) else other).copy()
    return one + other


def no_counts(columns: int = 0) -> Counts:
    return np.zeros((columns, CATEGORY_CELLS), np.int64)


def sum_ticks(ticks: Iterable[Tick], seconds: int = 0) -> list[Tick]:
    """One tick for each place and time, in order of both, whoever counted. `seconds` makes wider ticks, of which each
    takes those that start in it: 3600 gives hours."""
    found: dict[tuple[Place, int, int], Tick] = {}
    for tick in ticks:
        width = max(seconds, tick.seconds)
        start = tick.start // width * width
        key = tick.place, start, width
        held = found.get(key)
        new = dataclasses.replace(tick, start=start, seconds=width)
        found[key] = new if held is None else _merge(held, new)
    return [found[key] for key in sorted(found)]


@dataclasses.dataclass(frozen=True)
class Stream:
    """The ticks of one place in order of time. Those without rows are absent: a night has no ticks."""

    place: Place
    seconds: int
    starts: npt.NDArray[np.int64]
    """(ticks,), in seconds since 1970 UTC."""
    rows: npt.NDArray[np.int64]
    """(ticks,)"""
    counts: Counts
    """(ticks, columns, 32)"""


def to_streams(ticks: Iterable[Tick], seconds: int = 0) -> dict[Place, Stream]:
    """The counts of each place, in order of places; `seconds` as in `sum_ticks`. A place whose width changed has ticks
    of the largest width."""
    by_place: dict[Place, list[Tick]] = {}
    for tick in ticks:
        if tick.rows:
            by_place.setdefault(tick.place, []).append(tick)
    streams = {}
    for place in sorted(by_place):
        width = max(seconds, *(tick.seconds for tick in by_place[place]))
        held = sum_ticks(by_place[place], width)
        streams[place] = Stream(
            place,
            width,
            np.array([tick.start for tick in held], np.int64),
            np.array([tick.rows for tick in held], np.int64),
            np.stack([tick.counts for tick in held]),
        )
    return streams


@dataclasses.dataclass(frozen=True)
class Loss:
    """Rows that a replica answered before it was killed, and that are in no tick. `rows` is None if its node was lost
    with it, so that nobody knows; `told` are the rows that it had told of before."""

    replica: str
    node: str
    """Of the cluster, by id."""
    time: float
    """When it was found, in seconds since 1970."""
    rows: int | None
    told: int
    why: str = ""

    def describe(self) -> str:
        """`Replica a1 on node 3f: 12 answered rows were not counted`"""
        who = f"Replica {self.replica} on node {self.node}"
        if self.rows is None:
            return f"{who}: unknown how many answered rows were not counted, after {self.told:,} that were"
        return f"{who}: {self.rows:,} answered rows were not counted, after {self.told:,} that were"


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in Place._fields),
        ("start", pa.int64()),
        ("seconds", pa.int32()),
        ("rows", pa.int64()),
        ("answered", pa.int64()),
        ("retried", pa.int64()),
        ("lost", pa.int64()),
        ("requests", pa.map_(pa.string(), pa.int64())),
        ("latency", pa.list_(pa.int64())),
        ("repeats", pa.binary()),
        ("first", pa.float64()),
        ("last", pa.float64()),
        ("replica", pa.string()),
        ("counts", pa.list_(pa.int64())),
    ],
    metadata={"raymlops.ticks": "1"},
)
"""A row for each tick. `counts` has 32 numbers for each column of the reference, one column after the other; `latency`
and `repeats` are empty where nothing was counted."""


def to_table(ticks: Sequence[Tick]) -> pa.Table:
    rows = [
        {
            **tick.place._asdict(),
            "start": tick.start,
            "seconds": tick.seconds,
            "rows": tick.rows,
            "answered": tick.answered,
            "retried": tick.retried,
            "lost": tick.lost,
            "requests": list(tick.requests.items()),
            "latency": list(tick.latency) if any(tick.latency) else [],
            "repeats": b"" if tick.repeats == NO_REPEATS else tick.repeats,
            "first": tick.first,
            "last": tick.last,
            "replica": tick.replica,
        }
        for tick in ticks
    ]
    table = pa.Table.from_pylist(rows, pa.schema(list(SCHEMA)[:-1]))
    sizes = np.concatenate([[0], np.cumsum([tick.counts.size for tick in ticks])]).astype(np.int32)
    flat = np.concatenate([np.empty(0, np.int64), *(tick.counts.ravel() for tick in ticks)])
    counts = pa.ListArray.from_arrays(pa.array(sizes), pa.array(flat, pa.int64()))
    return table.append_column("counts", counts).replace_schema_metadata(SCHEMA.metadata)


def from_table(table: pa.Table) -> list[Tick]:
    """Columns that a later release adds are left aside. Raises ValueError for a table of something else."""
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"no column {missing[0]!r}: not a table of ticks")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    counts = table["counts"].combine_chunks()
    offsets, flat = counts.offsets.to_numpy(), counts.values.to_numpy()
    found = []
    for number, row in enumerate(table.drop_columns(["counts"]).to_pylist()):
        place = Place(*(row.pop(name) for name in Place._fields))
        held = flat[offsets[number] : offsets[number + 1]].reshape(-1, CATEGORY_CELLS)
        row["requests"] = dict(row["requests"])
        row["latency"] = tuple(row["latency"]) or NO_LATENCY
        row["repeats"] = row["repeats"] or NO_REPEATS
        found.append(Tick(place=place, counts=held, **row))
    return found
