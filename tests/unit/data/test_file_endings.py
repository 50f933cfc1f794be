"""A file's name says how it is read."""

import pathlib

import pytest

from raymlops.data.file_endings import guess_reader


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("december.parquet", "parquet"), ("s3://bucket/rows.CSV.gz", "csv"), ("a.b/rows.tsv.zst", "csv"),
        ("rows.jsonl", "json"), ("https://host/rows.pq", "parquet"), ("rows", None),
        ("rows.gz", None), ("rows.xlsx", None),
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
