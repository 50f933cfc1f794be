"""KServe's protocol of version 1 over real sessions."""

import pathlib
from typing import Any

import pytest
from onnx import TensorProto

from tests import toy_models
from tests.unit.serving.transport.test_asgi import Ask, make_ask, make_plane


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    models = {
        "doubler": toy_models.doubler(), "flights": toy_models.flights(), "adder": toy_models.adder(),
        "text": toy_models.echo(), "whole": toy_models.dtypes(TensorProto.INT64),
    }  # fmt: skip
    return make_ask(make_plane(tmp_path_factory.mktemp("models"), models))


FLIGHT = {"distance": None, "carrier": "AA", "departure": "2013-07-01T12:00:00Z"}
LATE = {"label": "late", "probability": pytest.approx(0.9)}


@pytest.mark.parametrize(
    ("model", "body", "predictions"),
    [
        ("doubler", {"instances": [[1, 2, 3], [4, 5, 6]]}, [[2, 4, 6], [8, 10, 12]]),
        ("doubler", {"instances": [{"x": [1, 2, 3]}]}, [[2, 4, 6]]),
        ("doubler", {"inputs": [[1, 2, 3]]}, [[2, 4, 6]]),
        ("doubler", {"inputs": {"x": [[1, 2, 3]]}, "signature_name": "serving_default"}, [[2, 4, 6]]),
        ("flights", {"instances": [FLIGHT, FLIGHT]}, [LATE, LATE]),
        ("flights", {"instances": [list(FLIGHT.values())]}, [LATE]),
        ("flights", {"inputs": {name: [value] for name, value in FLIGHT.items()}},
         {"label": ["late"], "probability": [pytest.approx(0.9)]}),
        ("text", {"instances": ["a", "é"]}, ["a", "é"]),
        ("whole", {"instances": [2**62, -1]}, [2**62, -1]),
    ],
)  # fmt: skip
def test_rows_are_answered_with_rows_and_columns_with_columns(
    ask: Ask, model: str, body: dict[str, Any], predictions: Any
) -> None:
    response = ask("POST", f"/v1/models/{model}:predict", json=body)
    assert response.status_code == 200, response.text
    assert response.json() == {"predictions": predictions}


@pytest.mark.parametrize(
    "body",
    [
        {}, [], {"instances": []}, {"instances": {}}, {"instances": [[1, 2]]}, {"instances": [[1, 2, 3], [1]]},
        {"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]}, {"instance": [[1, 2, 3]]}, {"instances": [["1", "2", "3"]]},
        {"instances": [{"y": [1, 2, 3]}]}, {"instances": [{"x": [1, 2, 3]}, [1, 2, 3]]}, {"instances": [None]},
        {"instances": [[1, 2, 3]], "signature_name": "other"}, {"instances": [[1, 2, 3]], "parameters": []},
    ],
)  # fmt: skip
def test_what_is_not_of_the_protocol_is_refused_with_an_error(ask: Ask, body: Any) -> None:
    response = ask("POST", "/v1/models/doubler:predict", json=body)
    assert response.status_code == 400, response.text
    assert len(response.json()["error"]) > 20


def test_rows_as_lists_have_a_value_for_each_column(ask: Ask) -> None:
    response = ask("POST", "/v1/models/flights:predict", json={"instances": [[1.0, "AA"]]})
    assert response.status_code == 400
    assert "distance, carrier, departure" in response.json()["error"]


def test_models_are_listed_and_tell_whether_they_are_ready(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()})
    ask = make_ask(plane)
    assert ask("GET", "/").json() == {"status": "alive"}
    assert ask("GET", "/v1/models").json() == {"models": ["doubler"]}
    assert ask("GET", "/v1/models/doubler").json() == {"name": "doubler", "ready": True}
    plane.hosts.models["doubler"].ready = False
    assert ask("GET", "/v1/models/doubler").status_code == 503
    assert ask("GET", "/v1/models/dobuler").status_code == 404
    refused = ask("POST", "/v1/models/doubler:explain", json={"instances": [[1, 2, 3]]})
    assert refused.status_code == 404
    assert ":predict" in refused.json()["error"]
