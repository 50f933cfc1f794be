"""The OpenAPI document of the served models, with an example for each, and an HTML page of it without scripts."""

import dataclasses
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops import __version__
from raymlops.serving.protocol import request_schemas
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.examples import Example, Shape
from raymlops.tensors import Signature


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """A model in the document; `example` is a request that it accepts, if one was found."""

    name: str
    version: str
    signature: Signature
    columns: Mapping[str, Column]
    shape: Shape
    example: Example | None = None


def describe(
    name: str, models: Sequence[Described], prefix: str = "", *, loads: bool = False, labels: bool = False
) -> dict[str, Any]:
    """An OpenAPI 3.1 document of an application whose paths start with `prefix`; `loads` says whether its models are
    loaded on demand, `labels` whether it takes labels of earlier requests."""
    paths: dict[str, Any] = {
        path: {"get": _operation(words, kind=kind)} for path, (words, kind) in _PLAIN.items()
    }
    asked = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    index = _operation("Models and their states", body=_body(asked, {"ready": True}))
    paths["/v2/repository/index"] = {"post": index}
    for model in models:
        paths |= _describe_paths(model, alone=len(models) == 1, loads=loads)
        if labels:
            body, answer = _body(request_schemas.LABELS, _LABELLED), request_schemas.LABELS_STORED
            operation = _operation(f"Labels of earlier requests to {model.name}", body=body, answer=answer)
            paths[f"/v2/models/{model.name}/labels"] = {"post": operation}
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["operationId"] = f"{method}{re.sub(r'[^A-Za-z0-9]+', '_', path)}".rstrip("_")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": __version__,
            "description": "Open Inference Protocol v2, KServe's protocol v1 and MLflow's scoring protocol",
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, "InferResponse": _ANSWER},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"header": []}, {}],
    }


def _describe_paths(model: Described, *, alone: bool, loads: bool) -> dict[str, Any]:
    name, example, inputs = model.name, model.example, list(model.columns.values())
    base = f"/v2/models/{name}"
    paths = {
        base: f"Inputs and outputs of {name}",
        f"{base}/ready": f"Whether {name} is ready",
        f"{base}/stats": f"Counts and times of {name}",
        f"{base}/config": f"Configuration of {name}, in Triton's form",
        f"/v1/models/{name}": f"Whether {name} is ready, in KServe's form",
    }
    made: dict[str, Any] = {path: {"get": _operation(words)} for path, words in paths.items()}
    infer = _body(request_schemas.describe_infer(inputs, model.signature), example and example.to_infer())
    words = f"Ask {name}"
    if example is not None and example.to_infer() is None:
        words += "; its tensors travel in binary form"
    made[f"{base}/infer"] = {"post": _operation(words, body=infer, answer=_INFERRED)}
    others = 'or columns by name under "inputs"'
    rows = request_schemas.describe_rows(inputs, "instances", others, by_row=model.shape.in_rows)
    scored = _body(rows, example and example.to_v1())
    made[f"/v1/models/{name}:predict"] = {
        "post": _operation(f"Ask {name} in KServe's form", body=scored, answer=_PREDICTED)
    }
    others = 'or "dataframe_split", "instances", "inputs"; or CSV, with Content-Type text/csv'
    table = request_schemas.describe_rows(inputs, "dataframe_records", others, by_row=model.shape.in_records)
    scored = _body(table, example and example.to_invocations())
    made["/invocations" if alone else f"/invocations/{name}"] = {
        "post": _operation(f"Ask {name} in MLflow's form", body=scored, answer=_PREDICTED)
    }
    for verb in ("load", "unload") if loads else ():
        made[f"/v2/repository/models/{name}/{verb}"] = {"post": _operation(f"{verb.title()} {name}")}
    return made


