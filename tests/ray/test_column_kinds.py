"""Columns of texts, images and many values, from a table to the answers of a registered version."""

import io
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from raymlops.lifecycle.govern import lineage
from raymlops.lifecycle.train.develop import develop_model
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry
from tests.column_encoders import make_image_encoder

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROWS = 900
WORDS = ["red", "green", "old", "new", "house", "car", "tree", "river", "north", "south"]


def write_rows(folder: pathlib.Path) -> None:
    """What is said, who says it and what is shown all tell of the class."""
    draw = np.random.default_rng(0)
    classes = draw.integers(0, 3, ROWS)
    texts: list[str | None] = []
    photos, users = [], []
    for label in classes:
        said = ["very good", "so so", "very bad"][label if draw.random() < 0.7 else draw.integers(0, 3)]
        texts.append(f"{' '.join(draw.choice(WORDS, 6))} {said}. {draw.choice(WORDS)}")
        pixels = draw.integers(0, 60, (10, 10), dtype=np.uint8)
        pixels[:, label * 3 : label * 3 + 3] += 100
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        photos.append(file.getvalue())
        users.append(f"u{3 * draw.integers(0, 60) + (label if draw.random() < 0.8 else draw.integers(0, 3))}")
    texts[3] = None
    table = pa.table({
        "text": texts, "photo": pa.array(photos, pa.binary()), "user": users, "x": draw.normal(size=ROWS),
        "label": [["a", "b", "c"][label] for label in classes],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=300)
    make_image_encoder(folder / "images.onnx")


def spec_of(folder: pathlib.Path) -> ExperimentSpec:
    value = {
        "name": "kinds",
        "dataset": {"path": str(folder / "rows.parquet"), "images": {"photo": {"size": [8, 8], "mode": "L"}}},
        "features": {
            "target": {"column": "label"}, "numbers": ["x"], "means_above": 50, "categories": ["user"],
            "texts": ["text"],
            "columns": {"photo": {"kind": "encoded", "encoder": str(folder / "images.onnx"), "scale": 255}},
        },
        "training": {"learner": "lightgbm", "options": {"rounds": 60}},
        "search": {"trials": 1},
        "evaluation": {"bootstrap": 100},
    }  # fmt: skip
    return validate_document(value, ExperimentSpec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_rows(folder)
    return folder


def test_every_kind_of_column_is_learned_and_answered_from_raw_values(
    folder: pathlib.Path, settings: Settings
) -> None:
    outcome = develop_model(spec_of(folder), settings)
    assert outcome.proof.metrics["accuracy"] > 0.8
    assert outcome.proof.parity.difference < 1e-4
    assert outcome.proof.parity.flipped == 0
    uri = f"models:/kinds/{outcome.version}"
    traced = lineage.trace_version(uri, settings)
    assert "images.onnx, sha256" in traced["encoder of photo"]
    version = registry.resolve(uri, settings)
    model = open_session(version.file.read_bytes())
    assert {spec.name: spec.datatype for spec in model.signature.inputs} == {
        "x": "FP32", "user": "BYTES", "photo": "FP32", "text": "BYTES",
    }  # fmt: skip
    batch = {
        "x": np.zeros(3, np.float32), "user": np.array(["unseen", "", "u1"], dtype=object),
        "photo": np.zeros((3, 8, 8), np.float32), "text": np.array(["", "very good " * 10**5, "é\n😀"], dtype=object),
    }  # fmt: skip
    found = model.infer(batch)["probabilities"]
    assert np.isfinite(found).all()
    for row in range(3):
        alone = model.infer({name: values[row : row + 1] for name, values in batch.items()})
        np.testing.assert_allclose(alone["probabilities"][0], found[row], atol=1e-6)
