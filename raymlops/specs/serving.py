"""What an application serves, under which names, limits and keys. Does not define how; `serving.app.build_app` reads
it."""

import pathlib
import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raymlops.specs.document import Document, Renamed
from raymlops.specs.graph import GraphSpec
from raymlops.specs.module_files import CodeFiles
from raymlops.specs.monitoring import Capture, Monitoring, Objectives, Operations
from raymlops.specs.notify import NotifySpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Batching(Document):
    """Joins concurrent requests into one run of the model (dynamic batching)."""

    mode: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="auto joins if it is faster and the model's operators prove that rows are independent; on "
        "is refused if they do not; off runs each request separately",
    )
    max_rows: int = Field(default=256, ge=1, le=1_000_000, description="rows joined in one run of the model")
    wait_ms: float = Field(
        default=1.0,
        ge=0,
        le=10_000,
        description="longest wait for further requests, only while others are being answered",
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _read_yaml_words(cls, value: object) -> object:
        """YAML reads a bare `on` or `off` as true or false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class HostedModel(Document):
    """One model: where it is from and how its session runs."""

    source: str = Field(
        description="models:/name@alias, models:/name/version, an ONNX file, or a folder with model.onnx"
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="auto is cuda if Ray assigns GPUs"
    )
    optimisation: Literal["none", "basic", "extended", "all"] = Field(
        "all", description="ONNX Runtime's graph optimisation level"
    )
    threads: int = Field(default=0, ge=0, le=512, description="threads of a run; 0 uses the replica's CPUs")
    digest: str = Field(
        default="", description="expected sha256 of the ONNX file in hex; deploying fills it in"
    )
    version: str = Field(
        default="",
        coerce_numbers_to_str=True,
        description="the version that is reported; empty uses the registry's, or 1 for a file",
    )
    batching: Batching = Batching()
    deadline_s: float = Field(
        default=30.0, gt=0, le=3600, description="a request not answered in this time gets 504"
    )
    isolate: bool = Field(
        default=False,
        description="run it in its own process, one in each replica: a request that crashes it gets 503, and "
        "affects nothing else. For models of unknown origin, and those that are refused otherwise; "
        "a run takes some 0.3 ms more, and requests never share one",
    )


class Autoscaling(Document):
    """Replicas follow the requests in flight. `min: 0` releases the machines while there are no requests."""

    min: int = Field(
        default=1, ge=0, description="minimum of replicas; with 0 the first request waits for a start"
    )
    max: int = Field(default=4, ge=1, description="most replicas")
    target: float = Field(default=8.0, gt=0, description="target of requests in flight per replica")
    up_s: float = Field(default=5.0, ge=0, description="load must last this long before replicas are added")
    down_s: float = Field(
        default=60.0, ge=0, description="low load must last this long before replicas are removed"
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max {self.max}")
        return self


class Limits(Document):
    """Limits of one request and of one replica."""

    body_mb: float = Field(
        default=64.0, gt=0, description="largest body, also after decompression; more gets 413"
    )
    queue: int = Field(
        default=128, ge=1, description="requests waiting or running in a replica; more get 503"
    )
    json_depth: int = Field(default=32, ge=4, description="deepest nesting of a JSON body")
    json_elements: int = Field(
        default=1_000_000,
        ge=1,
        description="most elements of a JSON body or answer, and most strings of any; binary tensors may have more",
    )
    rows: int = Field(default=1_000_000, ge=1, description="most rows of a request; more get 413")
    elements: int = Field(
        default=2**26, ge=1, description="most elements of a tensor, in requests and answers; more get 413"
    )
    answer_mb: float = Field(default=64.0, gt=0, description="largest answer; a request for more gets 413")
    large_bodies_mb: float = Field(
        default=512.0,
        gt=0,
        description="bodies above 64 KiB that a replica holds at once, complete or incomplete; more get 503",
    )
    receive_s: float = Field(
        default=30.0,
        gt=0,
        description="time for the head and the body of a request to arrive; 10 s more for each MB",
    )
    send_s: float = Field(
        default=30.0,
        gt=0,
        description="time for a client to read its answer; 10 s more for each MB",
    )
    proxy_buffer_kb: int = Field(
        default=32,
        ge=16,
        le=1024,
        description="part of a request, head and body, that the proxy buffers: a request that fits is sent to a "
        "replica only when it is complete, and to another one if the first is lost before a model "
        "has started; more makes each request more expensive. For the cluster that `serve` starts; "
        "on others set RAY_SERVE_HAPROXY_TUNE_BUFSIZE before they start",
    )
    connections: int = Field(
        default=4096, ge=1, description="open HTTP connections of a replica; more are closed at once"
    )
    run_memory_mb: float = Field(
        default=0.0,
        ge=0,
        description="memory that the tensors of a replica's runs may take; a request that needs more gets 413. "
        "0 uses three quarters of memory_mb, or else the share of half the machine's memory that "
        "corresponds to its CPUs",
    )
    rate: float = Field(
        0.0,
        ge=0,
        description="requests per second over all replicas, by API key, or by client address without keys; 0 is "
        "no limit",
    )
    burst: float = Field(
        default=20.0, ge=1, description="requests that a key may send at once above its rate"
    )


class ManyModels(Document):
    """More models than fit in memory: loaded on first use, the least recently used are evicted."""

    folder: str = Field(
        min_length=1,
        description="path or URI: each NAME.onnx, NAME/model.onnx and NAME/VERSION/model.onnx, of the highest version, "
        "is a model",
    )
    memory_mb: float = Field(1024.0, gt=0, description="bytes of ONNX files that a replica keeps loaded")
    loads: int = Field(2, ge=1, description="models that load at the same time")
    refresh_s: float = Field(
        default=10.0,
        ge=0,
        description="how often the folder is scanned for files that were added or removed; 0 is only for the "
        "repository index and when a model is loaded by name",
    )
    trial: bool = Field(
        default=True,
        description="open the first model of each structure in its own process before a replica opens it, which "
        "takes a second or two once: some files crash the process that opens them",
    )
    listing: str = Field(
        default="", description="digest of the list of files when it was deployed; deploying fills it in"
    )
    patience_s: float = Field(10.0, gt=0, description="longest wait for room if all loaded models are in use")
    deadline_s: float = Field(
        default=30.0, gt=0, le=3600, description="a request not answered in this time gets 504"
    )


class Tls(Document):
    """HTTPS, and gRPC over TLS; changed files are used within seconds, without a restart."""

    certificate: str = Field(
        min_length=1, description="PEM file of the certificate and its intermediate certificates"
    )
    key: str = Field(min_length=1, description="PEM file of its private key, without a password")
    client_ca: str = Field(default="", description="PEM file: clients must show a certificate that it signed")

    def absolute(self) -> "Tls":
        """Makes paths of files independent of the working directory."""
        given = ((name, path) for name, path in self.model_dump().items() if path)
        return self.model_copy(
            update={name: str(pathlib.Path(path).expanduser().absolute()) for name, path in given}
        )


_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s,]+", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Cors(Document):
    """Cross-origin requests (CORS): pages of other origins that may use this application from a browser; without it,
    none."""

    origins: list[str] = Field(
        min_length=1, description="such as https://app.example.com, scheme and host; '*' is every page"
    )
    methods: list[str] = Field(
        default=["GET", "HEAD", "POST"], min_length=1, description="HTTP methods that pages may use"
    )
    headers: list[str] = Field(
        default=[
            "authorization",
            "content-encoding",
            "inference-header-content-length",
            "traceparent",
            "tracestate",
            "x-api-key",
            "x-request-id",
            "x-request-key",
        ],
        description=(
            "headers that pages may send, beside content-type and those that browsers always allow; '*' "
            "is any"
        ),
    )
    max_age_s: int = Field(
        default=600, ge=0, le=86_400, description="how long browsers cache the answers to preflight requests"
    )

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} must be scheme://host or scheme://host:port, without a path, or '*'"
                )
        return origins

    @field_validator("methods", "headers")
    @classmethod
    def _check_tokens(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of an HTTP method or header")
        return names


class ObserverSpec(Document):
    """An observer, which gets every inference request, with its tensors and its answer."""

    target: str = Field(
        pattern=r"^[\w.]+(:\w+)?$",
        description="a built-in one's name, or module:Class with __init__(**config) and observe(events), whose "
        "module is found beside this document, or else must be installed",
    )
    config: dict[str, Any] = Field(default={}, description="arguments of the class")
    code: CodeFiles = Field(
        default={}, description="files of its module, path -> text; filled in from beside the document"
    )
    queue: int = Field(
        default=8192, ge=1, description="events that wait for it in a replica; more are dropped, and counted"
    )
    queue_mb: float = Field(
        default=64.0, gt=0, description="bodies whose tensors wait for it; more are dropped, and counted"
    )


class ServingSpec(Document):
    """An application with one or more models and compositions of models."""

    renamed = {"memory_gb": Renamed("memory_mb", 1024)}

    name: str = Field(default="raymlops", description="the application's name in Ray Serve")
    route: str = Field(
        "/", pattern=r"^/([A-Za-z0-9._/-]*[A-Za-z0-9._-])?$", description="prefix of every path"
    )
    models: dict[str, HostedModel] = Field(default={}, description="name in URLs -> model")
    graphs: dict[str, GraphSpec] = Field(default={}, description="name in URLs -> composition of models")
    many: ManyModels | None = Field(default=None, description="a folder of models, loaded on demand")
    replicas: int = Field(
        default=1, ge=1, le=10_000, description="processes that answer; ignored with autoscaling"
    )
    autoscaling: Autoscaling | None = None
    cpus: float = Field(default=1.0, ge=0, description="CPUs of a replica")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a replica; a fraction shares one")
    memory_mb: float = Field(default=0.0, ge=0, description="memory that a replica reserves; 0 reserves none")
    limits: Limits = Limits()
    keys: str = Field(
        "", description="file of hashed API keys; empty lets everyone infer and nobody administer"
    )
    open: bool = Field(
        default=False,
        description="allow everyone who reaches a host beyond loopback, without keys",
    )
    tls: Tls | None = Field(
        default=None, description="of the cluster's HTTP and gRPC ports, on each of its nodes"
    )
    cors: Cors | None = None
    access_log: float = Field(
        0.01, ge=0, le=1, description="share of requests that are logged; failures always are"
    )
    observers: dict[str, ObserverSpec] = Field(
        default={},
        description="name in logs and metrics -> observer; one named access_log replaces the access log",
    )
    capture: Capture | None = Field(
        default=None,
        description="keeps requests and answers, for labels, training and questions; off by default",
    )
    slo: Objectives = Objectives()
    operations: Operations | None = Field(
        default=Operations(), description="operational alarms; `off` turns all of them off"
    )
    notify: NotifySpec | None = Field(
        default=None,
        description="whom alarms are told, as in notify.yaml; deploying fills it in from the file beside this one, or "
        "that of RAYMLOPS_NOTIFY or RAYMLOPS_HOME",
    )
    notify_file: str = Field(
        default="",
        description="the file of `notify`; where a node has it, its changes count; deploying fills it in",
    )
    monitoring: Monitoring | None = Field(
        default=Monitoring(),
        description="counts what registered versions with a reference see and answer; off turns it off",
    )
    drain_s: float = Field(
        default=20.0, ge=0, description="time for requests in flight to finish when a replica ends"
    )
    host: str = Field(default="127.0.0.1", description="interface of the HTTP port; 0.0.0.0 is every one")
    port: int = Field(default=8000, ge=1, le=65535, description="HTTP port, of all applications of a cluster")
    grpc_port: int = Field(default=0, ge=0, le=65535, description="port of the gRPC protocol; 0 is off")

    @field_validator("operations", "monitoring", mode="before")
    @classmethod
    def _read_off(cls, value: object) -> object:
        """YAML reads a bare `on` or `off` as true or false."""
        return (
            {"on": {}, True: {}, "off": None, False: None}.get(value, value)
            if isinstance(value, str | bool)
            else value
        )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if not self.models and not self.graphs and self.many is None:
            raise ValueError("nothing is served; give models, graphs or many")
        for name in self.models.keys() & self.graphs.keys():
            raise ValueError(f"{name!r} is both a model and a graph; rename one")
        for name in (*self.models, *self.graphs):
            if not NAME.fullmatch(name):
                raise ValueError(f"model name {name!r} must be letters, digits, dots, dashes and underscores")
        for name in self.observers:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"observer name {name!r} must be letters, digits, dots, dashes and underscores"
                )
        if self.capture is not None and "capture" in self.observers:
            raise ValueError("an observer is named capture, as the one that captures is; rename it")
        if self.monitoring is not None and "monitoring" in self.observers:
            raise ValueError("an observer is named monitoring, as the one that counts rows is; rename it")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, dots, dashes and underscores")
        return self

    @property
    def uses_registry(self) -> bool:
        """Whether models of it come from the registry."""
        return "models:/" in self.model_dump_json(include={"models", "graphs"})
