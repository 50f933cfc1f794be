"""Counts and times of one model's requests and runs in this process, as plain numbers that can be added over
replicas, and as the protocol's statistics. Imports neither Prometheus nor Ray."""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from raymlops.histograms import SIZES, Histogram, add_trees, find_quantile

Tree = dict[str, Any]
"""What was counted for a model: `counts` grow and are added over replicas; of `latest` the largest is taken; `now`
are present values, also added; `told` are not numbers."""
ModelKey = tuple[str, str]
"""Model and version; empty for what belongs to no model."""
BATCH_SIZES = 512
"""Number of batch sizes that are counted separately; callers choose the sizes, so there must be a limit."""

_KEPT = 256
"""Requests, or runs, that are added to the histograms at once."""

STATUSES: Mapping[int, str] = {
    200: "success",
    401: "unauthorized",
    403: "unauthorized",
    413: "too_large",
    429: "rate_limited",
    499: "cancelled",
    503: "overloaded",
    504: "deadline",
}
"""HTTP status -> outcome of a request; other statuses are a client error or a server error."""
OUTCOMES = (*dict.fromkeys(STATUSES.values()), "client_error", "server_error")
STAGES = ("input", "queue", "compute", "output")
"""Stages: reading a request's tensors, waiting for a run, the run, writing the answer."""


class Timed(Protocol):
    """A request in progress; when it was complete, its tensors read, its answer there, in nanoseconds of one clock."""

    arrived: int
    decoded: int
    answered: int
    statistics: "Statistics | None"


