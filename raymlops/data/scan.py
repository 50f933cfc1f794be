"""Scans a dataset once: contract findings, fingerprint, and what the split must learn. Returns a checked Dataset."""

import collections
import dataclasses
import hashlib
import pickle
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import contract as contracts
from raymlops.data import row_keys, row_sides, rowhash, splits, training_rows
from raymlops.data.row_sides import BlockRows, ClassCounts
from raymlops.data.rowhash import Hashes
from raymlops.data.training_rows import TrainingRows
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, TimeSplit

Split = str
FEW = 5000
"""Rows that pass through a model in this process."""
_FAR = 0.02
"""Difference from a share of split.fractions that is told."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Identifies the data, wherever they lie: the content digest is a sum over rows, so that it does not depend on the
    order of rows, files and blocks."""

    source: str
    columns: tuple[str, ...]
    """Names and types, in the order of the table."""
    rows: dict[Split, int]
    content: str
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A short name for the whole identity: the names of the columns, and the content."""
        return self._digest(*sorted(self.names), self.content)

    @property
    def first_digest(self) -> str:
        """The same as versions before 0.2 made it, with the path and the columns' types and order."""
        return self._digest(self.source, *self.columns, self.content)

    def matches(self, recorded: str) -> bool:
        """Whether a recorded digest, of any version of raymlops, is of these data."""
        return recorded in (self.digest, self.first_digest)

    @staticmethod
    def _digest(*parts: str) -> str:
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Fingerprint":
        return cls(
            value["source"], tuple(value["columns"]), value["rows"], value["content"], tuple(value["names"])
        )


@dataclasses.dataclass(frozen=True)
class Scan:
    """The result of the scan."""

    fingerprint: Fingerprint
    findings: tuple[contracts.Finding, ...]
    rows: int
    failed: int
    rule: splits.SplitRule
    doubled: frozenset[int]
    """Hashes of keys that several rows share, against `contract.unique`."""
    training: TrainingRows
    classes: ClassCounts | None = None
    """Rows of each class of the target on each side; None if it has too many values, or they were not counted."""
    gap: int = 0
    """Rows that a split by time leaves out."""
    left_out: tuple[str, ...] = ()
    """The first rows that break the contract, as they were read, each as a JSON object with its reasons."""


@dataclasses.dataclass
class Partial:
    rows: int = 0
    failed: int = 0
    sums: tuple[int, int] = (0, 0)
    findings: dict[tuple[str, str], contracts.Finding] = dataclasses.field(default_factory=dict)
    instants: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sides: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    """As they are where identical rows share a side."""
    blocks: list[BlockRows] = dataclasses.field(default_factory=list)
    """A sample of their rows once there are more than `row_sides.MOST_ROWS`, unless some must be unique."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Column -> its type in the first block that has it."""
    kinds: dict[str, pa.DataType] = dataclasses.field(default_factory=dict)
    """Column -> the type that its values have in all blocks so far."""
    mixed: dict[str, tuple[pa.DataType, pa.DataType]] = dataclasses.field(default_factory=dict)
    """Column -> types of two blocks that no type holds both of."""
    key_columns: tuple[str, ...] = ()
    gap: int = 0
    """Of a split by time, in the units of its column."""
    shift: int = 0
    """Of the sample."""
    left_out: list[contracts.LeftOut] = dataclasses.field(default_factory=list)
    beyond: list[contracts.Finding] = dataclasses.field(default_factory=list)
    """Numbers that are infinite as FP32."""

    @property
    def counted(self) -> collections.Counter[int] | None:
        """The number of all rows at each time, or on each side, if the blocks are samples."""
        return None if not self.shift else self.instants or self.sides

    def add(self, other: "Partial", keep: bool) -> None:
        others = {key: finding.shift(self.rows) for key, finding in other.findings.items()}
        self.beyond += [finding.shift(self.rows) for finding in other.beyond]
        self.left_out += [
            one.shift(self.rows) for one in other.left_out[: contracts.KEPT - len(self.left_out)]
        ]
        self.rows += other.rows
        self.failed += other.failed
        self.sums = (self.sums[0] + other.sums[0]) % 2**64, (self.sums[1] + other.sums[1]) % 2**64
        for key, finding in others.items():
            self.findings[key] = self.findings[key].merge(finding) if key in self.findings else finding
        self.instants.update(other.instants)
        self.sides.update(other.sides)
        self.columns |= {name: kind for name, kind in other.columns.items() if name not in self.columns}
        self._join_kinds(other.kinds)
        self.key_columns, self.gap = self.key_columns or other.key_columns, self.gap or other.gap
        self.blocks += other.blocks
        if self.rows - self.failed >= splits.SMALL:
            for block in self.blocks:
                block.target = None
        if self.rows > row_sides.MOST_ROWS and not keep:
            self._sample()

    def _join_kinds(self, kinds: Mapping[str, pa.DataType]) -> None:
        for name, kind in kinds.items():
            known = self.kinds.setdefault(name, kind)
            if known != kind and name not in self.mixed:
                try:
                    pair = [pa.schema([(name, one)]) for one in (known, kind)]
                    self.kinds[name] = pa.unify_schemas(pair, promote_options="permissive").field(0).type
                except pa.ArrowException:
                    self.mixed[name] = known, kind

    def _sample(self) -> None:
        wanted = training_rows.shift_for(self.rows)
        fresh = self.blocks if wanted > self.shift else self.blocks[-1:]
        self.blocks[len(self.blocks) - len(fresh) :] = [block.sampled(wanted) for block in fresh]
        self.shift = wanted


