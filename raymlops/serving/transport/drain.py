"""Stops accepting requests, and waits for those in flight to be answered. Stops no process."""

import contextlib
import logging
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import psutil
from ray import serve
from ray.serve.exceptions import RayServeException

from raymlops.serving import serve_internals

LOG = logging.getLogger("raymlops.serving")

_POLL_S = 0.25
_QUIET_S = 1.0
"""Seconds without requests: by then, clients that send continuously have been told to close their connections."""
_ASKS_S = 2.0
"""A replica that does not report its number of requests within this time is busy with them."""
REFUSAL = "This endpoint is being stopped; ask another one, or try again later"


def drain(
    ports: Collection[int],
    seconds: float,
    report: Callable[[str], Any],
    hurry: threading.Event | None = None,
) -> int:
    """On a cluster that this process started: refuse new connections, and give requests in flight so many seconds, or
    until `hurry` is set; returns the number of unanswered requests.

    Behind HAProxy, kept-alive connections are closed after their next answer; without it, the replicas answer 503 to
    new requests.
    """
    hurry = hurry or threading.Event()
    handles = _reach(serve.status().applications)
    if not _stop_proxies():
        _ask(handles, "refuse_requests", REFUSAL)
    ends = time.monotonic() + seconds
    quiet_since, said = time.monotonic(), 0
    while True:
        waiting = sum(_ask(handles, "count_requests")) + count_unread(ports)
        now = time.monotonic()
        if waiting:
            quiet_since = now
            if waiting != said:
                said = waiting
                report(_tell(waiting, ends - now))
        if (not waiting and now - quiet_since >= _QUIET_S) or now >= ends or hurry.wait(_POLL_S):
            return waiting
        _stop_proxies()  # Serve may have replaced one that ended


def _tell(waiting: int, left: float) -> str:
    requests = "1 request that is" if waiting == 1 else f"{waiting} requests that are"
    return f"Stopping: waits for {requests} in flight, for {max(0, left):.0f} s at most; Ctrl-C ends at once"


def _stop_proxies() -> bool:
    """HAProxy closes its listeners, and every connection after its next answer; returns whether there is an HAProxy."""
    found = False
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == "haproxy":
                process.send_signal(signal.SIGUSR1)
                found = True
    return found


def count_requests(application: str) -> int:
    """Unanswered requests of an application, as reported by its replicas."""
    return sum(_ask(_reach([application]), "count_requests"))


def _reach(applications: Iterable[str]) -> list[Any]:
    """Handles of those that have been started."""
    handles = []
    for name in applications:
        with contextlib.suppress(RayServeException):
            handle = serve.get_app_handle(name)
            with contextlib.suppress(RuntimeError):  # it was set up before
                serve_internals.route_in_own_loop(handle)
            handles.append(handle)
    return handles


def _ask(handles: Iterable[Any], method: str, *arguments: Any) -> list[int]:
    """The answers of all replicas of these applications; busy ones count as one request."""
    answers: list[int] = []
    for handle in handles:
        try:
            broadcast = handle.broadcast(method, *arguments)
            answers += [count or 0 for count in broadcast.results(timeout_s=_ASKS_S)]
        except TimeoutError:
            answers.append(1)
        except Exception as error:
            LOG.debug("%s was not asked: %s", handle, error)
    return answers


def count_unread(ports: Collection[int]) -> int:
    """Connections on these ports with answer bytes that the client has not read yet; 0 if the system does not say;
    Linux does."""
    return sum(1 for port, queued in _read_connections() if port in ports and queued)


def _read_connections() -> Iterator[tuple[int, int]]:
    """Local port and unsent bytes of every open connection of this machine."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in pathlib.Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] in _SENDING:
                    yield int(fields[1].rpartition(":")[2], 16), int(fields[4].partition(":")[0], 16)


_SENDING = ("01", "04", "08", "09")
"""ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK."""
