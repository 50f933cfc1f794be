"""Captured requests as datasets: each once, joined with the labels that came for them, read by a spec, and asked of
another version."""

import datetime
import pathlib
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from raymlops.captures.labels import LabelColumns
from raymlops.captures.selection import Selection
from raymlops.captures.store import CaptureStore
from raymlops.data.captured import Wanted, joined_labels, read_captured
from raymlops.data.sources import read_dataset
from raymlops.errors import DataError, NotFoundError, SpecError
from raymlops.lifecycle.captures import labelling
from raymlops.lifecycle.captures.replay import replay
from raymlops.models.safety import read_model
from raymlops.observers import Event
from raymlops.serving.endpoints.capture import CaptureObserver
from raymlops.specs.dataset import DatasetSpec
from raymlops.specs.monitoring import Capture
from tests import toy_models

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
NOW = time.time()
ROWS = 3


def event(request_id: str, value: float, rows: int = 1, after: float = 0, **fields: Any) -> Event:
    x = np.full((rows, ROWS), value, np.float32)
    city = np.array(["Wien"] * rows, dtype=object)
    batch = {"x": x, "city": city, "landed": np.full(rows, 1_700_000_000_000)}
    own = Event(
        "m", "1", request_id, batch, {"y": 2 * x}, 1, rows, 200, NOW + after, "", "", "", 1, 1, "", False, ""
    )
    return own._replace(**fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaptureStore:
    """What two replicas captured, in the middle of a change of versions."""
    folder = tmp_path_factory.mktemp("captures")
    first, second = (
        CaptureObserver(Capture(path=str(folder)), Selection(), {}, lambda model: {"landed": "timestamp"})
        for _ in range(2)
    )
    first.observe([event("a", 1), event("b", 2, rows=2), event("same", 3), event("same", 4, after=1)])
    first.observe([event("c", 5, parameters={"episode": 1})])
    second.observe([event("b", 2, rows=2, after=2, version="2"), event("d", 6, parameters={"episode": 1.5})])
    for observer in (first, second):
        observer.close()
    return CaptureStore(str(folder))


def test_a_request_that_was_tried_twice_is_read_once(store: CaptureStore) -> None:
    frame = read_captured(store, "m").to_pandas()
    assert sorted(frame["request_id"]) == ["a", "b", "b", "c", "d", "same", "same"]
    assert set(frame[frame["request_id"] == "b"]["request_version"]) == {"1"}
    assert sorted(frame["parameter_episode"].dropna()) == [1.0, 1.5]
    assert list(frame.set_index("request_id")["predicted_y"]["a"]) == [2.0] * ROWS
    assert read_captured(store, "m", Wanted(version="2")).count() == 2
    with pytest.raises(DataError, match="since 2999-01-01"):
        read_captured(store, "m", Wanted(since="2999-01-01"))
    with pytest.raises(NotFoundError, match="'mm'; did you mean 'm'"):
        read_captured(store, "mm")


def test_late_corrected_partial_and_unknown_labels_join_and_a_spec_reads_them(
    store: CaptureStore, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "labels.csv"
    pyarrow.csv.write_csv(pa.table({"id": ["a", "b", "007"], "late": [0, 0, 1]}), file)
    found = labelling.label_file(store, "m", str(file), LabelColumns())
    assert (found.stored.labels, found.unknown, found.columns.label) == (3, 1, "late")
    assert "1 of them are of requests that are not captured" in found.describe("m")[-1]
    assert found.stored.ids.to_pylist() == ["a", "b", "007"]
    assert not labelling.label_file(store, "m", str(file), LabelColumns()).stored.is_new
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    corrected = pa.table({"id": ["a", "b"], "row": [0, 1], "label": [1.0, None], "time": [later, None]})
    columns = LabelColumns(id="id", row="row", time="time")
    assert labelling.store_table(store, "m", corrected, columns).stored.missing == 1
    key = pa.table({"parameter_episode": [1], "label": [1]})
    labelling.store_table(store, "m", key, LabelColumns(key=("parameter_episode",)))
    frame = joined_labels(store, "m", label="late").to_pandas().set_index("request_id")
    assert frame["late"].to_dict() == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert frame["label_delay"]["a"] == pytest.approx(2 * 86400, abs=600)
    spec = DatasetSpec(
        reader="captured",
        path=f"{store.root}/m",
        options={"label": "late", "labels": "optional"},
        where="request_row == 0",
        derive={"hour": "hour(landed)"},
    )
    read = read_dataset(spec).to_pandas()
    assert len(read) == 6
    assert read["late"].notna().sum() == 3
    assert set(read["hour"].round(1)) == {22.2}
    assert set(read["city"]) == {"Wien"}
    for options, told in (({"labl": "x"}, "did you mean 'label'"), ({"labels": "all"}, "required")):
        with pytest.raises(SpecError, match=told):
            read_dataset(spec.model_copy(update={"options": options}))
    with pytest.raises(DataError, match="column 'city' already; give the labels another name"):
        read_dataset(spec.model_copy(update={"options": {"label": "city"}}))


def test_another_version_answers_what_was_captured(store: CaptureStore, tmp_path: pathlib.Path) -> None:
    other = read_model(toy_models.save(toy_models.doubler(factor=3.0), tmp_path / "tripler.onnx"))
    found = replay(store, "m", other, output=str(tmp_path / "scores"))
    (output,) = found.outputs
    assert (found.rows, output.output, output.rows, output.changed) == (7, "y", 7, 7)
    assert (output.mean, output.largest) == (pytest.approx(23 / 7), 6.0)
    scored = pa.parquet.read_table(tmp_path / "scores").to_pydict()
    assert [[1.5 * value for value in row] for row in scored["captured__y"]] == scored["y"]
    unlike = read_model(toy_models.save(toy_models.adder(), tmp_path / "adder.onnx"))
    with pytest.raises(DataError, match="lack 'INPUT0', 'INPUT1'"):
        replay(store, "m", unlike)
