"""The only module that uses Ray Serve's private parts: each with its purpose, and a fallback for versions of Ray
without it. Imports Serve only when called."""

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

from raymlops import ray_internals
from raymlops.private_names import PrivateName, PrivateNames

LOG = logging.getLogger("raymlops.serving")
_CLIENT = "applications cannot be deployed by `raymlops`; use `serve deploy`"
_DRAIN = "requests in flight are not counted, and not waited for"
_KEYS = "gRPC parses messages before it checks keys"
_HAPROXY = "TLS and limits of a node's HAProxy are not known"

SERVE = PrivateNames(
    "ray",
    ">=2.60,<2.61",
    {
        "ray.serve._private.default_impl:add_grpc_address": PrivateName(
            "the port for gRPC of replicas is where Serve binds it", ("grpc_server", "server_address")
        ),
        "ray.serve._private.replica:add_port_to_grpc_server": PrivateName(
            "the port for calls between replicas is where Serve binds it", ("server", "address")
        ),
        "ray.serve._private.http_util:socket": PrivateName(
            "the port for HTTP of replicas is where Serve binds it"
        ),
        "ray.serve._private.http_util:start_asgi_http_server": PrivateName(
            "the port for HTTP of replicas is where Serve binds it"
        ),
        "ray.serve._private.grpc_util:DEFAULT_GRPC_SERVER_OPTIONS": PrivateName(
            "messages over gRPC are limited by the data plane only", kind=list
        ),
        "ray.serve._private.grpc_util:gRPCGenericServer._override_method_handler": PrivateName(
            _KEYS, ("self", "service_method", "method_handler")
        ),
        "ray.serve._private.constants:RAY_SERVE_ENABLE_HA_PROXY": PrivateName(_HAPROXY, kind=bool),
        "ray.serve._private.constants:RAY_SERVE_HAPROXY_BINARY_PATH": PrivateName(_HAPROXY),
        "ray.serve._private.constants:RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": PrivateName(_HAPROXY, kind=str),
        "ray.serve._private.constants:SERVE_CONTROLLER_NAME": PrivateName(_CLIENT, kind=str),
        "ray.serve._private.constants:SERVE_NAMESPACE": PrivateName(_CLIENT, kind=str),
        "ray.serve._private.logging_utils:redirected_print": PrivateName(
            "tracebacks in logs of replicas may be tuples", ("file",)
        ),
        "ray.serve._private.logging_utils:buildin_print": PrivateName(
            "tracebacks in logs of replicas may be tuples"
        ),
        "ray.serve.context:_get_global_client": PrivateName(_CLIENT, ("raise_if_no_controller_running",)),
        "ray.serve.context:_set_global_client": PrivateName(_CLIENT, ("client",)),
        "ray.serve._private.client:ServeControllerClient": PrivateName(
            _CLIENT,
            sets=(
                "_controller",
                "deploy_apps",
                "delete_apps",
                "get_serve_details",
                "shutdown_cached_handles",
            ),
        ),
        "ray.serve._private.client:ServeControllerClient.delete_apps": PrivateName(
            _CLIENT, ("self", "names", "blocking")
        ),
        "ray.serve._private.controller:ServeController": PrivateName(
            _CLIENT,
            sets=("get_http_config", "get_grpc_config", "get_serve_instance_details", "graceful_shutdown"),
        ),
        "ray.serve._private.controller:ServeController.graceful_shutdown": PrivateName(
            _CLIENT, ("self", "wait")
        ),
        "ray.serve.handle:DeploymentHandle._init": PrivateName(_DRAIN, ("self",)),
        "ray.serve.handle:DeploymentHandle.broadcast": PrivateName(_DRAIN, ("self", "method_name")),
        "ray.serve.handle:DeploymentHandle.options": PrivateName(
            "large tensors travel to separate nodes as messages, not through Ray's object store",
            ("_by_reference",),
        ),
        "ray.serve._private.replica:ReplicaActor": PrivateName(
            "streams of a replica that ends stay open until it has ended", sets=("_replica_impl",)
        ),
        "ray.serve._private.replica:Replica": PrivateName(
            "streams of a replica that ends stay open until it has ended", sets=("_shutting_down",)
        ),
    },
    log="raymlops.serving",
)
_CONSTANTS = "ray.serve._private.constants:"


def has_read_environment() -> bool:
    """Whether Serve has read this process's variables, which it does once."""
    return "ray.serve._private.constants" in sys.modules


def is_behind_haproxy() -> bool:
    """Whether HAProxy is in front of the replicas of this cluster's Serve."""
    return bool(SERVE.find(f"{_CONSTANTS}RAY_SERVE_ENABLE_HA_PROXY"))


def find_haproxy_binary() -> str:
    """The program that Serve starts as HAProxy; empty for its default."""
    return SERVE.find(f"{_CONSTANTS}RAY_SERVE_HAPROXY_BINARY_PATH") or ""


