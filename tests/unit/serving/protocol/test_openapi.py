"""Requests generated from the OpenAPI document, with every check of schemathesis: what the document allows is accepted,
what it does not allow is refused, and whatever is sent, the answer is documented and never a fault of ours."""

import pathlib

import pytest

from raymlops.serving.endpoints.example_search import list_candidates
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.protocol.columns import Column
from raymlops.tensors import Signature, TensorSpec
from tests.openapi_checks import check_document


@pytest.mark.slow
def test_every_check_of_generated_requests_holds(tmp_path: pathlib.Path) -> None:
    check_document(tmp_path, ["doubler", "trips", "optional", "half_out"], examples=10)


def test_the_example_of_a_whole_number_that_may_be_missing_is_whole() -> None:
    class Endpoint:
        version = "1"
        signature = Signature((TensorSpec("year", "FP64", (-1,)), TensorSpec("fee", "FP64", (-1,))), ())

    columns = {
        spec.name: Column(spec, kind)
        for spec, kind in zip(Endpoint.signature.inputs, ("integer", "number"), strict=True)
    }
    hosted = Hosted("year", Endpoint(), Statistics("year", "1"), columns)  # type: ignore[arg-type]
    asked = next(list_candidates(hosted)).to_infer()
    assert asked is not None
    assert [entry["data"] for entry in asked["inputs"]] == [[1], [0.5]]
