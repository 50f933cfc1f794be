"""KServe's protocol version 1, `POST /v1/models/{m}:predict`: rows as `instances` or columns as `inputs` in,
`{"predictions": ...}` out. Imports no transport."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raymlops.errors import InputError, unknown_name
from raymlops.serving.protocol import columns, json_tables
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.json_text import dump_json
from raymlops.serving.protocol.mlflow_codec import Scored
from raymlops.serving.protocol.request_limits import RequestLimits, check_answer, check_rows, show
from raymlops.tensors import Batch, Signature

FORMS = ("instances", "inputs")
_KEYS = (*FORMS, "parameters", "signature_name")


def decode(body: bytes, content_type: str, known: Mapping[str, Column], limits: RequestLimits) -> Scored:
    """A request of any Content-Type, as in KServe. Raises InputError, TooLargeError."""
    document = json_tables.parse(body, FORMS, known, limits)
    if not isinstance(document, dict):
        raise InputError(
            'The body must be a JSON object with "instances", a list of rows, or "inputs", columns'
        )
    for key in document:
        if key not in _KEYS:
            raise InputError(unknown_name("key", key, _KEYS))
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        raise InputError(f'Send either "instances" or "inputs"; got {" and ".join(given) or "none of them"}')
    if document.get("signature_name", _SIGNATURE) != _SIGNATURE:
        raise InputError(f'"signature_name" must be {_SIGNATURE!r}, got {show(document["signature_name"])}')
    parameters = document.get("parameters")
    if not isinstance(parameters, dict | None):
        raise InputError('"parameters" must be an object')
    read = _from_instances if given[0] == "instances" else json_tables.from_inputs
    batch = read(document[given[0]], known, limits)
    rows = columns.check_rows(batch, known)
    check_rows(rows, limits)
    return Scored(batch, rows, parameters or {}, by_row=given[0] == "instances")


_SIGNATURE = "serving_default"
"""The name of the only signature in TensorFlow Serving, whose protocol this is."""


def _from_instances(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if not isinstance(value, list | np.ndarray) or not len(value):
        raise InputError('"instances" must be a list of rows, at least one')
    if isinstance(value[0], dict):
        return json_tables.from_records(value, known, limits)
    if len(json_tables.list_required(known)) > 1:
        return json_tables.from_positions(value, known, limits)
    return json_tables.from_tensor(value, known, limits)


def encode(answer: Batch, asked: Scored, signature: Signature, limits: RequestLimits) -> bytes:
    """Rows for rows, columns for columns; plain values if there is one output. Raises InputError, TooLargeError."""
    check_answer(answer, dict.fromkeys((spec.name for spec in signature.outputs), False), limits)
    if asked.by_row:
        return dump_json({"predictions": json_tables.to_rows(answer, asked.rows, signature)})
    lists = json_tables.to_columns(answer, signature)
    return dump_json({"predictions": next(iter(lists.values())) if len(lists) == 1 else lists})