def find_haproxy_config() -> str:
    """The file whose folder holds a node's HAProxy configuration. Raises NotImplementedError."""
    found = SERVE.find(f"{_CONSTANTS}RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
    if found is None:
        raise NotImplementedError("This Ray does not show where HAProxy has its configuration")
    return str(found)


def find_controller() -> Any:
    """Serve's controller. Raises ValueError if there is no cluster; Ray would start or join one to find it."""
    import ray

    if not ray.is_initialized():
        raise ValueError("This process is in no cluster")
    name = SERVE.find(f"{_CONSTANTS}SERVE_CONTROLLER_NAME") or "SERVE_CONTROLLER_ACTOR"
    return ray.get_actor(name, namespace=SERVE.find(f"{_CONSTANTS}SERVE_NAMESPACE") or "serve")


def read_http_options() -> Any:
    """Serve's start options; blocks the caller, as Serve's own replicas do. Raises ValueError, RayError."""
    import ray

    return ray.get(find_controller().get_http_config.remote())


def read_grpc_options() -> Any:
    """The same for gRPC."""
    import ray

    return ray.get(find_controller().get_grpc_config.remote())


async def read_instance_details() -> Any:
    """Details of all applications, as the controller knows them. Raises ValueError, RayError."""
    return await find_controller().get_serve_instance_details.remote()


def find_client() -> Any:
    """A client that deploys and removes applications; None if no Serve runs on the cluster. Raises
    NotImplementedError if this Ray has none."""
    return SERVE.call("ray.serve.context:_get_global_client", raise_if_no_controller_running=False)


def get_client() -> Any:
    """The same. Raises RayServeException where no Serve runs."""
    return SERVE.call("ray.serve.context:_get_global_client")


def begin_shutdown() -> bool:
    """Stop Serve on this cluster, without waiting; False if it does not run. Serve's own function waits inside a call
    that fails when the controller ends, and Ray logs that."""
    client = find_client()
    if client is None:
        return False
    client.shutdown_cached_handles()
    client._controller.graceful_shutdown.remote(False)
    return True


def forget_client() -> None:
    """As Serve does when it has ended."""
    SERVE.call("ray.serve.context:_set_global_client", None)


def route_in_own_loop(handle: Any) -> None:
    """Serve's fast settings choose a router that needs this process's event loop, permanently. Raises RuntimeError if
    the handle was set up before."""
    begin = getattr(handle, "_init", None)
    if begin is not None:
        begin(_run_router_in_separate_loop=True)


def by_reference(handle: Any, method: str) -> Any:
    """How to call a method with arguments in Ray's object store, for which Serve has no public name; None if this
    Serve has none."""
    try:
        return handle.options(method_name=method, _by_reference=True).remote
    except TypeError:
        return None


def find_draining() -> Callable[[], bool]:
    """A function that returns whether Serve is about to end this process's replica; always False if this Ray keeps it
    elsewhere."""
    import ray

    actor = ray_internals.find_own_actor(ray.get_runtime_context().get_actor_id() or "")
    replica = getattr(actor, "_replica_impl", None)
    if not hasattr(replica, "_shutting_down"):
        LOG.error(
            "Ray %s does not show that a replica ends: streams stay open until it has ended", ray.__version__
        )
        return lambda: False
    return lambda: bool(replica._shutting_down)  # type: ignore[union-attr]


def set_grpc_options(options: list[tuple[str, int]]) -> None:
    """Options of the gRPC servers that Serve creates in this process from now on."""
    known = SERVE.find("ray.serve._private.grpc_util:DEFAULT_GRPC_SERVER_OPTIONS")
    if isinstance(known, list):
        known[:] = options


def replace_grpc_bind(bind: Callable[[Any, str], None]) -> bool:
    """Make `bind(server, address)` open the gRPC ports of proxies and replicas; False if it is not used."""
    return SERVE.replace("ray.serve._private.default_impl:add_grpc_address", lambda original: bind)


def replace_internal_bind(make: Callable[[Any], Any]) -> bool:
    """Replace Serve's function that opens the port for calls between replicas by the result of `make`; False if there
    is none."""
    return SERVE.replace("ray.serve._private.replica:add_port_to_grpc_server", make)


def replace_http_sockets(sockets: Any) -> bool:
    """Make HTTP of replicas listen on sockets of this module; False if Serve creates them differently."""
    known = SERVE.find("ray.serve._private.http_util:socket")
    if (
        known not in (socket, sockets)
        or SERVE.find("ray.serve._private.http_util:start_asgi_http_server") is None
    ):
        return False
    SERVE.put("ray.serve._private.http_util:socket", sockets)
    return True


def replace_method_handlers(server: Any, make: Callable[[Any], Any]) -> bool:
    """Replace the server's function that adds Serve's methods by the result of `make`; False if the server has none."""
    override = getattr(server, "_override_method_handler", None)
    if override is None:
        return False
    server._override_method_handler = make(override)
    return True


def find_prints() -> tuple[Any, Any]:
    """Serve's replacement of `print`, and the original; None twice if there is none."""
    names = ("redirected_print", "buildin_print")
    replaced, original = (SERVE.find_loaded(f"ray.serve._private.logging_utils:{name}") for name in names)
    return (None, None) if replaced is None or original is None else (replaced, original)
