"""A model's configuration as Triton's clients read it."""

import pathlib

import httpx
from google.protobuf import json_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from raymlops.tensors import DATATYPES
from tests import toy_models
from tests.unit.serving.transport.test_asgi import make_ask, make_plane


def parse(response: httpx.Response) -> model_config_pb2.ModelConfig:
    assert response.status_code == 200, response.text
    return json_format.ParseDict(response.json(), model_config_pb2.ModelConfig())


def test_a_model_of_rows_tells_the_dimensions_of_one_row(tmp_path: pathlib.Path) -> None:
    ask = make_ask(make_plane(tmp_path, {"adder": toy_models.adder()}))
    config = parse(ask("GET", "/v2/models/adder/config"))
    assert (config.name, config.platform, config.backend) == ("adder", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 1_000_000
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.input] == [
        (name, model_config_pb2.TYPE_INT32, [16]) for name in ("INPUT0", "INPUT1")
    ]
    assert [entry.name for entry in config.output] == ["OUTPUT0", "OUTPUT1"]
    assert parse(ask("GET", "/v2/models/adder/versions/3/config")) == config
    assert ask("GET", "/v2/models/adder/versions/9/config").status_code == 404
    assert ask("GET", "/v2/models/other/config").status_code == 404


def test_a_model_without_rows_or_of_rows_alone_tells_whole_shapes(tmp_path: pathlib.Path) -> None:
    models = {"echo": toy_models.echo(), "repeater": toy_models.repeater(), "widener": toy_models.widener()}
    ask = make_ask(make_plane(tmp_path, models))
    shapes = {"echo": ([-1], [[-1]]), "repeater": ([1], [[-1]]), "widener": ([-1], [[-1, 1000], []])}
    for name, (taken, answered) in shapes.items():
        config = parse(ask("GET", f"/v2/models/{name}/config"))
        assert config.max_batch_size == 0
        assert list(config.input[0].dims) == taken
        assert [list(entry.dims) for entry in config.output] == answered


def test_every_datatype_has_tritons_name(tmp_path: pathlib.Path) -> None:
    for row in DATATYPES.values():
        if row.name == "FP16":
            continue
        plane = make_plane(tmp_path, {"same": toy_models.dtypes(row.onnx)})
        config = parse(make_ask(plane)("GET", "/v2/models/same/config"))
        wanted = model_config_pb2.TYPE_STRING if row.onnx == TensorProto.STRING else f"TYPE_{row.name}"
        wanted = model_config_pb2.DataType.Value(wanted) if isinstance(wanted, str) else wanted
        assert config.input[0].data_type == config.output[0].data_type == wanted
