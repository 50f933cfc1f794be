"""No row changes its side when rows, files, partitions, derived columns or joins change, but as the rule says."""

import collections
import itertools
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymlops.data import rare_classes, scan, sources, split_rows, splits
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, DatasetSpec, GroupSplit, RandomSplit, TimeSplit

pytestmark = pytest.mark.usefixtures("ray_cluster")


def passengers(rows: int, distinct: int = 20) -> pd.DataFrame:
    """Few distinct rows, each of them many times, as in Titanic."""
    chance = np.random.default_rng(3)
    kinds = pd.DataFrame(
        {
            "class": chance.choice(["1st", "2nd", "3rd", "crew"], distinct),
            "age": chance.choice([8.0, 30.0, np.nan], distinct),
            "survived": chance.choice(["no", "yes"], distinct),
            "kind": np.arange(distinct),
        }
    )
    return kinds.iloc[chance.integers(0, distinct, rows)].reset_index(drop=True)


def numbered(rows: int) -> pd.DataFrame:
    chance = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "x": chance.normal(size=rows),
            "label": chance.choice(["a", "b", "rare"], rows, p=[0.7, 0.295, 0.005]),
            "group": pd.array(chance.integers(0, 200, rows), dtype="Int64"),
            "day": pd.date_range("2024-01-01", periods=rows, freq="h"),
        }
    )


