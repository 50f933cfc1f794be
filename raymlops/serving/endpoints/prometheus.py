"""Counts of replicas as Prometheus families, each series labelled with its replica. Counts nothing itself and does
not import Ray.

Triton's names are added if it has one for the same; its counters have no `_total`, so that they are untyped.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import psutil
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from raymlops.histograms import SIZES, TIMES_NS
from raymlops.serving.endpoints import told_gauges
from raymlops.serving.endpoints.statistics import OUTCOMES, ModelKey, Tree
from raymlops.serving.endpoints.told_gauges import Gauge

Replicas = Mapping[str, Mapping[ModelKey, Tree]]
"""Counts of each replica, by model and version; an empty replica name stands for the only one."""
EDGE: ModelKey = ("", "")
"""Where a replica counts what belongs to no model: requests for unknown models, and the replica itself."""
OF_ALL = ("raymlops_requests", "raymlops_request_duration_seconds")
"""Metrics that are also counted for those."""
Labels = dict[str, str]
Samples = Iterable[tuple[Labels, Any]]
"""Labels beside those of the model, and a number, or a histogram's tree."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One metric: its help text, its type, and how it is read from the counts of a model, or, if it is not
    `of_model`, of a replica."""

    words: str
    kind: str
    read: Callable[[Tree], Samples]
    of_model: bool = True


def _number(name: str, of: Callable[[Any], float] = lambda number: number) -> Callable[[Tree], Samples]:
    return lambda tree: [({}, of(tree["counts"][name]))]


def _stage(stage: str) -> Callable[[Tree], Samples]:
    return lambda tree: [({}, tree["counts"]["stages"][stage]["sum"] // 1000)]


def _failures(tree: Tree) -> int:
    durations = tree["counts"]["durations"]
    return sum(sum(histogram["counts"]) for outcome, histogram in durations.items() if outcome != "success")


def _each(part: str, name: str, label: str) -> Callable[[Tree], Samples]:
    """One number, or histogram, per node."""
    return lambda tree: (({label: path}, of[name]) for path, of in tree["counts"].get(part, {}).items())


def _read_shadows(tree: Tree) -> Samples:
    for path, shadow in tree["counts"].get("shadows", {}).items():
        yield {"node": path, "outcome": "same"}, shadow["compared"] - shadow["different"]
        for outcome in ("different", "failed", "dropped"):
            yield {"node": path, "outcome": outcome}, shadow[outcome]


def _read_observers(tree: Tree) -> Samples:
    for name, outcomes in tree["counts"].get("observers", {}).items():
        for outcome, count in outcomes.items():
            yield {"observer": name, "outcome": outcome}, count


def _read_weights(tree: Tree) -> Samples:
    weights = tree["told"].get("graph", {}).get("weights", {})
    return (
        ({"node": path, "branch": branch}, share)
        for path, shares in weights.items()
        for branch, share in shares.items()
    )


def _of_replica(part: str, name: str, scale: float = 1) -> Callable[[Tree], Samples]:
    return lambda tree: [({}, tree[part][name] / scale)] if name in tree[part] else []


def _read_outcomes(tree: Tree) -> Samples:
    """All outcomes, so that the first of a kind is visible as an increase."""
    durations = tree["counts"]["durations"]
    return (
        ({"status": outcome}, sum(durations[outcome]["counts"]) if outcome in durations else 0)
        for outcome in OUTCOMES
    )


FAMILIES: dict[str, Family] = {
    "raymlops_requests": Family(
        "requests for inference, by how they ended; those for models that there are not have no model",
        "counter",
        _read_outcomes,
    ),
    "raymlops_request_duration_seconds": Family(
        "time of an inference request, from when it is complete to its answer; `status` is its outcome",
        "histogram",
        lambda tree: (({"status": s}, h) for s, h in tree["counts"]["durations"].items()),
    ),
    "raymlops_request_stage_seconds": Family(
        "time of a request in a stage: input (reading its tensors), queue (waiting for a run), compute (the run, which "
        "requests that share it have whole), output (writing the answer)",
        "histogram",
        lambda tree: (({"stage": s}, h) for s, h in tree["counts"]["stages"].items()),
    ),
    "raymlops_run_rows": Family("rows of a run of the model", "histogram", _number("run_rows")),
    "raymlops_run_requests": Family("requests that share a run", "histogram", _number("run_requests")),
    "raymlops_request_bytes": Family("bytes of requests, decompressed", "counter", _number("bytes_in")),
    "raymlops_response_bytes": Family("bytes of answers", "counter", _number("bytes_out")),
    "raymlops_process_ends": Family(
        "requests under which the model's own process ended", "counter", _number("ended")
    ),
    "nv_inference_request_success": Family(
        "requests answered",
        "unknown",
        _number("durations", lambda durations: sum(durations["success"]["counts"])),
    ),
    "nv_inference_request_failure": Family(
        "requests that were not answered", "unknown", lambda tree: [({}, _failures(tree))]
    ),
    "nv_inference_count": Family("rows answered", "unknown", _number("rows")),
    "nv_inference_exec_count": Family("runs of the model", "unknown", _number("runs")),
    "nv_inference_request_duration_us": Family(
        "time of answered requests",
        "unknown",
        _number("durations", lambda durations: durations["success"]["sum"] // 1000),
    ),
    "nv_inference_queue_duration_us": Family("time waiting for a run", "unknown", _stage("queue")),
    "nv_inference_compute_input_duration_us": Family("time reading requests", "unknown", _stage("input")),
    "nv_inference_compute_infer_duration_us": Family("time inside the model", "unknown", _stage("compute")),
    "nv_inference_compute_output_duration_us": Family("time writing answers", "unknown", _stage("output")),
    "raymlops_node_duration_seconds": Family(
        "time to the answers of a node of a graph, a branch among them",
        "histogram",
        _each("nodes", "times", "node"),
    ),
    "raymlops_node_requests": Family(
        "requests that a node answered, or failed to", "counter", _each("nodes", "requests", "node")
    ),
    "raymlops_node_rows": Family("rows that a node was given", "counter", _each("nodes", "rows", "node")),
    "raymlops_node_failures": Family(
        "runs of a node that failed, a fallback or not", "counter", _each("nodes", "failures", "node")
    ),
    "raymlops_node_fallbacks": Family(
        "runs that the node's fallback answered", "counter", _each("nodes", "fallbacks", "node")
    ),
    "raymlops_split_weight": Family("share of a branch of a split", "gauge", _read_weights),
    "raymlops_shadow_requests": Family(
        "requests of a shadow: same, different, failed or dropped", "counter", _read_shadows
    ),
    "raymlops_many_hits": Family(
        "requests whose model was in memory", "counter", _of_replica("counts", "hits"), False
    ),
    "raymlops_many_loads": Family(
        "models loaded on demand", "counter", _of_replica("counts", "loads"), False
    ),
    "raymlops_many_load_seconds": Family(
        "time of these loads", "counter", _of_replica("counts", "load_ns", 1e9), False
    ),
    "raymlops_many_evictions": Family(
        "models that left memory, for others or unloaded",
        "counter",
        _of_replica("counts", "evictions"),
        False,
    ),
    "raymlops_many_failures": Family(
        "loads that failed", "counter", _of_replica("counts", "failures"), False
    ),
    "raymlops_many_bytes": Family(
        "bytes of models in memory", "gauge", _of_replica("now", "many_bytes"), False
    ),
    "raymlops_many_unavailable": Family(
        "models that cannot be served, see the repository's index",
        "gauge",
        _of_replica("now", "unavailable"),
        False,
    ),
    "nv_inference_pending_request_count": Family(
        "requests waiting or running", "gauge", _of_replica("now", "pending"), False
    ),
    "raymlops_observer_events": Family(
        "requests passed to an observer: delivered, failed if it raised, dropped if it was too slow; of the observer "
        "capture also captured, once written, and lost if its store did not take them",
        "counter",
        _read_observers,
        False,
    ),
    "raymlops_monitored_rows": Family(
        "answered rows, at the end of each tick: counted, retried (with the id of a request before), left_out of the "
        "sample under a large load, lost",
        "counter",
        lambda tree: (
            ({"outcome": outcome}, rows) for outcome, rows in tree["counts"].get("monitored_rows", {}).items()
        ),
        False,
    ),
    "raymlops_replica_up": Family("1 for each replica that counts", "gauge", _of_replica("now", "up"), False),
    "process_cpu_seconds": Family(
        "CPU time of the replica's process", "counter", _of_replica("counts", "cpu_ms", 1e3), False
    ),
    "process_resident_memory_bytes": Family(
        "memory of the replica's process", "gauge", _of_replica("now", "resident_bytes"), False
    ),
}
"""All metrics; names of counters end with `_total` in the output."""


def measure_process() -> Tree:
    """Counts of this process, reported with those that belong to no model."""
    process = psutil.Process()
    times = process.cpu_times()
    return {
        "counts": {"cpu_ms": int(1000 * (times.user + times.system))},
        "now": {"resident_bytes": process.memory_info().rss, "up": 1},
    }


def render(
    application: str, replicas: Replicas, accept: str = "", told: Iterable[Gauge] = ()
) -> tuple[bytes, str]:
    """The text that a client with this Accept header wants, OpenMetrics or Prometheus', and its content type; `told` is
    what others than replicas know."""
    encode, kind = choose_encoder(accept)
    return encode(_Collector(application, replicas, tuple(told))), kind


@dataclasses.dataclass(frozen=True)
class _Collector:
    """The interface of prometheus_client's registries."""

    application: str
    replicas: Replicas
    told: tuple[Gauge, ...] = ()

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            metric = Metric(name, family.words, family.kind)
            for replica, trees in self.replicas.items():
                common = {"application": self.application} | ({"replica": replica} if replica else {})
                for key, tree in trees.items():
                    if family.of_model != (key != EDGE) and not (key == EDGE and name in OF_ALL):
                        continue
                    labels = common | ({"model": key[0], "version": key[1]} if family.of_model else {})
                    _add(metric, labels, family.read(tree))
            if metric.samples:
                yield metric
        yield from told_gauges.collect(self.application, self.told)