def scan_dataset(
    dataset: ray.data.Dataset,
    contract: ContractSpec,
    split: splits.SplitRule,
    source: str,
    numbers: Collection[str] = (),
    implied: Collection[str] = (),
    used: Collection[str] = (),
) -> Scan:
    """One pass over the rows; `numbers` are columns that models take as FP32, `implied` those whose type is not
    declared, `used` all that must have one type. Raises DataError if they break the contract, or if there are none."""
    blocks = fold(dataset, scan_block, contract=contract, split=split, numbers=tuple(numbers))
    return finish(blocks, contract, split, source, implied, used)


def finish(
    partials: Iterable["Partial"],
    contract: ContractSpec,
    split: splits.SplitRule,
    source: str,
    implied: Collection[str] = (),
    used: Collection[str] = (),
) -> Scan:
    """From what `scan_block` gave for each block, in their order. Raises the same as `scan_dataset`."""
    total = Partial()
    for partial in partials:
        total.add(partial, keep=bool(contract.unique))
    _refuse_mixed(total.mixed, used)
    contracts.refuse_beyond(total.beyond)
    contracts.refuse_implied(total.findings.values(), contract, implied)
    if total.rows == 0:
        raise DataError(f"{source} has no rows; expected some after joins and where")
    doubled, broken = _find_doubled(total.blocks)
    findings = list(total.findings.values())
    failed = total.failed + broken
    if broken:
        findings.append(
            contracts.Finding("+".join(contract.unique), "unique", broken, (f"{len(doubled):,} keys",))
        )
    contracts.judge(findings, total.rows, failed, contract)
    if failed == total.rows:
        raise DataError(
            f"No row of {source} keeps the contract: {'; '.join(str(finding) for finding in findings)}"
        )
    found = row_sides.find_sides(
        total.blocks,
        split,
        doubled,
        rows=total.rows - failed,
        columns=total.key_columns,
        gap=total.gap,
        counted=total.counted,
    )
    rows_of = {name: int(found.rows.get(side, 0)) for side, name in enumerate(splits.SPLITS)}
    for name, count in rows_of.items():
        if count == 0:
            raise DataError(
                f"The {name} split has no rows ({rows_of}); give more data, other split.fractions, "
                "or a target whose classes have several rows"
            )
    fingerprint = Fingerprint(
        source,
        tuple(f"{name}: {kind}" for name, kind in total.columns.items()),
        rows_of,
        f"{total.sums[0]:016x}{total.sums[1]:016x}",
        tuple(total.columns),
    )
    return Scan(
        fingerprint,
        tuple(findings),
        total.rows,
        failed,
        found.rule,
        frozenset(doubled.tolist()),
        found.training,
        found.classes,
        int(found.rows.get(splits.GAP, 0)),
        tuple(one.to_json() for one in total.left_out),
    )


def _refuse_mixed(mixed: Mapping[str, tuple[pa.DataType, pa.DataType]], used: Collection[str]) -> None:
    """Raises DataError for a column that has values of several types: readers that infer types do so by file."""
    for name, (one, other) in mixed.items():
        if name in used:
            kind = "timestamp" if pa.types.is_temporal(one) or pa.types.is_temporal(other) else "string"
            raise DataError(
                f"Column {name!r} is {one} in some files or parts of them and {other} in others; set "
                f"contract.columns.{name}.type: {kind} to read it in one"
            )


def _find_doubled(blocks: Sequence[BlockRows]) -> tuple[Hashes, int]:
    """The hashes of keys that several rows share, against `contract.unique`, and how many rows have one."""
    of_rows = [block.unique for block in blocks if block.unique is not None]
    if not of_rows:
        return np.zeros(0, dtype=np.uint64), 0
    found, counts = np.unique(np.concatenate(of_rows), return_counts=True)
    return found[counts > 1], int(counts[counts > 1].sum())


def describe_split(scan: Scan) -> list[str]:
    """What a person should know of how the rows were split."""
    rule, rows = scan.rule, scan.fingerprint.rows
    total = sum(rows.values())
    told = []
    if rule.repeats.together:
        told.append(
            f"more than {row_sides.MOST_ROWS:,} rows, or too many repeated ones: identical rows share a side"
        )
    if rule.exact is not None and rule.numbers_repeats:
        told.append(
            f"less than {splits.SMALL:,} rows: each class has its exact shares; rows that are appended may move others"
        )
    if scan.gap:
        told.append(f"{scan.gap:,} rows are left out by split.gap")
    if any(
        abs(count / total - share) > _FAR
        for count, share in zip(rows.values(), rule.spec.fractions, strict=True)
    ):
        shares = ", ".join(f"{name} {count / total:.1%}" for name, count in rows.items())
        wanted = ", ".join(f"{share:.1%}" for share in rule.spec.fractions)
        told.append(
            f"shares of the rows are {shares}, not {wanted}: rows that belong together do not allow more"
        )
    return told


