"""Serve's own proxy, by its real gRPC server: whom it sends a call to that names no application, and whose keys it
asks."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from ray.serve._private.grpc_util import gRPCGenericServer
from ray.serve._private.proxy_request_response import gRPCStreamingType
from tritonclient.grpc import service_pb2 as pb

from raymlops.errors import InputError
from raymlops.serving.proxy import key_guard
from raymlops.serving.proxy.key_guard import Application
from raymlops.serving.replica import grpc_relay
from raymlops.serving.replica.grpc_relay import Relay, RelayContext
from raymlops.serving.transport import grpc_service
from raymlops.serving.transport.api_keys import KeyRing, make_key
from tests import toy_models
from tests.unit.serving.transport.test_asgi import make_plane

KEYS = {name: make_key(name, ("infer", "view")) for name in ("alpha", "beta", "asleep")}
SERVICE = "inference.GRPCInferenceService"


def make_application(name: str, *models: str, **fields: Any) -> Application:
    ring = KeyRing([KEYS[name][1]]) if name in KEYS else KeyRing()
    return Application(name, f"/{name}", ring, fields.pop("awake", True), models=frozenset(models), **fields)


APPLICATIONS = (
    make_application("alpha", "first", "both"),
    make_application("beta", "second", "both", folder=True),
    make_application("asleep", "third", awake=False),
    make_application("another", ours=False),
)


@contextlib.asynccontextmanager
async def proxy(
    monkeypatch: pytest.MonkeyPatch, *applications: Application
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve's server with our guard, whose handlers answer with the metadata that they see."""
    known = key_guard.Applications()
    known._known = {application.name: application for application in applications}
    known._asked = time.monotonic() + 1000
    monkeypatch.setattr(key_guard, "APPLICATIONS", known)
    monkeypatch.setattr(key_guard, "RING", [])

    def make_handler(service_method: str, streaming_type: Any) -> Any:
        async def answer(message: Any, context: Any) -> bytes:
            return json.dumps(dict(context.invocation_metadata())).encode()

        async def stream(messages: Any, context: Any) -> Any:
            yield json.dumps(dict(context.invocation_metadata())).encode()

        return answer if streaming_type is gRPCStreamingType.UNARY_UNARY else stream

    server = gRPCGenericServer(make_handler)
    assert key_guard.guard_grpc(server)
    grpc_service.add_to_server(_Anything(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return name


@dataclasses.dataclass(frozen=True)
class Case:
    method: str
    message: Any
    key: str
    wanted: tuple[str | None, str | None] | str
    """Application and route that the replicas see, or the code of the refusal."""
    application: str | None = None
    route: str | None = None


def infer(model: str) -> Any:
    return pb.ModelInferRequest(model_name=model)


CASES = [
    Case("ModelInfer", infer("first"), "alpha", ("alpha", "model")),
    Case("ModelInfer", infer("second"), "beta", ("beta", "model")),
    Case("ModelInfer", infer("second"), "alpha", "UNAUTHENTICATED"),
    Case("ModelInfer", infer("both"), "beta", ("alpha", "any")),
    Case("ModelInfer", infer("added since"), "beta", ("alpha", "any")),
    Case("ModelInfer", infer("added since"), "", "UNAUTHENTICATED"),
    Case("ModelInfer", infer("third"), "asleep", ("asleep", "model")),
    Case("ModelInfer", infer("third"), "alpha", "UNAUTHENTICATED"),
    Case("ModelInfer", infer("second"), "alpha", ("alpha", None), application="alpha"),
    Case("ModelInfer", infer("second"), "beta", "UNAUTHENTICATED", application="alpha"),
    Case("ModelInfer", infer("second"), "", ("another", None), application="another"),
    Case(
        "ModelInfer", infer("of a folder"), "asleep", ("asleep", "model"), application="asleep", route="model"
    ),
    Case("ModelInfer", infer("second"), "beta", ("beta", "model"), application="alpha", route="any"),
    Case("RepositoryIndex", pb.RepositoryIndexRequest(), "beta", ("alpha", "any")),
    Case("ServerReady", pb.ServerReadyRequest(), "", ("alpha", "any")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.wanted}")
def test_a_call_goes_to_the_application_that_has_its_model_and_shows_its_key(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    metadata = [("x-api-key", KEYS[case.key][0] if case.key else ""), ("other", "stays")]
    if case.application:
        metadata.append(("application", case.application))
    if case.route:
        metadata.append((key_guard.ROUTE, case.route))

    async def run() -> None:
        async with proxy(monkeypatch, *APPLICATIONS) as channel:
            asked = channel.unary_unary(f"/{SERVICE}/{case.method}")(
                case.message.SerializeToString(), metadata=metadata
            )
            code = (await asked.code()).name
            if code != "OK":
                assert code == case.wanted, await asked.details()
                return
            seen = json.loads(await asked)
            assert (seen.get("application"), seen.get(key_guard.ROUTE)) == case.wanted
            assert seen["other"] == "stays"

    asyncio.run(run())


def test_streams_are_judged_and_sent_on_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with proxy(monkeypatch, *APPLICATIONS) as channel:
            ask = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            opened = ask(metadata=[("x-api-key", KEYS["beta"][0])])
            assert json.loads(await opened.read())[key_guard.ROUTE] == "any"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(metadata=[("x-api-key", "none")]).read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(run())


def test_a_sleeping_application_alone_answers_probes_without_being_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with proxy(monkeypatch, make_application("asleep", "third", awake=False)) as channel:
            for method in ("ServerLive", "ServerReady"):
                answer = await channel.unary_unary(f"/{SERVICE}/{method}")(b"")
                assert getattr(pb, f"{method}Response").FromString(answer).ListFields()[0][1] is True
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(run())


def test_while_the_controller_does_not_answer_a_replica_answers_by_itself(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()})  # and no cluster

    async def run() -> None:
        relay = Relay(plane, "alpha")
        started = time.monotonic()
        for method in ("ServerLive", "ServerReady", "RepositoryIndex", "ModelInfer"):
            context = RelayContext([("x-raymlops-route", "any")], "ipv4:127.0.0.1:1")
            assert await relay.answer(method, b"", context) is None
        assert time.monotonic() - started < 30

    asyncio.run(run())


class Replica:
    """Serve's handle of another application whose replica does this with a call, whatever the method is."""

    def __init__(self, act: Any) -> None:
        self._act = act

    @property
    def list_models(self) -> "Replica":
        return self

    answer_grpc = list_models

    def remote(self, *arguments: Any) -> Any:
        return self._act()


@dataclasses.dataclass
class Relayed:
    """A relay of `alpha`, which has the model `doubler`, and knows these other applications."""

    relay: Relay
    known: key_guard.Applications
    context: RelayContext

    def know(self, *applications: Application) -> None:
        self.known._known = {application.name: application for application in applications}

    async def ask(self, model: str, method: str = "ModelInfer") -> Any:
        return await self.relay.relay_call(method, infer(model).SerializeToString(), self.context)


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Relayed:
    known = key_guard.Applications()
    known._asked = time.monotonic() + 1000
    monkeypatch.setattr(key_guard, "APPLICATIONS", known)
    monkeypatch.setattr(grpc_relay, "_FRESH_S", 0.0)
    relay = Relay(make_plane(tmp_path, {"doubler": toy_models.doubler()}), "alpha")
    context = RelayContext([(key_guard.ROUTE, "any")], "ipv4:127.0.0.1:1")
    return Relayed(relay, known, context)


def make_folder(name: str) -> Application:
    return Application(name, f"/{name}", KeyRing(), True, folder=True)


def test_a_call_is_answered_although_an_application_goes_while_others_tell_their_models(
    relayed: Relayed,
) -> None:
    relayed.know(make_folder("first"), make_folder("second"))

    async def tell_and_lose_second() -> list[str]:
        relayed.know(make_folder("first"))
        await relayed.ask("")  # another call, which sees that one has gone
        return []

    async def tell() -> list[str]:
        return ["wanted"]

    async def run() -> None:
        relayed.relay._handles = {"first": Replica(tell_and_lose_second), "second": Replica(tell)}
        with pytest.raises(InputError, match="first, second"):
            await relayed.ask("unknown", "RepositoryModelLoad")

    asyncio.run(run())


async def give_up() -> Any:
    """As when its deployment goes."""
    raise asyncio.CancelledError


def test_a_call_that_serve_gives_up_is_told_with_a_remedy_and_not_cancelled(relayed: Relayed) -> None:
    relayed.know(dataclasses.replace(make_folder("shop"), models=frozenset({"hats"}), folder=False))

    async def run() -> None:
        relayed.relay._handles = {"shop": Replica(give_up)}
        code, details, trailers, _ = await relayed.ask("hats")
        assert (code, trailers) == ("UNAVAILABLE", [("grpc-retry-pushback-ms", "-1")])
        assert "'shop'" in details
        assert "send it again" in details

    asyncio.run(run())


def test_an_application_whose_answer_serve_gives_up_keeps_no_call_of_others(relayed: Relayed) -> None:
    relayed.know(make_folder("shop"))

    async def run() -> None:
        relayed.relay._handles = {"shop": Replica(give_up)}
        assert await relayed.ask("doubler") is None  # which this one has
        code, *_ = await relayed.relay.relay_call("ServerReady", b"", relayed.context) or ("",)
        assert code == "OK"

    asyncio.run(run())


def test_a_relayed_call_that_its_caller_gives_up_stays_cancelled(relayed: Relayed) -> None:
    relayed.know(dataclasses.replace(make_folder("shop"), models=frozenset({"hats"}), folder=False))

    async def run() -> None:
        relayed.relay._handles = {"shop": Replica(lambda: asyncio.sleep(60))}
        task = asyncio.create_task(relayed.ask("hats"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
