"""Tables compared with others through a model: quality with and without labels, causes, images."""

import pathlib

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from onnx import TensorProto, helper

from raymlops.errors import SpecError
from raymlops.lifecycle.govern.drift import Drift, find_drift
from raymlops.settings import Settings
from raymlops.specs.dataset import DatasetSpec
from raymlops.tensor_columns import nest
from tests import small_models

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    columns, labels = small_models.draw_flights(6000, seed=1)
    path = tmp_path_factory.mktemp("flights") / "flights.onnx"
    path.write_bytes(small_models.build_model(small_models.fit(columns, labels)))
    return str(path)


def test_quality_is_estimated_and_measured_and_the_column_that_moved_the_score_is_named(
    model: str, settings: Settings
) -> None:
    usual = small_models.to_table(*small_models.draw_flights(6000, seed=2))
    columns, labels = small_models.draw_flights(5000, seed=3)
    same = find_drift(model, small_models.to_table(columns, labels), settings, against=usual)
    assert not same.differs
    assert same.score is None
    (found,) = same.answers.values()
    assert {one.kind for one in (*found.estimates, *found.measured)} == {"estimate", "measured"}
    estimated, measured = found.estimates[0], found.measured[0]
    assert estimated.metric == measured.metric == "roc_auc"
    assert abs(estimated.value - measured.value) < 0.03
    assert estimated.low < measured.value < estimated.high
    later = {**columns, "hour": np.minimum(columns["hour"] + 5, 23).astype(np.float32)}
    unlabelled = small_models.to_table(later, labels).drop_columns(["late"])
    moved = find_drift(model, unlabelled, settings, against=usual)
    assert moved.score is not None
    assert moved.score.shares[0][0] == "hour"
    assert 0.7 < moved.score.shares[0][1] < 1.3
    assert "explains" in "\n".join(moved.describe())
    assert not any(one.measured for one in moved.answers.values())
    turned = find_drift(model, small_models.to_table(columns, 1 - labels), settings, against=usual)
    assert turned.differs
    assert not turned.periods[0][1].differs  # of the columns
    assert turned.labels_differ(0)
    assert "given the score" in "\n".join(turned.describe())


@pytest.mark.parametrize("layout", ["rows, height, width", "channels first", "channels last"])
def test_images_that_are_blurred_inverted_or_cropped_differ(
    layout: str, tmp_path: pathlib.Path, settings: Settings
) -> None:
    from sklearn.datasets import load_digits

    pixels = load_digits().images.astype(np.float32)
    random = np.random.default_rng(0)
    pixels = pixels[random.permutation(len(pixels))]

    def compare(images: npt.NDArray[np.float32]) -> Drift:
        shaped = {"channels first": images[:, None], "channels last": images[..., None]}.get(layout, images)
        return find_drift(path, pa.table({"image": nest(shaped)}), settings, against=usual)

    shape = {"channels first": [1, 8, 8], "channels last": [8, 8, 1]}.get(layout, [8, 8])
    path = str(tmp_path / "image.onnx")
    onnx.save(make_image_model(shape), path)
    usual = pa.table({"image": nest(pixels[:900].reshape(900, *shape))})
    rest = pixels[900:]
    assert not compare(rest).differs
    around = np.pad(rest, ((0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = sum(around[:, a : a + 8, b : b + 8] for a in range(3) for b in range(3)) / 9
    cropped = rest[:, 1:7, 1:7].repeat(2, axis=1).repeat(2, axis=2)[:, 2:10, 2:10]
    changes = {"blurred": blurred, "inverted": 16 - rest, "cropped": cropped}
    for name, images in changes.items():
        found = compare(images.astype(np.float32))
        assert found.differs, name
        assert found.periods[0][1].findings[0].column.name.startswith("image: "), name


def make_image_model(shape: list[int]) -> onnx.ModelProto:
    axes = list(range(1, len(shape) + 1))
    node = helper.make_node("ReduceMean", ["image"], ["ink"], axes=axes, keepdims=0)
    graph = helper.make_graph(
        [node],
        "ink",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", *shape])],
        [helper.make_tensor_value_info("ink", TensorProto.FLOAT, ["rows"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_two_tables_are_compared_before_anything_is_trained(
    tmp_path: pathlib.Path, settings: Settings
) -> None:
    columns, labels = small_models.draw_flights(4000, seed=2)
    usual = small_models.to_table(columns, labels)
    days = np.datetime64("2024-05-01", "s") + np.arange(4000) * np.timedelta64(600, "s")
    usual = usual.append_column("when", pa.array(days)).append_column("month", pa.array([5.0] * 4000))
    pacsv.write_csv(usual, tmp_path / "may.csv")
    later, labels = small_models.draw_flights(4000, seed=3)
    other = small_models.to_table(later, labels)
    other = other.append_column("when", pa.array(days + np.timedelta64(31, "D")))
    other = other.append_column("month", pa.array([6.0] * 4000))
    pacsv.write_csv(other, tmp_path / "june.csv")
    broken = (
        other.append_column("gate", other["hour"])
        .drop_columns(["distance"])
        .set_column(0, "hour", pa.array(["?"] * 40 + ["9"] * 3960))
    )

    def read(name: str) -> DatasetSpec:
        return DatasetSpec(path=str(tmp_path / name), reader="csv")

    same = find_drift(None, read("june.csv"), settings, against=read("may.csv"))
    assert [one.describe() for one in same.periods[0][1].findings] == []
    assert set(same.reference.left_out) == {"when", "month"}
    assert {column.name for column in same.reference.columns} >= {
        "hour",
        "distance",
        "wind",
        "carrier",
        "late",
    }
    found = find_drift(None, broken, settings, against=read("may.csv"))
    told = "\n".join(found.describe())
    assert "distance: 100% of rows are missing" in told
    assert "hour: " in told
    assert "new, and compared with nothing: gate" in told
    with pytest.raises(SpecError, match="--against"):
        find_drift(None, broken, settings)
