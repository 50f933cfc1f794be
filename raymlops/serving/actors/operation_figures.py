"""What operational checks judge, gathered from a running application: Serve's status, the counts of its replicas, its
files, and the tracking store. Judges nothing."""

import logging
import pathlib
import re
import shutil
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
import ray.exceptions
from cryptography import x509

from raymlops import locations
from raymlops.errors import RaymlopsError, describe_cause
from raymlops.histograms import TIMES_NS
from raymlops.monitoring.operations.figures import Certificate, Figures, Place
from raymlops.monitoring.operations.history import Counts, ModelKey, Sample, fold_models
from raymlops.runtime.sources import list_models
from raymlops.serving import serve_internals, startup_failures
from raymlops.serving.actors.statistics_reports import find_aggregator
from raymlops.serving.endpoints.prometheus import EDGE
from raymlops.serving.endpoints.statistics import Tree
from raymlops.serving.endpoints.told_gauges import Gauge
from raymlops.serving.transport.api_keys import read_keys
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec
from raymlops.tracking.reachability import explain_absence, find_missing

LOG = logging.getLogger("raymlops.serving")
_PATIENCE_S = 10.0
_Result = TypeVar("_Result")
_HEALTHY = ("RUNNING", "DEPLOYING", "NOT_STARTED", "DELETING")
_GONE = "GONE"
_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")


def read_applications() -> Mapping[str, Mapping[str, Any]]:
    """Serve's details of all applications by name. Raises ValueError where no Serve runs, and RayError."""
    details = ray.get(
        serve_internals.find_controller().get_serve_instance_details.remote(), timeout=_PATIENCE_S
    )
    found: Mapping[str, Mapping[str, Any]] = details.get("applications", {})
    return found


def read_spec(details: Mapping[str, Any], application: str) -> ServingSpec:
    """The spec that an application was deployed with; one with all defaults if it was deployed in another way."""
    arguments = (details.get("deployed_app_config") or {}).get("args")
    try:
        if arguments:
            return ServingSpec.model_validate(arguments)
    except ValueError as error:
        LOG.warning("operational checks: the spec of %s cannot be read: %s", application, error)
    return ServingSpec.model_construct(name=application)


def gather(
    application: str, details: Mapping[str, Any] | None, spec: ServingSpec, settings: Settings
) -> Figures:
    """The figures of now; what cannot be found out is None. Asks each part for at most some seconds."""
    ingress = (details or {}).get("deployments", {}).get("Ingress", {})
    replicas = [str(one["replica_id"]) for one in ingress.get("replicas", ()) if _is_up(str(one["state"]))]
    names, trees = _try(lambda: _read_counts(application), "counts of replicas") or (None, None)
    if replicas and not names:  # they report elsewhere, or not yet
        names, trees = None, None
    state = str(details["status"]).rpartition(".")[2] if details is not None else _GONE
    places = _find_places(spec, settings)
    edge: Tree = (trees or {}).get(EDGE) or {}
    now = Sample(
        at=time.time(),
        deployed=float((details or {}).get("last_deployed_time_s") or 0.0),
        models=None if trees is None else _count_models(trees, spec.slo.p99_ms),
        p99_ms=spec.slo.p99_ms,
        replicas=tuple(sorted(replicas)),
        wanted=int(ingress.get("target_num_replicas") or 0),
        pending=int(edge.get("now", {}).get("pending", 0)),
        healthy=state in _HEALTHY,
        lost=_count_lost(edge),
        free={place.path: place.free for place in places if not place.problem},
    )
    keys, keys_problem = _read_key_ends(spec)
    return Figures(
        application,
        now,
        state=state,
        cause="" if state in _HEALTHY or details is None else _explain(details),
        queue=spec.limits.queue,
        unavailable=None if names is None else edge.get("told", {}).get("unavailable", {}),
        missing=_find_missing(spec, settings),
        certificates=[_read_certificate(path) for path in _list_certificates(spec)],
        keys=keys,
        keys_file=spec.keys,
        keys_problem=keys_problem,
        places=places,
        tracking_problem=_try(lambda: explain_absence(settings), "tracking store") if spec.uses_registry else "",
    )  # fmt: skip


def _try(ask: Callable[[], _Result], what: str) -> _Result | None:
    try:
        return ask()
    except (ray.exceptions.RayError, TimeoutError, ValueError, OSError) as error:
        LOG.warning("operational checks: no %s: %s", what, describe_cause(error, 200))
        return None


def _read_counts(application: str) -> tuple[list[str], dict[ModelKey, Tree]]:
    found: tuple[list[str], dict[ModelKey, Tree]] = ray.get(
        find_aggregator().read.remote(application), timeout=_PATIENCE_S
    )
    return found


def _is_up(state: str) -> bool:
    return state.rpartition(".")[2] in ("RUNNING", "STARTING", "UPDATING", "RECOVERING")


def _explain(details: Mapping[str, Any]) -> str:
    deployments = {
        name: types.SimpleNamespace(message=of.get("message", ""))
        for name, of in details.get("deployments", {}).items()
        if str(of.get("status", "")).rpartition(".")[2] != "HEALTHY"
    }
    cause = startup_failures.describe(deployments, str(details.get("message", "")))
    return "" if cause == startup_failures.UNKNOWN else cause[:1].upper() + cause[1:500]


