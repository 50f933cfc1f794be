"""Relays gRPC calls for another application of the same Serve: clients know one address and no applications, so a
call belongs to the application that has its model.

HAProxy and Serve's proxy route by the model's name if they can read it (see `wrapper.py` and `key_guard.py`); what
they cannot read, such as compressed messages and the messages of streams, is relayed here. Calls that are not about a
single model go to all applications. A model that several applications have is refused, as any choice could be wrong.
"""

import asyncio
import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc
import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from raymlops.errors import (
    AuthenticationError,
    InputError,
    OverloadedError,
    ProcessEndedError,
    RaymlopsError,
    shorten,
)
from raymlops.serving.haproxy.model_routing import ROUTE
from raymlops.serving.protocol.grpc_message import FIELDS, find_model
from raymlops.serving.proxy import key_guard
from raymlops.serving.proxy.key_guard import Application
from raymlops.serving.replica.handle_calls import call_handle
from raymlops.serving.transport import grpc_service
from raymlops.serving.transport.asgi import LOG, DataPlane
from raymlops.serving.transport.grpc_answers import METHODS

_FRESH_S = 2.0
"""Seconds for which the names of a folder of models are cached."""
_MISSED_S = 0.05
"""The same if a model is not among them: unknown names cause only so many calls to other applications."""
_LOOK_S = 1.0
"""Timeout of Serve's controller, if the applications are already known."""
_PATIENCE_S = 5.0
"""Timeout of calls to all applications: one that does not answer delays no other."""
_HEALTH_S = 1.0
"""Seconds for which the health of all applications is cached: probes need no key."""
_READY = b"\x08\x01"
_NOT_READY = {"ServerReady": b"", "Check": b"\x08\x02"}
"""Messages with the only field ready, and status."""
_LISTS = ("RepositoryIndex", "ModelStatistics")
_OF_ALL = {name for name in METHODS if name not in FIELDS} | {
    "ModelStatistics",
    "Check",
    "TraceSetting",
}
"""Methods that ask every application if no model is named."""

_FAILURES = (RaymlopsError, ray.exceptions.RayError, RayServeException, RuntimeError)
"""Errors of a call to another application, which may no longer exist."""

Others = Mapping[str, Application]
"""By name, at the time of a call: applications that come or go while it is answered are ignored."""

Told = tuple[str, str, list[tuple[str, str]], bytes]
"""Name of gRPC's code, details, trailers, and the message."""


class RelayContext:
    """The gRPC context of a call that was relayed by another application."""

    def __init__(self, metadata: Sequence[tuple[str, str]], peer: str) -> None:
        self._metadata, self._peer = metadata, peer
        self.code = "OK"
        self.details = ""
        self.trailers: list[tuple[str, str]] = []

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def set_code(self, code: Any) -> None:
        self.code = code.name

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailers: Sequence[tuple[str, str]]) -> None:
        self.trailers = list(trailers)


async def answer_here(
    plane: DataPlane, name: str, message: bytes, metadata: Sequence[tuple[str, str]], peer: str
) -> Told:
    """Methods that another application's replica calls on this one."""
    context = RelayContext(metadata, peer)
    try:
        response = await grpc_service.answer(plane, name, message, context)
    except Exception:
        return context.code, context.details, context.trailers, b""
    return context.code, context.details, context.trailers, response.SerializeToString()


@dataclasses.dataclass(frozen=True, slots=True)
class Passed:
    """An answer as another application wrote it."""

    message: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.message


