"""The observers of a replica's endpoints, by name: creates them, and passes each the requests that it wants. To add
one, write a class in its own file, and a line in `OBSERVERS`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, perf_counter_ns, time
from typing import Any, Protocol

from raymlops.errors import ArtifactError, SpecError, describe_cause, unknown_name
from raymlops.observers import NO_PARAMETERS, Event, Observer
from raymlops.runtime.observer_queue import ObserverQueue
from raymlops.runtime.python_modules import find_observer
from raymlops.serving.endpoints.access_log import AccessLog
from raymlops.serving.endpoints.statistics import Timed
from raymlops.specs.serving import ObserverSpec
from raymlops.tensors import Batch

OBSERVERS: dict[str, Callable[..., Observer]] = {"access_log": AccessLog}
"""Names that a spec may use; anything else is a user's `module:Class`."""

_ALWAYS = {"access_log": ObserverSpec(target="access_log")}
"""Present unless a spec has another observer of the same name."""
_MODEL = 128
"""Characters of a name that a caller gave."""
CLOSES_S = 5.0
"""Time for all observers to process the remaining events when their replica ends."""


class PendingRequest(Timed, Protocol):
    """An inference request, with its tensors and those of the answer."""

    batch: Batch | None
    answer: Batch | None


class Caller(Protocol):
    @property
    def name(self) -> str: ...


class Traced(Protocol):
    @property
    def parent(self) -> str: ...


class Observable(PendingRequest, Protocol):
    """A request of any protocol, as passed to observers."""

    id: str
    model: str
    rows: int
    infers: bool
    logged: bool
    parameters: Mapping[str, Any] | None
    body_id: str

    @property
    def started(self) -> int: ...

    @property
    def has_id(self) -> bool:
        """Whether a header, or metadata, gave the id."""

    @property
    def where(self) -> tuple[str, str]:
        """Method and path."""

    @property
    def caller(self) -> Caller: ...

    @property
    def trace(self) -> Callable[[], Traced]: ...


Told = tuple[Observable, int, int, int, int, str]
"""A request as passed to `Observers.tell`. The fields of its event are computed later, for many at a time: that takes
a third of the time it would take during the request."""


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
        request.parameters or NO_PARAMETERS,
        request.body_id,
    )


class Observers:
    """The observers of one replica; lives on its event loop."""

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
        """A request was answered, `ended` in nanoseconds of its clock. Statistics of an inference request are already
        recorded."""
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
        """Pass on the remaining events. Takes up to `CLOSES_S`; call it in a thread."""
        ends = monotonic() + CLOSES_S
        for queue in self.queues:
            queue.close(max(0.0, ends - monotonic()))

    def to_tree(self) -> dict[str, dict[str, int]]:
        return {queue.name: queue.to_tree() for queue in self.queues}

    def to_rows(self) -> dict[str, int]:
        """Rows by what became of them in monitoring; empty without it."""
        return {outcome: rows for queue in self.queues for outcome, rows in queue.to_rows().items()}


def make_observers(
    specs: Mapping[str, ObserverSpec] | None = None,
    own: Mapping[str, Observer] | None = None,
    queues_of_own: Sequence[ObserverQueue[Any]] = (),
) -> Observers:
    """The access log and those of a spec, by name, and `own` ones that are made already, some with their queues. Raises
    SpecError, and ArtifactError for one that cannot be created."""
    queues = [
        ObserverQueue(name, _make(name, spec), make_event, spec.queue, int(spec.queue_mb * 2**20))
        for name, spec in (_ALWAYS | dict(specs or {})).items()
    ]
    queues += [ObserverQueue(name, one, make_event) for name, one in (own or {}).items()]
    return Observers([*queues, *queues_of_own])


def check_observers(specs: Mapping[str, ObserverSpec]) -> None:
    """Import the named classes, without creating instances. Raises SpecError."""
    for name, spec in specs.items():
        if ":" in spec.target:
            found = find_observer(name, spec).check()
            if inspect.isclass(found):
                _check_class(name, found)
        else:
            _find_built_in(name, spec)


def _make(name: str, spec: ObserverSpec) -> Any:
    observer = _make_any(name, spec)
    _check_class(name, observer)
    return observer


def _check_class(name: str, owner: Any) -> None:
    """An observer, or its class, which may not show all of it. Raises SpecError."""
    observes = getattr(owner, "observes", "inferences")
    if observes not in ("inferences", "logged") and not hasattr(
        observes, "__get__"
    ):  # a property of the class
        raise SpecError(f"Observer {name!r}: {unknown_name('observes', observes, ('inferences', 'logged'))}")
    if inspect.iscoroutinefunction(owner.observe):
        raise SpecError(f"Observer {name!r}: observe must not be async; it has a thread of its own")
    if inspect.isgeneratorfunction(owner.observe) or inspect.isasyncgenfunction(owner.observe):
        raise SpecError(f"Observer {name!r}: observe must not yield; nothing would run it")


def _make_any(name: str, spec: ObserverSpec) -> Any:
    if ":" in spec.target:
        return find_observer(name, spec).load()
    kind = _find_built_in(name, spec)
    try:
        return kind(**spec.config)
    except Exception as error:
        cause = describe_cause(error)
        raise ArtifactError(f"Observer {name!r}: {spec.target} cannot be made: {cause}") from error


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
