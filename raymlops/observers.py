"""The record of one request and its answer, as a value, and the interface of an observer. Queues and threads are in
`runtime/observer_queue.py`."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from raymlops.tensors import Batch

NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})


class Event(NamedTuple):
    """One request, once its answer was written or its failure reported. Its tensors are not changed afterwards, and
    observers must not change them: all get the same ones."""

    model: str
    """The model's name, or what the caller gave as one; empty if it gave none."""
    version: str
    """Empty if there is no such model."""
    request_id: str
    batch: Batch | None
    """Input name -> array, as passed to the model; None if the request was refused before they were read."""
    answer: Batch | None
    """Output name -> array, all outputs of the model; None if it did not answer."""
    ns: int
    """Nanoseconds from the head of the request to its answer."""
    rows: int
    """Rows of the batch; 0 if it was not read."""
    status: int
    """As in HTTP, over gRPC too: 200, 4xx for a refused request, 499 for a caller that disconnected, 5xx."""
    time: float
    """Time of the answer, in seconds since 1970."""
    key: str
    """Name of the API key of the request; empty for none."""
    method: str
    """Method of HTTP, or `gRPC`."""
    path: str
    """Path within the application, or the service and method of gRPC."""
    bytes_in: int
    """Bytes of the body, decompressed."""
    bytes_out: int
    grpc_status: str
    """Empty if it came over HTTP."""
    logged: bool
    """Whether it is in the share of requests that are logged; those with a status of 500 and above always are."""
    trace: str
    """The header `traceparent`, for requests that are logged."""
    parameters: Mapping[str, Any] = NO_PARAMETERS
    """Parameters in the body of the request, such as `episode` and `step`."""
    body_id: str = ""
    """The id in the body of a request without the header `x-request-id`; then `request_id` is one of ours."""


class Observer(Protocol):
    """Notified of requests, in batches and in order, in a thread of its own, so that it may be slow. Its exceptions
    are logged, and those events are not repeated.

    A class may also have `observes`, the events that it gets: "inferences", the default, is every inference request;
    "logged" is the share of all requests that `access_log` says, and all failures of ours. And `close()`, which is
    called once, after the last events, when the replica ends; `tick()`, which is called in the same thread some ten
    times a second, whether there are events or not; and `to_counts()`, outcome -> number of events, for metrics.
    """

    def observe(self, events: Sequence[Event]) -> None: ...
