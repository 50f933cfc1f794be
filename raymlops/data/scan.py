"""Scans a dataset once: contract findings, fingerprint, and what the split must learn. Returns a checked Dataset."""

import collections
import dataclasses
import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import contract as contracts
from raymlops.data import rowhash, splits
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, TimeSplit

Split = str


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
    """Hashes of keys that several rows share, which breaks `contract.unique`."""


@dataclasses.dataclass
class _Partial:
    rows: int = 0
    failed: int = 0
    sums: tuple[int, int] = (0, 0)
    findings: dict[tuple[str, str], contracts.Finding] = dataclasses.field(default_factory=dict)
    instants: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sides: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    keys: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    """Rows with a key at a time or on a side of the split."""
    columns: tuple[str, ...] = ()

    def add(self, other: "_Partial") -> None:
        self.rows += other.rows
        self.failed += other.failed
        self.sums = (self.sums[0] + other.sums[0]) % 2**64, (self.sums[1] + other.sums[1]) % 2**64
        for key, finding in other.findings.items():
            self.findings[key] = self.findings[key].merge(finding) if key in self.findings else finding
        self.instants.update(other.instants)
        self.sides.update(other.sides)
        self.keys.update(other.keys)
        self.columns = self.columns or other.columns


def scan_dataset(
    dataset: ray.data.Dataset, contract: ContractSpec, split: splits.SplitRule, source: str
) -> Scan:
    """One pass over the rows. Raises DataError if they break the contract, or if there are none."""
    total = _Partial()
    for partial in fold(dataset, _scan_block, contract=contract, split=split):
        total.add(partial)
    of_key: collections.Counter[int] = collections.Counter()
    for (key, _), count in total.keys.items():
        of_key[key] += count
    doubled = frozenset(key for key, count in of_key.items() if count > 1)
    findings = list(total.findings.values())
    failed = total.failed
    if doubled:
        rows = sum(of_key[key] for key in doubled)
        for (key, place), count in total.keys.items():
            if key in doubled:
                (total.instants if isinstance(split.spec, TimeSplit) else total.sides)[place] -= count
        findings.append(
            contracts.Finding("+".join(contract.unique), "unique", rows, (f"{len(doubled):,} keys",))
        )
        failed += rows
    if total.rows == 0:
        raise DataError(f"{source} has no rows; expected some after joins and where")
    contracts.judge(findings, total.rows, failed, contract)
    if failed == total.rows:
        raise DataError(
            f"No row of {source} keeps the contract: {'; '.join(str(finding) for finding in findings)}"
        )
    rule = split
    sides = total.sides
    if isinstance(split.spec, TimeSplit):
        rule = dataclasses.replace(split, cuts=splits.find_cuts(+total.instants, split.spec.fractions))
        sides = collections.Counter()
        for instant, count in total.instants.items():
            sides[int(np.searchsorted(np.array(rule.cuts), instant, side="right"))] += count
    rows_of = {name: sides[side] for side, name in enumerate(splits.SPLITS)}
    for name, count in rows_of.items():
        if count == 0:
            raise DataError(
                f"The {name} split has no rows ({rows_of}); give more data, or other split.fractions"
            )
    content = f"{total.sums[0]:016x}{total.sums[1]:016x}"
    fingerprint = Fingerprint(source, total.columns, rows_of, content)
    return Scan(fingerprint, tuple(findings), total.rows, failed, rule, doubled)


def select_split(
    dataset: ray.data.Dataset, scan: Scan, contract: ContractSpec, split: Split
) -> ray.data.Dataset:
    """The rows of one split that keep the contract, with their columns cast; lazy."""
    return dataset.map_batches(
        _select_block,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"contract": contract, "scan": scan, "side": splits.SPLITS.index(split)},
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


def _scan_block(table: pa.Table, contract: ContractSpec, split: splits.SplitRule) -> _Partial:
    if table.num_columns == 0 or table.num_rows == 0:
        return _Partial()
    checked, holds, findings = contracts.check_block(table, contract)
    kept = checked.filter(pa.array(holds))
    hashes = rowhash.hash_rows(kept)
    partial = _Partial(
        rows=table.num_rows,
        failed=int((~holds).sum()),
        sums=(int(hashes.sum(dtype=np.uint64)), int((hashes * hashes).sum(dtype=np.uint64))),
        findings={(finding.column, finding.rule): finding for finding in findings},
        columns=tuple(f"{field.name}: {field.type}" for field in checked.schema),
    )
    places: Any
    if isinstance(split.spec, TimeSplit):
        places, counted = splits.to_instants(kept, split.spec.column), partial.instants
    else:
        places, counted = split.assign(kept), partial.sides
    found, counts = np.unique(places, return_counts=True)
    counted.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if contract.unique:
        keys = rowhash.hash_rows(kept.select(list(contract.unique)))
        partial.keys.update(zip(keys.tolist(), places.tolist(), strict=True))
    return partial


def _select_block(table: pa.Table, contract: ContractSpec, scan: Scan, side: int) -> pa.Table:
    if table.num_columns == 0:
        return table
    table, holds, _ = contracts.check_block(table, contract)
    if scan.doubled:
        keys = rowhash.hash_rows(table.select(list(contract.unique)))
        holds &= ~np.isin(keys, np.fromiter(scan.doubled, dtype=np.uint64))
    holds &= scan.rule.assign(table) == side
    return table.filter(pa.array(holds))
