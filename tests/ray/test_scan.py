import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from raymlops.data import scan, sources, splits
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, DatasetSpec, GroupSplit, RandomSplit, TimeSplit
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")

TABLE = experiments.signal_table(1000)


def in_blocks(table: pa.Table, blocks: int, seed: int | None = None) -> ray.data.Dataset:
    if seed is not None:
        table = table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))
    size = -(-table.num_rows // blocks)
    return ray.data.from_arrow([table.slice(start, size) for start in range(0, table.num_rows, size)])


def scanned(dataset: ray.data.Dataset, contract: Any = None, split: Any = None) -> scan.Scan:
    rule = splits.SplitRule(split or RandomSplit())
    with sources.reading(DatasetSpec(path="here")):
        return scan.scan_dataset(dataset, ContractSpec.model_validate(contract or {}), rule, "here")


def test_the_fingerprint_does_not_depend_on_the_order_or_the_number_of_blocks() -> None:
    digests = {
        scanned(in_blocks(TABLE, blocks, seed)).fingerprint.digest
        for blocks, seed in ((1, None), (7, 1), (3, 2))
    }
    assert len(digests) == 1


def test_the_fingerprint_moves_with_one_value_one_row_and_one_column() -> None:
    first = scanned(in_blocks(TABLE, 2)).fingerprint.digest
    values = TABLE["z"].to_numpy().copy()
    values[17] += 1e-9
    changed = TABLE.set_column(TABLE.column_names.index("z"), "z", pa.array(values))
    doubled = pa.concat_tables([TABLE, TABLE.slice(0, 1)])
    renamed = TABLE.rename_columns({"z": "zz"})
    others = [scanned(in_blocks(table, 2)).fingerprint.digest for table in (changed, doubled, renamed)]
    assert len({first, *others}) == 4


@pytest.mark.parametrize(
    "split",
    [RandomSplit(), GroupSplit(by="group", column="count"), TimeSplit(by="time", column="when")],
    ids=["random", "group", "time"],
)
def test_the_splits_are_disjoint_and_together_all_rows(split: Any) -> None:
    dataset = in_blocks(TABLE, 4)
    found = scanned(dataset, split=split)
    parts = {
        name: scan.select_split(dataset, found, ContractSpec(), name).to_pandas()["id"].tolist()
        for name in splits.SPLITS
    }
    assert {name: len(rows) for name, rows in parts.items()} == found.fingerprint.rows
    assert sorted(itertools.chain(*parts.values())) == list(range(1000))


def test_rows_that_break_the_contract_are_counted_sampled_and_left_out() -> None:
    contract = {"columns": {"z": {"max": 1.0}, "word": {"nulls": False}}, "max_failed": 0.5}
    dataset = in_blocks(TABLE, 5)
    found = scanned(dataset, contract)
    bad = (TABLE["z"].to_numpy() > 1.0) | TABLE["word"].is_null().to_numpy()
    assert (found.rows, found.failed) == (1000, int(bad.sum()))
    assert {(finding.column, finding.rule) for finding in found.findings} == {
        ("z", "max 1"),
        ("word", "nulls not allowed"),
    }
    assert sum(found.fingerprint.rows.values()) == 1000 - found.failed
    kept = [
        scan.select_split(dataset, found, ContractSpec.model_validate(contract), name).count()
        for name in splits.SPLITS
    ]
    assert sum(kept) == 1000 - found.failed


def test_too_many_bad_rows_stop_it_with_all_findings() -> None:
    with pytest.raises(
        DataError, match=r"break the contract, and contract\.max_failed is 5\.0%: z: .* 'min 0'"
    ):
        scanned(in_blocks(TABLE, 2), {"columns": {"z": {"min": 0}}})
    with pytest.raises(DataError, match="on_failure is 'fail'"):
        scanned(in_blocks(TABLE, 2), {"columns": {"z": {"max": 2.0}}, "on_failure": "fail", "max_failed": 1})


def test_rows_that_share_a_key_are_found_across_blocks_and_left_out() -> None:
    table = pa.concat_tables([TABLE, TABLE.slice(0, 3)])
    contract = {"unique": ["id"], "max_failed": 0.5}
    dataset = in_blocks(table, 4)
    found = scanned(dataset, contract)
    assert found.failed == 6
    kept = [
        scan.select_split(dataset, found, ContractSpec.model_validate(contract), name).count()
        for name in splits.SPLITS
    ]
    assert sum(kept) == 997
    assert found.fingerprint.rows == dict(zip(splits.SPLITS, kept, strict=True))


def test_a_table_without_rows_and_a_split_without_rows_are_refused() -> None:
    with pytest.raises(DataError, match="here has no rows"):
        scanned(in_blocks(TABLE, 1).filter(lambda row: False))
    with pytest.raises(DataError, match="split has no rows"):
        scanned(in_blocks(TABLE.slice(0, 2), 1))


def test_a_contract_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="Unknown column 'wrod'; did you mean 'word'"):
        scanned(in_blocks(TABLE, 2), {"columns": {"wrod": {"nulls": False}}})
