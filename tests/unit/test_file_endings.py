"""A file's name says how it is read."""

import pathlib

import pytest

from raymlops.errors import SpecError
from raymlops.file_endings import guess_reader
from raymlops.specs.dataset import TableSpec
from raymlops.specs.document import validate_document


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("december.parquet", "parquet"), ("s3://bucket/rows.CSV.gz", "csv"), ("a.b/rows.tsv.zst", "csv"),
        ("rows.jsonl", "json"), ("https://host/rows.pq", "parquet"), ("rows", None),
        ("rows.gz", None), ("rows.xlsx", None), ("s3://bucket/rows.csv?endpoint_override=host:1", "csv"),
        ("zip://rows.csv::https://host/all.zip", "csv"), ("data/*.csv.gz", "csv"),
    ],
)  # fmt: skip
def test_a_reader_is_known_by_the_ending(path: str, reader: str | None) -> None:
    assert guess_reader(path) == reader


def test_a_folder_is_read_as_its_files_are(tmp_path: pathlib.Path) -> None:
    assert guess_reader(str(tmp_path)) is None
    for name in ("part/0.parquet", "part/1.parquet", "_SUCCESS", "_left_out/0.jsonl", ".hidden.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert guess_reader(str(tmp_path)) == "parquet"
    (tmp_path / "2.csv").touch()
    assert guess_reader(str(tmp_path)) is None  # which is meant is not known


@pytest.mark.parametrize(
    ("given", "reader"),
    [
        ({"path": "rows.csv"}, "csv"), ({"path": ["a.jsonl", "b.json"]}, "json"), ({"path": "rows"}, "parquet"),
        ({"path": ["a.csv", "b.json"]}, "parquet"), ({"path": "rows.csv", "reader": "text"}, "text"), ({}, "parquet"),
        ({"path": [1]}, None),
    ],
)  # fmt: skip
def test_a_spec_without_a_reader_takes_that_of_the_ending(
    given: dict[str, object], reader: str | None
) -> None:
    if reader is None:
        with pytest.raises(SpecError, match="path"):
            validate_document(given, TableSpec)
        return
    table = validate_document(given, TableSpec)
    assert table.reader == reader
    assert validate_document(table.model_dump(), TableSpec) == table