_JSON = "application/json"
_LABELLED = {"labels": [{"id": "4f1d2a6b8c9e0f31", "label": 1, "time": "2026-01-31T12:00:00Z"}]}
_PLAIN = {
    "/": ("Whether the process is alive, for KServe", _JSON),
    "/v2": ("The server", _JSON),
    "/v2/health/live": ("Whether the process is alive", _JSON),
    "/v2/health/ready": ("Whether every model is ready", _JSON),
    "/v2/models": ("Names of the models", _JSON),
    "/v2/models/stats": ("Counts and times of all models", _JSON),
    "/v1/models": ("Names of the models", _JSON),
    "/ping": ("Readiness for MLflow", _JSON),
    "/health": ("Readiness for MLflow", _JSON),
    "/version": ("Version of the server", "text/plain"),
    "/metrics": ("Counts and times for Prometheus", "text/plain"),
}
_ERROR = {
    "type": "object",
    "required": ["error", "status", "request_id"],
    "properties": {
        "error": {"type": "string"},
        "status": {"type": "integer"},
        "request_id": {"type": "string"},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array"},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}
_INFERRED = {
    _JSON: {"schema": {"$ref": "#/components/schemas/InferResponse"}},
    "application/octet-stream": {"schema": {"description": "the same, and the binary tensors behind it"}},
}
_PREDICTED = {
    _JSON: {"schema": {"type": "object", "required": ["predictions"], "properties": {"predictions": {}}}}
}
_FAILURES = {
    "400": "The request is wrong; the text says what, got, expected",
    "401": "The API key is missing or unknown",
    "403": "The API key may not do this",
    "404": "No such model, version or path",
    "405": "The path takes other methods; Allow says which",
    "408": "The request was not complete in time",
    "413": "The body, or the answer to it, is too large",
    "415": "The Content-Type is not supported",
    "422": "The model cannot be loaded",
    "429": "Over the key's rate; Retry-After says when",
    "431": "The head of the request is too large",
    "503": "The queue is full or a model is not ready; Retry-After says when",
    "504": "Not answered within the deadline",
}


def _operation(
    words: str,
    *,
    body: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
    kind: str = _JSON,
) -> dict[str, Any]:
    failure = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers: dict[str, Any] = {"200": {"description": "Done", "content": answer or {kind: {"schema": {}}}}}
    for status, text in _FAILURES.items():
        # Not ready is answered in the same form as ready.
        content = {_JSON: {"schema": {"type": "object"}}} if status == "503" else failure
        answers[status] = {"description": text, "content": content}
    return {"summary": words, "responses": answers, **(body or {})}


def _body(schema: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": "required" in schema, "content": {_JSON: content}}}


def render_page(
    document: Mapping[str, Any], models: Sequence[Described] = (), origin: str = "http://HOST:8000"
) -> str:
    """The document as one page of plain HTML: what to send where, with examples to copy. `origin` is scheme and host
    of the server."""
    base = f"{origin}{document['servers'][0]['url'].rstrip('/')}"
    large = {f"/v2/models/{model.name}/infer": model.example for model in models}
    rows = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get(_JSON, {})
            url = f"{base}{urllib.parse.quote(path, safe='/%:')}"
            command = ""
            if "example" in content:
                command = _to_command(url, json.dumps(content["example"]))
            elif (example := large.get(path)) is not None:
                command = _to_binary_command(url, example)
            shown = f"<pre>{html.escape(command)}</pre>" if command else ""
            rows.append(
                f"<h3><code>{method.upper()} "
                f"{html.escape(path)}</code></h3><p>{html.escape(operation['summary'])}</p>{shown}"
            )
    failures = "".join(f"<li><b>{status}</b> {html.escape(text)}</li>" for status, text in _FAILURES.items())
    title = html.escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "pre{background:#f4f4f4;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere}</style>"
        f"<h1>{title}</h1><p>{html.escape(document['info']['description'])}. The whole document: "
        f"<a href=openapi.json>openapi.json</a>.</p>{''.join(rows)}"
        f"<h2>Failures</h2><ul>{failures}</ul></html>"
    )


def _to_command(url: str, body: str) -> str:
    return shlex.join(["curl", "-X", "POST", url, "-H", f"Content-Type: {_JSON}", "-d", body])


def _to_binary_command(url: str, example: Example) -> str:
    """A pipe of JSON and as many zero bytes as its tensors have."""
    text, size = example.to_binary()
    length = f"Inference-Header-Content-Length: {len(text.encode())}"
    # The answer may be binary, too.
    sent = ["curl", "-X", "POST", url, "-H", length, "--data-binary", "@-", "--output", "answer.bin"]
    return f"{{ printf %s {shlex.quote(text)}; head -c {size} /dev/zero; }} | {shlex.join(sent)}"
