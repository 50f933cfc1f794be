"""The protocol over gRPC on a real socket: the same limits as over HTTP, and a code for whatever is sent."""

import asyncio
import pathlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from tritonclient.grpc import service_pb2 as pb

from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport import grpc_service
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from tests import toy_models
from tests.grpc_server import serve_grpc
from tests.unit.serving.transport.test_asgi import make_plane

LIMIT = 2_000_000
OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
Call = Callable[..., Awaitable[tuple[grpc.StatusCode, Any]]]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo()}
    return make_plane(tmp_path_factory.mktemp("models"), models, body_limit=LIMIT)


async def call(address: str, message: Any, method: str = "ModelInfer", **options: Any) -> Any:
    """Code and answer, or code and details."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    large = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=large) as channel:
        ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            answer = await ask(data, timeout=60, **options)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        return OK, getattr(pb, f"{method}Response").FromString(answer)


def ask(plane: DataPlane, *messages: Any, **options: Any) -> list[Any]:
    async def run() -> list[Any]:
        async with serve_grpc(plane) as address:
            return [await call(address, message, **options) for message in messages]

    return asyncio.run(run())


def doubler(array: Any = ((1, 2, 3),), **changes: Any) -> Any:
    array = np.asarray(array, "<f4")
    tensor = {"name": "x", "datatype": "FP32", "shape": array.shape} | changes
    request = pb.ModelInferRequest(model_name="doubler", raw_input_contents=[array.tobytes()])
    request.inputs.add(**tensor)
    return request


def test_rows_are_answered_as_raw_tensors(plane: DataPlane) -> None:
    large = np.arange(300_000, dtype="<f4").reshape(-1, 3)
    for array in (np.ones((2, 3), "<f4"), large):
        ((code, answer),) = ask(plane, doubler(array))
        assert code == OK
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), 2 * array.ravel())


def test_a_message_over_the_body_limit_is_refused_compressed_or_not(plane: DataPlane) -> None:
    message = doubler(np.zeros((200_000, 3), "<f4"))
    assert ask(plane, message)[0][0] == EXHAUSTED
    assert ask(plane, message, compression=grpc.Compression.Gzip)[0][0] == EXHAUSTED
    assert ask(plane, doubler(), compression=grpc.Compression.Gzip)[0][0] == OK


def test_the_handler_refuses_what_the_server_lets_through(plane: DataPlane) -> None:
    class Context:
        def invocation_metadata(self) -> tuple[Any, ...]:
            return ()

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        def set_code(self, code: Any) -> None:
            self.code = code

        def set_details(self, details: str) -> None:
            self.details = details

        def set_trailing_metadata(self, metadata: Any) -> None:
            self.trailers = metadata

    context = Context()
    message = doubler(np.zeros((200_000, 3), "<f4")).SerializeToString()
    with pytest.raises(Exception, match="over 2000000"):
        asyncio.run(grpc_service.answer(plane, "ModelInfer", message, context))
    assert context.code == EXHAUSTED


def parameter(**value: Any) -> Any:
    request = doubler()
    request.parameters["timeout"].CopyFrom(pb.InferParameter(**value))
    return request


def outputs(*names: str) -> Any:
    request = doubler()
    for name in names:
        request.outputs.add(name=name)
    return request


REFUSED = {
    "no message": b"\xff\xff\xff",
    "a large message that is none": b"\x07" * 100_000,
    "many dimensions": doubler(shape=[1] * 70),
    "sizes whose product overflows": doubler(shape=[2**62, 2**62]),
    "sizes whose product overflows beside a zero": doubler(shape=[0, 2**40]),
    "negative size": doubler(shape=[-1, 3]),
    "too few bytes": doubler(shape=[2, 3]),
    "unknown name": doubler(name="z"),
    "a name of a megabyte": doubler(name="z" * 1_000_000),
    "unknown datatype": doubler(datatype="FLOAT"),
    "another datatype": doubler(datatype="INT64"),
    "unknown output": outputs("z"),
    "an output twice": outputs("y", "y"),
    "timeout as text": parameter(string_param="soon"),
    "timeout as truth": parameter(bool_param=True),
    "negative timeout": parameter(int64_param=-5),
    "timeout that is no number": parameter(double_param=float("nan")),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_malformed_is_an_invalid_argument(plane: DataPlane, message: Any) -> None:
    ((code, details),) = ask(plane, message)
    assert code == INVALID, details
    assert 10 < len(details) < 600


def test_what_is_small_on_the_wire_and_large_in_memory_is_not_parsed(plane: DataPlane) -> None:
    empty_inputs = b"\x2a\x00" * 900_000
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 3])
    tensor.contents.int64_contents.extend([0] * 1_000_000)
    packed = pb.ModelInferRequest(model_name="doubler", inputs=[tensor])
    strings = pb.ModelInferRequest(model_name="echo")
    strings.inputs.add(name="text", datatype="BYTES", shape=[500_000]).contents.bytes_contents.extend(
        [b""] * 500_000
    )
    for message in (empty_inputs, packed, strings):
        ((code, details),) = ask(plane, message)
        assert code == EXHAUSTED, details


def test_typed_contents_keep_every_bit(tmp_path: pathlib.Path) -> None:
    kinds = {
        "UINT64": ("uint64_contents", TensorProto.UINT64, np.uint64),
        "INT64": ("int64_contents", TensorProto.INT64, np.int64),
        "FP64": ("fp64_contents", TensorProto.DOUBLE, np.float64),
        "INT8": ("int_contents", TensorProto.INT8, np.int8),
        "BOOL": ("bool_contents", TensorProto.BOOL, np.bool_),
    }
    models = {name.lower(): toy_models.dtypes(kind) for name, (_, kind, _) in kinds.items()}
    plane = make_plane(tmp_path, models, body_limit=LIMIT)
    plane.hosts.limits = RequestLimits(json_elements=200_000)
    for name, (field, _, dtype) in kinds.items():
        for rows in (1, 70_000):  # small values first, so that pieces of them differ
            last = (
                True if dtype is np.bool_ else np.finfo(dtype).max if name == "FP64" else np.iinfo(dtype).max
            )
            values = np.array([*[1] * (rows - 1), last], dtype)
            request = pb.ModelInferRequest(model_name=name.lower())
            tensor = request.inputs.add(name="x", datatype=name, shape=[rows])
            getattr(tensor.contents, field).extend(values.tolist())
            ((code, answer),) = ask(plane, request)
            assert code == OK, answer
            assert answer.raw_output_contents[0] == values.tobytes(), name


def test_a_timeout_of_any_length_is_taken(plane: DataPlane) -> None:
    for value in ({"int64_param": 2**63 - 1}, {"double_param": 1e300}, {"uint64_param": 2**64 - 1}, {}):
        assert ask(plane, parameter(**value))[0][0] == OK


def test_without_a_key_nothing_of_a_message_is_parsed(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", ["infer", "view"])
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=KeyRing([key]), body_limit=LIMIT)
    good = [("authorization", f"Bearer {token}")]
    bad = [("authorization", f"Bearer {token}x")]
    assert ask(plane, doubler(), metadata=good)[0][0] == OK
    for message in (doubler(), b"\xff\xff"):
        assert ask(plane, message, metadata=bad)[0][0] == grpc.StatusCode.UNAUTHENTICATED
        assert ask(plane, message)[0][0] == grpc.StatusCode.UNAUTHENTICATED
    assert ask(plane, b"\xff\xff", metadata=good)[0][0] == INVALID


def test_a_key_for_one_model_does_not_ask_another(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", ["infer", "view"], ["echo"])
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo()}
    plane = make_plane(tmp_path, models, keys=KeyRing([key]), body_limit=LIMIT)
    metadata = [("x-api-key", token)]
    assert ask(plane, doubler(), metadata=metadata)[0][0] == grpc.StatusCode.PERMISSION_DENIED
    about = {"method": "ModelStatistics", "metadata": metadata}
    assert ask(plane, pb.ModelStatisticsRequest(name="doubler"), **about)[0][0] != OK
    ((code, answer),) = ask(plane, pb.ModelStatisticsRequest(), **about)
    assert (code, [stats.name for stats in answer.model_stats]) == (OK, ["echo"])


def test_strings_that_are_no_text_leave_as_they_came_or_are_refused(plane: DataPlane) -> None:
    request = pb.ModelInferRequest(model_name="echo", raw_input_contents=[struct.pack("<I", 2) + b"\xff\xfe"])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    assert ask(plane, request)[0][0] == INVALID
