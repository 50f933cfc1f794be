"""JSON schemas of a model's requests in each protocol. As exact as JSON Schema can be: it cannot express that a list
has as many values as its shape says, nor that lists of free sizes have equal lengths. Does not know paths."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raymlops.serving.protocol.columns import Column
from raymlops.tensors import Signature

Schema = dict[str, Any]
PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "timeout": {"type": "number", "minimum": 0, "description": "microseconds; 0 is none"},
        "binary_data_output": {"type": "boolean", "description": "all outputs as binary tensors"},
    },
}
_BINARY = PARAMETERS | {
    "required": ["binary_data_output"],
    "properties": PARAMETERS["properties"] | {"binary_data_output": {"const": True}},
}


def describe_element(column: Column) -> Schema:
    """One value of an input."""
    spec = column.spec
    schema: Schema
    if column.conversion is not None and (column.converts_all or column.conversion.type == "boolean"):
        kinds = ["string", "number", "boolean", *(["null"] if column.takes_missing else [])]
        return {"type": kinds, "description": f"as in the table of training: {column.conversion}"}
    match spec.datatype[0]:
        case _ if column.kind == "timestamp":
            # ISO 8601, or milliseconds since 1970; null is no time
            return {
                "anyOf": [
                    {"type": "string", "format": "date-time"},
                    {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
                ]
            }
        case "F":
            largest = float(np.finfo(spec.dtype).max)
            kind = "integer" if column.kind == "integer" else "number"
            schema = {"type": kind, "minimum": -largest, "maximum": largest}
        case "B" if spec.datatype == "BOOL":
            schema = {"type": "boolean"}
        case "B":
            schema = {"type": "string"}
        case _:
            limits = np.iinfo(spec.dtype)
            schema = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    return schema | ({"type": [schema["type"], "null"]} if column.takes_missing else {})


def describe_infer(inputs: Sequence[Column], signature: Signature) -> Schema:
    """A request of the Open Inference Protocol in JSON."""
    required = [column for column in inputs if not column.optional]
    binary = any(spec.datatype == "FP16" for spec in signature.outputs)  # JSON does not carry FP16
    return {
        "type": "object",
        "required": ["inputs", "parameters"] if binary else ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": _BINARY if binary else PARAMETERS,
            "inputs": {
                "type": "array",
                "minItems": len(required),
                "maxItems": len(inputs),
                "items": {"oneOf": [_describe_tensor(column) for column in inputs]},
                "allOf": [_holds(column.spec.name, 0 if column.optional else 1) for column in inputs],
            },
            "outputs": {
                "type": "array",
                "description": "those that are wanted; all if it is omitted or empty",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"enum": [spec.name for spec in signature.outputs]}},
                },
                "allOf": [_holds(spec.name, 0) for spec in signature.outputs],
            },
        },
    }


def _holds(name: str, least: int) -> Schema:
    """That a list has a tensor once, or at most once."""
    named = {"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]}
    return {"contains": named, "minContains": least, "maxContains": 1}


def _describe_tensor(column: Column) -> Schema:
    spec = column.spec
    if spec.datatype == "FP16":
        return {"not": {}, "description": f"{spec.name} is FP16, which travels only as a binary tensor"}
    sizes = [{"type": "integer", "minimum": 1} if size < 0 else {"const": size} for size in spec.shape]
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "shape": {
                "type": "array",
                "minItems": len(spec.shape),
                "maxItems": len(spec.shape),
                **({"prefixItems": sizes} if sizes else {}),
                "description": f"{list(spec.shape)}, where -1 is free",
            },
            "datatype": {"enum": sorted({spec.datatype, "BYTES"})}
            if column.kind == "timestamp" or column.conversion is not None
            else {"const": spec.datatype},
            "data": {
                "type": "array",
                "items": describe_element(column),
                "description": "row-major, as many as the shape says; nested lists are accepted too",
            },
        },
    }


def describe_rows(inputs: Sequence[Column], form: str, others: str, *, by_row: bool) -> Schema:
    """A request whose rows are objects under the key `form`, or else columns by name; `others` describes further
    forms in words."""
    # Extra columns are ignored; but if an optional column is missing, an extra one may be that column, misspelt.
    in_rows = [column for column in inputs if not column.optional]
    row: Schema = {
        "type": "object",
        "properties": {column.spec.name: _nest(column, column.spec.shape[1:]) for column in in_rows},
        "required": [column.spec.name for column in in_rows if not column.takes_missing],
    }
    if any(column.takes_missing for column in in_rows):
        row["anyOf"] = [
            {"required": [column.spec.name for column in in_rows]},
            {"propertyNames": {"enum": [column.spec.name for column in in_rows]}},
        ]
    whole = {
        "type": "object",
        "properties": {column.spec.name: _nest(column, column.spec.shape) for column in inputs},
        "required": [column.spec.name for column in inputs if not column.optional],
        "additionalProperties": False,
    }
    if len(in_rows) == 1:  # which needs no name
        whole = {"anyOf": [whole, _nest(in_rows[0], in_rows[0].spec.shape)]}
    rows: Schema = {"type": "array", "minItems": 1, "items": row}
    if form == "instances":  # whose rows may all be without names
        rows = {"anyOf": [rows, {"type": "array", "minItems": 1, "items": _describe_bare_row(in_rows)}]}
    key, value = (form, rows) if by_row else ("inputs", whole)
    return {
        "type": "object",
        "required": [key],
        "properties": {key: value},
        "additionalProperties": False,
        "description": others,
    }


def _describe_bare_row(inputs: Sequence[Column]) -> Schema:
    """The value of the only input, or a list with one value per input in order."""
    cells = [_nest(column, column.spec.shape[1:]) for column in inputs]
    if len(cells) == 1:
        return cells[0]
    return {"type": "array", "prefixItems": cells, "minItems": len(cells), "maxItems": len(cells)}


def _nest(column: Column, shape: Sequence[int]) -> Schema:
    if not shape:
        return describe_element(column)
    sizes = {"minItems": 1} if shape[0] < 0 else {"minItems": shape[0], "maxItems": shape[0]}
    return {"type": "array", "items": _nest(column, shape[1:]), **sizes}


_LABEL_FIELDS: Schema = {
    "id": {
        "type": "string",
        "description": "id of the request: the header x-request-id, or the id in its body",
    },
    "row": {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
        "description": "row of the request, from 0",
    },
    "label": {"type": ["number", "boolean", "string", "null"]},
    "time": {"type": ["string", "number", "null"], "description": "ISO 8601, or milliseconds since 1970"},
}
LABELS: Schema = {
    "type": "object",
    "required": ["labels"],
    "description": "Labels by the ids of requests. Instead of an id, a label may have the values of key columns",
    "properties": {
        "labels": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["id", "label"], "properties": _LABEL_FIELDS},
        }
    },
}
"""The body of POST /v2/models/NAME/labels."""
LABELS_STORED: Schema = {
    "type": "object",
    "required": ["model_name", "labels", "new", "missing", "outside_share"],
    "properties": {
        "model_name": {"type": "string"},
        "labels": {"type": "integer", "description": "labels that are stored now"},
        "new": {"type": "boolean", "description": "false if the same labels were stored before"},
        "missing": {
            "type": "integer",
            "description": "labels left out, since a value, an id or a key is missing",
        },
        "outside_share": {
            "type": "integer",
            "description": "labels of requests that are not in the captured share",
        },
    },
}
