"""Answers to Triton clients' requests for a server's tracing, logging and shared memory settings, the same over REST
and gRPC.

Clients can change nothing here: logging and tracing are the operator's, and clients share no memory with replicas,
which may be on other machines. Imports no transport.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from raymlops.errors import InputError, NotFoundError


class UnsupportedError(NotFoundError):
    """An extension of the protocol that is not supported: 404 over REST, UNIMPLEMENTED over gRPC."""


TRACE_SETTINGS: Mapping[str, Sequence[str]] = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
"""Triton's names, with their values when nothing is traced."""

LOG_SETTINGS: Mapping[str, str | bool | int] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def describe_trace() -> dict[str, Any]:
    """As in Triton's REST API: a text each, but a list of levels."""
    return {
        name: list(value) if name == "trace_level" else value[0] for name, value in TRACE_SETTINGS.items()
    }


def refuse_trace(asked: Any) -> None:
    """Raises UnsupportedError if given settings would change something."""
    if asked:
        raise UnsupportedError(
            "Trace settings cannot be changed by clients; send the header traceparent, which is passed on to "
            "every node and written to the access log"
        )


def refuse_log(asked: Any) -> None:
    """Raises UnsupportedError if given settings would change something."""
    if asked:
        raise UnsupportedError(
            "Log settings cannot be changed by clients; the spec's access_log is the share of requests that are logged"
        )


def refuse_shared_memory() -> NoReturn:
    """Raises UnsupportedError: nothing can be registered."""
    raise UnsupportedError(
        "Shared memory cannot be registered, since replicas may run on other machines; send tensors in the request, as "
        "binary data"
    )


def check_load_parameters(names: Sequence[str]) -> None:
    """Raises InputError if a load request brings its own model or configuration."""
    if names:
        shown = ", ".join(sorted(names)[:5])[:200]
        raise InputError(
            f"A load takes no parameters, got {shown}: the model and its configuration are read from the folder; put "
            "the file there, then load it"
        )
