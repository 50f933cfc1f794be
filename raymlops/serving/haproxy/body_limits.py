"""Makes HAProxy refuse a body whose declared size is too large before it is sent: HAProxy itself waits for bodies,
and answers `Expect: 100-continue` with 100. Part of HAProxy's script, so only the standard library is imported. Does
not import Ray."""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

FOLDER = "body-limits"
"""Beside HAProxy's configuration: APPLICATION.json, {"route": "/shop", "bytes": 1048576}."""
_FRONTEND = "frontend http_frontend"
_ROUTE = re.compile(r"/[A-Za-z0-9._/-]*")

Section = tuple[str, list[str]]


def write_limit(folder: pathlib.Path, application: str, route: str, size: int) -> None:
    """For HAProxy of this node, from its next start or reload on."""
    limits = folder / FOLDER
    limits.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = limits / f".{application}.{os.getpid()}"
    partial.write_text(json.dumps({"route": route, "bytes": size}))
    partial.replace(limits / f"{application}.json")


def read_limits(folder: pathlib.Path) -> dict[str, int]:
    """Bytes by route; if two applications had a route, those of the later one."""
    limits: dict[str, int] = {}
    files = sorted((folder / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        try:
            told = json.loads(path.read_text())
            route, size = str(told["route"]), int(told["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if _ROUTE.fullmatch(route) and 0 < size < 2**62:
            limits[route] = size
    return limits


def refuse_large(sections: Sequence[Section], limits: Mapping[str, int]) -> list[Section]:
    """The longest route that matches a path gives its largest body."""
    rules: list[str] = []
    for route in sorted(limits, key=len):
        own = f"{{ path_beg {route.rstrip('/')}/ }}"
        fits = own if route == "/" else f"{own} || {{ path {route} }}"
        rules.append(f"    http-request set-var(txn.body_limit) int({limits[route]}) if {fits}")
    if rules:
        text = json.dumps(
            {
                "error": "The body is over %[var(txn.body_limit)] bytes, the most that is accepted here; send "
                "fewer rows a request",
                "status": 413,
                "request_id": "",
            }
        )
        rules.append(
            f"    http-request return status 413 content-type application/json lf-string '{text}' if "
            "{ var(txn.body_limit) -m found } { req.body_size,sub(txn.body_limit) gt 0 }"
        )
        # Backends wait for the whole body; the frontend would do so too, before its first rule.
        rules.insert(0, "    no option http-buffer-request")
    return [(name, [*rules, *lines] if name.strip() == _FRONTEND else lines) for name, lines in sections]
