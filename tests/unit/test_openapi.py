"""Requests generated from the OpenAPI document: whatever is sent, the answer is documented and never a
fault of ours."""

import pathlib

import hypothesis
import pytest
import schemathesis

from raymlops.serving.hosting import host_model
from raymlops.serving.hosts import Hosts
from raymlops.serving.plane import DataPlane
from raymlops.serving.protocol import example_request
from raymlops.serving.request_limits import RequestLimits
from raymlops.specs.serving import HostedModel
from raymlops.tensors import Signature, TensorSpec
from tests import toy_models

MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
SETTINGS = hypothesis.settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.mark.slow
def test_generated_requests_get_documented_answers(tmp_path: pathlib.Path) -> None:
    hosted = {}
    for name in ("doubler", "echo", "flights"):
        path = toy_models.save(getattr(toy_models, name)(), tmp_path / f"{name}.onnx")
        hosted[name] = host_model(name, path, HostedModel(source=str(path)))
    plane = DataPlane(Hosts("test", hosted, RequestLimits()))
    schema = schemathesis.openapi.from_asgi("/openapi.json", plane)
    asked = []

    def check(case: schemathesis.Case) -> None:
        response = case.call()
        assert response.status_code in (200, 400, 404, 405, 413), (case.path, response.text)
        if response.status_code != 200:
            assert set(response.json()) == {"error", "status", "request_id"}
        asked.append(response.status_code)

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in MODES:
            strategy = operation.as_strategy(generation_mode=mode)
            try:
                SETTINGS(hypothesis.given(case=strategy)(check))()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing about this operation can be wrong
    assert len(asked) > 300
    assert {200, 400} <= set(asked)


def test_the_example_of_a_whole_number_that_may_be_missing_is_whole() -> None:
    year = Signature((TensorSpec("year", "FP64", (-1,)), TensorSpec("fee", "FP64", (-1,))), ())
    asked = example_request(year, {"year": "integer", "fee": "number"})
    assert [entry["data"] for entry in asked["inputs"]] == [[1], [0.5]]
