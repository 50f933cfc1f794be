"""Counts and times of one model's requests, as the protocol's statistics and as Prometheus text under
Triton's names."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

Sample = tuple[str, tuple[str, ...], int]
"""Metric, values of its labels in the order of its family, number."""
BATCH_SIZES = 512
"""Sizes of batches that are counted apart; the sizes are the callers', and so must be bounded."""


@dataclasses.dataclass(slots=True)
class Statistics:
    """Grows while a model serves; times in nanoseconds. Only the event loop's thread writes it."""

    name: str
    version: str
    success: int = 0
    success_ns: int = 0
    failure: int = 0
    failure_ns: int = 0
    refused: int = 0
    ended: int = 0
    """Requests under which the model's own process ended."""
    rows: int = 0
    runs: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_ns: int = 0
    sharing: str = ""
    """Why requests share runs, or why they do not."""
    batches: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    """Rows of a run -> number of such runs and their time, for at most `BATCH_SIZES` sizes."""

    def record_run(self, rows: int, compute_ns: int) -> None:
        """One run of the model over `rows` rows."""
        self.runs += 1
        self.rows += rows
        self.compute_ns += compute_ns
        batch = self.batches.get(rows)
        if batch is not None:
            batch[0] += 1
            batch[1] += compute_ns
        elif len(self.batches) < BATCH_SIZES:
            self.batches[rows] = [1, compute_ns]

    def record_success(self, total_ns: int) -> None:
        self.success += 1
        self.success_ns += total_ns
        self.last_ns = time.time_ns()

    def record_failure(self, total_ns: int) -> None:
        self.failure += 1
        self.failure_ns += total_ns

    def samples(self) -> Iterator[Sample]:
        """Everything counted, as metrics."""
        for metric, (_, read) in METRICS.items():
            yield metric, (self.name, self.version), read(self)

    def to_json(self) -> dict[str, Any]:
        """As Triton answers `GET /v2/models/{m}/stats`."""

        def pair(count: int, ns: int) -> dict[str, int]:
            return {"count": count, "ns": ns}

        edge_ns = max(0, self.success_ns - self.queue_ns - self.compute_ns)
        return {
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_ns // 1_000_000,
            "inference_count": self.rows,
            "execution_count": self.runs,
            "shared_runs": self.sharing,
            "inference_stats": {
                "success": pair(self.success, self.success_ns),
                "fail": pair(self.failure, self.failure_ns),
                "queue": pair(self.success, self.queue_ns),
                "compute_input": pair(self.success, edge_ns),
                "compute_infer": pair(self.success, self.compute_ns),
                "compute_output": pair(self.success, 0),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": pair(runs, 0),
                    "compute_infer": pair(runs, ns),
                    "compute_output": pair(runs, 0),
                }
                for rows, (runs, ns) in sorted(self.batches.items())
            ],
        }


METRICS: dict[str, tuple[str, Callable[[Statistics], int]]] = {
    "nv_inference_request_success": ("requests answered", lambda s: s.success),
    "nv_inference_request_failure": ("requests failed", lambda s: s.failure),
    "nv_inference_count": ("rows answered", lambda s: s.rows),
    "nv_inference_exec_count": ("runs of the model", lambda s: s.runs),
    "nv_inference_request_duration_us": ("time of answered requests", lambda s: s.success_ns // 1000),
    "nv_inference_queue_duration_us": ("time waiting for a run", lambda s: s.queue_ns // 1000),
    "nv_inference_compute_infer_duration_us": ("time inside the model", lambda s: s.compute_ns // 1000),
    "raymlops_requests_refused": ("requests shed with 503", lambda s: s.refused),
    "raymlops_process_ends": ("requests under which the model's own process ended", lambda s: s.ended),
}
"""Metric of every model -> help and how to read it; all are counters."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What one metric tells, and by which labels."""

    words: str
    labels: tuple[str, ...] = ("model", "version")
    kind: Literal["counter", "gauge"] = "counter"


_NODE = ("model", "version", "node")
FAMILIES: dict[str, Family] = {
    **{name: Family(words) for name, (words, _) in METRICS.items()},
    "raymlops_node_count": Family("runs of a node of a graph", _NODE),
    "raymlops_node_duration_us": Family("time to the answers of a node", _NODE),
    "raymlops_node_fallback_count": Family("runs that the node's fallback answered", _NODE),
    "raymlops_shadow_count": Family(
        "requests of a shadow: same, different, failed or dropped", (*_NODE, "outcome")
    ),
    "raymlops_many_hits": Family("requests whose model was in memory", ()),
    "raymlops_many_loads": Family("models loaded on demand", ()),
    "raymlops_many_load_duration_us": Family("time of these loads", ()),
    "raymlops_many_evictions": Family("models that left memory for others", ()),
    "raymlops_many_failures": Family("loads that failed", ()),
    "raymlops_many_bytes": Family("bytes of models in memory", (), "gauge"),
    "nv_inference_pending_request_count": Family("requests waiting or running", (), "gauge"),
}
"""Every metric there is; counters grow from the start of a replica, gauges are of now."""


def to_prometheus(samples: Iterable[Sample]) -> bytes:
    """Prometheus text, each metric with its help."""
    lines: dict[str, list[str]] = {}
    for metric, values, number in samples:
        pairs = zip(FAMILIES[metric].labels, values, strict=True)
        labels = ",".join(f'{label}="{value}"' for label, value in pairs)
        lines.setdefault(metric, []).append(
            f"{metric}{{{labels}}} {number}" if labels else f"{metric} {number}"
        )
    text = ""
    for metric, rows in lines.items():
        family = FAMILIES[metric]
        text += f"# HELP {metric} {family.words}\n# TYPE {metric} {family.kind}\n" + "\n".join(rows) + "\n"
    return text.encode()
