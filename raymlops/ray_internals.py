"""The only module that uses Ray's private parts, except Serve's: each with its purpose, and a fallback for versions
of Ray without it. Imports only the parts of Ray that are called."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from raymlops.errors import ResourceError
from raymlops.private_names import PrivateName, PrivateNames

_SHORTAGE = "what a command waits for on a full cluster is not reported"
_LOOPBACK = "a one-machine cluster cannot be kept on loopback, or joined there; `RAY_ADDRESS` must name it"
_SIGNED = "searches are not signed, so that --resume asks for --trust"
_SCHEMA = "`raymlops doctor` does not check cluster.yaml against Ray's own schema"

RAY = PrivateNames(
    "ray",
    ">=2.60,<2.61",
    {
        "ray._raylet:Config.initialize": PrivateName(
            "a process that imported Ray before cannot start a cluster with a token", ("config_list",)
        ),
        "ray._private.state:state.get_draining_nodes": PrivateName(
            "trainings do not save when a node is about to be taken away, only at their intervals"
        ),
        "ray._private.state:available_resources_per_node": PrivateName(
            "a replica of the old version ends before one of the new starts"
        ),
        "ray._private.state:state._connect_and_get_accessor": PrivateName(_SHORTAGE),
        "ray._raylet:GlobalStateAccessor.get_actor_table": PrivateName(
            _SHORTAGE, ("self", "job_id", "actor_state_name")
        ),
        "ray.core.generated.gcs_pb2:ActorTableData": PrivateName(_SHORTAGE),
        "ray.autoscaler.v2.sdk:get_cluster_status": PrivateName(_SHORTAGE, ("gcs_address", "timeout")),
        "ray._raylet:GcsClient": PrivateName("`raymlops cluster watch-preemption` cannot drain a node"),
        "ray._raylet:InnerGcsClient.drain_node": PrivateName(
            "`raymlops cluster watch-preemption` cannot drain a node",
            ("self", "node_id", "reason", "reason_message", "deadline_timestamp_ms"),
        ),
        "ray.core.generated.autoscaler_pb2:DrainNodeReason.Value": PrivateName(
            "`raymlops cluster watch-preemption` cannot drain a node"
        ),
        "ray._private.worker:global_worker": PrivateName("see the names of its class"),
        "ray._private.worker:Worker": PrivateName(
            "streams of a replica that ends stay open until it has ended, and messages name no log folder",
            sets=("actors", "node"),
        ),
        "ray._private.node:Node.get_session_dir_path": PrivateName("messages name no log folder", ("self",)),
        "ray._private.worker:print_to_stdstream": PrivateName("all output of workers is shown", ("data",)),
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER": PrivateName(_LOOPBACK, kind=bool),
        "ray._private.ray_constants:IS_WINDOWS_OR_OSX": PrivateName(_LOOPBACK, kind=bool),
        "ray._private.services:get_ray_address_from_environment": PrivateName(
            _LOOPBACK, ("addr", "temp_dir")
        ),
        "ray._common.network_utils:node_ip_address_from_perspective": PrivateName(_LOOPBACK),
        "ray.autoscaler._private.util:prepare_config": PrivateName(_SCHEMA, ("config",)),
        "ray.autoscaler._private.util:validate_config": PrivateName(_SCHEMA, ("config",)),
        "ray.tune.execution.tune_controller:TuneController.save_to_dir": PrivateName(_SIGNED, ("self",)),
        "ray.tune.execution.tune_controller:TuneController": PrivateName(_SIGNED, sets=("_storage",)),
        "ray.train._internal.storage:StorageContext.experiment_driver_staging_path": PrivateName(_SIGNED),
    },
)

SEARCH_LOGGERS = ("ray.tune", "ray.train._internal.storage")
"""Names under which Ray reports the trials and files of a search; a missing name is ignored."""


def read_authentication_anew() -> None:
    """Ray reads its variables at import: make it read them again."""
    initialize = RAY.find("ray._raylet:Config.initialize")
    if initialize is not None:
        initialize("")


def list_draining_nodes() -> Collection[str]:
    """Ids of nodes that will be gone soon; empty if Ray does not say. Raises what Ray raises."""
    ask = RAY.find("ray._private.state:state.get_draining_nodes")
    return ask() if ask is not None else ()


def read_available_resources() -> Mapping[str, Mapping[str, float]]:
    """Free resources by node; empty if Ray does not say. Raises RayError."""
    ask = RAY.find("ray._private.state:available_resources_per_node")
    return ask() if ask is not None else {}


def read_actors() -> Iterator[Any]:
    """An `ActorTableData` for each actor of the cluster that is alive. Raises NotImplementedError, and what Ray
    raises."""
    accessor = RAY.call("ray._private.state:state._connect_and_get_accessor")
    table = RAY.find("ray.core.generated.gcs_pb2:ActorTableData")
    for data in accessor.get_actor_table(None, None):
        actor = table.FromString(data) if isinstance(data, bytes) else data
        if actor.state == table.ALIVE:
            yield actor


def read_cluster_status(address: str, timeout_s: int = 5) -> Any:
    """Demands and usage of the cluster, as in `ray status`. Raises NotImplementedError, and what Ray raises."""
    return RAY.call("ray.autoscaler.v2.sdk:get_cluster_status", address, timeout=timeout_s)


def drain_node(address: str, node: str, message: str, deadline_ms: int) -> tuple[bool, str]:
    """Mark a node as taken away at a time since 1970; returns whether Ray accepts, or why not. Raises ResourceError
    if this Ray cannot."""
    try:
        client = RAY.call("ray._raylet:GcsClient", address=address)
        reason = RAY.call(
            "ray.core.generated.autoscaler_pb2:DrainNodeReason.Value", "DRAIN_NODE_REASON_PREEMPTION"
        )
        return client.drain_node(node, reason, message, deadline_ms)  # type: ignore[no-any-return]
    except (NotImplementedError, AttributeError) as error:
        raise ResourceError(f"This Ray has no call to drain a node: {error}") from None


def find_session_folder() -> str:
    """Folder of the files and logs of this process's cluster, on its own machine."""
    node = getattr(RAY.find("ray._private.worker:global_worker"), "node", None)
    try:
        return str(node.get_session_dir_path())  # type: ignore[union-attr]
    except AttributeError:
        return "/tmp/ray/session_latest"  # noqa: S108  -- what Ray links to the last one


