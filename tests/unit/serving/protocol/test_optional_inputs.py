"""Initialisers that are inputs, too: a request may give them anew over every protocol, and shares no run then."""

import asyncio
import json
import pathlib
import random
from typing import Any

import httpx
import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2 as pb

from raymlops.lifecycle.batch.predict import OnnxScorer
from raymlops.models.session import SessionOptions, open_session
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.protocol import grpc_codec
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.asgi import DataPlane
from raymlops.specs.serving import HostedModel
from tests import toy_models
from tests.unit.serving.transport.test_asgi import Ask, make_ask, make_plane

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def scaler() -> onnx.ModelProto:
    """x FP32[-1,3] -> y = reshape(x * scale + bias), with scale FP32[3], bias FP32[] and the shape optional."""
    return toy_models.make(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["moved"]),
            helper.make_node("Reshape", ["moved", "shape"], ["y"]),
        ],
        [
            toy_models.value("x", TensorProto.FLOAT, "n", 3),
            toy_models.value("scale", TensorProto.FLOAT, 3),
            toy_models.value("bias", TensorProto.FLOAT),
            toy_models.value("shape", TensorProto.INT64, 2),
        ],
        [toy_models.value("y", TensorProto.FLOAT, "m", "k")],
        [
            numpy_helper.from_array(np.array([1, 10, 100], np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.float32), "bias"),
            numpy_helper.from_array(np.array([-1, 3], np.int64), "shape"),
        ],
    )


def compute(x: Any, scale: Any = (1, 10, 100), bias: Any = 0, shape: Any = (-1, 3)) -> Any:
    return (np.array(x, np.float32) * np.array(scale, np.float32) + bias).reshape(shape).tolist()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    return make_plane(tmp_path_factory.mktemp("models"), {"scaler": scaler()})


@pytest.fixture(scope="module")
def ask(plane: DataPlane) -> Ask:
    return make_ask(plane)


