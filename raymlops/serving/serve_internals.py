"""The one address of Ray Serve's private parts: each with what it is needed for, and what is done where a version of
Ray does not have it. Loads Serve only where it is called."""

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
_KEYS = "gRPC parses messages before it asks for keys"
_HAPROXY = "what TLS and limits HAProxy of a node has is not known"

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
            "large tensors travel to separate nodes as messages, not by Ray's object store",
            ("_by_reference",),
        ),
        "ray.serve._private.replica:ReplicaActor": PrivateName(
            "streams of a replica that ends stay open until it has", sets=("_replica_impl",)
        ),
        "ray.serve._private.replica:Replica": PrivateName(
            "streams of a replica that ends stay open until it has", sets=("_shutting_down",)
        ),
    },
    log="raymlops.serving",
)
_CONSTANTS = "ray.serve._private.constants:"


def has_read_environment() -> bool:
    """Whether Serve has read the variables of this process, which it does once."""
    return "ray.serve._private.constants" in sys.modules


def is_behind_haproxy() -> bool:
    """Whether HAProxy stands before the replicas of this cluster's Serve."""
    return bool(SERVE.find(f"{_CONSTANTS}RAY_SERVE_ENABLE_HA_PROXY"))


def find_haproxy_binary() -> str:
    """What Serve starts as HAProxy; empty for what it comes with."""
    return SERVE.find(f"{_CONSTANTS}RAY_SERVE_HAPROXY_BINARY_PATH") or ""


def find_haproxy_config() -> str:
    """The file in whose folder HAProxy of a node has its own. Raises NotImplementedError."""
    found = SERVE.find(f"{_CONSTANTS}RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
    if found is None:
        raise NotImplementedError("This Ray does not tell where HAProxy has its configuration")
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
    """Of all applications, as the controller knows them. Raises ValueError, RayError."""
    return await find_controller().get_serve_instance_details.remote()


def find_client() -> Any:
    """What deploys and takes away applications; None where no Serve runs on the cluster. Raises NotImplementedError
    where this Ray has none such."""
    return SERVE.call("ray.serve.context:_get_global_client", raise_if_no_controller_running=False)


def get_client() -> Any:
    """The same. Raises RayServeException where no Serve runs."""
    return SERVE.call("ray.serve.context:_get_global_client")


def begin_shutdown() -> bool:
    """End Serve on this cluster, and wait for nothing; False where it does not run. Serve's own function waits within a
    call that the end of the controller fails, which Ray then tells of."""
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
    """What Serve's fast settings choose for a handle wants a loop of this process's, for ever. Raises RuntimeError
    where the handle was set up before."""
    begin = getattr(handle, "_init", None)
    if begin is not None:
        begin(_run_router_in_separate_loop=True)


def by_reference(handle: Any, method: str) -> Any:
    """How to call a method with what travels by Ray's object store, which Serve has no public name for; None where
    this Serve has none."""
    try:
        return handle.options(method_name=method, _by_reference=True).remote
    except TypeError:
        return None


def find_draining() -> Callable[[], bool]:
    """A function that says whether Serve is about to end this process's replica; always False where this Ray keeps it
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
    """Of the gRPC servers that Serve makes in this process from now on."""
    known = SERVE.find("ray.serve._private.grpc_util:DEFAULT_GRPC_SERVER_OPTIONS")
    if isinstance(known, list):
        known[:] = options


def replace_grpc_bind(bind: Callable[[Any, str], None]) -> bool:
    """Have `bind(server, address)` open the gRPC ports of proxies and replicas; False where it is not asked."""
    return SERVE.replace("ray.serve._private.default_impl:add_grpc_address", lambda original: bind)


def replace_internal_bind(make: Callable[[Any], Any]) -> bool:
    """Have what `make` makes of Serve's function open the port on which replicas call each other; the same."""
    return SERVE.replace("ray.serve._private.replica:add_port_to_grpc_server", make)


def replace_http_sockets(sockets: Any) -> bool:
    """Have HTTP of replicas listen on sockets of this module; False where Serve makes them otherwise."""
    known = SERVE.find("ray.serve._private.http_util:socket")
    if (
        known not in (socket, sockets)
        or SERVE.find("ray.serve._private.http_util:start_asgi_http_server") is None
    ):
        return False
    SERVE.put("ray.serve._private.http_util:socket", sockets)
    return True


def replace_method_handlers(server: Any, make: Callable[[Any], Any]) -> bool:
    """Have what `make` makes of the server's function put Serve's methods in; False for a server that has none."""
    override = getattr(server, "_override_method_handler", None)
    if override is None:
        return False
    server._override_method_handler = make(override)
    return True


def find_prints() -> tuple[Any, Any]:
    """What Serve has put in the place of `print`, and what that was; None twice where it has not."""
    names = ("redirected_print", "buildin_print")
    replaced, original = (SERVE.find_loaded(f"ray.serve._private.logging_utils:{name}") for name in names)
    return (None, None) if replaced is None or original is None else (replaced, original)
