"""The one address of Ray's private parts but for Serve's: each with what it is needed for, and what is done where a
version of Ray does not have it. Imports of Ray only what is called."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from raymlops.errors import ResourceError
from raymlops.private_names import PrivateName, PrivateNames

_SHORTAGE = "what a command waits for on a full cluster is not told"
_LOOPBACK = (
    "a cluster of this machine alone cannot be kept on loopback, or joined there; `RAY_ADDRESS` must name it"
)
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
            "trainings do not save when a node is about to be taken away, but by their clock"
        ),
        "ray._private.state:available_resources_per_node": PrivateName(
            "a replica of the version before ends before one of the new starts"
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
            "streams of a replica that ends stay open until it has, and messages name no folder of logs",
            sets=("actors", "node"),
        ),
        "ray._private.node:Node.get_session_dir_path": PrivateName(
            "messages name no folder of logs", ("self",)
        ),
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
"""Names under which Ray tells of the trials and files of a search; a name that is no more is silent."""


def read_authentication_anew() -> None:
    """Ray reads its variables when it is imported: have it read them again."""
    initialize = RAY.find("ray._raylet:Config.initialize")
    if initialize is not None:
        initialize("")


def list_draining_nodes() -> Collection[str]:
    """Ids of nodes that will be gone soon; none where Ray does not tell. Raises what Ray raises."""
    ask = RAY.find("ray._private.state:state.get_draining_nodes")
    return ask() if ask is not None else ()


def read_available_resources() -> Mapping[str, Mapping[str, float]]:
    """What is free now, by node; empty where Ray does not tell. Raises RayError."""
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
    """Demands and usage of the cluster, as `ray status` tells them. Raises NotImplementedError, and what Ray raises."""
    return RAY.call("ray.autoscaler.v2.sdk:get_cluster_status", address, timeout=timeout_s)


def drain_node(address: str, node: str, message: str, deadline_ms: int) -> tuple[bool, str]:
    """Mark a node as one that is taken away at a time since 1970; whether Ray does, or why not. Raises ResourceError
    where this Ray cannot."""
    try:
        client = RAY.call("ray._raylet:GcsClient", address=address)
        reason = RAY.call(
            "ray.core.generated.autoscaler_pb2:DrainNodeReason.Value", "DRAIN_NODE_REASON_PREEMPTION"
        )
        return client.drain_node(node, reason, message, deadline_ms)  # type: ignore[no-any-return]
    except (NotImplementedError, AttributeError) as error:
        raise ResourceError(f"This Ray cannot be told of a node that is taken away: {error}") from None


def find_session_folder() -> str:
    """Where the cluster of this process keeps its files and logs, on its own machine."""
    node = getattr(RAY.find("ray._private.worker:global_worker"), "node", None)
    try:
        return str(node.get_session_dir_path())  # type: ignore[union-attr]
    except AttributeError:
        return "/tmp/ray/session_latest"  # noqa: S108  -- what Ray links to the last one


def find_own_actor(actor_id: str) -> Any:
    """The instance of this process's actor; None where Ray keeps it elsewhere."""
    actors = getattr(RAY.find("ray._private.worker:global_worker"), "actors", {})
    return next((held for key, held in actors.items() if key.hex() == actor_id), None)


def filter_output(keep: Callable[[str, list[str]], list[str]]) -> None:
    """Have what Ray prints of workers and of its own go through `keep(actor, lines)`; all is shown where Ray does not
    print by way of the function that is known."""

    def make(show: Callable[..., None]) -> Callable[..., None]:
        def show_kept(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
            kept = keep(str(data.get("actor_name") or ""), data.get("lines") or [])
            if kept:
                show({**data, "lines": kept}, *arguments, **options)

        return show_kept

    RAY.replace("ray._private.worker:print_to_stdstream", make)


def set_loopback_only(is_alone: bool | None) -> None:
    """Whether a cluster is of this machine alone, which Ray decides when it is imported; None is what it does by
    default."""
    on_its_own = RAY.find("ray._private.ray_constants:IS_WINDOWS_OR_OSX")
    if RAY.find("ray._private.ray_constants:ENABLE_RAY_CLUSTER") is not None:
        RAY.put(
            "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
            not (on_its_own if is_alone is None else is_alone),
        )


def find_running_cluster() -> str:
    """The address of this machine's cluster that Ray would join by default; empty where there is none. Raises
    ConnectionError."""
    find = RAY.find("ray._private.services:get_ray_address_from_environment")
    return (find("auto", None) or "") if find is not None else ""


def find_own_address() -> str:
    """Of this machine, as Ray takes it."""
    find = RAY.find("ray._common.network_utils:node_ip_address_from_perspective")
    if find is None:
        import ray

        return str(ray.util.get_node_ip_address())
    return str(find())


def validate_cluster_config(config: dict[str, Any]) -> None:
    """Ray's own check of a cluster's YAML, which changes it. Raises what Ray raises, and nothing where it cannot
    check."""
    prepare = RAY.find("ray.autoscaler._private.util:prepare_config")
    validate = RAY.find("ray.autoscaler._private.util:validate_config")
    if prepare is not None and validate is not None:
        validate(prepare(config))


@contextlib.contextmanager
def told_of_saves(tell: Callable[[str], None]) -> Iterator[None]:
    """Within this, `tell` gets the folder that Tune has just written a search to, before it copies it to the storage.
    Nothing is told where a Tune has no method of that name."""
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
