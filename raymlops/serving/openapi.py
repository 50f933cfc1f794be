"""The OpenAPI document of what is served, with an example for each model, and a page that shows it without
any script."""

import dataclasses
import html
import json
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops import __version__
from raymlops.serving.protocol import example_request, example_value
from raymlops.tensors import Signature, TensorSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """A model as the document shows it; `kinds` are those of its contract's columns."""

    name: str
    version: str
    signature: Signature
    kinds: Mapping[str, str]
    optional: Sequence[TensorSpec] = ()


def describe(name: str, models: Sequence[Described], prefix: str = "") -> dict[str, Any]:
    """An OpenAPI 3.1 document of an application whose paths stand behind `prefix`."""
    paths: dict[str, Any] = {}
    for path, words in _PLAIN.items():
        paths[path] = {"get": _operation(words, {})}
    paths["/v2/repository/index"] = {"post": _operation("Models and their states", {})}
    for model in models:
        base = f"/v2/models/{model.name}"
        paths[base] = {"get": _operation(f"Inputs and outputs of {model.name}", {})}
        paths[f"{base}/ready"] = {"get": _operation(f"Whether {model.name} is ready", {})}
        paths[f"{base}/stats"] = {"get": _operation(f"Counts and times of {model.name}", {})}
        request = example_request(model.signature, model.kinds)
        schema = _infer_schema(model.signature, model.optional)
        paths[f"{base}/infer"] = {"post": _operation(f"Ask {model.name}", _body(schema, request))}
        records = {"dataframe_records": [{e["name"]: _first(e) for e in request["inputs"]}]}
        path = "/invocations" if len(models) == 1 else f"/invocations/{model.name}"
        paths[path] = {
            "post": _operation(f"Ask {model.name} in MLflow's shape", _body({"type": "object"}, records))
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": __version__,
            "description": "Open Inference Protocol v2 and MLflow shapes",
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


_PLAIN = {
    "/v2": "The server",
    "/v2/health/live": "Whether the process lives",
    "/v2/health/ready": "Whether every model is ready",
    "/v2/models": "Names of the models",
    "/ping": "As MLflow asks for readiness",
    "/health": "As MLflow asks for readiness",
    "/version": "Version of the server",
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
_FAILURES = {
    "400": "The request is wrong; the text says what, got, expected",
    "401": "The API key is missing or unknown",
    "403": "The API key may not do this",
    "404": "No such model, version or path",
    "413": "The body is too large",
    "429": "Over the key's rate; Retry-After says when",
    "503": "The queue is full or a model is not ready; Retry-After says when",
    "504": "Not answered within the deadline",
}


def _operation(words: str, body: Mapping[str, Any]) -> dict[str, Any]:
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers: dict[str, Any] = {"200": {"description": "Done"}}
    answers |= {status: {"description": text, "content": failure} for status, text in _FAILURES.items()}
    return {"summary": words, "responses": answers, **body}


def _body(schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def _first(entry: Mapping[str, Any]) -> Any:
    return entry["data"][0] if len(entry["shape"]) == 1 else entry["data"]


def _infer_schema(signature: Signature, optional: Sequence[TensorSpec] = ()) -> dict[str, Any]:
    inputs = (*signature.inputs, *optional)
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": {"type": "object"},
            "inputs": {
                "type": "array",
                "minItems": len(signature.inputs),
                "maxItems": len(inputs),
                "items": {"oneOf": [_tensor_schema(spec) for spec in inputs]},
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"enum": [spec.name for spec in signature.outputs]}},
                },
            },
        },
    }


def _tensor_schema(spec: TensorSpec) -> dict[str, Any]:
    kind = {str: "string", bool: "boolean", float: "number", int: "integer"}[type(example_value(spec))]
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "shape": {
                "type": "array",
                "minItems": len(spec.shape),
                "maxItems": len(spec.shape),
                "items": {"type": "integer", "minimum": 0},
                "description": f"{list(spec.shape)}, where -1 is free",
            },
            "datatype": {"const": spec.datatype},
            "data": {"type": "array", "items": {"type": [kind, "null"]}, "description": "row-major, flat"},
        },
    }


def render_page(document: Mapping[str, Any], origin: str = "http://HOST:8000") -> str:
    """The document as one page of plain HTML: what to send where, with examples to copy. `origin` is what stands
    before the server's path."""
    rows = []
    base = f"{origin}{document['servers'][0]['url'].rstrip('/')}"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = json.dumps(content["example"]) if "example" in content else ""
            url = f"{base}{urllib.parse.quote(path, safe='/%:')}"
            header = "Content-Type: application/json"
            command = shlex.join(["curl", "-X", "POST", url, "-H", header, "-d", example])
            shown = f"<pre>{html.escape(command)}</pre>" if example else ""
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