def select_split(
    dataset: ray.data.Dataset,
    scan: Scan,
    contract: ContractSpec,
    split: Split,
    raw: bool = False,
    marked: Mapping[str, TrainingRows] | None = None,
    changed: Collection[str] = (),
) -> ray.data.Dataset:
    """The rows of one split that keep the contract, with their columns converted, or as they were read; lazy.

    For each column of `marked` they get it, with what a row is to a version that had these training rows; `changed` are
    columns of the table that no longer have the values that were read.
    """
    return dataset.map_batches(
        select_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={
            "contract": contract,
            "rule": scan.rule,
            "doubled": scan.doubled,
            "side": splits.SPLITS.index(split),
            "raw": raw,
            "marked": dict(marked or {}),
            "changed": frozenset(changed),
        },
    )


def fold(dataset: ray.data.Dataset, function: Any, **arguments: Any) -> Iterator[Any]:
    """Apply a function to every block on its node, and return the small results in order."""
    answers = dataset.map_batches(
        _pickled, batch_format="pyarrow", batch_size=None, zero_copy_batch=True,
        fn_kwargs={"function": function, "arguments": arguments},
    )  # fmt: skip
    for row in answers.iter_rows():
        yield pickle.loads(row["answer"])  # noqa: S301 - made by the line below, in this job


def fold_here(dataset: ray.data.Dataset, function: Any, **arguments: Any) -> Iterator[Any]:
    """The same in this process."""
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield function(table, **arguments)


def choose_fold(rows: int) -> Callable[..., Iterator[Any]]:
    """How so many rows pass through a model: few do so here, where its libraries are imported, which takes a worker
    longer than the rows."""
    return fold_here if rows <= FEW else fold


def _pickled(table: pa.Table, function: Any, arguments: dict[str, Any]) -> pa.Table:
    answer = function(table, **arguments)
    return pa.table({"answer": pa.array([pickle.dumps(answer)], type=pa.large_binary())})


def scan_block(
    table: pa.Table, contract: ContractSpec, split: splits.SplitRule, numbers: Collection[str] = ()
) -> Partial:
    """What the scan keeps of one block."""
    if table.num_columns == 0 or table.num_rows == 0:
        return Partial()
    checked, broken = contracts.check_columns(table, contract)
    holds = contracts.find_valid(table, broken)
    findings = [contracts.to_finding(table, one) for one in broken]
    kept = checked.filter(pa.array(holds))
    values = row_keys.drop_keys(kept)
    hashes = rowhash.hash_rows(values)
    block = row_sides.describe_block(table, holds, kept, contract, split)
    partial = Partial(
        rows=table.num_rows,
        failed=int((~holds).sum()),
        sums=(int(hashes.sum(dtype=np.uint64)), int((hashes * hashes).sum(dtype=np.uint64))),
        findings={(finding.column, finding.rule): finding for finding in findings},
        columns={field.name: str(field.type) for field in values.schema},
        kinds={field.name: field.type for field in values.schema},
        key_columns=row_keys.columns_of(table),
        blocks=[block],
        left_out=contracts.leave_out(row_keys.drop_keys(table), broken),
        beyond=[
            contracts.to_finding(table, one) for one in contracts.check_range(checked, tuple(numbers), holds)
        ],
    )
    if isinstance(split.spec, TimeSplit):
        assert block.places is not None
        partial.gap = split.gap_in(kept)
        found, counts = np.unique(block.places, return_counts=True)
        partial.instants.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    else:
        places = split.number(block.keys, block.name)[holds] if block.places is None else block.places
        partial.sides.update(split.to_sides(places).tolist())
    return partial


def select_block(
    table: pa.Table,
    contract: ContractSpec,
    rule: splits.SplitRule,
    doubled: Collection[int],
    side: int,
    marked: Mapping[str, TrainingRows] = types.MappingProxyType({}),
    changed: Collection[str] = (),
    raw: bool = False,
) -> pa.Table:
    """The rows of one block that are on a side and keep the contract, with their columns converted, or as they were
    read."""
    if table.num_columns == 0:
        return table
    checked, broken = contracts.check_columns(table, contract)
    holds = contracts.find_valid(table, broken)
    if doubled:
        keys = rowhash.hash_rows(checked.select(list(contract.unique)))
        holds &= ~np.isin(keys, np.fromiter(doubled, dtype=np.uint64))
    if holds.any():
        # Rows that break the contract may have no instant or group; they keep their places among identical rows.
        holds[holds] = rule.assign(checked, holds) == side
    chosen = row_keys.drop_keys((table if raw else checked).filter(pa.array(holds)))
    return training_rows.add_marks(chosen, table, holds, marked, rule.repeats, changed)
