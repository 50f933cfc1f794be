"""Scans a dataset once: contract findings, fingerprint, and what the split must learn. Returns a checked Dataset."""

import collections
import dataclasses
import hashlib
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from raymlops.data import contract as contracts
from raymlops.data import row_keys, rowhash, splits
from raymlops.data.rowhash import Hashes
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, TimeSplit

Split = str
_MOST_ROWS = 20_000_000
"""Up to which identical rows are numbered, with 8 bytes a row in the driver; beyond, they share a side."""
_FAR = 0.02
"""Difference from a share of split.fractions that is told."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Identifies the data: the content digest is a sum over rows, so it does not depend on the order of blocks."""

    source: str
    columns: tuple[str, ...]
    rows: dict[Split, int]
    content: str

    @property
    def digest(self) -> str:
        """A short name for the whole identity."""
        parts = f"{self.source}|{'|'.join(self.columns)}|{self.content}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "columns": list(self.columns), "digest": self.digest}


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
    gap: int = 0
    """Rows that a split by time leaves out."""
    left_out: tuple[str, ...] = ()
    """The first rows that break the contract, as they were read, each as a JSON object with its reasons."""


@dataclasses.dataclass
class _Block:
    """What decides the sides of a block's rows, as arrays."""

    keys: Hashes
    """Of all its rows."""
    holds: npt.NDArray[np.bool_]
    """Which of them keep the contract; what follows is of these alone."""
    places: npt.NDArray[Any] | None
    """Instants, or the hashes that a split by group or key goes by."""
    unique: Hashes | None
    target: pa.ChunkedArray | None
    """Of a small block, where the target is known."""


@dataclasses.dataclass
class _Partial:
    rows: int = 0
    failed: int = 0
    sums: tuple[int, int] = (0, 0)
    findings: dict[tuple[str, str], contracts.Finding] = dataclasses.field(default_factory=dict)
    instants: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sides: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    """As they are where identical rows share a side."""
    blocks: list[_Block] = dataclasses.field(default_factory=list)
    """Empty once there are more than `_MOST_ROWS` rows, unless some must be unique."""
    columns: tuple[str, ...] = ()
    gap: int = 0
    """Of a split by time, in the units of its column."""
    left_out: list[contracts.LeftOut] = dataclasses.field(default_factory=list)
    beyond: list[contracts.Finding] = dataclasses.field(default_factory=list)
    """Numbers that are infinite as FP32."""

    def add(self, other: "_Partial", keep: bool) -> None:
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
        self.columns, self.gap = self.columns or other.columns, self.gap or other.gap
        self.blocks += other.blocks
        if self.rows >= splits.SMALL:
            for block in self.blocks:
                block.target = None
        if self.rows > _MOST_ROWS and not keep:
            self.blocks.clear()


def scan_dataset(
    dataset: ray.data.Dataset,
    contract: ContractSpec,
    split: splits.SplitRule,
    source: str,
    numbers: Collection[str] = (),
    implied: Collection[str] = (),
) -> Scan:
    """One pass over the rows; `numbers` are columns that models take as FP32, `implied` those whose type is not
    declared. Raises DataError if they break the
    contract, or if there are none."""
    total = _Partial()
    for partial in fold(dataset, _scan_block, contract=contract, split=split, numbers=tuple(numbers)):
        total.add(partial, keep=bool(contract.unique))
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
    rule, sides = _find_sides(total, split, doubled)
    rows_of = {name: int(sides[side]) for side, name in enumerate(splits.SPLITS)}
    for name, count in rows_of.items():
        if count == 0:
            raise DataError(
                f"The {name} split has no rows ({rows_of}); give more data, or other split.fractions"
            )
    content = f"{total.sums[0]:016x}{total.sums[1]:016x}"
    fingerprint = Fingerprint(source, total.columns, rows_of, content)
    gap = int(sides[splits.GAP])
    left_out = tuple(one.to_json() for one in total.left_out)
    return Scan(
        fingerprint, tuple(findings), total.rows, failed, rule, frozenset(doubled.tolist()), gap, left_out
    )


def _find_doubled(blocks: Sequence[_Block]) -> tuple[Hashes, int]:
    """The hashes of keys that several rows share, against `contract.unique`, and how many rows have one."""
    of_rows = [block.unique for block in blocks if block.unique is not None]
    if not of_rows:
        return np.zeros(0, dtype=np.uint64), 0
    found, counts = np.unique(np.concatenate(of_rows), return_counts=True)
    return found[counts > 1], int(counts[counts > 1].sum())


def _find_sides(
    total: _Partial, split: splits.SplitRule, doubled: Hashes
) -> tuple[splits.SplitRule, Mapping[int, int]]:
    """The rule with what it learns from the data, and the number of rows on each side."""
    spec = split.spec
    kept = [_keep(block, doubled) for block in total.blocks]
    if isinstance(spec, TimeSplit):
        instants = total.instants
        for block, holds in zip(total.blocks, kept, strict=True):
            if block.places is not None and not holds.all():
                instants.subtract(block.places[~holds].tolist())
        rule = dataclasses.replace(split, cuts=splits.find_cuts(+instants, spec.fractions))
        counts: collections.Counter[int] = collections.Counter()
        for instant, side in zip(instants, rule.cut(np.array([*instants]), total.gap).tolist(), strict=True):
            counts[side] += instants[instant]
        return rule, counts
    if not total.blocks:
        return dataclasses.replace(split, repeats=row_keys.Repeats(together=True)), total.sides
    rule = split
    if split.numbers_repeats:
        rule = dataclasses.replace(split, repeats=row_keys.find_repeats(block.keys for block in total.blocks))
    places = np.concatenate(
        [
            (rule.number(block.keys)[block.holds] if block.places is None else block.places)[holds]
            for block, holds in zip(total.blocks, kept, strict=True)
        ]
    )
    if len(places) < splits.SMALL and rule.shares_exactly:
        targets = [block.target for block in total.blocks]
        classes = np.zeros(len(places), dtype=np.uint64)
        if not any(target is None for target in targets):
            chunks = [
                target.filter(pa.array(holds)).combine_chunks()
                for target, holds in zip(targets, kept, strict=True)
                if target is not None
            ]
            classes = splits.classes_of(_join(chunks))
        rule = dataclasses.replace(rule, exact=rule.share_exactly(places, classes))
    return rule, collections.Counter(rule.to_sides(places).tolist())


