"""The models that a replica serves, by name, with everything that is computed once for each. Imports neither HTTP nor
Ray."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

from raymlops.errors import ArtifactError, NotFoundError, OverloadedError, unknown_name
from raymlops.serving.endpoints import prometheus
from raymlops.serving.endpoints.label_store import LabelStore
from raymlops.serving.endpoints.observers import Observers, make_observers
from raymlops.serving.endpoints.prometheus import EDGE
from raymlops.serving.endpoints.statistics import ModelKey, Statistics, Timed, Tree
from raymlops.serving.protocol import open_inference
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.headers import JSON, Headers
from raymlops.serving.protocol.infer_decoder import InferDecoder
from raymlops.serving.protocol.request_limits import AnswerEstimate, RequestLimits
from raymlops.tensors import Batch, TensorSpec


class Repository(Protocol):
    """Loads and unloads models on demand, if an application does that."""

    @property
    def unavailable(self) -> Mapping[str, str]:
        """Models that cannot be served -> reason."""
        ...

    async def load(self, name: str) -> None: ...

    async def unload(self, name: str) -> None: ...

    async def refresh(self) -> None:
        """Update the list of models; raises nothing."""
        ...

    def to_tree(self) -> Tree: ...


class Caller(Protocol):
    """The caller, by an API key."""

    @property
    def models(self) -> Collection[str]:
        """The models that the key allows; None is all."""
        ...

    def sees(self, model: str) -> bool: ...


class AllStatistics(Protocol):
    """Counts of all replicas of an application."""

    async def sum_up(self, keys: Collection[ModelKey] | None = None) -> tuple[int, dict[ModelKey, Tree]]: ...

    async def render(self, accept: str) -> tuple[bytes, str]: ...


@dataclasses.dataclass(slots=True)
class Hosted:
    """A model under its name, with everything that is computed once."""

    name: str
    endpoint: open_inference.Endpoint
    statistics: Statistics
    columns: Mapping[str, Column]
    platform: str = "onnxruntime_onnx"
    ready: bool = True
    check: Callable[[], None] | None = None
    loaded: Callable[[], bool] | None = None
    """Whether a model that is loaded on demand is in memory now; only the index asks."""
    reason: Callable[[], str] | None = None
    """Why it is not in memory, or another note for its operator; only the index asks."""
    running: Callable[[], bool] | None = None
    """Whether a model's own process is running; it is restarted after it has ended."""
    headers: Headers = ()
    binary_headers: Headers = ()
    explanation: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """The terms of a model whose file says what each adds, and the intercept, as in its contract."""
    answers_frames: bool = False
    """Whether MLflow would answer a table with a table, see `mlflow_codec`."""
    decoder: InferDecoder = dataclasses.field(init=False)
    try_batch: Callable[[Batch], Awaitable[Batch]] | None = None
    """Answers a batch outside of any request, uncounted."""
    examples: list[object] = dataclasses.field(default_factory=list)
    """The accepted request, in the form of `examples`, or None; empty before the search."""
    search: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    """Held during the search."""
    estimate: AnswerEstimate | None = None
    """Schema of its answers, made on first use."""
    runs_python: bool = False
    """Whether foreign code works on its tensors in this process, and may keep and change them."""
    is_observed_by_copy: bool = False
    """Whether observers need copies of the tensors."""

    @property
    def optional(self) -> list[TensorSpec]:
        """Inputs beside those of the signature, with default values that a request may override."""
        return [column.spec for column in self.columns.values() if column.optional]

    @property
    def can_answer(self) -> bool:
        """The present readiness; `ready` is what it was set to."""
        return self.ready and (self.running is None or self.running())

    def __post_init__(self) -> None:
        stamp = (b"x-model-version", f"{self.name}/{self.endpoint.version}".encode())
        self.decoder = InferDecoder(self.columns)
        self.headers = (JSON, stamp)
        self.binary_headers = ((b"content-type", b"application/octet-stream"), stamp)


