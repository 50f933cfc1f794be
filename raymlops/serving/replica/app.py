"""The Ray Serve application: `build_app(spec)` -> one deployment whose replicas each hold the whole data plane.

Serve finds it as `raymlops.serving.app:build_app` and validates the YAML's `args` as a ServingSpec.
"""

import asyncio
import os
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from raymlops import ray_internals
from raymlops.errors import RaymlopsError
from raymlops.runtime import sources
from raymlops.serving import serve_internals
from raymlops.serving.actors.monitoring import make_monitoring, watch_nodes
from raymlops.serving.actors.rate_limit_actor import make_lease
from raymlops.serving.actors.shared_repository import share_repository
from raymlops.serving.actors.statistics_reports import REPORT_PAUSE_S, ReplicaStatistics
from raymlops.serving.actors.watch_actors import ENSURED_S, JudgeWatch, OperationWatch, WatchActor, find_watch
from raymlops.serving.endpoints import model_host
from raymlops.serving.endpoints.capture import make_capture
from raymlops.serving.endpoints.graph import Prepared, host_graph, prepare_graph, runs_python, set_weights
from raymlops.serving.endpoints.hosted import Hosted, Hosts
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.observers import make_observers
from raymlops.serving.endpoints.run_memory import bound_memory
from raymlops.serving.endpoints.tick_observer import TickQueue
from raymlops.serving.fastpath.middleware import OWN
from raymlops.serving.haproxy import model_routing, wrapper
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.proxy import exposure, key_guard, listeners, tls
from raymlops.serving.replica import graph_node
from raymlops.serving.replica.background import Repeated
from raymlops.serving.replica.grpc_methods import GrpcMethods
from raymlops.serving.transport.api_keys import KeyRing, read_entry, read_keys
from raymlops.serving.transport.asgi import LOG, DataPlane, log_to_stderr
from raymlops.serving.transport.client_addresses import ClientAddresses
from raymlops.serving.transport.connection_limits import ConnectionLimits
from raymlops.serving.transport.cors import make_policy
from raymlops.serving.transport.rate_limit import RateLimit
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

POLL_S = 2.0
"""Seconds between a replica's checks for a changed key file."""