def end_autoscaler() -> None:
    """End the autoscaler of a cluster that this process started and is about to end: Ray would wait a second for it.
    Nothing happens if Ray keeps it elsewhere."""
    node = getattr(RAY.find("ray._private.worker:global_worker"), "node", None)
    for held in getattr(node, "all_processes", {}).get("monitor", ()):
        held.process.kill()


def find_own_actor(actor_id: str) -> Any:
    """The instance of this process's actor; None if Ray keeps it elsewhere."""
    actors = getattr(RAY.find("ray._private.worker:global_worker"), "actors", {})
    return next((held for key, held in actors.items() if key.hex() == actor_id), None)


def filter_output(keep: Callable[[str, list[str]], list[str]]) -> None:
    """Pass the output of workers and of Ray through `keep(actor, lines)`; all is shown if Ray does not print with the
    known function."""

    def make(show: Callable[..., None]) -> Callable[..., None]:
        def show_kept(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
            kept = keep(str(data.get("actor_name") or ""), data.get("lines") or [])
            if kept:
                show({**data, "lines": kept}, *arguments, **options)

        return show_kept

    RAY.replace("ray._private.worker:print_to_stdstream", make)


def set_loopback_only(is_alone: bool | None) -> None:
    """Whether a cluster has one machine only, which Ray decides at import; None is its default."""
    on_its_own = RAY.find("ray._private.ray_constants:IS_WINDOWS_OR_OSX")
    if RAY.find("ray._private.ray_constants:ENABLE_RAY_CLUSTER") is not None:
        RAY.put(
            "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
            not (on_its_own if is_alone is None else is_alone),
        )


def find_running_cluster() -> str:
    """The address of the local cluster that Ray would join by default; empty if there is none. Raises
    ConnectionError."""
    find = RAY.find("ray._private.services:get_ray_address_from_environment")
    return (find("auto", None) or "") if find is not None else ""


def find_own_address() -> str:
    """The address that Ray uses for this machine."""
    find = RAY.find("ray._common.network_utils:node_ip_address_from_perspective")
    if find is None:
        import ray

        return str(ray.util.get_node_ip_address())
    return str(find())


def validate_cluster_config(config: dict[str, Any]) -> None:
    """Ray's own check of a cluster's YAML, which modifies it. Raises what Ray raises, and nothing if it cannot
    check."""
    prepare = RAY.find("ray.autoscaler._private.util:prepare_config")
    validate = RAY.find("ray.autoscaler._private.util:validate_config")
    if prepare is not None and validate is not None:
        validate(prepare(config))


@contextlib.contextmanager
def told_of_saves(tell: Callable[[str], None]) -> Iterator[None]:
    """In this context, `tell` gets the folder to which Tune has just written a search, before it copies it to the
    storage. It is not called if Tune has no method of that name."""
    path = "ray.tune.execution.tune_controller:TuneController.save_to_dir"
    original = RAY.find(path)
    if original is None:
        yield
        return

    def save_to_dir(self: Any) -> None:
        original(self)
        tell(self._storage.experiment_driver_staging_path)

    RAY.put(path, save_to_dir)
    try:
        yield
    finally:
        RAY.put(path, original)
