"""Every example of the documents is sent as it stands, for models of every kind, and succeeds."""

import asyncio
import html
import json
import pathlib
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from examples import digits
from raymlops.errors import DeadlineError, InputError, OverloadedError, ProcessEndedError
from raymlops.serving.endpoints.example_search import find_example
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosted, Hosts
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.transport.asgi import DataPlane
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import HostedModel, ManyModels
from raymlops.tensors import DATATYPES
from tests import toy_models
from tests.graph_models import read_model
from tests.unit.serving.protocol.test_optional_inputs import scaler
from tests.unit.serving.transport.test_asgi import make_ask

SHAPES: dict[str, tuple[int | str, ...]] = {
    "rows": ("n",), "features": ("n", 3), "picture": ("n", 28, 28), "photo": ("n", 3, 224, 224), "text": ("n", "t"),
    "free_picture": ("n", "h", "w", 3), "one": (1,), "scalar": (), "matrix": (2, 3), "wide": ("n", 1000),
    "wider": ("n", 1001),
}  # fmt: skip


def same(kind: int, shape: tuple[int | str, ...]) -> onnx.ModelProto:
    tensors = [toy_models.value(name, kind, *shape) for name in "xy"]
    return toy_models.make([helper.make_node("Identity", ["x"], ["y"])], tensors[:1], tensors[1:])


def convolution() -> onnx.ModelProto:
    """A picture of at least 7 by 7."""
    weight = numpy_helper.from_array(np.ones((1, 3, 7, 7), np.float32), "w")
    return toy_models.make(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [toy_models.value("x", TensorProto.FLOAT, "n", 3, "h", "w")],
        [toy_models.value("y", TensorProto.FLOAT, "n", 1, "a", "b")],
        [weight],
    )


def only_first() -> onnx.ModelProto:
    """An id of a table of one entry."""
    table = numpy_helper.from_array(np.ones((1, 2), np.float32), "table")
    return toy_models.make(
        [helper.make_node("Gather", ["table", "id"], ["y"])],
        [toy_models.value("id", TensorProto.INT32, "n")],
        [toy_models.value("y", TensorProto.FLOAT, "n", 2)],
        [table],
    )


def numbers_in_texts() -> onnx.ModelProto:
    return toy_models.make(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [toy_models.value("x", TensorProto.STRING, "n")],
        [toy_models.value("y", TensorProto.FLOAT, "n")],
    )


def half_out() -> onnx.ModelProto:
    return toy_models.make(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)],
        [toy_models.value("x", TensorProto.FLOAT, "n", 2)],
        [toy_models.value("y", TensorProto.FLOAT16, "n", 2)],
    )


def trips() -> onnx.ModelProto:
    """Columns of every kind that a contract tells of."""
    kinds = {
        "passengers": ("integer", TensorProto.DOUBLE), "count": ("integer", TensorProto.INT64),
        "fare": ("number", TensorProto.FLOAT), "zone": ("category", TensorProto.STRING),
        "shared": ("boolean", TensorProto.BOOL), "start": ("timestamp", TensorProto.INT64),
    }  # fmt: skip
    return toy_models.make(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [toy_models.value(name, kind, "n") for name, (_, kind) in kinds.items()],
        [toy_models.value(f"{name}_out", kind, "n") for name, (_, kind) in kinds.items()],
        contract={"columns": [{"name": name, "kind": kind} for name, (kind, _) in kinds.items()]},
    )