class Statistics:
    """Grows while a model serves. Written only by the event loop's thread."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.ended = 0
        """Requests during which the model's own process ended."""
        self.rows = 0
        self.runs = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_ns = 0
        self.sharing = ""
        """Why requests share runs, or why they do not."""
        self.durations: dict[str, Histogram] = {"success": Histogram()}
        """By outcome, for those that occurred."""
        self.input, self.queue, self.compute, self.output = (Histogram() for _ in STAGES)
        """Times of requests; each of those that share a run has its whole time."""
        self.run_rows = Histogram(SIZES)
        self.run_requests = Histogram(SIZES)
        self.batches: dict[int, list[int]] = {}
        """Rows of a run -> number of such runs and their time, for at most `BATCH_SIZES` sizes."""
        self._requests: list[tuple[int, ...]] = []
        self._runs: list[tuple[int, int, int, Sequence[int]]] = []

    @property
    def key(self) -> ModelKey:
        return self.name, self.version

    def record_run(self, rows: int, started: int, ended: int, arrived: Sequence[int]) -> None:
        """One run over `rows` rows of requests that waited for it since `arrived`; all in nanoseconds."""
        self.runs += 1
        self.rows += rows
        self._runs.append((rows, started, ended, arrived))
        if len(self._runs) >= _KEPT:
            self._count()

    def record_success(self, request: Timed, ended: int, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """One request that was answered."""
        times = request.arrived, request.decoded, request.answered, ended, bytes_in, bytes_out
        self._requests.append(times)
        if len(self._requests) >= _KEPT:
            self._count()

    def record_failure(self, request: Timed, ended: int, status: int, bytes_in: int = 0) -> None:
        """One request that got an HTTP status other than 200 instead of an answer."""
        self.bytes_in += bytes_in
        outcome = STATUSES.get(status, "client_error" if 400 <= status < 500 else "server_error")
        histogram = self.durations.get(outcome)
        if histogram is None:
            histogram = self.durations[outcome] = Histogram()
        histogram.add(max(0, ended - request.arrived))

    def _count(self) -> None:
        """Add recorded values to the histograms; doing it for many at once takes a fraction of the time."""
        if self._requests:
            arrived, decoded, answered, ended, bytes_in, bytes_out = np.array(self._requests, np.int64).T
            self._requests.clear()
            self.durations["success"].add_all(ended - arrived)
            self.input.add_all(decoded - arrived)
            self.output.add_all(ended - answered)
            self.bytes_in += int(bytes_in.sum())
            self.bytes_out += int(bytes_out.sum())
            self.last_ns = time.time_ns() - (time.perf_counter_ns() - int(ended[-1]))
        if self._runs:
            rows, started, ended_runs, waiting = zip(*self._runs, strict=True)
            self._runs.clear()
            requests = np.fromiter(map(len, waiting), np.int64)
            since = np.fromiter(itertools.chain.from_iterable(waiting), np.int64)
            self.queue.add_all(np.repeat(np.array(started, np.int64), requests) - since)
            elapsed = np.subtract(ended_runs, started)
            self.compute.add_all(np.repeat(elapsed, requests))
            for size, time_ns in zip(rows, elapsed.tolist(), strict=True):
                batch = self.batches.get(size)
                if batch is not None:
                    batch[0] += 1
                    batch[1] += time_ns
                elif len(self.batches) < BATCH_SIZES:
                    self.batches[size] = [1, time_ns]
            self.run_rows.add_all(np.array(rows, np.int64))
            self.run_requests.add_all(requests)

    @property
    def has_requests(self) -> bool:
        return bool(self.runs or self._requests or len(self.durations) > 1)

    def stamp(self) -> object:
        """Changes whenever anything was counted."""
        self._count()
        return self.runs, self.ended, [histogram.sum for histogram in self.durations.values()]

    def to_tree(self) -> Tree:
        """All counts, as numbers that nobody else changes."""
        self._count()
        counts: dict[str, Any] = {
            name: getattr(self, name) for name in ("rows", "runs", "bytes_in", "bytes_out", "ended")
        }
        counts["durations"] = {outcome: histogram.to_tree() for outcome, histogram in self.durations.items()}
        counts["stages"] = {stage: getattr(self, stage).to_tree() for stage in STAGES}
        counts["run_rows"], counts["run_requests"] = self.run_rows.to_tree(), self.run_requests.to_tree()
        counts["batches"] = {rows: batch.copy() for rows, batch in self.batches.items()}
        return {
            "counts": counts,
            "latest": {"last_ns": self.last_ns},
            "now": {},
            "told": {"sharing": self.sharing},
        }

    def to_json(self) -> dict[str, Any]:
        """The statistics of this process alone, see `describe`."""
        return describe(self.key, self.to_tree())


def merge(trees: Iterable[Tree]) -> Tree:
    """Counts of several replicas, as if of one. Of values that are not numbers, the first replica's are taken."""
    total: Tree = {"counts": {}, "latest": {}, "now": {}, "told": {}}
    for tree in trees:
        add_trees(total["counts"], tree["counts"])
        add_trees(total["now"], tree["now"])
        for name, number in tree["latest"].items():
            total["latest"][name] = max(number, total["latest"].get(name, number))
        total["told"] = tree["told"] | total["told"]
    return total


def describe(key: ModelKey, tree: Tree) -> dict[str, Any]:
    """As in Triton's answer to `GET /v2/models/{m}/stats`, with quantiles of the times in addition."""
    counts, stages = tree["counts"], tree["counts"]["stages"]

    def pair(*histograms: Mapping[str, Any]) -> dict[str, int]:
        return {"count": sum(sum(h["counts"]) for h in histograms), "ns": sum(h["sum"] for h in histograms)}

    durations = counts["durations"]
    success = durations["success"]
    failed = [histogram for outcome, histogram in durations.items() if outcome != "success"]
    document = {
        "name": key[0],
        "version": key[1],
        "last_inference": tree["latest"]["last_ns"] // 1_000_000,
        "inference_count": counts["rows"],
        "execution_count": counts["runs"],
        "shared_runs": tree["told"]["sharing"],
        "inference_stats": {
            "success": pair(success),
            "fail": pair(*failed),
            "queue": pair(stages["queue"]),
            "compute_input": pair(stages["input"]),
            "compute_infer": pair(stages["compute"]),
            "compute_output": pair(stages["output"]),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": {"count": runs, "ns": 0},
                "compute_infer": {"count": runs, "ns": ns},
                "compute_output": {"count": runs, "ns": 0},
            }
            for rows, (runs, ns) in sorted(counts["batches"].items())
        ],
        "outcomes": {outcome: sum(histogram["counts"]) for outcome, histogram in durations.items()},
        "latency_ms": {
            name: _find_quantiles(histogram["counts"])
            for name, histogram in (("request", success), *stages.items())
        },
    }
    return document | _describe_graph(tree)


QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def _find_quantiles(counts: Sequence[int]) -> dict[str, float]:
    return {name: round(find_quantile(counts, share) / 1e6, 4) for name, share in QUANTILES.items()}


def _describe_graph(tree: Tree) -> dict[str, Any]:
    counts, latest = tree["counts"], tree["latest"]
    if "nodes" not in counts:
        return {}
    nodes = {
        path: {
            "count": node["runs"],
            "requests": node["requests"],
            "rows": node["rows"],
            "ms": round(node["times"]["sum"] / max(1, node["runs"]) / 1e6, 4),
            "failures": node["failures"],
            "fallbacks": node["fallbacks"],
            "latency_ms": _find_quantiles(node["times"]["counts"]),
        }
        for path, node in counts["nodes"].items()
    }
    shadows = {
        path: {**shadow, "largest": latest[f"largest difference of {path}"]}
        for path, shadow in counts["shadows"].items()
    }
    return {"nodes": nodes, "shadows": shadows, **tree["told"]["graph"]}