def _count_lost(edge: Tree) -> dict[str, int]:
    """Of the replicas that report: events that were dropped or failed by observer, and rows that are in no count."""
    counts = edge.get("counts", {})
    found = {
        name: sum(of.get(outcome, 0) for outcome in ("dropped", "failed", "lost"))
        for name, of in counts.get("observers", {}).items()
    }
    if "monitored_rows" in counts:
        found["monitoring"] = counts["monitored_rows"].get("lost", 0)
    return found


def _count_models(trees: Mapping[ModelKey, Tree], p99_ms: float | None) -> dict[ModelKey, Counts]:
    return fold_models({key: _count(tree, p99_ms) for key, tree in trees.items() if key != EDGE})


def _count(tree: Tree, p99_ms: float | None) -> Counts:
    durations = tree["counts"]["durations"]
    of = {outcome: sum(histogram["counts"]) for outcome, histogram in durations.items()}
    taken = {"success", "server_error", "deadline", "overloaded", "rate_limited"}
    stages = tree["counts"]["stages"]
    return Counts(
        answered=of.get("success", 0),
        failed=of.get("server_error", 0),
        late=of.get("deadline", 0),
        overloaded=of.get("overloaded", 0),
        refused=of.get("rate_limited", 0),
        mistaken=sum(count for outcome, count in of.items() if outcome not in taken),
        slow=0 if p99_ms is None else count_above(durations["success"]["counts"], p99_ms),
        queue_ms=stages["queue"]["sum"] // 1_000_000,
        compute_ms=stages["compute"]["sum"] // 1_000_000,
        last=tree["latest"].get("last_ns", 0) / 1e9,
    )


def count_above(counts: list[int], limit_ms: float) -> int:
    """Values of a histogram of times above a limit, those of its bucket in proportion."""
    limit = limit_ms * 1e6
    found = 0.0
    for number, count in enumerate(counts):
        low = TIMES_NS[number - 1] if number else 0
        high = TIMES_NS[number] if number < len(TIMES_NS) else 2 * TIMES_NS[-1]
        if low >= limit:
            found += count
        elif high > limit:
            found += count * (high - limit) / (high - low)
    return round(found)


def _find_missing(spec: ServingSpec, settings: Settings) -> dict[str, str]:
    """Of a pinned spec, models and nodes of graphs whose file or version is no longer there -> its source."""
    sources = {name: model.source for name, model in spec.models.items()} | {
        f"{name}/{path}": model.source
        for name, graph in spec.graphs.items()
        for path, model in list_models(graph)
    }
    versions = {}
    for name, source in sources.items():
        if found := _VERSION.fullmatch(source):
            versions[name] = (found[1], found[2])
    gone = set(find_missing(settings, set(versions.values())))
    return {
        name: source
        for name, source in sources.items()
        if (
            versions[name] in gone
            if name in versions
            else "://" not in source and not pathlib.Path(source).exists()
        )
    }


def _list_certificates(spec: ServingSpec) -> list[str]:
    return [path for path in (spec.tls.certificate, spec.tls.client_ca) if path] if spec.tls else []


def _read_certificate(path: str) -> Certificate:
    """The first of a file's certificates to end counts: clients refuse a chain with any that did."""
    try:
        held = x509.load_pem_x509_certificates(pathlib.Path(path).expanduser().read_bytes())
        return Certificate(path, min(one.not_valid_after_utc.timestamp() for one in held))
    except (OSError, ValueError) as error:
        return Certificate(path, problem=describe_cause(error, 200))


def _read_key_ends(spec: ServingSpec) -> tuple[dict[str, float], str]:
    """When the last key of each name ends, and why the file cannot be read."""
    if not spec.keys:
        return {}, ""
    try:
        keys = read_keys(pathlib.Path(spec.keys).expanduser())
    except RaymlopsError as error:
        return {}, str(error)
    ends: dict[str, float] = {}
    for key in keys:
        ends[key.name] = max(key.ends, ends.get(key.name, key.ends))
    return {name: at for name, at in ends.items() if at < float("inf")}, ""


def _find_places(spec: ServingSpec, settings: Settings) -> list[Place]:
    """Each folder where the product writes, once a file system."""
    paths = {
        settings.storage_path: "the storage",
        str(settings.home): "the home",
        **({spec.capture.path: "the storage of captured requests"} if spec.capture and spec.capture.path else {}),
        **({spec.monitoring.path: "the storage of counts"} if spec.monitoring and spec.monitoring.path else {}),
    }  # fmt: skip
    found: dict[int | str, Place] = {}
    for path, name in paths.items():
        if locations.is_remote(path):
            continue  # a bucket does not fill up
        try:
            existing = _find_existing(pathlib.Path(path))
            usage = shutil.disk_usage(existing)
            found.setdefault(existing.stat().st_dev, Place(name, path, usage.free, usage.total))
        except OSError as error:
            found[path] = Place(name, path, problem=describe_cause(error, 200))
    return list(found.values())


def _find_existing(path: pathlib.Path) -> pathlib.Path:
    """The folder, or the one in which it will be made."""
    return next(one for one in (path, *path.parents) if one.exists())


def show_gauges(application: str, who: str, gauges: list[Gauge]) -> None:
    """With the metrics of the application, unless they cannot be reached now."""
    try:
        ray.get(find_aggregator().tell.remote(application, who, gauges), timeout=_PATIENCE_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        LOG.warning("%s of %s: metrics are not shown: %s", who, application, describe_cause(error, 200))