@dataclasses.dataclass(slots=True)
class Hosts:
    """Everything that the handlers need: the models by name, and the limits of a request."""

    name: str
    models: dict[str, Hosted]
    limits: RequestLimits = dataclasses.field(default_factory=RequestLimits)
    repository: Repository | None = None
    queue: int = 128
    """Requests in progress at most; further ones are told to come back later."""
    pending: int = 0
    stopping: str = ""
    """Why no new requests are accepted, once that is so."""
    threads: concurrent.futures.Executor = dataclasses.field(
        default_factory=lambda: concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="large")
    )
    """Where large bodies are read and written, so that other requests do not wait for them."""

    statistics: AllStatistics | None = None
    """None if there is only this process."""
    observers: Observers = dataclasses.field(default_factory=make_observers)
    labels: LabelStore | None = None
    """None if the application captures nothing."""
    edge: Statistics = dataclasses.field(default_factory=lambda: Statistics(*EDGE))
    """Statistics of requests that name no known model."""

    def __post_init__(self) -> None:
        reads_tensors = any(queue.reads_tensors for queue in self.observers.inferences)
        for hosted in self.models.values():
            hosted.is_observed_by_copy = hosted.runs_python and reads_tensors

    def trees(self, stamps: dict[ModelKey, object]) -> dict[ModelKey, Tree]:
        """All counts of this process, for each model that counted anything since `stamps`, which are renewed; of
        models that are loaded on demand, only those that were used."""
        found: dict[ModelKey, Tree] = {EDGE: self._count_itself()}
        for hosted in list(self.models.values()):
            counted = hosted.statistics
            if hosted.loaded is not None and not counted.has_requests:
                continue
            stamp = counted.stamp()
            if stamps.get(counted.key) != stamp:
                stamps[counted.key] = stamp
                found[counted.key] = counted.to_tree()
        return found

    def _count_itself(self) -> Tree:
        durations = self.edge.to_tree()["counts"]["durations"]
        del durations["success"]
        tree: Tree = {
            "counts": {"durations": durations},
            "latest": {},
            "now": {"pending": self.pending},
            "told": {},
        }
        tree["counts"]["observers"] = self.observers.to_tree()
        tree["counts"]["monitored_rows"] = self.observers.to_rows()
        for own in (prometheus.measure_process(), self.repository.to_tree() if self.repository else {}):
            for part, numbers in own.items():
                tree[part] |= numbers
        return tree

    async def sum_up(self, wanted: Collection[Hosted]) -> tuple[int, list[tuple[ModelKey, Tree]]]:
        """The number of replicas, and their counts of these models."""
        replicas, trees = 1, dict[ModelKey, Tree]()
        if self.statistics is not None:
            replicas, trees = await self.statistics.sum_up({hosted.statistics.key for hosted in wanted})
        return replicas, [
            (key, trees.get(key) or hosted.statistics.to_tree())
            for key, hosted in ((hosted.statistics.key, hosted) for hosted in wanted)
        ]

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Counts of all replicas as text, and its content type."""
        if self.statistics is not None:
            return await self.statistics.render(accept)
        return await asyncio.to_thread(prometheus.render, self.name, {"": self.trees({})}, accept)

    def stop(self, reason: str) -> None:
        """Refuse new requests for this reason; those in progress are answered."""
        self.stopping, self.queue = reason, 0

    @property
    def unavailable(self) -> Mapping[str, str]:
        """Models that cannot be served -> reason."""
        return {} if self.repository is None else self.repository.unavailable

    def find(self, name: str, version: str = "") -> Hosted:
        hosted = self.models.get(name)
        if hosted is None:
            if name in self.unavailable:
                raise ArtifactError(f"Model {name!r} is unavailable: {self.unavailable[name]}")
            raise NotFoundError(unknown_name("model", name, self.models))
        if version and version != hosted.endpoint.version:
            raise NotFoundError(unknown_name(f"version of {name!r}:", version, [hosted.endpoint.version]))
        return hosted

    def seen_by(self, caller: Caller) -> Mapping[str, Hosted]:
        """The models that a key allows."""
        if not caller.models:
            return dict(self.models)  # it may change while a thread iterates over them
        return {name: hosted for name, hosted in list(self.models.items()) if caller.sees(name)}

    def count(
        self, request: Timed, name: str, status: int, ended: int, bytes_in: int, bytes_out: int = 0
    ) -> None:
        """Record that one inference request to a model of this name, if there is one, was answered with an HTTP
        status; `ended` in nanoseconds."""
        counted = request.statistics
        if counted is None:
            hosted = self.models.get(name)
            counted = request.statistics = self.edge if hosted is None else hosted.statistics
        if status == 200:
            counted.record_success(request, ended, bytes_in, bytes_out)
        else:
            counted.record_failure(request, ended, status, bytes_in)

    def enter(self) -> None:
        """Admit a request and count it. Raises OverloadedError if the queue is full."""
        if self.pending >= self.queue:
            if self.stopping:
                raise OverloadedError(self.stopping)
            raise OverloadedError(f"{self.queue} requests are already here; try again later")
        self.pending += 1