@serve.ingress()  # the replica itself builds the application, below
class Ingress(GrpcMethods):
    """One replica: sessions, data plane, and the tasks that reload keys and report statistics."""

    def __init__(
        self,
        spec: ServingSpec,
        prepared: Mapping[str, Prepared] | None = None,
        handles: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._spec = spec
        log_to_stderr()  # first, since it reports problems of models and keys
        listeners.close_replica_ports()
        if spec.tls is not None:  # this node may have joined after the application was deployed
            tls.write_tls(spec.tls)
        tls.write_limit(spec)
        memory = bound_memory(spec)
        own = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        counting = make_monitoring(spec, prepared or {}, own.replica_id.unique_id, node)
        hosted = _host(spec, prepared or {}, handles or {}, memory, counting)
        self._many = LazyModels(spec.many, spec.limits.queue, memory, hosted) if spec.many else None
        self._repository = share_repository(spec, self._many) if self._many is not None else None
        limits = spec.limits
        OWN.limits = ConnectionLimits.of(limits)
        self._keys_stamp = (0, 0, 0)
        capture, labels = make_capture(spec, hosted, sources.describe(spec))
        self.plane = DataPlane(
            Hosts(
                spec.name,
                hosted,
                RequestLimits.of(limits),
                self._repository,
                limits.queue,
                observers=make_observers(spec.observers, capture, [counting] if counting is not None else []),
                labels=labels,
            ),
            KeyRing(required=bool(spec.keys)),
            RateLimit(limits.rate, make_lease(spec)) if limits.rate else None,
            body_limit=int(limits.body_mb * 2**20),
            large_bodies_limit=int(limits.large_bodies_mb * 2**20),
            log_share=spec.access_log,
            addresses=_know_proxies(),
            cors=make_policy(spec.cors),
        )
        # As HAProxy derives it, from the variables that both have.
        token = os.environ.get(wrapper.TOKEN_VARIABLE, "")
        self.plane.secret = model_routing.find_secret(token, os.environ)
        self.relay_calls(serve.get_replica_context().app_name)
        self.plane.is_draining = serve_internals.find_draining()
        self._read_key_file()
        key_guard.RING[:] = [self.plane.keys]
        self._application = own.app_name
        self._statistics = ReplicaStatistics(own.app_name, own.replica_id.unique_id, self.plane.hosts)
        self.plane.hosts.statistics = self._statistics
        self._background = [
            Repeated("keys", self._refresh_keys, POLL_S),
            Repeated("statistics", self._statistics.report, REPORT_PAUSE_S),
        ]
        if spec.operations is not None:
            self._background.append(Repeated("operations", self._keep(OperationWatch), ENSURED_S))
        if spec.monitoring is not None and spec.monitoring.watched:
            self._background.append(Repeated("judging", self._keep(JudgeWatch), ENSURED_S))
        if self._repository is not None:
            self._background.append(Repeated("repository", self._repository.follow, POLL_S, patience_s=120.0))

    async def __serve_build_asgi_app__(self) -> Any:
        self.plane.hosts.observers.start()
        for task in self._background:
            task.start()
        if self._spec.autoscaling is None:  # else Serve must count the requests in flight
            OWN.prefix = "" if self._spec.route == "/" else self._spec.route
            OWN.app = self.plane
        return self.plane

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Options that change without a restart: `keys`, a list of entries as in a key file; `weights` of splits, by
        graph, path of the split, and branch."""
        for name, weights in user_config.get("weights", {}).items():
            set_weights(self.plane.hosts.find(name), weights)
        if "keys" in user_config:
            self.plane.keys.required = True
            self.plane.keys.replace([read_entry(entry) for entry in user_config["keys"]])

    def refuse_requests(self, reason: str) -> None:
        """Answer requests in progress, and refuse new ones."""
        self.plane.hosts.stop(reason)

    def count_requests(self) -> int:
        """Number of unanswered requests of this replica."""
        return self.plane.count_requests()

    async def check_health(self) -> None:
        """Run every model that is ready, off the event loop; a failure marks the replica unhealthy, and Serve
        replaces it. So does a background task that has ended."""
        for task in self._background:
            task.check()
        for hosted in list(self.plane.hosts.models.values()):
            if hosted.ready and hosted.check is not None:
                await asyncio.to_thread(hosted.check)

    def _keep(self, kind: type[WatchActor]) -> Callable[[], Awaitable[None]]:
        """A step that creates the actor if there is none."""

        async def step() -> None:
            await (await asyncio.to_thread(find_watch, kind, self._application)).ping.remote()

        return step

    async def _refresh_keys(self) -> None:
        if self._spec.keys:
            await asyncio.to_thread(self._read_key_file)

    def __del__(self) -> Any:
        """Serve calls it when all requests are answered, and waits until it returns."""
        background, self._background = getattr(self, "_background", ()), []
        for task in background:
            task.stop()
        return self._leave() if background else None

    async def _leave(self) -> None:
        await asyncio.to_thread(self.plane.hosts.observers.close)
        await self._statistics.leave()

    def _read_key_file(self) -> None:
        if not self._spec.keys:
            return
        path = pathlib.Path(self._spec.keys).expanduser()
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_ino, status.st_size
            if stamp != self._keys_stamp:
                self.plane.keys.replace(read_keys(path))
                self._keys_stamp = stamp
        except (OSError, RaymlopsError) as error:
            LOG.error("the key file was not read; the keys known so far stay in force: %s", error)


def _host(
    spec: ServingSpec,
    prepared: Mapping[str, Prepared],
    handles: Mapping[str, Mapping[str, Any]],
    memory: int,
    counting: TickQueue | None,
) -> dict[str, Hosted]:
    """The models and graphs of a spec, opened; `counting` is told of the runs of nodes that are monitored."""
    settings = Settings.from_env()
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", [])
    hosted = {}
    for name, model in spec.models.items():
        threads = max(1, int(spec.cpus / len(spec.models)))
        with model_host.named(f"Model {name!r} ({model.source})"):
            located = sources.locate(model, settings)
            hosted[name] = model_host.host_model(
                name,
                located.path,
                located.model,
                threads=threads,
                gpus=gpus,
                queue=spec.limits.queue,
                memory=memory,
            )
    for name, graph in prepared.items():
        remote = graph_node.call_nodes(handles.get(name, {}), graph)
        threads = max(1, int(spec.cpus))
        queue = spec.limits.queue
        watches = watch_nodes(counting, spec, name, runs_python(graph.spec))
        with model_host.named(f"Graph {name!r}"):
            hosted[name] = host_graph(
                name,
                graph,
                remote,
                settings,
                threads=threads,
                gpus=gpus,
                queue=queue,
                memory=memory,
                watches=watches,
            )
    return hosted


def _know_proxies() -> ClientAddresses:
    """HAProxy runs on the nodes of the cluster."""
    nodes_of_now = [node["NodeManagerAddress"] for node in ray.nodes()]
    # Made when serving starts, for HAProxy and its replicas only: see `haproxy/wrapper.py`.
    return ClientAddresses(nodes_of_now, os.environ.get("RAYMLOPS_PROXY_TOKEN", ""))


def build_app(spec: ServingSpec) -> serve.Application:
    """The application that Serve deploys. Aliases are pinned to versions here if that was not done before.

    Raises ForbiddenError if Serve listens beyond loopback and neither keys are set nor everyone is allowed.
    """
    exposure.require_keys(spec, listeners.read_host())
    pinned = sources.pin(spec, Settings.from_env())
    prepared = {name: prepare_graph(graph, Settings.from_env()) for name, graph in pinned.graphs.items()}
    handles = {name: graph_node.bind_nodes(name, graph) for name, graph in prepared.items()}
    return make_deployment(pinned).bind(pinned, prepared, handles)


_SURGE_PERCENT = 25
"""Replicas above the wanted number while versions change, rounded up."""


def has_room(resources: Mapping[str, float]) -> bool:
    """Whether there is room for one more replica now: if not, one of the old version must end first."""
    wanted = {"CPU": resources.get("num_cpus", 0), "GPU": resources.get("num_gpus", 0)}
    wanted["memory"] = resources.get("memory", 0)
    try:
        nodes_of_now = ray_internals.read_available_resources().values()
    except (AttributeError, ray.exceptions.RayError, ray.exceptions.RaySystemError):
        return False
    return any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes_of_now)


def make_deployment(spec: ServingSpec, target: Any = Ingress) -> Any:
    """The deployment with the spec's replicas, resources and queues."""
    actor_options: dict[str, Any] = {"num_cpus": spec.cpus, "num_gpus": spec.gpus}
    if spec.memory_mb:
        actor_options["memory"] = int(spec.memory_mb * 2**20)
    options: dict[str, Any] = {
        # The plane limits its own queue; Serve's limits, such as its default of 5, must not act first. It counts
        # requests before they are complete: as many may start as there are connections.
        "max_ongoing_requests": max(4 * spec.limits.queue, 2 * spec.limits.connections),
        "max_queued_requests": -1,
        "health_check_period_s": 5,
        "health_check_timeout_s": 15,
        "graceful_shutdown_timeout_s": spec.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        # A replica of the old version answers until a new one is ready.
        "max_surge_percent": _SURGE_PERCENT if has_room(actor_options) else 0,
        "ray_actor_options": actor_options,
        # A log line per request takes a tenth of a replica's time; the plane samples its own.
        "logging_config": LoggingConfig(enable_access_log=False, log_level="WARNING"),
    }
    if spec.autoscaling is None:
        options["num_replicas"] = spec.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": spec.autoscaling.min,
            "max_replicas": spec.autoscaling.max,
            "target_ongoing_requests": spec.autoscaling.target,
            "upscale_delay_s": spec.autoscaling.up_s,
            "downscale_delay_s": spec.autoscaling.down_s,
        }
        if spec.autoscaling.min == 0:
            # That a replica can start is tested before the application counts as deployed, and not by its first caller.
            # With other numbers, an update would stop replicas that are in use.
            options["autoscaling_config"]["initial_replicas"] = 1
    return serve.deployment(name="Ingress", **options)(target)
