"""The models that a replica answers for, by name, with what is worked out once for each. Knows no HTTP and no Ray."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from raymlops.errors import ArtifactError, NotFoundError, OverloadedError, unknown_name
from raymlops.serving import protocol
from raymlops.serving.columns import Column
from raymlops.serving.http import JSON, Headers
from raymlops.serving.infer_decoder import InferDecoder
from raymlops.serving.keys import Key
from raymlops.serving.request_limits import AnswerEstimate, RequestLimits
from raymlops.serving.statistics import Sample, Statistics
from raymlops.tensors import TensorSpec


class Repository(Protocol):
    """What loads and unloads models on demand, where an application has such a thing."""

    @property
    def unavailable(self) -> Mapping[str, str]:
        """Models that cannot be served -> why."""
        ...

    async def load(self, name: str) -> None: ...

    async def unload(self, name: str) -> None: ...

    async def refresh(self) -> None:
        """Find out what there is now; raises nothing."""
        ...

    def samples(self) -> Iterable[Sample]: ...


@dataclasses.dataclass(slots=True)
class Hosted:
    """A model under its name, with all that is worked out once."""

    name: str
    endpoint: protocol.Endpoint
    statistics: Statistics
    columns: Mapping[str, Column]
    platform: str = "onnxruntime_onnx"
    ready: bool = True
    check: Callable[[], None] | None = None
    loaded: Callable[[], bool] | None = None
    """Whether a model that is loaded on demand is in memory now; only the index asks."""
    reason: Callable[[], str] | None = None
    """Why it is not in memory, or what else its operator should know; only the index asks."""
    running: Callable[[], bool] | None = None
    """Whether a model's own process is there; it is started again when it has ended."""
    headers: Headers = ()
    binary_headers: Headers = ()
    answers_frames: bool = False
    """Whether MLflow would answer a table with a table, as `invocations` tells."""
    decoder: InferDecoder = dataclasses.field(init=False)
    estimate: AnswerEstimate | None = None
    """Of its answers, made when it is first asked."""

    @property
    def optional(self) -> list[TensorSpec]:
        """Inputs beside those of the signature, with a value of the model's own that a request may give anew."""
        return [column.spec for column in self.columns.values() if column.optional]

    @property
    def can_answer(self) -> bool:
        """Now; `ready` is what it was told to be."""
        return self.ready and (self.running is None or self.running())

    def __post_init__(self) -> None:
        stamp = (b"x-model-version", f"{self.name}/{self.endpoint.version}".encode())
        self.decoder = InferDecoder(self.columns)
        self.headers = (JSON, stamp)
        self.binary_headers = ((b"content-type", b"application/octet-stream"), stamp)


@dataclasses.dataclass(slots=True)
class Hosts:
    """Everything the handlers need: the models by name, and the limits of a request."""

    name: str
    models: dict[str, Hosted]
    limits: RequestLimits = dataclasses.field(default_factory=RequestLimits)
    repository: Repository | None = None
    queue: int = 128
    """Requests that may be here at once; more are told to come back."""
    pending: int = 0
    threads: concurrent.futures.Executor = dataclasses.field(
        default_factory=lambda: concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="large")
    )
    """Where large bodies are read and written, so that the others do not wait for them."""

    def samples(self) -> Iterator[Sample]:
        """All that this replica counts."""
        for hosted in self.models.values():
            yield from hosted.statistics.samples()
        if self.repository is not None:
            yield from self.repository.samples()
        yield "nv_inference_pending_request_count", (), self.pending

    @property
    def unavailable(self) -> Mapping[str, str]:
        """Models that cannot be served -> why."""
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

    def seen_by(self, caller: Key) -> Mapping[str, Hosted]:
        """The models that a key is for."""
        if not caller.models:
            return dict(self.models)  # which may change while a thread goes through them
        return {name: hosted for name, hosted in list(self.models.items()) if caller.sees(name)}

    def count_failure(self, name: str, started: int) -> None:
        """A request for this model, if there is one of this name, got no answer; `started` in nanoseconds."""
        hosted = self.models.get(name)
        if hosted is not None:
            hosted.statistics.record_failure(time.perf_counter_ns() - started)

    def enter(self, parts: Sequence[str]) -> None:
        """Count a request in, for the model named first if one is. Raises OverloadedError where it is full."""
        if self.pending >= self.queue:
            hosted = self.models.get(parts[0]) if parts else None
            if hosted is not None:
                hosted.statistics.refused += 1
            raise OverloadedError(f"{self.queue} requests are already here; try again later")
        self.pending += 1
