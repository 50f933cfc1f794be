"""The checked rows of a dataset by split: read once in full for the scan, then as often as requested. Fits nothing."""

import dataclasses

import ray.data

from raymlops.data import sources, splits
from raymlops.data.scan import Scan, Split, scan_dataset, select_split
from raymlops.specs.dataset import ContractSpec, DatasetSpec, SplitSpec


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """The rows of a dataset that keep the contract, with the results of the scan."""

    table: DatasetSpec
    contract: ContractSpec
    scan: Scan
    dataset: ray.data.Dataset = dataclasses.field(compare=False)
    """All rows, as read; in the object store if `dataset.cache` says so."""

    def of(self, split: Split) -> ray.data.Dataset:
        """The rows of `train`, `validation` or `test`, with their columns cast; lazy."""
        return select_split(self.dataset, self.scan, self.contract, split)


def open_dataset(table: DatasetSpec) -> ray.data.Dataset:
    """The dataset of a spec, kept in the object store if it says so. Raises the same as `sources.read_dataset`."""
    dataset = sources.read_dataset(table, keyed=True)
    return dataset.materialize() if table.cache else dataset


def scan_rows(table: DatasetSpec, contract: ContractSpec, split: SplitSpec, target: str = "") -> SplitRows:
    """Read a dataset, and scan it once; `target` is the column whose classes are on every side of a small table.

    Raises DataError for rows that break the contract, NotFoundError.
    """
    with sources.reading(table):
        dataset = open_dataset(table)
        rule = splits.SplitRule(split, target=target)
        scanned = scan_dataset(dataset, contract, rule, describe_source(table))
    return SplitRows(table, contract, scanned, dataset)


def describe_source(table: DatasetSpec) -> str:
    """A short description of a dataset's source, which is a part of its fingerprint."""
    path = table.path
    if path is None:
        return table.reader
    first = path if isinstance(path, str) else path[0]
    more = f" and {len(path) - 1} more" if not isinstance(path, str) and len(path) > 1 else ""
    return f"{first}{more}"
