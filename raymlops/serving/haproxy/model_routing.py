"""Routes gRPC calls by the model's name: rules for HAProxy, whose configuration by Serve requires each caller to name
an application. Loaded by `wrapper.py` as a script, so only the standard library is imported.

HAProxy reads the name from the first bytes of a message; replicas are asked which application has it whenever Serve
writes a configuration, that is whenever a replica starts or stops. An unknown name costs one more hop: see
`grpc_relay.py`.
"""

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence

_HTTP, _GRPC = "frontend http_frontend", "frontend grpc_frontend"
Section = tuple[str, list[str]]


def route_by_model(sections: Sequence[Section], folder: pathlib.Path, secret: str) -> list[Section]:
    """gRPC calls that name no application go to the one that has their model; writes the list of models.

    Calls that name no model, or cannot be read here, go to any application, whose replicas know the others. Only
    calls with a single message are buffered: a stream may need its first answer before it sends its second message.
    """
    applications = _find_applications(sections)
    rules = [
        "    no option http-buffer-request",
        f"    acl of_protocol path_beg {' '.join(_SERVICES)}",
        f"    acl of_streams path {' '.join(_STREAMS)}",
        f"    http-request del-header {ROUTE}",
        "    http-request wait-for-body time 30s if of_protocol !of_streams",
    ]
    if sum(_NAMED.fullmatch(line) is not None for name, lines in sections for line in lines) == 1:
        rules.append(f"    http-request set-header {ROUTE} only")
    elif applications:
        rules += _choose_application(applications, folder, secret)
    unheld = rules[:1]
    more = {_GRPC: rules, **{name.strip(): unheld for name, _ in sections if name.startswith("backend grpc")}}
    return [(name, [*more.get(name.strip(), ()), *lines]) for name, lines in sections]


