"""Tells each node's HAProxy the spec's TLS settings, in a file beside its configuration, which `wrapper.py` reads.

Knows the nodes, but not HAProxy's configuration language.
"""

import json
import os
import pathlib
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymlops.errors import ResourceError, SpecError
from raymlops.serving import serve_internals
from raymlops.serving.haproxy import body_limits, wrapper
from raymlops.specs.serving import ServingSpec, Tls

_PATIENCE_S = 60


def write_tls(tls: Tls | None) -> None:
    """On a node: for its HAProxy, from its next start or reload on; None is for plain text."""
    folder = _find_folder()
    partial = folder / f"{wrapper.FRONT_FILE}.{os.getpid()}"
    partial.write_text(json.dumps({"tls": tls.model_dump() if tls else None}))
    partial.replace(folder / wrapper.FRONT_FILE)


def write_limit(spec: ServingSpec) -> None:
    """On a replica's node: the largest body of its application, for the node's HAProxy."""
    size = int(spec.limits.body_mb * 2**20)
    body_limits.write_limit(_find_folder(), spec.name, spec.route, size)


def _find_folder() -> pathlib.Path:
    """Where this node's HAProxy has its configuration."""
    config = pathlib.Path(serve_internals.find_haproxy_config())
    folder: pathlib.Path = config.parent / ray.get_runtime_context().get_node_id()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def prepare_node(tls: Tls | None) -> dict[str, Any]:
    """On a node: write HAProxy's instructions, and return whether it will follow them."""
    unreadable = []
    for path in (tls.certificate, tls.key, tls.client_ca) if tls else ():
        try:
            if path:
                pathlib.Path(path).read_bytes()
        except OSError as error:
            unreadable.append(f"{path} ({error.strerror})")
    write_tls(tls)
    return {
        "unreadable": unreadable,
        "haproxy": serve_internals.is_behind_haproxy(),
        "ours": pathlib.Path(serve_internals.find_haproxy_binary()).name == "haproxy.sh",
    }


def prepare_nodes(tls: Tls | None) -> bool:
    """Make every running node use TLS, or with None plain text; true behind HAProxy.

    Replicas tell nodes that join later. Raises SpecError for files that a node cannot read, and ResourceError if a
    node would continue without TLS.
    """
    task: Any = ray.remote(num_cpus=0)(prepare_node)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=strategy).remote(tls) for strategy in strategies]
    try:
        reports = ray.get(asked, timeout=_PATIENCE_S)
    except ray.exceptions.RayError as error:
        if tls is None:  # instructions for an earlier Serve are no longer needed
            return False
        cause = " ".join(str(error).split())[-300:]
        raise ResourceError(
            f"Not every node could be told to use TLS within {_PATIENCE_S} s: {cause}"
        ) from None
    for node, report in zip(nodes, reports, strict=True):
        if report["unreadable"]:
            raise SpecError(f"Node {node[:8]} cannot read the TLS files: {', '.join(report['unreadable'])}")
        if tls and report["haproxy"] and not report["ours"]:
            raise ResourceError(
                f"Node {node[:8]} was started without our variables, so its HAProxy would not use TLS; start Ray "
                'there after: eval "$(raymlops cluster environment)"'
            )
    return any(report["haproxy"] for report in reports)
