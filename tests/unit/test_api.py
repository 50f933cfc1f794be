"""The functions of a notebook take what a notebook holds, and say in a sentence what they do not."""

import datetime
import enum
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

import raymlops
import raymlops.api
from examples import tables
from raymlops.api.arguments import to_yaml
from raymlops.errors import DataError, SpecError
from tests import toy_models

SPEC: dict[str, Any] = {
    "name": "toy",
    "dataset": {"path": pathlib.Path("rows.csv")},
    "features": {"target": {"column": "y"}, "numbers": np.array(["a", "b"])},
}


def test_specs_are_made_of_paths_and_numbers_of_numpy_too() -> None:
    found = raymlops.read_spec(SPEC, {"search.trials": np.int64(3), "training.lr": np.float32(0.5)})
    assert (found.dataset.path, found.features.numbers) == ("rows.csv", ("a", "b"))
    assert (found.search.trials, found.training.lr) == (3, 0.5)
    assert raymlops.read_spec(found, {"search.trials": 4}).search.trials == 4  # a spec is read again


def test_times_of_pandas_and_numpy_are_times_in_a_spec() -> None:
    text = "2013-07-01 12:00:00"
    for value in (pd.Timestamp(text), np.datetime64(text, "ns"), np.datetime64(text, "s")):
        assert yaml.safe_load(to_yaml({"at": value})) == {"at": datetime.datetime(2013, 7, 1, 12)}
    assert yaml.safe_load(to_yaml(np.array([text], "M8[ns]"))) == [datetime.datetime(2013, 7, 1, 12)]


class Own(str):
    pass


class Kind(enum.IntEnum):
    A = 1


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Kind.A, Own("x"), pd.NaT])
def test_what_no_spec_can_hold_is_named(value: object) -> None:
    with pytest.raises(SpecError, match=type(value).__name__):
        raymlops.read_spec({**SPEC, "description": value})


def test_a_model_takes_frames_whatever_their_index_and_nothing_else(tmp_path: pathlib.Path) -> None:
    model = raymlops.load_model(toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx"))
    (column,) = (spec.name for spec in model.signature.inputs)
    frame = pd.DataFrame({column: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]}, index=[7, 7, 9])
    answer = model.predict(frame)
    assert answer.index.tolist() == [7, 7, 9]
    assert [list(row) for row in answer.iloc[:, 0]] == [[2, 4, 6], [8, 10, 12], [14, 16, 18]]
    with pytest.raises(DataError, match="got dict"):
        model.predict({column: [1.0]})  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        raymlops.serch  # noqa: B018


ROWS = pd.DataFrame(
    {
        "distance": [100.0, 200.0, np.nan],
        "carrier": ["UA", "AA", None],
        "departure": pd.to_datetime(["2013-07-01", "2013-07-02", "2013-07-03"]),
    },
    index=["a", "b", "c"],
)
ALIKE: dict[str, Any] = {
    "categories": {"carrier": pd.Categorical(["UA", "AA", None])},
    "strings": {"carrier": pd.array(["UA", "AA", pd.NA], dtype="string")},
    "whole numbers with a missing one": {"distance": pd.array([100, 200, pd.NA], dtype="Int64")},
    "times of a zone": {"departure": ROWS["departure"].dt.tz_localize("Europe/Berlin")},
    "times as text": {"departure": ["2013-07-01 00:00:00", "2013-07-02 00:00:00", "2013-07-03 00:00:00"]},
    "milliseconds": {"departure": [1372636800000] * 3},
    "columns that no table holds": {"other": [object(), 1, "text"]},
}


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> "raymlops.api.LoadedModel":
    model = tables.flights()
    file = toy_models.save(model, tmp_path_factory.mktemp("flights") / "flights.onnx")
    return raymlops.load_model(file)


@pytest.mark.parametrize("columns", ALIKE.values(), ids=ALIKE)
def test_a_model_takes_what_a_frame_holds_in_whatever_type(
    columns: dict[str, Any], flights: "raymlops.api.LoadedModel"
) -> None:
    answer = flights.predict(ROWS.assign(**columns))
    assert answer.index.tolist() == ["a", "b", "c"]
    assert answer["label"].tolist() == ["late", "on_time", "late"]


def test_columns_that_are_missing_doubled_or_mixed_are_named(flights: "raymlops.api.LoadedModel") -> None:
    def refused(rows: pd.DataFrame | pa.Table) -> str:
        with pytest.raises(DataError) as error:
            flights.predict(rows)
        return str(error.value)

    assert "did you mean 'Carrier'" in refused(ROWS.rename(columns={"carrier": "Carrier"}))
    assert "'distance' occurs twice" in refused(ROWS.set_axis(["distance", "distance", "carrier"], axis=1))
    assert "'distance' holds values of several types" in refused(ROWS.assign(distance=[1, "a", None]))
    assert "'distance' holds values of several types" in refused(ROWS.assign(distance=[1, "a", 2**70]))
    assert "'distance'" in refused(ROWS.assign(distance=[10**30] * 3))
    columns = [pa.Table.from_pandas(ROWS)[name] for name in ROWS]
    twice = pa.table([*columns, columns[0], columns[0]], names=[*ROWS, "carrier", "more"])
    assert "'carrier' occurs twice" in refused(twice)
    unread = twice.rename_columns([*ROWS, "more", "more"])
    assert len(flights.predict(unread, keep=["more"]).filter(like="more").columns) == 2
    with pytest.raises(DataError, match="did you mean 'carrier'"):
        flights.predict(ROWS, keep=["carier"])
    for label in (7, "7"):
        numbered = ROWS.assign(**{"7": 1}).rename(columns={"7": 7})
        assert flights.predict(numbered, keep=[label])[7].tolist() == [1] * 3  # type: ignore[list-item]
    kept = flights.predict(ROWS.assign(carrier=ALIKE["categories"]["carrier"]), keep=["carrier"])
    assert isinstance(kept["carrier"].dtype, pd.CategoricalDtype)  # as it was given


def test_serving_specs_of_python_are_checked_as_those_of_files(tmp_path: pathlib.Path) -> None:
    spec = {"name": "toy", "models": {"toy": {"source": pathlib.Path("toy.onnx")}}}
    found = raymlops.read_serving_spec(spec, {"port": np.int64(9000)})
    assert (found.models["toy"].source, found.port) == ("toy.onnx", 9000)
    assert raymlops.read_serving_spec(found) == found
    assert raymlops.read_serving_spec("models:/flights@champion").name == "flights"
    (tmp_path / "spec.yaml").write_text("name: toy\nmodles: {}\n")
    told = []
    for given in ({"name": "toy", "modles": {}}, tmp_path / "spec.yaml"):
        with pytest.raises(SpecError, match="did you mean 'models'") as error:
            raymlops.read_serving_spec(given)
        told.append(str(error.value).partition(": ")[2])
    assert told[0] == told[1]
    with pytest.raises(SpecError, match="got list"):
        raymlops.serve([])  # type: ignore[arg-type]
