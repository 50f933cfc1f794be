import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from raymlops.data import sources
from raymlops.errors import DataError
from raymlops.specs.dataset import DatasetSpec

pytestmark = pytest.mark.usefixtures("ray_cluster")

LEFT = pa.table({"row": [0, 1, 2, 3, 4], "key": ["a", "b", None, "c", "a"], "hour": [1, 1, 2, 2, None]})


def join(
    right: pa.Table, folder: pathlib.Path, left: pa.Table = LEFT, **options: Any
) -> dict[str, list[Any]]:
    pyarrow.parquet.write_table(left, folder / "left.parquet")
    pyarrow.parquet.write_table(right, folder / "right.parquet")
    given = {"table": {"path": str(folder / "right.parquet")}, "keys": ["key"], **options}
    spec = DatasetSpec.model_validate({"path": str(folder / "left.parquet"), "joins": [given]})
    with sources.reading(spec):
        blocks = list(sources.read_dataset(spec).iter_batches(batch_format="pyarrow"))
    return pa.concat_tables(blocks).sort_by("row").to_pydict()


RIGHT = pa.table({"key": ["a", "b", "z"], "size": [10, 20, 30]})
EVERY_WAY = pytest.mark.parametrize(
    "broadcast_bytes",
    [
        2**20,
        0,
    ],
    ids=["copied", "shuffled"],
)


@EVERY_WAY
def test_a_left_join_keeps_every_row(broadcast_bytes: int, tmp_path: pathlib.Path) -> None:
    found = join(RIGHT, tmp_path, broadcast_bytes=broadcast_bytes)
    assert found["row"] == [0, 1, 2, 3, 4]
    assert found["size"] == [10, 20, None, None, 10]


@EVERY_WAY
def test_an_inner_join_keeps_rows_with_a_partner(broadcast_bytes: int, tmp_path: pathlib.Path) -> None:
    found = join(RIGHT, tmp_path, how="inner", broadcast_bytes=broadcast_bytes)
    assert found["row"] == [0, 1, 4]


@EVERY_WAY
def test_a_missing_key_has_no_partner(broadcast_bytes: int, tmp_path: pathlib.Path) -> None:
    right = pa.table({"key": ["a", None, None], "size": [10, 98, 99]})
    found = join(right, tmp_path, broadcast_bytes=broadcast_bytes)
    assert found["size"] == [10, None, None, None, 10]


def test_several_keys_join_together_and_columns_may_be_chosen_and_renamed(tmp_path: pathlib.Path) -> None:
    right = pa.table({"key": ["a", "a", "b"], "hour": [1, 2, 1], "size": [1, 2, 3], "other": [7, 8, 9]})
    found = join(right, tmp_path, keys=["key", "hour"], columns=["size"], prefix="box_")
    assert found["box_size"] == [1, 3, None, None, None]
    assert "other" not in found
    assert "box_other" not in found


def test_whole_numbers_join_numbers_with_missing_ones(tmp_path: pathlib.Path) -> None:
    right = pa.table({"hour": pa.array([1, 2], type=pa.int32()), "size": [10, 20]})
    assert join(right, tmp_path, keys=["hour"])["size"] == [10, 10, 20, 20, None]


def test_timestamps_join_whatever_their_unit(tmp_path: pathlib.Path) -> None:
    times = pa.array([0, 3600, 7200], type=pa.timestamp("s", tz="UTC"))
    left = pa.table({"row": [0, 1, 2], "key": times.cast(pa.timestamp("ns", tz="UTC"))})
    assert join(pa.table({"key": times.slice(1), "size": [1, 2]}), tmp_path, left=left)["size"] == [
        None,
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("right", "options", "message"),
    [
        (RIGHT, {"keys": ["kee"]}, "Unknown column of the joined table 'kee'; did you mean 'key'"),
        (RIGHT, {"columns": ["sizes"]}, "did you mean 'size'"),
        (pa.table({"key": ["a", "a"], "size": [1, 2]}), {}, "= a names several rows of the joined table"),
        (
            pa.table({"key": ["b", "a", "b"], "size": [1, 2, 3]}),
            {"broadcast_bytes": 0},
            "= b names several rows",
        ),
        (pa.table({"key": [1, 2], "size": [1, 2]}), {}, "'key' is string here and int64 in the joined table"),
        (
            pa.table({"key": ["a"], "hour": [3]}),
            {},
            "column 'hour' is in both tables; give the join a prefix",
        ),
        (pa.table({"other": ["a"], "size": [3]}), {"keys": ["other"]}, "Unknown column 'other'"),
    ],
)
def test_a_join_that_cannot_be_is_explained(
    right: pa.Table, options: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(DataError, match=message):
        join(right, tmp_path, **options)