_LE: dict[int, list[tuple[int, str]]] = {
    len(TIMES_NS) + 1: [
        (number, repr(TIMES_NS[number] / 1e9)) for number in range(10, 71) if number % 10 in (0, 4, 7)
    ],
    len(SIZES) + 1: [(number, repr(float(SIZES[number]))) for number in (*range(11), 12, 14, 16)],
}
"""Bounds that are shown, a selection: 10 us, 25 us, 50 us ... 10 s; sizes 1, 2, 4 ... 1024, 4096 ..."""


def _add(metric: Metric, labels: Labels, samples: Samples) -> None:
    for more, value in samples:
        own = labels | more
        if metric.type == "histogram":
            _add_histogram(metric, own, value)
        else:
            metric.add_sample(metric.name + "_total" if metric.type == "counter" else metric.name, own, value)


def _add_histogram(metric: Metric, labels: Labels, tree: Mapping[str, Any]) -> None:
    below = list(accumulate(tree["counts"]))
    name, shown = metric.name, _LE[len(below)]
    for number, bound in shown:
        metric.add_sample(f"{name}_bucket", labels | {"le": bound}, below[number])
    metric.add_sample(f"{name}_bucket", labels | {"le": "+Inf"}, below[-1])
    metric.add_sample(f"{name}_count", labels, below[-1])
    metric.add_sample(f"{name}_sum", labels, tree["sum"] / (1e9 if name.endswith("_seconds") else 1))