class Relay:
    """The relay of the replica that has `plane`, in the application `name`."""

    def __init__(self, plane: DataPlane, name: str) -> None:
        self._plane = plane
        self._name = name
        self._handles: dict[str, Any] = {}
        self._names: dict[str, tuple[float, frozenset[str]]] = {}
        self._others: dict[str, Application] = {}
        self._looked = float("-inf")
        self._looking: asyncio.Future[None] | None = None
        self._health: dict[str, tuple[float, Told]] = {}

    async def answer(self, name: str, message: bytes, context: Any) -> Any:
        """The answer of another application, or of all; None if this one answers by itself. A failure has set its
        code, and is an empty message."""
        try:
            told = await self.relay_call(name, message, context)
        except RaymlopsError as error:
            sent = dict(context.invocation_metadata() or ())
            grpc_service.refuse(self._plane, name, sent, error, context)
            return Passed(b"")
        if told is None:
            return None
        code, details, trailers, answered = told
        if code != "OK":
            context.set_code(grpc.StatusCode[code])
            context.set_details(details)
        context.set_trailing_metadata(trailers)
        return Passed(answered)

    async def relay_call(self, name: str, message: bytes, context: Any) -> Told | None:
        """The answer of another application, or of all; None if this one is asked.

        Raises InputError if several have the model, AuthenticationError if one would have to be woken for a caller
        without a key.
        """
        sent = dict(context.invocation_metadata() or ())
        if name == "ServerLive" or self._is_own(name, message, sent):
            return None
        others = await self._refresh()
        if not others:
            return None
        model = find_model(name, message)
        if not model:
            return await self._ask_all(others, name, message, context) if name in _OF_ALL else None
        target = await self._find(others, name, model)
        if target is None and model not in self._plane.hosts.models:
            target = self._find_by_key(others, grpc_service.read_token(sent))
        if target is None:
            return None
        if not others[target].awake:
            others[target].ring.identify(grpc_service.read_token(sent))
        told = await self._ask(target, name, message, context)
        if name in ("RepositoryModelLoad", "RepositoryModelUnload"):
            self._names.pop(target, None)
        return told

    def _is_own(self, name: str, message: bytes, sent: Mapping[str, Any]) -> bool:
        """Whether this application must answer without looking at others: there is no other, the caller named it, or
        a proxy found that it alone has the model."""
        route = sent.get(ROUTE)
        if route is None:
            return "application" in sent
        return route == "only" or (route == "model" and find_model(name, message) in self._plane.hosts.models)

    async def _find(self, others: Others, method: str, model: str) -> str | None:
        """The other application that has a model; None for this one, which also answers for unknown models.

        Raises InputError if several have it.
        """
        owners: list[str] = []
        for fresh_s in (_FRESH_S, _MISSED_S):  # a model may have been added since
            owners = [
                name for name, other in others.items() if model in await self._list_models(other, fresh_s)
            ]
            if owners or model in self._plane.hosts.models:
                break
        if model in self._plane.hosts.models:
            owners.append(self._name)
        has = "is in several applications"
        if not owners and method == "RepositoryModelLoad":  # a file that was added since
            has = "is new, and several applications have a folder of models"
            owners = [name for name, other in others.items() if other.folder]
            owners += [self._name] if self._plane.hosts.repository is not None else []
        if len(owners) > 1:
            raise InputError(
                f"Model {shorten(model)!r} {has}: {', '.join(sorted(owners))}; name one of them in the metadata "
                "'application'"
            )
        return owners[0] if owners and owners[0] != self._name else None

    def _find_by_key(self, others: Others, token: str) -> str | None:
        """For an unknown model: another application, if the key is valid there and not here."""
        try:
            self._plane.keys.identify(token)
        except AuthenticationError:
            known = (name for name, other in others.items() if other.awake and _accepts_key(other, token))
            return next(known, None)
        return None

    async def admit(self, token: str) -> None:
        """Raises AuthenticationError unless an application knows this key; that application checks what it may do."""
        try:
            self._plane.keys.identify(token)
        except AuthenticationError as error:
            others = await self._refresh()
            if not any(_accepts_key(other, token) for other in others.values()):
                raise error from None

    async def _ask(self, target: str, name: str, message: bytes, context: Any) -> Told:
        # The call now names that application, so its replica looks no further.
        metadata = [
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if key not in ("application", ROUTE)
        ]
        metadata.append(("application", target))
        try:
            handle = await self._find_handle(target)
            told: Told = await call_handle(handle.answer_grpc.remote, name, message, metadata, context.peer())
            return told
        except ProcessEndedError:
            ended = (
                f"The replica of {target!r} that had this call ended; the call is not sent to another one; send "
                "it again if that does no harm"
            )
            return "UNAVAILABLE", ended, [("grpc-retry-pushback-ms", "-1")], b""
        except _FAILURES as error:
            LOG.error("application %s did not answer a call of %s: %s", target, name, error)
            return "UNAVAILABLE", f"Application {target!r} does not answer; try again later", [], b""

    async def _refresh(self) -> Others:
        """The other applications at present. While Serve's controller does not answer, the last known ones."""
        if time.monotonic() - self._looked < _FRESH_S:
            return self._others
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._load_applications())
        patience = _PATIENCE_S if self._looked == float("-inf") else _LOOK_S
        await asyncio.wait({self._looking}, timeout=patience)
        return self._others

    async def _load_applications(self) -> None:
        try:
            known = await asyncio.wait_for(key_guard.APPLICATIONS.refresh(), _PATIENCE_S)
        except (OverloadedError, TimeoutError) as error:
            LOG.error("the other applications are not known: %s", error)
        else:
            self._others = {name: found for name, found in known.items() if found.ours and name != self._name}
        self._looked = time.monotonic()

    async def _list_models(self, application: Application, fresh_s: float) -> Collection[str]:
        """Models of another application: those in its spec, and those of its folder as its replicas list them; one
        that is scaled to zero is not woken for that."""
        name = application.name
        if not (application.folder and application.awake):
            return application.models
        asked, names = self._names.get(name, (float("-inf"), application.models))
        if time.monotonic() - asked > fresh_s:
            try:
                handle = await self._find_handle(name)
                telling = call_handle(handle.list_models.remote)
                names = frozenset(await asyncio.wait_for(telling, _PATIENCE_S))
            except (*_FAILURES, TimeoutError) as error:
                LOG.error("application %s did not list its models: %s", name, error)
            self._names[name] = time.monotonic(), names
        return names

    async def _find_handle(self, name: str) -> Any:
        if name not in self._handles:
            # Making one asks Serve's controller, and blocks.
            self._handles[name] = await asyncio.to_thread(serve.get_deployment_handle, "Ingress", name)
        return self._handles[name]

    async def _ask_all(self, others: Others, name: str, message: bytes, context: Any) -> Told:
        """One answer for a call to every application: of those that accept the key, or this one's refusal."""
        at, known = self._health.get(name, (float("-inf"), None))
        if known is not None and time.monotonic() - at < _HEALTH_S:
            return known
        metadata = list(context.invocation_metadata() or ())
        mine = await answer_here(self._plane, name, message, metadata, context.peer())
        if name in _NOT_READY and mine[0] != "OK":
            return mine
        awake = [other for other, application in others.items() if application.awake]
        asked = (self._ask_with_timeout(other, name, message, context) for other in awake)
        told = [mine, *await asyncio.gather(*asked)]
        if name in _NOT_READY:
            ready = all(answer[0] == "OK" and answer[3] == _READY for answer in told)
            code, details, trailers, _ = mine
            health = code, details, trailers, _READY if ready else _NOT_READY[name]
            self._health[name] = time.monotonic(), health
            return health
        good = [answer for answer in told if answer[0] == "OK"]
        if not good:
            return mine
        if name in _LISTS:
            return *good[0][:3], b"".join(
                answer[3] for answer in good
            )  # messages of one list are concatenated by their bytes
        return good[0]

    async def _ask_with_timeout(self, target: str, name: str, message: bytes, context: Any) -> Told:
        try:
            return await asyncio.wait_for(self._ask(target, name, message, context), _PATIENCE_S)
        except TimeoutError:
            return "UNAVAILABLE", f"Application {target!r} did not answer within {_PATIENCE_S:g} s", [], b""


def _accepts_key(application: Application, token: str) -> bool:
    try:
        application.ring.identify(token)
    except AuthenticationError:
        return False
    return True