MODELS: dict[str, onnx.ModelProto] = {
    **{f"{name}_{shape}": same(DATATYPES[name].onnx, SHAPES[shape])
       for name in ("FP32", "UINT8", "BYTES", "BOOL") for shape in SHAPES},
    **{f"{name}_rows": same(row.onnx, ("n",)) for name, row in DATATYPES.items()},
    **{name: getattr(toy_models, name)()
       for name in ("doubler", "adder", "flights", "mlp", "widener", "repeater", "quotient", "countdown")},
    **{make.__name__: make() for make in (convolution, only_first, numbers_in_texts, half_out, trips, scaler)},
    "detect": digits.detect(), "classify": digits.classify(10),
}  # fmt: skip
GRAPH = """
nodes:
  a: {{kind: model, model: {folder}/1.onnx}}
  b: {{kind: model, model: {folder}/2.onnx}}
  both: {{kind: mean, of: [a.y, b.y]}}
outputs: [both]
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    folder = tmp_path_factory.mktemp("models")
    hosted: dict[str, Hosted] = {}
    for name, model in MODELS.items():
        path = toy_models.save(model, folder / f"{name}.onnx")
        hosted[name] = host_model(name, path, HostedModel(source=str(path)))
    parts = tmp_path_factory.mktemp("parts")
    for name in ("1", "2"):
        (parts / f"{name}.onnx").write_bytes(read_model(name))
    settings = Settings.from_env()
    spec = parse_document(GRAPH.format(folder=parts), GraphSpec)
    hosted["mean_graph"] = host_graph("mean_graph", prepare_graph(spec, settings), {}, settings)
    many = tmp_path_factory.mktemp("many")
    for name in ("doubler", "flights"):
        toy_models.save(getattr(toy_models, name)(), many / f"many_{name}.onnx")
    hosted |= LazyModels(ManyModels(folder=str(many))).hosted
    return DataPlane(Hosts("test", hosted))


def list_examples(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                yield method, path, content["example"]


LARGE = {"FP32_photo", "FP32_wider", "UINT8_photo", "UINT8_wider", "BYTES_photo", "BYTES_wider", "BOOL_photo",
         "BOOL_wider"}  # fmt: skip


@pytest.mark.slow
def test_every_example_is_answered(plane: DataPlane) -> None:
    ask = make_ask(plane)
    document = ask("GET", "/openapi.json").json()
    asked = set()
    for method, path, example in list_examples(document):
        response = ask(method.upper(), path, json=example)
        assert response.status_code == 200, (path, example, response.text)
        asked.add(path)
    for name in plane.hosts.models:
        wanted = {f"/v1/models/{name}:predict", f"/invocations/{name}", f"/v2/models/{name}/infer"}
        missing = wanted - asked
        if name in LARGE:
            assert missing == wanted
        else:
            assert missing == ({f"/v2/models/{name}/infer"} if name.startswith("FP16") else set()), name


@pytest.mark.slow
def test_every_command_of_the_page_is_answered(plane: DataPlane, tmp_path: pathlib.Path) -> None:
    async def run() -> list[tuple[str, str]]:
        config = uvicorn.Config(plane, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.ensure_future(server.serve([listener]))
            try:
                return await asyncio.to_thread(run_commands, listener.getsockname()[1], tmp_path)
            finally:
                server.should_exit = True
                await serving

    answered = asyncio.run(run())
    assert {status for _, status in answered} == {"200"}, [line for line in answered if line[1] != "200"]
    assert len(answered) > 3 * (len(MODELS) - len(LARGE))


def run_commands(port: int, folder: pathlib.Path) -> list[tuple[str, str]]:
    """The URL and status of each, run by a shell, all in one."""
    address = f"http://127.0.0.1:{port}"
    page = subprocess.run(
        ["curl", "-s", f"{address}/docs"], capture_output=True, text=True, check=True
    ).stdout
    commands = [html.unescape(shown) for shown in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    assert all(f"{address}/" in command for command in commands)
    told = [f"{command} -s -o answer.bin -w '%{{http_code}}\\n'" for command in commands]
    done = subprocess.run(
        ["bash"], input="\n".join(told), capture_output=True, text=True, cwd=folder, check=True
    )
    urls = [next(word for word in shlex.split(command) if word.startswith(address)) for command in commands]
    return list(zip(urls, done.stdout.split(), strict=True))


def test_a_model_that_takes_nothing_has_no_example(tmp_path: pathlib.Path) -> None:
    """Reshapes 5 elements a row, of which it says that they are as many as one likes."""
    shape = numpy_helper.from_array(np.array([7, 11, 13]), "shape")
    model = toy_models.make(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [toy_models.value("x", TensorProto.FLOAT, "n", "k")],
        [toy_models.value("y", TensorProto.FLOAT, 7, 11, 13)],
        [shape],
    )
    path = toy_models.save(model, tmp_path / "picky.onnx")
    plane = DataPlane(Hosts("test", {"picky": host_model("picky", path, HostedModel(source=str(path)))}))
    document = make_ask(plane)("GET", "/openapi.json").json()
    assert [path for _, path, _ in list_examples(document)] == ["/v2/repository/index"]
    counted = plane.hosts.models["picky"].statistics.to_json()
    assert "/v2/models/picky/infer" in json.dumps(document)
    assert counted["inference_count"] == 0


@pytest.mark.parametrize(
    ("raised", "tries", "found"),
    [
        (DeadlineError("late"), 1, True), (ProcessEndedError("ended"), 1, False), (OverloadedError("full"), 2, False),
        (InputError("no"), 3, False),
    ],
)  # fmt: skip
def test_a_model_is_tried_again_only_where_it_had_no_time(
    tmp_path: pathlib.Path, raised: Exception, tries: int, found: bool
) -> None:
    path = toy_models.save(toy_models.doubler(), tmp_path / "doubler.onnx")
    hosted = host_model("doubler", path, HostedModel(source=str(path)))
    asked = []

    async def try_batch(batch: Any) -> Any:
        asked.append(batch)
        raise raised

    hosted.try_batch = try_batch
    for _ in range(2):
        assert (asyncio.run(find_example(hosted)) is not None) is found
    assert len(asked) == tries
