"""Joins the columns of another table: small tables are broadcast to the rows, large ones are joined by a shuffle."""

from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from raymlops.errors import DataError, unknown_name
from raymlops.specs.dataset import JoinSpec

_PARTITION_BYTES = 128 * 2**20


def join_table(dataset: ray.data.Dataset, other: ray.data.Dataset, spec: JoinSpec) -> ray.data.Dataset:
    """Dataset with the columns of `other`; each row may match at most one row of `other`.

    Raises DataError if a key column is missing, or a key matches several rows of `other`.
    """
    other = other.materialize()
    names = other.columns() or []
    for key in spec.keys:
        if key not in names:
            raise DataError(f"joins.keys: {unknown_name('column of the joined table', key, names)}")
    columns = (
        [name for name in names if name not in spec.keys] if spec.columns is None else list(spec.columns)
    )
    for column in columns:
        if column not in names:
            raise DataError(f"joins.columns: {unknown_name('column of the joined table', column, names)}")
    renamed = {column: f"{spec.prefix}{column}" for column in columns}
    if other.size_bytes() > spec.broadcast_bytes:
        partitions = _partitions_for(other)
        _refuse_doubled(other, spec.keys)
        other = other.select_columns([*spec.keys, *columns])
        if spec.prefix and columns:
            other = other.rename_columns(renamed)
        how = "left_outer" if spec.how == "left" else "inner"
        return dataset.join(other, join_type=how, num_partitions=partitions, on=spec.keys)
    wanted = [*spec.keys, *columns]
    blocks = [block.select(wanted) for block in ray.get(other.to_arrow_refs()) if block.num_columns]
    table = pa.concat_tables(blocks, promote_options="permissive").rename_columns(
        [*spec.keys, *renamed.values()]
    )
    for key in spec.keys:  # missing keys match nothing, and several rows may have them
        table = table.filter(pc.invert(pc.is_null(table[key], nan_is_null=True)))
    keys = _key_index(table, spec.keys)
    if not keys.is_unique:
        _raise_doubled(spec.keys, keys[keys.duplicated()][0])
    return dataset.map_batches(
        _look_up,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"right": ray.put(table), "on": spec.keys, "inner": spec.how == "inner"},
    )


def _refuse_doubled(other: ray.data.Dataset, keys: tuple[str, ...]) -> None:
    """Counts the rows of each key in a shuffle of the keys alone: a second match would silently duplicate a row."""
    counted = other.select_columns(list(keys)).groupby(list(keys)).count()
    doubled = counted.map_batches(_keep_doubled, fn_kwargs={"keys": keys}, batch_format="pyarrow").take(1)
    if doubled:
        values = tuple(doubled[0][key] for key in keys)
        _raise_doubled(keys, values if len(keys) > 1 else values[0])


def _keep_doubled(counted: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    doubled = pc.greater(counted["count()"], 1)
    for key in keys:  # missing keys match nothing, and several rows may have them
        doubled = pc.and_(doubled, pc.invert(pc.is_null(counted[key], nan_is_null=True)))
    return counted.filter(doubled)


def _raise_doubled(keys: tuple[str, ...], values: object) -> NoReturn:
    raise DataError(f"joins: {keys} = {values} names several rows of the joined table; expected one at most")


def _partitions_for(other: ray.data.Dataset) -> int:
    """At least one partition per CPU, and small ones."""
    return int(max(2, ray.cluster_resources().get("CPU", 2), other.size_bytes() // _PARTITION_BYTES))


def _look_up(left: pa.Table, right: "ray.ObjectRef[pa.Table]", on: tuple[str, ...], inner: bool) -> pa.Table:
    if left.num_columns == 0:
        return left
    for key in on:
        if key not in left.column_names:
            raise DataError(f"joins.keys: {unknown_name('column', key, left.column_names)}")
    table = ray.get(right)
    for key in on:
        here, there = left[key].type, table[key].type
        if len({_family(here), _family(there)} - {""}) > 1:
            raise DataError(f"joins.keys: {key!r} is {here} here and {there} in the joined table")
    index = _key_index(table, on)
    left_index = _key_index(left, on)
    position = index.get_indexer(left_index)
    found = position >= 0
    if inner:
        left, position, found = left.filter(pa.array(found)), position[found], found[found]
    take = pa.array(np.where(found, position, 0), mask=~found)
    for name in table.column_names:
        if name in on:
            continue
        if name in left.column_names:
            raise DataError(
                f"joins: column {name!r} is in both tables; give the join a prefix, or list its columns"
            )
        left = left.append_column(name, table[name].take(take))
    return left


def _family(kind: pa.DataType) -> str:
    """Types of one family can be compared; a column of nulls matches any."""
    if pa.types.is_null(kind):
        return ""
    if pa.types.is_timestamp(kind):
        return "instant" if kind.tz else "local time"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return "string"
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return "number" if number else str(kind)


def _key_index(table: pa.Table, on: tuple[str, ...]) -> pd.Index:
    frame = table.select(list(on)).to_pandas()
    return pd.Index(frame[on[0]]) if len(on) == 1 else pd.MultiIndex.from_frame(frame)
