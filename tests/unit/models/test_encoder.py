import dataclasses
import datetime

import hypothesis.strategies as st
import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given

from raymlops.errors import DataError
from raymlops.features import (
    MISSING_INSTANT,
    TREE_TENSORS,
    FittedColumn,
    FittedFeatures,
    Packing,
    column_to_tensor,
    packing_of,
    table_to_batch,
)
from raymlops.models import encoder
from raymlops.models.session import Session, open_session
from raymlops.tensors import Batch
from tests import feature_tables

FEATURES = feature_tables.features_of()


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(encoder.build_encoder(FEATURES).SerializeToString())


@pytest.fixture(scope="module")
def tree_session() -> Session:
    return open_session(encoder.build_encoder(FEATURES, TREE_TENSORS).SerializeToString())


def encode(session: Session, table: pa.Table, features: FittedFeatures = FEATURES) -> Batch:
    return encoder.run_encoder(session, table_to_batch(table, features))


@given(rows=st.integers(1, 200), seed=st.integers(0, 10_000))
def test_the_graph_encodes_as_pandas_does(session: Session, rows: int, seed: int) -> None:
    table = feature_tables.random_table(rows, seed)
    found, expected = encode(session, table), feature_tables.packed_by_pandas(table, FEATURES)
    np.testing.assert_array_equal(found["category"], expected["category"])
    np.testing.assert_allclose(found["numeric"], expected["numeric"], rtol=1e-5, atol=2e-6)


@given(rows=st.integers(0, 200), seed=st.integers(0, 10_000))
def test_trees_read_numbers_and_parts_of_times_as_they_are_and_missing_ones_as_nan(
    tree_session: Session, rows: int, seed: int
) -> None:
    table = feature_tables.random_table(rows, seed)
    found = encode(tree_session, table)
    assert found.keys() == {"plain", "category"}
    assert found["plain"].shape == (rows, packing_of(FEATURES).plain)
    expected = feature_tables.plain_by_pandas(table, FEATURES)
    np.testing.assert_allclose(found["plain"], expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(
        found["category"], feature_tables.packed_by_pandas(table, FEATURES)["category"]
    )


def test_what_a_model_does_not_take_is_not_computed() -> None:
    def operators(*tensors: str) -> int:
        return len(encoder.build_encoder(FEATURES, tensors).graph.node)

    assert operators("category") + operators("plain") == operators("category", "plain")
    assert operators("plain") < operators("numeric") < operators("numeric", "plain")
    assert packing_of(FEATURES).only(("plain",)) == Packing(plain=packing_of(FEATURES).plain)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 1000])
def test_a_batch_may_have_any_number_of_rows(session: Session, rows: int) -> None:
    found = encode(session, feature_tables.random_table(rows))
    packing = packing_of(FEATURES)
    assert found["numeric"].shape == (rows, packing.numeric)
    assert found["category"].shape == (rows, len(packing.categories))


def one_column(column: FittedColumn) -> tuple[Session, FittedFeatures]:
    features = feature_tables.features_of(columns=(column,))
    return open_session(encoder.build_encoder(features).SerializeToString()), features


DATES = st.datetimes(datetime.datetime(1600, 1, 1), datetime.datetime(2300, 1, 1))
CALENDAR = FittedColumn("day", "timestamp", "timestamp", parts=feature_tables.PARTS, std=1e12)
CALENDAR_SESSION = one_column(CALENDAR)


@given(st.lists(DATES, min_size=1, max_size=50))
def test_the_calendar_is_that_of_pandas(dates: list[datetime.datetime]) -> None:
    session, features = CALENDAR_SESSION
    table = pa.table({"day": pa.array(dates, type=pa.timestamp("ms", tz="UTC"))})
    found = encode(session, table, features)["numeric"]
    expected = feature_tables.packed_by_pandas(
        pa.table({"day": pa.array(dates, type=pa.timestamp("ms"))}), features
    )["numeric"]
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_every_day_of_leap_years_and_of_a_century_is_right() -> None:
    session, features = CALENDAR_SESSION
    days = np.concatenate(
        [
            np.arange(f"{year}-01-01", f"{year + 1}-01-01", dtype="datetime64[D]")
            for year in (1600, 1900, 1904, 1969, 1970, 2000, 2023, 2024, 2100)
        ]
    )
    table = pa.table({"day": pa.array(days.astype("datetime64[ms]"))})
    np.testing.assert_allclose(
        encode(session, table, features)["numeric"],
        feature_tables.packed_by_pandas(table, features)["numeric"],
        atol=3e-6,
    )


def test_a_column_may_bear_any_name() -> None:
    names = ("numeric", "category", "image", "label", "constant_1", "fill_1", "network/body", "a b", "é")
    columns = tuple(dataclasses.replace(FEATURES.columns[0], name=name) for name in names)
    columns += (dataclasses.replace(FEATURES.columns[5], name="axis_1"),)
    features = feature_tables.features_of(columns=columns)
    session = open_session(encoder.build_encoder(features).SerializeToString())
    table = pa.table({**{name: [1.25, None] for name in names}, "axis_1": ["a", "?"]})
    found = encode(session, table, features)
    assert found["category"].tolist() == [[2], [0]]
    np.testing.assert_allclose(found["numeric"][:, 0], [0.5, 0.125])


def test_images_become_channels_first_and_scaled() -> None:
    for shape in ((4, 5), (4, 5, 3)):
        column = FittedColumn("image", "image", "image", nullable=False, shape=shape, scale=255.0)
        session, features = one_column(column)
        pixels = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
        table = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)})
        found = encode(session, table, features)["image"]
        expected = pixels[:, None] if len(shape) == 2 else pixels.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, expected.astype(np.float32) / 255, rtol=1e-6)
        assert found.shape[1:] == packing_of(features).image


def test_images_of_another_shape_are_refused() -> None:
    column = FittedColumn("image", "image", "image", nullable=False, shape=(2, 2))
    table = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 3, 3)))})
    with pytest.raises(DataError, match=r"its images are \(3, 3\), and those of training \(2, 2\)"):
        column_to_tensor(table, column)


def test_the_graph_stands_at_the_one_opset_and_ir() -> None:
    model = encoder.build_encoder(FEATURES)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "ai.onnx.ml": 2}


def test_fitted_features_survive_json() -> None:
    assert FittedFeatures.from_json(FEATURES.to_json()) == FEATURES


def test_missing_timestamps_are_nat_and_strings_become_instants() -> None:
    column = FittedColumn("t", "timestamp", "timestamp", parts=("hour",))
    day = datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC)
    for values in (pa.array([day, None]), pa.array(["2020-02-29T00:00:00Z", None])):
        found = column_to_tensor(pa.table({"t": values}), column)
        assert found.tolist() == [round(day.timestamp() * 1000), MISSING_INSTANT]


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        (
            pa.array(["x"]),
            FittedColumn("a", "number", "number"),
            "Column 'a' is string; the model takes a: FP32",
        ),
        (pa.array([1, None]), FittedColumn("a", "number", "integer", nullable=False), "1 nulls"),
        (pa.array(["x"]), FittedColumn("b", "number", "number"), "Unknown column 'b'"),
        (pa.array([["x"]]), FittedColumn("a", "category", "string"), "Column 'a' is list"),
    ],
)
def test_a_column_that_does_not_fit_is_named(values: pa.Array, column: FittedColumn, message: str) -> None:
    with pytest.raises(DataError, match=message):
        column_to_tensor(pa.table({"a": values}), column)
