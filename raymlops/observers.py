"""What was asked of a model and answered, as a value, and what may be told of it. Queues and threads stand in
`runtime/observer_queue.py`."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from raymlops.tensors import Batch


class Event(NamedTuple):
    """One request, when its answer was written or its failure told. Nobody changes its tensors afterwards, and neither
    may an observer: others are given the same ones."""

    model: str
    """The model's name, or what the caller gave for one; empty where it named none."""
    version: str
    """Empty where there is no such model."""
    request_id: str
    batch: Batch | None
    """Input name -> array, as the model got them; None where the request was refused before they were read."""
    answer: Batch | None
    """Output name -> array, all that the model answers; None where it did not."""
    ns: int
    """Nanoseconds from the head of the request to its answer."""
    rows: int
    """Of the batch; 0 where it was not read."""
    status: int
    """As HTTP has it, over gRPC, too: 200, 4xx for a request that was refused, 499 for a caller that went away, 5xx."""
    time: float
    """When it was answered, in seconds since 1970."""
    key: str
    """Name of the API key that came with it; empty for none."""
    method: str
    """Of HTTP, or `gRPC`."""
    path: str
    """Of the application, or the service and method of gRPC."""
    bytes_in: int
    """Of the body, decompressed."""
    bytes_out: int
    grpc_status: str
    """Empty where it came over HTTP."""
    logged: bool
    """Whether it is one of the share that is logged, as are all with a status of 500 and above."""
    trace: str
    """The header `traceparent`, of requests that are logged."""


class Observer(Protocol):
    """Is told of requests, in bulk and in their order, in a thread of its own: it may take its time. What it raises is
    logged, and those events are not told again.

    A class may also have `observes`, which of the events it is told: "inferences" is every request for a model's
    answer, which is the default; "logged" is the share of all requests that `access_log` says, and all failures of
    ours. And `close()`, which is called once, after the last events, when the replica ends.
    """

    def observe(self, events: Sequence[Event]) -> None: ...
