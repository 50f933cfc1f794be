"""The observers of a replica's endpoints, by name: makes them, and tells each the requests that it wants. A further
one is a class in a file of its own, and a line in `OBSERVERS`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, perf_counter_ns, time
from typing import Any, Protocol

from raymlops.errors import ArtifactError, SpecError, shorten, unknown_name
from raymlops.observers import Event, Observer
from raymlops.runtime.observer_queue import ObserverQueue
from raymlops.runtime.python_modules import find_observer
from raymlops.serving.endpoints.access_log import AccessLog
from raymlops.serving.endpoints.statistics import Timed
from raymlops.specs.serving import ObserverSpec
from raymlops.tensors import Batch

OBSERVERS: dict[str, Callable[..., Observer]] = {"access_log": AccessLog}
"""What a spec may name; anything else is a user's `module:Class`."""

_ALWAYS = {"access_log": ObserverSpec(target="access_log")}
"""Unless a spec has another of the same name."""
_MODEL = 128
"""Characters of a name that a caller gave."""
CLOSES_S = 5.0
"""The time that all observers have for what is left, when their replica ends."""


class Asked(Timed, Protocol):
    """A request for a model's answer, with its tensors and those of the answer."""

    batch: Batch | None
    answer: Batch | None


class Caller(Protocol):
    @property
    def name(self) -> str: ...


class Traced(Protocol):
    @property
    def parent(self) -> str: ...


class Observable(Asked, Protocol):
    """A request of either protocol, as far as observers are told of it."""

    id: str
    model: str
    rows: int
    infers: bool
    logged: bool

    @property
    def started(self) -> int: ...

    @property
    def where(self) -> tuple[str, str]:
        """Method and path."""

    @property
    def caller(self) -> Caller: ...

    @property
    def trace(self) -> Callable[[], Traced]: ...


Told = tuple[Observable, int, int, int, int, str]
"""A request as `Observers.tell` was given it. What an event holds is worked out later, for many at a time: that takes a
third of the time that it takes on a request's way."""


def make_event(told: Told) -> Event:
    request, status, ended, bytes_in, bytes_out, grpc_status = told
    counted, logged = request.statistics, request.logged or status >= 500
    return Event(
        (counted is not None and counted.name) or request.model[:_MODEL],
        counted.version if counted is not None else "",
        request.id,
        request.batch,
        request.answer if status == 200 else None,
        ended - request.started,
        request.rows,
        status,
        time() - (perf_counter_ns() - ended) / 1e9,
        request.caller.name,
        *request.where,
        bytes_in,
        bytes_out,
        grpc_status,
        logged,
        request.trace().parent if logged else "",
    )


class Observers:
    """Of one replica; lives on its event loop."""

    def __init__(self, queues: Sequence[ObserverQueue[Told]]) -> None:
        self.queues = queues
        self.inferences = [queue for queue in queues if queue.observes == "inferences"]
        self.logged = [queue for queue in queues if queue.observes == "logged"]

    def tell(
        self,
        request: Observable,
        status: int,
        ended: int,
        bytes_in: int,
        bytes_out: int,
        grpc_status: str = "",
    ) -> None:
        """A request was answered, `ended` in nanoseconds of its clock. One for inference has its statistics by now."""
        told, size = (request, status, ended, bytes_in, bytes_out, grpc_status), bytes_in + bytes_out
        if request.infers:
            for queue in self.inferences:
                queue.put(told, size)
        if request.logged or status >= 500:
            for queue in self.logged:
                queue.put(told, size)

    def start(self) -> None:
        for queue in self.queues:
            queue.start()

    def close(self) -> None:
        """Hand over what is left. Takes up to `CLOSES_S`, and is meant for a thread."""
        ends = monotonic() + CLOSES_S
        for queue in self.queues:
            queue.close(max(0.0, ends - monotonic()))

    def to_tree(self) -> dict[str, dict[str, int]]:
        return {queue.name: queue.to_tree() for queue in self.queues}


def make_observers(specs: Mapping[str, ObserverSpec] | None = None) -> Observers:
    """The access log and those of a spec, by name. Raises SpecError, and ArtifactError for one that cannot be made."""
    return Observers(
        [
            ObserverQueue(name, _make(name, spec), make_event, spec.queue, int(spec.queue_mb * 2**20))
            for name, spec in (_ALWAYS | dict(specs or {})).items()
        ]
    )


def check_observers(specs: Mapping[str, ObserverSpec]) -> None:
    """Import what is named, and make none. Raises SpecError."""
    for name, spec in specs.items():
        if ":" in spec.target:
            find_observer(name, spec).check()
        else:
            _find_built_in(name, spec)


def _make(name: str, spec: ObserverSpec) -> Any:
    observer = _make_any(name, spec)
    observes = getattr(observer, "observes", "inferences")
    if observes not in ("inferences", "logged"):
        raise SpecError(f"Observer {name!r}: {unknown_name('observes', observes, ('inferences', 'logged'))}")
    if inspect.iscoroutinefunction(observer.observe):
        raise SpecError(f"Observer {name!r}: observe must not be async; it has a thread of its own")
    return observer


def _make_any(name: str, spec: ObserverSpec) -> Any:
    if ":" in spec.target:
        return find_observer(name, spec).load()
    kind = _find_built_in(name, spec)
    try:
        return kind(**spec.config)
    except Exception as error:
        what = shorten(f"{type(error).__name__}: {error}", 500)
        raise ArtifactError(f"Observer {name!r}: {spec.target} cannot be made: {what}") from error


def _find_built_in(name: str, spec: ObserverSpec) -> Callable[..., Observer]:
    if spec.target not in OBSERVERS:
        known = unknown_name("target", spec.target, OBSERVERS)
        raise SpecError(f"Observer {name!r}: {known}; or give module:Class for a class of your own")
    kind = OBSERVERS[spec.target]
    try:
        inspect.signature(kind).bind(**spec.config)
    except TypeError as error:
        raise SpecError(
            f"Observer {name!r}: {spec.target} does not take config {spec.config}: {error}"
        ) from None
    return kind
