"""The one place that decides how Ray Serve runs fast: environment variables, each with its reason.

They must be set before Ray starts, because Serve reads them once, in every process. Those that the user has
set stay.
"""

import os as _os
from collections.abc import Mapping

FAST: Mapping[str, str] = {
    # HAProxy carries connections straight to replicas; Serve's own proxy is a Python process on the way.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Replicas run our code on the loop that reads the socket, and write logs and metrics in bulk.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Inference may be asked twice without harm, so a request whose replica died goes to another one.
    # HAProxy can repeat only what it holds whole, hence the second line, which has no variable of its own:
    # clients that send headers and body apart would else lose their connection.
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure empty-response response-timeout\n    option http-buffer-request"
    ),
    "RAY_SERVE_HAPROXY_RETRIES": "5",
    # Only a request that fits the buffer can be sent again; 16 KiB, the default, is a few rows of JSON.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
    # HAProxy learns of a change within 0.1 s; 30 s of waiting, the default, makes every update slow.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # HAProxy sends a line per request to a Python process that counts them; the data plane does so itself.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # The same for HAProxy's own log, which nobody reads on that port: one line in a thousand.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",
    # Ray runs workers at niceness 15, so that a replica yields to every other process of its machine.
    "RAY_worker_niceness": "0",
    # Our middleware stands first in every replica, see serving/lane.py.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raymlops.serving.lane:make_middlewares",
}
PLAIN: Mapping[str, str] = {}
"""What `--plain` uses: Ray Serve as it comes."""


AFFINE = "uri\n    hash-type consistent\n    hash-balance-factor 200"
"""Requests for one model go to the replica that has it; to the next one when that has twice the mean load.

Consistent hashing with bounded loads, after Mirrokni, Thorup and Zadimoghaddam.
"""


def choose_environment(
    plain: bool = False, cores: int | None = None, *, affine: bool = False
) -> dict[str, str]:
    """The variables to set before Ray starts; `affine` is for many models that are loaded on demand."""
    if plain:
        return dict(PLAIN)
    # More HAProxy threads than half the cores take them from the replicas it feeds.
    threads = max(1, min(4, (cores or _os.cpu_count() or 2) // 2))
    balance = {"RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": AFFINE} if affine else {}
    return {**FAST, **balance, "RAY_SERVE_HAPROXY_NBTHREAD": str(threads)}
