"""The only module that uses private parts of uvicorn, beside its public `Config` and `Server`: each name with its
purpose. If a version of uvicorn lacks one, requests go through ASGI, and the log says so."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from raymlops.private_names import PrivateName, PrivateNames

_IMPLEMENTATION = "uvicorn.protocols.http.httptools_impl:"
_FAST = "requests go through ASGI, which costs each some 10 us, and slow clients have no deadline"

UVICORN = PrivateNames(
    "uvicorn",
    ">=0.54,<0.55",
    {
        "uvicorn.config:HTTP_PROTOCOLS": PrivateName(_FAST, kind=dict),
        "uvicorn.config:create_ssl_context": PrivateName(
            "client certificates are not required, and changed files are not used",
            ("certfile", "keyfile", "password", "ssl_version", "cert_reqs", "ca_certs"),
        ),
        f"{_IMPLEMENTATION}STATUS_LINE": PrivateName(_FAST, kind=dict),
        f"{_IMPLEMENTATION}HttpToolsProtocol": PrivateName(
            _FAST,
            sets=(
                "client", "connection_lost", "connection_made", "connections", "cycle", "data_received",
                "expect_100_continue", "flow", "headers", "limit_concurrency", "loop", "on_body",
                "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete", "parser",
                "pause_writing", "pipeline", "resume_writing", "root_path", "scope", "server_state", "shutdown",
                "tasks", "timeout_keep_alive", "timeout_keep_alive_handler", "timeout_keep_alive_task", "transport",
                "url", "ws_protocol_class", "_start_asgi_task", "_unset_keepalive_if_required", "access_log",
            ),
        ),
        f"{_IMPLEMENTATION}RequestResponseCycle": PrivateName(
            "the head of an answer is sent separately from its body",
            sets=("disconnected", "keep_alive", "message_event", "response_complete", "response_started", "transport"),
        ),
        "uvicorn.protocols.http.flow_control:FlowControl": PrivateName(
            _FAST, sets=("drain", "pause_reading", "resume_reading", "read_paused", "write_paused")
        ),
        "uvicorn.server:ServerState": PrivateName(_FAST, sets=("connections", "default_headers", "tasks")),
    },
    log="raymlops.serving",
)  # fmt: skip


class _Absent:
    """A class without instances."""


if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE as STATUS_LINE
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpToolsProtocol
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as RequestResponseCycle
else:
    STATUS_LINE = UVICORN.find(f"{_IMPLEMENTATION}STATUS_LINE") or {
        status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
    }
    HttpToolsProtocol = UVICORN.find(f"{_IMPLEMENTATION}HttpToolsProtocol") or _Absent
    RequestResponseCycle = UVICORN.find(f"{_IMPLEMENTATION}RequestResponseCycle") or _Absent


def use_protocol(path: str) -> bool:
    """Make servers of this process use our protocol, `module:Class`; False if this uvicorn is not a tested one, whose
    own protocol is then used."""
    if not UVICORN.are_known():
        return False
    UVICORN.find("uvicorn.config:HTTP_PROTOCOLS")["auto"] = path
    return True


def replace_ssl_context(make: Callable[[Any], Any]) -> bool:
    """Replace uvicorn's function that creates TLS contexts by the result of `make`."""
    return UVICORN.replace("uvicorn.config:create_ssl_context", make)