ROUTE = "x-raymlops-route"
"""How a proxy chose the application of a call that named none: `only`, there is no other; `model`, it alone has the
model; `any`, the model could not be read, or no application has it."""
_SERVICE = "/inference.GRPCInferenceService/"
_SERVICES = (_SERVICE, "/grpc.health.v1.Health/", "/grpc.reflection.")
_STREAMS = (
    f"{_SERVICE}ModelStreamInfer",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_BY_FIELD = {
    2: tuple(
        f"{_SERVICE}{name}" for name in ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting")
    ),
    1: (
        *(f"{_SERVICE}{name}" for name in ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig")),
        f"{_SERVICE}ModelStatistics",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ),
}
"""Field of the message that names a model -> methods; `grpc_message.py` has the complete table."""


@dataclasses.dataclass(frozen=True)
class Application:
    """An application in Serve's configuration: where its replicas answer HTTP."""

    name: str
    prefix: str
    servers: tuple[str, ...]


_NAMED = re.compile(r"\s*acl is_(\S+) req\.hdr\(application\) -m str (.+)")
"""Serve's rule for calls that name an application."""


def _find_applications(sections: Sequence[Section]) -> list[Application]:
    """Applications that answer gRPC, by name; those that share a route are left out."""
    lines_of = {name.strip(): lines for name, lines in sections}
    prefixes = {}
    for line in lines_of.get(_HTTP, ()):
        if found := re.fullmatch(r"\s*acl is_(\S+) path_beg (/\S*)", line):
            prefixes[found[1].lower()] = found[2].rstrip("/")
    applications = []
    for line in lines_of.get(_GRPC, ()):
        if found := _NAMED.fullmatch(line):
            backend = re.sub("^grpc", "http", found[1].lower())
            lines = next(
                (lines for name, lines in lines_of.items() if name.lower() == f"backend {backend}"), ()
            )
            servers = [re.fullmatch(r"\s*server \S+ (\S+:\d+) .*", line) for line in lines]
            addresses = tuple(
                server[1] for server in servers if server and not server[0].rstrip().endswith("backup")
            )
            applications.append(Application(found[2], prefixes.get(backend, ""), addresses))
    # Names become part of rules; ours are safe, other applications' may not be.
    applications = [one for one in applications if re.fullmatch(r"[\w.-]+", one.name)]
    return sorted(applications, key=lambda application: application.name)


def _choose_application(applications: Sequence[Application], folder: pathlib.Path, secret: str) -> list[str]:
    """Rules that name an application for calls that did not."""
    models = ask_models(applications, folder / "models.json", secret)
    owners: dict[str, list[str]] = {}
    for application, names in models.items():
        for name in names:
            owners.setdefault(name, []).append(application)
    table = folder / "models.map"
    # A model of two applications is routed to none: the replicas report it.
    single = [(name, found[0]) for name, found in owners.items() if len(found) == 1 and _NAME.fullmatch(name)]
    partial = table.with_name(f"{table.name}.{os.getpid()}")
    partial.write_text("".join(f"{name} {application}\n" for name, application in sorted(single)))
    partial.replace(table)
    # An application that did not answer is not ours, or asleep; if all are, Serve's own proxy chooses.
    any_of = next(iter(models), applications[0].name)
    asks = "of_protocol !of_streams !names_application !is_packed"
    return [
        "    acl names_application req.hdr(application) -m found",
        "    acl is_packed req.body,bytes(0,1),hex -m str 01",
        *(
            f"    http-request set-var(txn.model) req.body,bytes(5,300),protobuf({field}) if {asks} "
            f"{{ path {' '.join(paths)} }}"
            for field, paths in _BY_FIELD.items()
        ),
        f"    http-request set-var(txn.application) var(txn.model),map_str({table}) if {{ var(txn.model) -m found }}",
        "    acl is_known var(txn.application) -m found",
        f"    http-request set-header {ROUTE} model if is_known",
        f"    http-request set-header {ROUTE} any if of_protocol !names_application !is_known",
        f"    http-request set-var(txn.application) str({any_of}) if {{ req.hdr({ROUTE}) -m str any }}",
        "    http-request set-header application %[var(txn.application)] if is_known",
    ]


_NAME = re.compile(r"[!-\"$-~][!-~]{0,199}")
"""Words that can be the key of a line in a HAProxy map."""
MODELS_PATH = "/-models"
MODELS_HEADER = "x-raymlops-models"
_PATIENCE_S = 2.0


def find_secret(token: str, environment: Mapping[str, str]) -> str:
    """A secret of this cluster's processes, derived from the token of HAProxy and its replicas, or from Ray's. Empty
    if there is neither: replicas then list their models only to callers with a key."""
    shared = token or environment.get("RAY_AUTH_TOKEN")
    if not shared:
        path = pathlib.Path(environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
        try:
            shared = path.expanduser().read_text().strip()
        except (OSError, RuntimeError):
            return ""
    return hashlib.sha256(f"models for proxies {shared}".encode()).hexdigest() if shared else ""


def ask_models(applications: Sequence[Application], file: pathlib.Path, secret: str) -> dict[str, list[str]]:
    """Application -> its models, as one of its replicas lists them; if none answers, as it was last time, which is
    kept in `file`. An application that never answered is left out."""
    try:
        before = json.loads(file.read_text())
    except (OSError, ValueError):
        before = {}
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        told = list(threads.map(lambda application: _ask_application(application, secret), applications))
    models = {
        application.name: said if said is not None else before.get(application.name)
        for application, said in zip(applications, told, strict=True)
    }
    known = {name: said for name, said in models.items() if said is not None}
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(known))
    partial.replace(file)
    return known


def _ask_application(application: Application, secret: str) -> list[str] | None:
    ends = time.monotonic() + _PATIENCE_S
    for server in application.servers[:3]:
        left = ends - time.monotonic()
        if left <= 0:
            break
        host, _, port = server.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=left)
        try:
            connection.request("GET", f"{application.prefix}{MODELS_PATH}", headers={MODELS_HEADER: secret})
            answer = connection.getresponse()
            said = json.loads(answer.read()) if answer.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            continue
        finally:
            connection.close()
        if isinstance(said, list) and all(isinstance(name, str) for name in said):
            return said
    return None
