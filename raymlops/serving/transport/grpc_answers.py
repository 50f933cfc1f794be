"""Answers to each gRPC method of the protocol: a message of the standard client, for a call whose key was checked.

Handles neither servers nor metadata; `grpc_service.py` reads metadata and reports failures.
"""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from google.protobuf import json_format
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb

from raymlops import __version__
from raymlops.serving.endpoints.model_config import describe_config
from raymlops.serving.endpoints.statistics import Statistics, describe
from raymlops.serving.protocol import columns, grpc_codec, open_inference, server_settings
from raymlops.serving.protocol.request_limits import check_rows
from raymlops.serving.transport import inference, routes
from raymlops.serving.transport.api_keys import ANYONE, Key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.trace_context import Trace
from raymlops.tensors import Batch

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclasses.dataclass(slots=True)
class Call:
    """One request; `sticky` keeps its caller on one branch of a split."""

    method: str
    id: str
    token: str = ""
    sticky: str = ""
    caller: Key = ANYONE
    model: str = ""
    rows: int = 0
    logged: bool = False
    infers: bool = False
    trace: Callable[[], Trace] = Trace
    arrived: int = dataclasses.field(default_factory=time.perf_counter_ns)
    decoded: int = 0
    answered: int = 0
    statistics: Statistics | None = None
    batch: Batch | None = None
    answer: Batch | None = None
    parameters: Mapping[str, Any] | None = None
    body_id: str = ""
    """The id in its message, if no metadata gave one."""
    has_id: bool = False
    """Whether metadata gave one."""

    @property
    def started(self) -> int:
        """The time at which it was complete."""
        return self.arrived

    @property
    def where(self) -> tuple[str, str]:
        service = HEALTH if self.method in ("Check", "Watch") else SERVICE
        return "gRPC", f"/{service}/{self.method}"


async def server_live(plane: DataPlane, request: Any, call: Call) -> Any:
    return pb.ServerLiveResponse(live=True)


async def server_ready(plane: DataPlane, request: Any, call: Call) -> Any:
    return pb.ServerReadyResponse(ready=_is_ready(plane))


def _is_ready(plane: DataPlane) -> bool:
    return all(hosted.ready for hosted in plane.hosts.models.values())


async def model_ready(plane: DataPlane, request: Any, call: Call) -> Any:
    if request.name in plane.hosts.unavailable:
        return pb.ModelReadyResponse(ready=False)
    return pb.ModelReadyResponse(ready=plane.hosts.find(request.name, request.version).can_answer)


async def server_metadata(plane: DataPlane, request: Any, call: Call) -> Any:
    return pb.ServerMetadataResponse(
        name=plane.hosts.name, version=__version__, extensions=open_inference.EXTENSIONS
    )


async def model_metadata(plane: DataPlane, request: Any, call: Call) -> Any:
    described = routes.describe_hosted(plane.hosts.find(request.name, request.version))
    return json_format.ParseDict(described, pb.ModelMetadataResponse(), ignore_unknown_fields=True)


async def model_config(plane: DataPlane, request: Any, call: Call) -> Any:
    described = describe_config(plane.hosts.find(request.name, request.version), plane.hosts.limits)
    return json_format.ParseDict({"config": described}, pb.ModelConfigResponse())


async def repository_index(plane: DataPlane, request: Any, call: Call) -> Any:
    entries = await routes.list_index(plane.hosts, call.caller, ready_only=request.ready)
    return pb.RepositoryIndexResponse(
        models=[pb.RepositoryIndexResponse.ModelIndex(**entry) for entry in entries]
    )


async def repository_load(plane: DataPlane, request: Any, call: Call) -> Any:
    server_settings.check_load_parameters(list(request.parameters))
    await routes.find_repository(plane.hosts).load(_name_in_repository(request))
    return pb.RepositoryModelLoadResponse()


async def repository_unload(plane: DataPlane, request: Any, call: Call) -> Any:
    await routes.find_repository(plane.hosts).unload(_name_in_repository(request))
    return pb.RepositoryModelUnloadResponse()


def _name_in_repository(request: Any) -> str:
    """KServe's messages have the model in the field in which Triton's have the repository, which has no name here."""
    return str(request.model_name or request.repository_name)


async def model_statistics(plane: DataPlane, request: Any, call: Call) -> Any:
    hosts = plane.hosts
    wanted = (
        [hosts.find(request.name, request.version)]
        if request.name
        else list(hosts.seen_by(call.caller).values())
    )
    response = pb.ModelStatisticsResponse()
    _, counted = await hosts.sum_up(wanted)
    for one in counted:
        json_format.ParseDict(describe(*one), response.model_stats.add(), ignore_unknown_fields=True)
    return response


async def trace_setting(plane: DataPlane, request: Any, call: Call) -> Any:
    if request.model_name:
        plane.hosts.find(request.model_name)
    server_settings.refuse_trace(any(setting.value for setting in request.settings.values()))
    response = pb.TraceSettingResponse()
    for name, value in server_settings.TRACE_SETTINGS.items():
        response.settings[name].value.extend(value)
    return response


async def log_settings(plane: DataPlane, request: Any, call: Call) -> Any:
    server_settings.refuse_log(len(request.settings))
    response = pb.LogSettingsResponse()
    for name, value in server_settings.LOG_SETTINGS.items():
        field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(response.settings[name], field, value)
    return response


