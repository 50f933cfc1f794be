import gzip
import pathlib
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from raymlops.data import sources
from raymlops.errors import DataError, NotFoundError, SpecError
from raymlops.specs.dataset import DatasetSpec
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")

TABLE = experiments.signal_table(50)


def read(**spec: Any) -> pa.Table:
    found = DatasetSpec.model_validate(spec)
    with sources.reading(found):
        return pa.Table.from_pandas(sources.read_dataset(found).to_pandas(), preserve_index=False)


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_every_tabular_reader_gives_the_same_rows(ending: str, tmp_path: pathlib.Path) -> None:
    path = experiments.write_table(TABLE, tmp_path / f"rows.{ending}")
    found = read(reader=ending, path=str(path))
    assert sorted(found.column_names) == sorted(TABLE.column_names)
    assert found["id"].to_pylist() == TABLE["id"].to_pylist()
    assert found["word"].null_count == TABLE["word"].null_count
    np.testing.assert_allclose(found["z"].to_numpy(), TABLE["z"].to_numpy())


def test_folders_lists_compressed_files_and_archives_are_read(tmp_path: pathlib.Path) -> None:
    first = experiments.write_table(TABLE.slice(0, 20), tmp_path / "a.parquet")
    experiments.write_table(TABLE.slice(20), tmp_path / "b.parquet")
    assert read(path=str(tmp_path)).num_rows == 50
    assert read(path=[str(first), str(tmp_path / "b.parquet")]).num_rows == 50
    assert read(path=f"file://{first}").num_rows == 20
    text = experiments.write_table(TABLE, tmp_path / "rows.csv")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(text.read_bytes()))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.write(text, "inner.csv")
    assert read(reader="csv", path=str(tmp_path / "rows.csv.gz")).num_rows == 50
    assert read(reader="csv", path=f"zip://inner.csv::{tmp_path / 'rows.zip'}").num_rows == 50


def test_options_reach_the_reader(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n1;x\n2;NA\n")
    options = {"parse_options": {"delimiter": ";"}, "convert_options": {"column_types": {"a": "string"}}}
    found = read(reader="csv", path=str(path), options=options)
    assert found.to_pydict() == {"a": ["1", "2"], "b": ["x", None]}
    with pytest.raises(SpecError, match="does not take these options"):
        read(reader="csv", path=str(path), options={"delimitr": ";"})
    with pytest.raises(SpecError, match=r"dataset\.options\.parse_options"):
        read(reader="csv", path=str(path), options={"parse_options": {"delimitr": ";"}})
    with pytest.raises(SpecError, match=r"column_types\.a: Unknown type 'strng'; did you mean 'string'"):
        read(reader="csv", path=str(path), options={"convert_options": {"column_types": {"a": "strng"}}})


def test_an_own_function_is_a_reader(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="Cannot import"):
        read(reader="no.such.module:rows")
    with pytest.raises(SpecError, match="did you mean 'read_digits'"):
        read(reader="raymlops.data.samples:read_digts")


def test_where_and_derive_run_in_order_and_see_joined_columns(tmp_path: pathlib.Path) -> None:
    path = experiments.write_table(TABLE, tmp_path / "rows.parquet")
    found = read(path=str(path), where="id < 10", derive={"double": "z * 2", "four": "double * 2"})
    assert found["id"].to_pylist() == list(range(10))
    np.testing.assert_allclose(found["four"].to_numpy(), 4 * TABLE["z"].to_numpy()[:10])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"where": "idd < 3"}, r"dataset\.where: Unknown column 'idd'; did you mean 'id'"),
        ({"derive": {"a": "zz + 1"}}, r"dataset\.derive\.a: Unknown column 'zz'; did you mean 'z'"),
        ({"where": "id <"}, "is not an expression"),
        ({"derive": {"a": "word + 1"}}, r"dataset\.derive\.a: 'word \+ 1' failed"),
    ],
)
def test_an_expression_that_cannot_be_evaluated_is_named(
    parts: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    path = experiments.write_table(TABLE, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        read(path=str(path), **parts)


def test_a_limit_takes_the_first_rows(tmp_path: pathlib.Path) -> None:
    path = experiments.write_table(TABLE, tmp_path / "rows.parquet")
    assert read(path=str(path), limit=7)["id"].to_pylist() == list(range(7))


def test_what_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    for path in (str(tmp_path / "none.parquet"), f"file://{tmp_path}/none.parquet"):
        with pytest.raises(NotFoundError, match="No file or folder"):
            read(path=path)
    with pytest.raises(NotFoundError, match=r"No package 'nosuchpackage'.*pip install nosuchpackage"):
        read(path="package://nosuchpackage/rows.csv")


def test_files_that_are_no_tables_are_named_with_the_reason(tmp_path: pathlib.Path) -> None:
    whole = experiments.write_table(TABLE, tmp_path / "whole.parquet").read_bytes()
    cases = {
        "parquet": (whole[: len(whole) // 2], "Cannot read"),
        "csv": (b"a,b\n1,2\n3,4,5\n", "Expected 2 columns, got 3"),
        "json": (b'{"a": 1}\n{"a": \n', "Cannot read"),
    }
    for reader, (content, message) in cases.items():
        path = tmp_path / f"broken.{reader}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read(reader=reader, path=str(path))
        assert f"broken.{reader}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_empty_file_is_told_before_any_task(tmp_path: pathlib.Path) -> None:
    for reader in ("parquet", "csv", "json"):
        (tmp_path / f"empty.{reader}").touch()
        with pytest.raises(DataError, match="is empty; expected a table"):
            read(reader=reader, path=str(tmp_path / f"empty.{reader}"))
