"""Sends requests that schemathesis generates from the OpenAPI document, with all its checks."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import hypothesis
import schemathesis
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import AcceptedNegativeData, RejectedPositiveData

from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.asgi import DataPlane
from raymlops.specs.serving import HostedModel
from tests import toy_models
from tests.unit.serving.endpoints.test_example_search import MODELS
from tests.unit.serving.protocol.test_optional_inputs import scaler

MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
ALL = ("doubler", "echo", "flights", "trips", "optional", "INT8_rows", "UINT64_rows", "FP64_rows", "UINT8_picture",
         "FP32_scalar", "half_out", "widener", "BOOL_matrix", "FP16_rows")  # fmt: skip
MOST_ROWS = 3


def fill(body: Any, has_rows: bool) -> Any:
    """The same request with as many data as each shape says, and small free sizes that are equal in all inputs: the
    relations that JSON Schema cannot state, and the document tells in words."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        return body
    rows = int(max((t["shape"][0] for t in body["inputs"] if t["shape"]), default=1)) % MOST_ROWS + 1
    for entry in body["inputs"]:
        # 2.0 is an integer of JSON Schema, but no size of an array.
        shape = entry["shape"] = [int(size) for size in entry["shape"]]
        if shape and has_rows and entry["name"] in ROWWISE:
            shape[0] = rows
        count = 1
        for size in shape:
            count *= int(size)
        data = entry["data"] or [FILLERS.get(entry["datatype"], 1)]
        entry["data"] = [data[i % len(data)] for i in range(count)]
    return body


FILLERS = {"BYTES": "2013-07-01T12:00:00Z", "BOOL": True}
ROWWISE = {
    "x",
    "text",
    "distance",
    "carrier",
    "departure",
    "passengers",
    "count",
    "fare",
    "zone",
    "shared",
    "start",
}
FIXED = {"FP32_scalar", "BOOL_matrix"}
"""Models whose x has no rows."""


def find_argued(failure: Failure, case: schemathesis.Case, status: int) -> str:
    """Why a finding is none, or nothing."""
    if isinstance(failure, AcceptedNegativeData) and status == 413:
        return "what is too large is refused with 413, which schemathesis does not count as a refusal"
    if isinstance(failure, RejectedPositiveData) and status == 413:
        return "JSON Schema has no limit of a product of sizes"
    if status == 504 and isinstance(case.body, dict) and (case.body.get("parameters") or {}).get("timeout"):
        return "the request itself says how long it waits"
    if isinstance(failure, AcceptedNegativeData) and "[]" in repr(case.body):
        return "the document asks for a row; that a model may answer none at all is its own affair"
    if isinstance(failure, AcceptedNegativeData) and "179769313486231570000" in repr(case.body):
        return (
            "a number that is larger than the largest float by less than its rounding is read as that float"
        )
    if isinstance(failure, AcceptedNegativeData) and takes_features(case.body):
        return "a table's columns may be the features of a model's one tensor, whatever their names are"
    return ""


def takes_features(body: Any) -> bool:
    """A table whose first row has none of the model's names, or several of one value each."""
    if not isinstance(body, dict):
        return False
    rows = body.get("instances", body.get("dataframe_records"))
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and len(rows[0]) > 1


def make(name: str) -> Any:
    if name != "optional":
        return MODELS[name] if name in MODELS else getattr(toy_models, name)()
    model = scaler()
    del model.graph.input[3]  # a shape that most values do not fit
    return model


def check_document(folder: pathlib.Path, models: Sequence[str], examples: int) -> None:
    """Ask a plane with these models so often for each operation, rightly and wrongly."""
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hosted = {}
    for name in models:
        path = toy_models.save(make(name), folder / f"{name}.onnx")
        hosted[name] = host_model(name, path, HostedModel(source=str(path)))
    plane = DataPlane(Hosts("test", hosted, RequestLimits()))
    schema = schemathesis.openapi.from_asgi("/openapi.json", plane)
    asked: collections.Counter[int] = collections.Counter()
    found: list[str] = []

    def check(case: schemathesis.Case) -> None:
        is_positive = case.meta is not None and case.meta.generation.mode is MODES[0]
        if is_positive and case.path.endswith("/infer"):
            case.body = fill(case.body, case.path.split("/")[3] not in FIXED)
        response = case.call()
        asked[response.status_code] += 1
        if response.status_code >= 400:
            assert set(response.json()) == {"error", "status", "request_id"}
        try:
            case.validate_response(response)
        except FailureGroup as group:
            for failure in group.exceptions:
                if not find_argued(failure, case, response.status_code):
                    text = (
                        f"{case.method} {case.path} {response.status_code} {failure.title} {case.body!r:.500}"
                    )
                    found.append(f"{text} {response.text[:300]} {str(failure)[:300]}")

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in MODES:
            strategy = operation.as_strategy(generation_mode=mode)
            try:
                settings(hypothesis.given(case=strategy)(check))()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing about this operation can be wrong
    assert not found, "\n".join(found[:20])
    assert asked[200] > 10 * len(models)
    assert asked[400] > 10 * len(models)