def tensor(name: str, data: Any, datatype: str = "FP32") -> dict[str, Any]:
    array = np.array(data)
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def to_rows(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    output = response.json()["outputs"][0]
    return np.array(output["data"]).reshape(output["shape"]).tolist()


GIVEN: list[dict[str, Any]] = [
    {}, {"scale": [2, 2, 2]}, {"bias": 5}, {"scale": [0, 0, 1], "bias": -1}, {"shape": [1, -1]},
    {"shape": [3, 2], "bias": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("first", [True, False])
def test_a_request_may_give_them_or_leave_them(ask: Ask, given: dict[str, Any], first: bool) -> None:
    optional = [tensor(name, data, "INT64" if name == "shape" else "FP32") for name, data in given.items()]
    inputs = [*optional, tensor("x", X)] if first else [tensor("x", X), *optional]
    assert to_rows(ask("POST", "/v2/models/scaler/infer", json={"inputs": inputs})) == compute(X, **given)
    columns = {"inputs": {"x": X.tolist(), **given}}
    assert ask("POST", "/invocations", json=columns).json() == {"predictions": {"y": compute(X, **given)}}
    answer = ask("POST", "/v1/models/scaler:predict", json=columns)
    assert answer.json() == {"predictions": compute(X, **given)}


def test_they_travel_as_binary_tensors(ask: Ask) -> None:
    entries, blob = [], b""
    for name, array in (("scale", np.full(3, 2, "<f4")), ("x", X)):
        size = {"binary_data_size": array.nbytes}
        shape = list(array.shape)
        entries.append({"name": name, "shape": shape, "datatype": "FP32", "parameters": size})
        blob += array.tobytes()
    text = json.dumps({"inputs": entries}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    answer = ask("POST", "/v2/models/scaler/infer", content=text + blob, headers=headers)
    assert to_rows(answer) == compute(X, [2, 2, 2])


def test_they_travel_over_grpc(plane: DataPlane) -> None:
    request = pb.ModelInferRequest(model_name="scaler")
    for name, array in (("bias", np.float32(5)), ("x", X)):
        request.inputs.add(name=name, shape=array.shape, datatype="FP32")
        request.raw_input_contents.append(array.tobytes())
    batch = grpc_codec.decode(request, plane.hosts.models["scaler"].columns, RequestLimits())
    assert set(batch) == {"x", "bias"}
    del request.inputs[1], request.raw_input_contents[1]
    with pytest.raises(Exception, match="Input missing: x"):
        grpc_codec.decode(request, plane.hosts.models["scaler"].columns, RequestLimits())


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([tensor("bias", 5)], "Input missing: x"),
        ([tensor("x", X), tensor("scale", [1, 2])], "scale: FP32"),
        ([tensor("x", X), tensor("scale", [1, 2, 3], "INT64")], "scale"),
        ([tensor("x", X), tensor("scales", [1, 2, 3])], "did you mean 'scale'"),
        ([tensor("x", X), tensor("bias", 1), tensor("bias", 1)], "twice"),
        ([tensor("x", X), tensor("shape", [4, 4], "INT64")], "model refused"),
    ],
)
def test_what_the_model_does_not_take_is_refused(ask: Ask, inputs: Any, told: str) -> None:
    response = ask("POST", "/v2/models/scaler/infer", json={"inputs": inputs})
    assert response.status_code == 400
    assert told in response.json()["error"]


def test_metadata_and_configuration_tell_which_may_be_left_out(ask: Ask) -> None:
    metadata = ask("GET", "/v2/models/scaler").json()
    assert [entry["name"] for entry in metadata["inputs"]] == ["x", "scale", "bias", "shape"]
    assert metadata["parameters"]["optional_inputs"] == ["scale", "bias", "shape"]
    config = ask("GET", "/v2/models/scaler/config").json()
    assert {entry["name"] for entry in config["input"] if entry.get("optional")} == {"scale", "bias", "shape"}
    assert config["max_batch_size"] == 0


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_requests_that_give_them_share_no_run(tmp_path: pathlib.Path, mode: str) -> None:
    path = toy_models.save(scaler(), tmp_path / "scaler.onnx")
    spec = HostedModel.model_validate({"source": str(path), "batching": {"mode": "auto"}})
    if mode == "on":  # with a shape that a request may give, nothing is proven: fix it
        model = scaler()
        del model.graph.input[3]
        toy_models.save(model, path)
        spec = HostedModel.model_validate({"source": str(path), "batching": {"mode": "on"}})
    choice = random.Random(0)

    async def run() -> None:
        plane = DataPlane(Hosts("test", {"scaler": host_model("scaler", path, spec)}))
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def send(number: int) -> None:
                x = [[number, number, number]] * choice.randint(1, 3)
                given = choice.choice([g for g in GIVEN if mode == "auto" or "shape" not in g])
                if "shape" in given:
                    given = {"shape": [1, -1]}
                body = {"inputs": {"x": x, **given}}
                response = await client.post("/v1/models/scaler:predict", json=body)
                assert response.json() == {"predictions": compute(x, **given)}, given

            for _ in range(5):
                await asyncio.gather(*(send(number) for number in range(24)))

    asyncio.run(run())


def test_a_model_in_a_process_of_its_own_takes_them(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(scaler(), tmp_path / "scaler.onnx")
    hosted = host_model("scaler", path, HostedModel(source=str(path), isolate=True))
    ask = make_ask(DataPlane(Hosts("test", {"scaler": hosted})))
    try:
        body = {"inputs": [tensor("x", X), tensor("bias", 5)]}
        assert to_rows(ask("POST", "/v2/models/scaler/infer", json=body)) == compute(X, bias=5)
    finally:
        hosted.endpoint.close()  # type: ignore[attr-defined]


def test_predict_passes_a_column_of_their_name() -> None:
    score = OnnxScorer(scaler().SerializeToString(), None, threads=1, max_rows=100)
    x = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    assert score(pa.table({"x": x}))["y"].to_pylist() == compute(X)
    scales = pa.array([[1, 1, 1], [2, 2, 2]], pa.list_(pa.int64()))
    table = pa.table({"x": x, "scale": scales, "bias": pa.array([0.5, -1.0])})
    assert score(table)["y"].to_pylist() == [compute(X[0], 1, 0.5, -1), compute(X[1], 2, -1, -1)]


def divider() -> onnx.ModelProto:
    """a INT64[-1] -> y = a // b, with b INT64[] = 2 optional."""
    return toy_models.make(
        [helper.make_node("Div", ["a", "b"], ["y"])],
        [toy_models.value("a", TensorProto.INT64, "n"), toy_models.value("b", TensorProto.INT64)],
        [toy_models.value("y", TensorProto.INT64, "n")],
        [numpy_helper.from_array(np.array(2, np.int64), "b")],
    )


def test_a_value_that_is_given_cannot_end_the_process() -> None:
    session = open_session(divider().SerializeToString(), SessionOptions(shared=True))
    least = np.array([np.iinfo(np.int64).min, 7])
    assert session.infer({"a": least})["y"].tolist() == [-(2**62), 3]
    assert session.infer({"a": least, "b": np.array(-1)})["y"].tolist() == [least[0], -7]
    with pytest.raises(Exception, match="zero"):
        session.infer({"a": least, "b": np.array(0)})


def repeater_of_texts() -> onnx.ModelProto:
    """text BYTES[-1] -> same BYTES[k,-1], repeated as the optional shape says."""
    return toy_models.make(
        [helper.make_node("Expand", ["text", "shape"], ["same"])],
        [toy_models.value("text", TensorProto.STRING, "n"), toy_models.value("shape", TensorProto.INT64, 2)],
        [toy_models.value("same", TensorProto.STRING, "k", "n")],
        [numpy_helper.from_array(np.array([2, 1], np.int64), "shape")],
    )


def test_a_value_by_which_a_request_could_take_the_memory_cannot_be_given(tmp_path: pathlib.Path) -> None:
    ask = make_ask(make_plane(tmp_path, {"texts": repeater_of_texts()}))
    text = tensor("text", ["a"], "BYTES")
    assert to_rows(ask("POST", "/v2/models/texts/infer", json={"inputs": [text]})) == [["a"], ["a"]]
    assert "optional_inputs" not in ask("GET", "/v2/models/texts").json()["parameters"]
    more = {"inputs": [text, tensor("shape", [2**40, 1], "INT64")]}
    assert ask("POST", "/v2/models/texts/infer", json=more).status_code == 400


def test_an_old_file_whose_weights_are_all_inputs_takes_none_of_them() -> None:
    model = scaler()
    model.ir_version = 3
    model.opset_import[0].version = 8
    del model.opset_import[1:]
    session = open_session(model.SerializeToString(), SessionOptions(shared=True))
    assert session.optional == ()
    assert session.infer({"x": X})["y"].tolist() == compute(X)


def test_a_misspelt_one_is_refused_in_every_form_and_other_columns_are_left_out(
    tmp_path: pathlib.Path,
) -> None:
    model = toy_models.make(
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [toy_models.value(name, TensorProto.FLOAT, "n") for name in ("x", "offset")],
        [toy_models.value("y", TensorProto.FLOAT, "n")],
        [numpy_helper.from_array(np.array([10], np.float32), "offset")],
    )
    ask = make_ask(make_plane(tmp_path, {"m": model}))

    def forms(name: str) -> dict[str, Any]:
        rows = [{"x": 1, name: 5}]
        return {
            "records": {"dataframe_records": rows}, "instances": {"instances": rows},
            "split": {"dataframe_split": {"columns": ["x", name], "data": [[1, 5]]}},
        }  # fmt: skip

    for name, told in (("offset", 6.0), ("Offset", None), ("ofset", None), ("customer", 11.0)):
        csv = {"content": f"x,{name}\n1,5\n", "headers": {"content-type": "text/csv"}}
        answers = [ask("POST", "/invocations", json=body) for body in forms(name).values()]
        answers.append(ask("POST", "/v1/models/m:predict", json=forms(name)["instances"]))
        answers.append(ask("POST", "/invocations", **csv))
        for answer in answers:
            assert answer.status_code == (400 if told is None else 200), answer.text
            assert (f"{told}" if told is not None else "did you mean 'offset'") in answer.text