async def refuse_registration(plane: DataPlane, request: Any, call: Call) -> NoReturn:
    server_settings.refuse_shared_memory()


def _answer_nothing(response: type[Any]) -> "Run":
    """None can be registered: their list is empty, and unregistering all does nothing."""

    async def answer(plane: DataPlane, request: Any, call: Call) -> Any:
        return response()

    return answer


async def check_health(plane: DataPlane, request: Any, call: Call) -> Any:
    return health_pb2.HealthCheckResponse(status=find_health(plane, request.service, call.token))


def find_health(plane: DataPlane, service: str, token: str) -> int:
    """The server's health for an empty name or the protocol's name, a model's for its name. Raises NotFoundError, and
    for a model the error with which its key is refused."""
    if service in ("", SERVICE, HEALTH):
        healthy = _is_ready(plane)
    else:
        plane.keys.admit(token, "ready", service)
        healthy = plane.hosts.find(service).can_answer
    status = health_pb2.HealthCheckResponse
    return int(status.SERVING if healthy else status.NOT_SERVING)


async def model_infer(plane: DataPlane, request: Any, call: Call) -> Any:
    hosts = plane.hosts
    hosted = hosts.find(request.model_name, request.model_version)
    endpoint, limits = hosted.endpoint, hosts.limits
    large = request.ByteSize() > inference.LARGE
    batch = (
        await inference.run_large(hosts, grpc_codec.decode, request, hosted.columns, limits)
        if large
        else grpc_codec.decode(request, hosted.columns, limits)
    )
    known = [spec.name for spec in endpoint.signature.outputs]
    names = grpc_codec.decode_outputs(request, known)
    rows = call.rows = columns.check_rows(batch, hosted.columns)
    check_rows(rows, limits)
    outputs = tuple(open_inference.RequestedOutput(name, binary=True) for name in names or known)
    asked = open_inference.InferRequest(request.id, batch, outputs)
    inference.check_estimate(hosts, hosted, rows, asked)
    timeout_s = inference.read_timeout({"timeout": grpc_codec.read_parameter(request, "timeout")})
    if request.parameters:
        call.parameters = grpc_codec.read_parameters(request)
    if request.id and not call.has_id:
        call.body_id = request.id[:128]
    sticky = call.sticky or call.caller.name or None
    result = await inference.ask(hosted, batch, sticky, timeout_s, call)
    given = result, asked, hosted.name, endpoint.version, endpoint.signature, limits
    response = (
        grpc_codec.encode(*given)
        if inference.count_bytes(result) <= inference.LARGE
        else await inference.run_large(hosts, grpc_codec.encode, *given)
    )
    if grpc_codec.read_parameter(request, "triton_enable_empty_final_response"):
        response.parameters["triton_final_response"].bool_param = True  # the last answer is the only one
    return response


Run = Callable[[DataPlane, Any, Call], Awaitable[Any]]


@dataclasses.dataclass(frozen=True)
class Method:
    """`role` that the key needs, none for probes; `model` is the request's field that names a model, which is
    `optional` if an empty name stands for all."""

    request: type[Any]
    run: Run
    role: str = "view"
    model: str = ""
    optional: bool = False

    def name_model(self, request: Any) -> str:
        """Empty if the request is not about a single model."""
        if self.run in (repository_load, repository_unload):
            return _name_in_repository(request)
        return str(getattr(request, self.model)) if self.model else ""


METHODS: dict[str, Method] = {
    "ServerLive": Method(pb.ServerLiveRequest, server_live, ""),
    "ServerReady": Method(pb.ServerReadyRequest, server_ready, ""),
    "ModelReady": Method(pb.ModelReadyRequest, model_ready, "ready", "name"),
    "ServerMetadata": Method(pb.ServerMetadataRequest, server_metadata),
    "ModelMetadata": Method(pb.ModelMetadataRequest, model_metadata, model="name"),
    "ModelConfig": Method(pb.ModelConfigRequest, model_config, model="name"),
    "ModelStatistics": Method(pb.ModelStatisticsRequest, model_statistics, model="name", optional=True),
    "RepositoryIndex": Method(pb.RepositoryIndexRequest, repository_index),
    "RepositoryModelLoad": Method(pb.RepositoryModelLoadRequest, repository_load, "admin", "model_name"),
    "RepositoryModelUnload": Method(
        pb.RepositoryModelUnloadRequest, repository_unload, "admin", "model_name"
    ),
    "ModelInfer": Method(pb.ModelInferRequest, model_infer, "infer", "model_name"),
    "TraceSetting": Method(pb.TraceSettingRequest, trace_setting, model="model_name", optional=True),
    "LogSettings": Method(pb.LogSettingsRequest, log_settings),
    **{
        f"{kind}SharedMemory{verb}": Method(
            getattr(pb, f"{kind}SharedMemory{verb}Request"),
            refuse_registration
            if verb == "Register"
            else _answer_nothing(getattr(pb, f"{kind}SharedMemory{verb}Response")),
        )
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "Check": Method(health_pb2.HealthCheckRequest, check_health, ""),
}
"""Methods by their names in the protocol; ModelStreamInfer answers like ModelInfer."""

STREAMS = {"ModelStreamInfer": "ModelInfer", "Watch": "Check"}
"""Methods with more than one answer, and the method whose requests they take."""
