"""Smaller files of a model answer nearly alike, keep their types and strings, and say what they cost."""

import numpy as np
import onnx
import pytest

from raymlops import metrics
from raymlops.errors import ArtifactError, InputError
from raymlops.models import speed, variants
from raymlops.models.session import open_session
from tests import small_models

pytestmark = pytest.mark.slow  # files are exported, quantised and timed

ROWS, LABELS = small_models.draw_flights(4000, seed=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    weights = small_models.fit(*small_models.draw_flights(6000, seed=0))
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    path.write_bytes(small_models.build_model(weights))
    return path


@pytest.mark.parametrize("kind", list(variants.KINDS))
def test_a_variant_answers_nearly_as_the_original_with_the_same_signature(kind, original, tmp_path):
    made = variants.make_variant(kind, original, tmp_path / f"{kind}.onnx", rows=ROWS)
    first, second = open_session(original), open_session(made.path)
    assert second.signature == first.signature
    assert second.contract == first.contract
    assert set(second.metadata) == set(first.metadata)
    before, after = first.infer(ROWS), second.infer(ROWS)
    difference = np.abs(before["probability"] - after["probability"])
    assert difference.max() < (0.002 if kind == "fp16" else 0.15)
    assert difference.mean() < 0.01
    losses = [
        metrics.METRICS["binary"]["log_loss"](LABELS, answers["probability"]) for answers in (before, after)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert set(after["label"]) <= {"on time", "late"}


@pytest.mark.parametrize("kind", list(variants.KINDS))
def test_the_nodes_that_read_raw_columns_stay_as_they_were(kind, original, tmp_path):
    made = variants.make_variant(kind, original, tmp_path / "small.onnx", rows=ROWS)
    before, after = (onnx.load(str(path)) for path in (original, made.path))
    learned = {node.name for node in variants.find_learned(before)}
    kept = {name for name in (node.name for node in before.graph.node) if name not in learned}
    assert any(node.op_type == "LabelEncoder" for node in after.graph.node)
    types = {node.op_type for node in before.graph.node if node.name in kept}
    assert {"LabelEncoder", "IsNaN", "Where", "Sigmoid"} <= types
    constants = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert constants["centre"] == onnx.TensorProto.FLOAT
    assert any(kind != onnx.TensorProto.FLOAT for name, kind in constants.items() if "first" in name)


@pytest.mark.parametrize("kind", list(variants.KINDS))
def test_a_graph_as_torch_writes_it_shrinks_too(kind, original, tmp_path):
    """Gemm with turned weights, shapes of inner tensors, and domains that were imported twice by merging."""
    model = onnx.load(str(original))
    nodes = {node.output[0]: node for node in model.graph.node}
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    turned = onnx.numpy_helper.to_array(first).T.copy()
    first.CopyFrom(onnx.numpy_helper.from_array(turned, "first"))
    model.graph.node.remove(nodes["product"])
    gemm = onnx.helper.make_node("Gemm", ["rows", "first", "bias"], ["biased"], name="linear", transB=1)
    nodes["biased"].CopyFrom(gemm)
    shape = ["batch", turned.shape[0]]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("biased", onnx.TensorProto.FLOAT, shape))
    model.opset_import.extend(list(model.opset_import))
    path = tmp_path / "gemm.onnx"
    onnx.save(model, str(path))
    made = variants.make_variant(kind, path, tmp_path / "small.onnx", rows=ROWS)
    answers = [open_session(file).infer(ROWS)["probability"] for file in (path, made.path)]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.15
    kinds = {tensor.data_type for tensor in onnx.load(str(made.path)).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 if kind == "fp16" else onnx.TensorProto.INT8) in kinds


def test_unseen_and_missing_values_still_pass(original, tmp_path):
    made = variants.make_variant("int8", original, tmp_path / "small.onnx")
    rows = {
        "hour": np.array([np.nan, 5], dtype=np.float32),
        "distance": np.array([1e6, np.nan], dtype=np.float32),
        "wind": np.array([np.nan, np.nan], dtype=np.float32),
        "carrier": np.array(["", "never seen"], dtype=object),
    }
    assert np.isfinite(open_session(made.path).infer(rows)["probability"]).all()


def test_a_wide_model_shrinks(tmp_path):
    weights = small_models.fit(*small_models.draw_flights(500))
    model = small_models.read_model(small_models.build_model(weights))
    tensors = {
        "first": np.tile(weights.first, (1, 200)),
        "bias": np.tile(weights.bias, 200),
        "last": np.tile(weights.last[:-1, None], (200, 1)) / 200,
    }
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(tensors[tensor.name].astype(np.float32), tensor.name)
            )
    path = tmp_path / "wide.onnx"
    onnx.save(model, str(path))
    size = path.stat().st_size
    assert variants.make_variant("fp16", path, tmp_path / "a.onnx").size < 0.6 * size
    assert variants.make_variant("int8", path, tmp_path / "b.onnx").size < 0.7 * size


def test_weights_that_do_not_fit_half_precision_are_told(tmp_path):
    weights = small_models.fit(*small_models.draw_flights(500))
    path = tmp_path / "big.onnx"
    path.write_bytes(small_models.build_model(weights, scale=3e5))
    assert "65504" in variants.make_variant("fp16", path, tmp_path / "small.onnx").note


def test_values_that_overflow_half_precision_are_found_on_a_cpu_too(tmp_path):
    weights = small_models.fit(*small_models.draw_flights(500))
    path = tmp_path / "big.onnx"
    path.write_bytes(small_models.build_model(weights, scale=3e4))
    with pytest.raises(ArtifactError, match="FP16 ends at 65504"):
        variants.make_variant("fp16", path, tmp_path / "small.onnx", rows=ROWS)


def test_static_quantisation_without_rows_says_what_to_give(original, tmp_path):
    with pytest.raises(InputError, match="needs rows to calibrate"):
        variants.make_variant("int8_static", original, tmp_path / "x.onnx")


def test_an_unknown_variant_gets_the_near_one(original, tmp_path):
    with pytest.raises(InputError, match="did you mean 'fp16'"):
        variants.make_variant("fp18", original, tmp_path / "x.onnx")


def test_a_model_without_a_matrix_product_is_left_alone(tmp_path):
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch"]) for n in "xy")
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, str(tmp_path / "neg.onnx"))
    with pytest.raises(ArtifactError, match="keep the original"):
        variants.make_variant("int8", tmp_path / "neg.onnx", tmp_path / "x.onnx")


def test_speed_is_measured_for_one_row_and_for_batches(original):
    measured = speed.measure_speed(open_session(original), ROWS, seconds=0.05)
    assert 0 < measured.p50_ms <= measured.p99_ms
    assert measured.rows_per_second > 0
    assert measured.batch == 256
