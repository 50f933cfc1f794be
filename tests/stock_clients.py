"""Every public method of Triton's four clients: how it is called here, and what is said where it is refused."""

import asyncio
import dataclasses
import inspect
import queue
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

MODULES = {
    "http": tritonclient.http,
    "grpc": tritonclient.grpc,
    "http.aio": tritonclient.http.aio,
    "grpc.aio": tritonclient.grpc.aio,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A model that doubles `x`, and keys that may ask it, and load it; `models` are all that its index must have."""

    model: str
    headers: Mapping[str, str]
    admin: Mapping[str, str]
    loads: bool
    models: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call: the client, its kind, and the target."""

    client: Any
    kind: str
    target: Target

    def inputs(self) -> list[Any]:
        module = MODULES[self.kind]
        tensor = module.InferInput("x", [2, 3], "FP32")
        tensor.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        return [tensor]

    def as_json(self) -> dict[str, Any]:
        return {"as_json": True} if self.kind.startswith("grpc") else {}


def check_answer(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * np.arange(6).reshape(2, 3))


async def infer(asked: Asked) -> None:
    check_answer(
        await settle(
            asked.client.infer(asked.target.model, asked.inputs(), headers=dict(asked.target.headers))
        )
    )


async def async_infer(asked: Asked) -> None:
    given: dict[str, Any] = {"headers": dict(asked.target.headers)}
    if asked.kind == "http":
        check_answer(asked.client.async_infer(asked.target.model, asked.inputs(), **given).get_result())
        return
    answers: queue.Queue[Any] = queue.Queue()
    asked.client.async_infer(
        asked.target.model, asked.inputs(), lambda result, error: answers.put((result, error)), **given
    )
    result, error = answers.get(timeout=60)
    assert error is None
    check_answer(result)


async def streamed(asked: Asked) -> None:
    if asked.kind == "grpc":
        answers: queue.Queue[Any] = queue.Queue()
        asked.client.start_stream(
            lambda result, error: answers.put((result, error)), headers=dict(asked.target.headers)
        )
        for _ in range(3):
            asked.client.async_stream_infer(asked.target.model, asked.inputs())
        for _ in range(3):
            result, error = answers.get(timeout=60)
            assert error is None
            check_answer(result)
        asked.client.stop_stream()
        return

    async def requests() -> Any:
        for _ in range(3):
            yield {"model_name": asked.target.model, "inputs": asked.inputs()}

    count = 0
    async for result, error in asked.client.stream_infer(requests(), headers=dict(asked.target.headers)):
        assert error is None
        check_answer(result)
        count += 1
    assert count == 3


async def bodies(asked: Asked) -> None:
    body, length = asked.client.generate_request_body(asked.inputs())
    assert length
    assert len(body) > length
    answer = b'{"outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [4]}]}'
    assert asked.client.parse_response_body(answer).as_numpy("y")[0] == 4


async def plugins(asked: Asked) -> None:
    from tritonclient.http.auth import BasicAuth as HttpAuth

    plugin = HttpAuth("user", "word")
    asked.client.register_plugin(plugin)
    assert asked.client.plugin() is plugin
    asked.client.unregister_plugin()


async def settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


Check = Callable[[Any, Target], bool]


def call(
    name: str, check: Check, *given: Any, key: str = "headers", model: bool = False, **named: Any
) -> Any:
    async def run(asked: Asked) -> None:
        arguments = [*([asked.target.model] if model else []), *given]
        headers = {"headers": dict(getattr(asked.target, key))}
        as_json = (
            asked.as_json() if "as_json" in inspect.signature(getattr(asked.client, name)).parameters else {}
        )
        answer = await settle(getattr(asked.client, name)(*arguments, **named, **headers, **as_json))
        assert check(answer, asked.target), f"{name}: {answer}"

    return run


def names(answer: Any) -> set[str]:
    return {entry["name"] for entry in (answer["models"] if isinstance(answer, dict) else answer)}


NO_CHECK: Check = lambda answer, target: True  # noqa: E731
TRUE: Check = lambda answer, target: answer is True  # noqa: E731
TRACE, LOG = "Trace settings cannot be changed", "Log settings cannot be changed"
MEMORY, FIXED = "Shared memory cannot be registered", "fixed set"
CALLS: dict[str, tuple[Callable[[Asked], Any], str]] = {
    "is_server_live": (call("is_server_live", TRUE), ""),
    "is_server_ready": (call("is_server_ready", TRUE), ""),
    "is_model_ready": (call("is_model_ready", TRUE, model=True), ""),
    "get_server_metadata": (
        call("get_server_metadata", lambda answer, target: "statistics" in answer["extensions"]), "",
    ),
    "get_model_metadata": (
        call("get_model_metadata", lambda answer, target: answer["name"] == target.model, model=True), "",
    ),
    "get_model_config": (
        call("get_model_config", lambda a, target: a.get("config", a)["name"] == target.model, model=True), "",
    ),
    "get_model_repository_index": (
        call("get_model_repository_index", lambda answer, target: names(answer) >= target.models), "",
    ),
    "load_model": (call("load_model", NO_CHECK, key="admin", model=True), FIXED),
    "unload_model": (call("unload_model", NO_CHECK, key="admin", model=True), FIXED),
    "get_inference_statistics": (
        call(
            "get_inference_statistics",
            lambda answer, target: [stats["name"] for stats in answer["model_stats"]] == [target.model],
            model=True,
        ), "",
    ),
    "get_trace_settings": (
        call("get_trace_settings", lambda a, _: "OFF" in str(a.get("settings", a)["trace_level"])), "",
    ),
    "update_trace_settings": (
        call("update_trace_settings", NO_CHECK, settings={"trace_level": ["TIMESTAMPS"]}), TRACE,
    ),
    "get_log_settings": (call("get_log_settings", lambda a, _: "log_info" in a.get("settings", a)), ""),
    "update_log_settings": (call("update_log_settings", NO_CHECK, settings={"log_verbose_level": 1}), LOG),
    **{
        f"get_{kind}_shared_memory_status": (
            call(f"get_{kind}_shared_memory_status", lambda a, _: a in ([], {}, {"regions": {}})), "",
        )
        for kind in ("system", "cuda")
    },
    **{
        f"unregister_{kind}_shared_memory": (call(f"unregister_{kind}_shared_memory", NO_CHECK), "")
        for kind in ("system", "cuda")
    },
    "register_system_shared_memory": (call("register_system_shared_memory", NO_CHECK, "a", "/a", 64), MEMORY),
    "register_cuda_shared_memory": (call("register_cuda_shared_memory", NO_CHECK, "a", b"aGFuZGxl", 0, 64), MEMORY),
    "infer": (infer, ""),
    "async_infer": (async_infer, ""),
    **dict.fromkeys(("start_stream", "async_stream_infer", "stop_stream", "stream_infer"), (streamed, "")),
    **dict.fromkeys(("generate_request_body", "parse_response_body"), (bodies, "")),
    **dict.fromkeys(("plugin", "register_plugin", "unregister_plugin"), (plugins, "")),
}  # fmt: skip
"""Method -> how it is called, and the sentence with which it is refused; empty where it works. What a fixed set
of models refuses is taken by a folder."""


def list_methods(kind: str) -> list[str]:
    """All public ones but `close`, in an order in which a model that was unloaded is loaded again."""
    found = inspect.getmembers(MODULES[kind].InferenceServerClient, inspect.isfunction)
    public = [name for name, _ in found if not name.startswith("_") and name != "close"]
    last = ["unload_model", "load_model"]
    return [*(name for name in public if name not in last), *last]


def call_all(kind: str, url: str, target: Target) -> dict[str, str]:
    """Method -> what it was refused with, empty for what worked; each as it should be."""

    async def run() -> dict[str, str]:
        client = MODULES[kind].InferenceServerClient(url)
        told = {}
        try:
            for name in list_methods(kind):
                use, refusal = CALLS[name]
                told[name] = await _try(use, Asked(client, kind, target))
                wanted = "" if refusal == FIXED and target.loads else refusal
                assert (wanted in told[name]) if wanted else not told[name], f"{kind}.{name}: {told[name]}"
        finally:
            await settle(client.close())
        return told

    return asyncio.run(run())


async def _try(use: Callable[[Asked], Any], asked: Asked) -> str:
    try:
        await use(asked)
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return ""