def _keep(block: _Block, doubled: Hashes) -> npt.NDArray[np.bool_]:
    """Of the rows that keep the contract's other rules: those that keep `unique`, too."""
    if block.unique is None or not len(doubled):
        return np.ones(int(block.holds.sum()), dtype=bool)
    return ~np.isin(block.unique, doubled)


def _join(arrays: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Blocks of one column, of which a reader that infers types may have given some another type."""
    tables = [pa.table({"value": array}) for array in arrays]
    return pa.concat_tables(tables, promote_options="permissive")["value"]


def describe_split(scan: Scan) -> list[str]:
    """What a person should know of how the rows were split."""
    rule, rows = scan.rule, scan.fingerprint.rows
    total = sum(rows.values())
    told = []
    if rule.repeats.together:
        told.append(f"more than {_MOST_ROWS:,} rows: identical rows share a side")
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
    dataset: ray.data.Dataset, scan: Scan, contract: ContractSpec, split: Split, raw: bool = False
) -> ray.data.Dataset:
    """The rows of one split that keep the contract, with their columns converted, or as they were read; lazy."""
    return dataset.map_batches(
        _select_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"contract": contract, "scan": scan, "side": splits.SPLITS.index(split), "raw": raw},
    )


def fold(dataset: ray.data.Dataset, function: Any, **arguments: Any) -> Iterator[Any]:
    """Apply a function to every block on its node, and return the small results in order."""
    answers = dataset.map_batches(
        _pickled, batch_format="pyarrow", batch_size=None, zero_copy_batch=True,
        fn_kwargs={"function": function, "arguments": arguments},
    )  # fmt: skip
    for row in answers.iter_rows():
        yield pickle.loads(row["answer"])  # noqa: S301 - made by the line below, in this job


def _pickled(table: pa.Table, function: Any, arguments: dict[str, Any]) -> pa.Table:
    answer = function(table, **arguments)
    return pa.table({"answer": pa.array([pickle.dumps(answer)], type=pa.large_binary())})


def _scan_block(
    table: pa.Table, contract: ContractSpec, split: splits.SplitRule, numbers: tuple[str, ...]
) -> _Partial:
    if table.num_columns == 0 or table.num_rows == 0:
        return _Partial()
    keys = row_keys.keys_of(table)
    checked, broken = contracts.check_columns(table, contract)
    holds = contracts.find_valid(table, broken)
    findings = [contracts.to_finding(table, one) for one in broken]
    kept = checked.filter(pa.array(holds))
    values = row_keys.drop_keys(kept)
    hashes = rowhash.hash_rows(values)
    partial = _Partial(
        rows=table.num_rows,
        failed=int((~holds).sum()),
        sums=(int(hashes.sum(dtype=np.uint64)), int((hashes * hashes).sum(dtype=np.uint64))),
        findings={(finding.column, finding.rule): finding for finding in findings},
        columns=tuple(f"{field.name}: {field.type}" for field in values.schema),
        left_out=contracts.leave_out(row_keys.drop_keys(table), broken),
        beyond=[contracts.to_finding(table, one) for one in contracts.check_range(checked, numbers, holds)],
    )
    places: npt.NDArray[Any] | None = None
    if isinstance(split.spec, TimeSplit):
        places = splits.to_instants(kept, split.spec.column)
        partial.gap = split.gap_in(kept)
        found, counts = np.unique(places, return_counts=True)
        partial.instants.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if not contract.unique:
            return partial
    else:
        if not split.numbers_repeats:
            places = split.to_places(kept)
        sides = split.to_sides(split.number(keys)[holds] if places is None else places)
        partial.sides.update(sides.tolist())
    unique = rowhash.hash_rows(kept.select(list(contract.unique))) if contract.unique else None
    small = table.num_rows < splits.SMALL and split.target in kept.column_names
    partial.blocks.append(_Block(keys, holds, places, unique, kept[split.target] if small else None))
    return partial


def _select_block(
    table: pa.Table, contract: ContractSpec, scan: Scan, side: int, raw: bool = False
) -> pa.Table:
    if table.num_columns == 0:
        return table
    read = table
    table, broken = contracts.check_columns(table, contract)
    holds = contracts.find_valid(table, broken)
    if scan.doubled:
        keys = rowhash.hash_rows(table.select(list(contract.unique)))
        holds &= ~np.isin(keys, np.fromiter(scan.doubled, dtype=np.uint64))
    if holds.any():
        # Rows that break the contract may have no instant or group; they keep their places among identical rows.
        holds[holds] = scan.rule.assign(table, holds) == side
    return row_keys.drop_keys((read if raw else table).filter(pa.array(holds)))
