"""What in a spec runs code or reads more than data files when it is used: own readers and networks, reader options,
databases. It lists what is harmless, so that anything new counts; runs nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from raymlops.specs.dataset import CAPTURED, TableSpec
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension

OUR_READERS = frozenset({"raymlops.data.samples:read_digits"})

_FILE_READERS = frozenset(
    ("audio", "avro", "binary_files", "csv", "images", "json", "numpy", "parquet", "text", "tfrecords", "videos",
     "webdataset")
)  # fmt: skip
"""Readers that only read files. Others import what their options name, or log in to a service."""

_OPTIONS = frozenset(
    ("columns", "concurrency", "convert_options", "drop_empty_lines", "encoding", "file_extensions",
     "ignore_missing_paths", "include_paths", "include_row_hash", "include_timestamps", "lines", "mode",
     "override_num_blocks", "parse_options", "partitioning", "read_options", "shuffle", "size", "suffixes")
)  # fmt: skip
"""Options that say how files are read. Of the others, ray_remote_args starts arbitrary processes, allow_pickle and
allow_unsafe run pickles, filesystem and catalog options import modules."""

_PARTITIONING = frozenset({"style", "base_dir", "field_names", "field_types"})

DATA_PROTOCOLS = frozenset(
    ("", "abfs", "abfss", "az", "bz2", "file", "gcs", "gs", "gzip", "hdfs", "http", "https", "local", "memory",
     "package", "s3", "tar", "viewfs", "zip")
)  # fmt: skip
"""Some of fsspec's filesystems render templates or unpickle what they read."""


def find_code(spec: ExperimentSpec, *, training: bool = True) -> tuple[str, ...]:
    """`place: what` for each thing that is more than data; what is trained counts only if it will be."""
    found = list(_in_table("dataset", spec.dataset))
    for place, join in enumerate(spec.dataset.joins):
        found += _in_table(f"dataset.joins.{place}.table", join.table)
    if training:
        found += [f"{place}: {_show(name)}" for place, name in find_own_names(spec).items()]
    return tuple(found)


def find_own_names(spec: ExperimentSpec) -> dict[str, str]:
    """Place -> `module:attribute` of the user's own that a training imports: learners, networks, and the options of
    learners that name functions."""
    named = spec.search.learners
    found: dict[str, Any] = {"training.learner": spec.training.learner, "network.name": spec.network.name}
    found |= {f"search.learners.{name}": name for name in named or () if named != "auto"}
    options = {f"training.options.{key}": value for key, value in spec.training.options.items()}
    options |= {f"search.space.{key}": value for key, value in spec.search.varied.items()}
    for learner, space in named.items() if isinstance(named, Mapping) else ():
        options |= {f"search.learners.{learner}.{key}": value for key, value in space.items()}
    for place, value in options.items():
        choices = value.choices or () if isinstance(value, Dimension) else (value,)
        found |= {f"{place}{f'.{at}' if at else ''}": choice for at, choice in enumerate(choices)}
    return {place: name for place, name in found.items() if isinstance(name, str) and ":" in name}


def _in_table(where: str, table: TableSpec) -> Iterator[str]:
    name = table.reader.removeprefix("read_")
    if table.reader in OUR_READERS:
        if table.options:
            yield f"{where}.options: {_show(table.options)}"
        return
    if name not in (*_FILE_READERS, CAPTURED):
        yield f"{where}.reader: {table.reader}"
    for key, value in table.options.items():
        plain = (key in _OPTIONS or name == CAPTURED) and not (
            key == "partitioning" and isinstance(value, dict) and not value.keys() <= _PARTITIONING
        )
        if not plain:
            yield f"{where}.options.{key}: {_show(value)}"
    paths = (table.path,) if isinstance(table.path, str) else table.path or ()
    for path in paths:
        for protocol in protocols_of(path):
            if protocol not in DATA_PROTOCOLS:
                yield f"{where}.path: {_show(path)} is opened by {protocol!r}"


def protocols_of(path: str) -> list[str]:
    """The protocols of a path, outermost first; empty for a plain path. `zip://a.csv::s3://b/c.zip` has zip and s3."""
    parts = path.split("::")
    if len(parts) == 1 and "://" not in path:
        return [""]
    return [
        part.partition("://")[0].lower() if "://" in part or i < len(parts) - 1 else ""
        for i, part in enumerate(parts)
    ]


def _show(value: Any) -> str:
    """As written, on one line, with nothing hidden: a person who trusts it must see what it is."""
    text = value if isinstance(value, str) and value.isascii() and value.isprintable() else ascii(value)
    return text if len(text) <= 500 else f"{text[:240]} ... {text[-240:]} ({len(text):,} characters)"