def split(
    frame: pd.DataFrame,
    folder: pathlib.Path,
    files: int = 1,
    spec: Any = None,
    target: str = "",
    **document: Any,
) -> tuple[dict[str, pd.DataFrame], scan.Scan]:
    """The rows of each side, of a table that lies in so many files."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), files)):
        rows = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        pq.write_table(rows, folder / f"{number}.parquet", row_group_size=700)
    dataset = sources.read_dataset(DatasetSpec(path=str(folder), **document), keyed=True)
    rule = splits.SplitRule(spec or RandomSplit(), target=target)
    found = scan.scan_dataset(dataset, ContractSpec(), rule, "here")
    parts = {
        name: scan.select_split(dataset, found, ContractSpec(), name).to_pandas() for name in splits.SPLITS
    }
    assert {name: len(rows) for name, rows in parts.items()} == found.fingerprint.rows
    return parts, found


def count(parts: dict[str, pd.DataFrame], *columns: str) -> dict[str, collections.Counter[Any]]:
    return {
        name: collections.Counter(map(tuple, rows[list(columns)].itertuples(index=False)))
        for name, rows in parts.items()
    }


@pytest.mark.parametrize("rows", [2_000, 12_000])
def test_identical_rows_are_shared_out_and_order_files_and_derived_columns_move_none(
    rows: int, tmp_path: pathlib.Path
) -> None:
    frame = passengers(rows)
    parts, _ = split(frame, tmp_path / "one")
    sides = count(parts, "kind")
    for kind, number in frame["kind"].value_counts().items():  # not all on one side
        shares = [sides[name][kind,] / number for name in splits.SPLITS]
        assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.15)
    changes: dict[str, Any] = {
        "order": {"frame": frame.sample(frac=1, random_state=1)},
        "files": {"frame": frame, "files": 7},
        "both": {"frame": frame.sample(frac=1, random_state=2), "files": 3},
        "derived": {"frame": frame, "files": 2, "derive": {"old": "age > 20", "age": "age / 10"}},
    }
    for name, change in changes.items():
        assert count(split(folder=tmp_path / name, **change)[0], "kind") == sides, name


def test_rows_that_are_appended_to_a_large_table_move_none(tmp_path: pathlib.Path) -> None:
    frame = numbered(12_000)
    before, found = split(frame, tmp_path / "before", target="label")
    more = numbered(13_000).iloc[12_000:]
    after, _ = split(pd.concat([frame, more, frame.iloc[:50]]), tmp_path / "after", files=2, target="label")
    assert found.rule.exact is None
    for name in splits.SPLITS:
        old = set(before[name]["id"])
        assert old <= set(after[name]["id"])


def test_small_tables_have_exact_shares_of_each_class_and_say_what_that_costs(tmp_path: pathlib.Path) -> None:
    parts, found = split(numbered(1_000), tmp_path / "rows", target="label")
    for label, number in numbered(1_000)["label"].value_counts().items():
        sides = [int((parts[name]["label"] == label).sum()) for name in splits.SPLITS]
        assert min(sides) >= 1
        assert sides == pytest.approx([0.7 * number, 0.15 * number, 0.15 * number], abs=1.11), label
    assert any("may move others" in line for line in scan.describe_split(found))
    numbers, _ = split(numbered(1_000), tmp_path / "numbers", target="x")
    means = [rows["x"].mean() for rows in numbers.values()]
    assert np.ptp(means) < 0.1  # quantiles are shared out


def test_rows_of_a_group_never_part_and_rows_without_one_are_groups_of_their_own(
    tmp_path: pathlib.Path,
) -> None:
    frame = numbered(3_000)
    frame.loc[frame["id"] % 3 == 0, "group"] = pd.NA
    group = GroupSplit(by="group", column="group")
    parts, _ = split(frame, tmp_path / "rows", files=3, spec=group)
    sides = pd.concat([rows.assign(side=name) for name, rows in parts.items()])
    known = sides.dropna(subset="group")
    assert (known.groupby("group")["side"].nunique() == 1).all()
    alone = sides[sides["group"].isna()]["side"].value_counts(normalize=True)
    assert alone[list(splits.SPLITS)].to_list() == pytest.approx([0.7, 0.15, 0.15], abs=0.04)
    two = frame.assign(group=frame["id"] % 4)
    _, found = split(two, tmp_path / "few", spec=group)
    assert "do not allow more" in scan.describe_split(found)[-1]


def test_rows_that_share_the_key_stay_together_whatever_else_changes(tmp_path: pathlib.Path) -> None:
    frame = numbered(1_500).assign(customer=lambda rows: rows["id"] // 3)
    by_key = RandomSplit(key=("customer",))
    parts, _ = split(frame, tmp_path / "before", spec=by_key)
    sides = count(parts, "customer")
    changed, _ = split(frame.assign(x=0.0, new=1), tmp_path / "after", files=2, spec=by_key)
    assert count(changed, "customer") == sides
    assert all(number == 3 for counted in sides.values() for number in counted.values())


def test_a_split_by_time_leaves_out_its_gap(tmp_path: pathlib.Path) -> None:
    parts, found = split(
        numbered(2_400), tmp_path / "rows", spec=TimeSplit(by="time", column="day", gap="2d")
    )
    ends = [(rows["day"].min(), rows["day"].max()) for rows in parts.values()]
    for (_, last), (first, _) in itertools.pairwise(ends):
        assert first - last > pd.Timedelta(days=2)
    assert found.gap == 2 * 48
    assert sum(map(len, parts.values())) == 2_400 - found.gap


def test_the_fingerprint_is_of_the_data_and_not_of_where_they_lie(tmp_path: pathlib.Path) -> None:
    frame = numbered(300)
    found = [
        split(frame, tmp_path / name, files=files)[1].fingerprint
        for name, files in (("here", 1), ("there", 3))
    ]
    turned = [str(tmp_path / "there" / f"{number}.parquet") for number in (2, 0, 1)]
    rows = split_rows.scan_rows(DatasetSpec(path=tuple(turned)), ContractSpec(), RandomSplit())
    digests = {one.digest for one in found} | {rows.scan.fingerprint.digest}
    assert len(digests) == 1
    assert len({one.first_digest for one in found}) == 1  # this one is of a source that both call the same
    assert rows.scan.fingerprint.matches(rows.scan.fingerprint.first_digest)


def test_a_class_that_is_too_rare_is_refused_with_the_remedy_before_anything_is_trained(
    tmp_path: pathlib.Path,
) -> None:
    frame = numbered(1_000).assign(label=lambda rows: rows["label"].where(rows["id"] > 0, "once"))
    _, found = split(frame, tmp_path / "rows", target="label")
    with pytest.raises(DataError, match=r"'once' has 1 training, .*dataset.where: .label not in \['once'\]"):
        rare_classes.require(found, "auto")
    rare_classes.require(found, "regression")
    folded = {"label": "where(label in ['once'], 'rare', label)"}  # into one that has enough
    _, again = split(frame, tmp_path / "folded", target="label", derive=folded)
    rare_classes.require(again, "multiclass")
    _, large = split(numbered(12_000), tmp_path / "large", target="label")
    rare_classes.require(large, "auto")
