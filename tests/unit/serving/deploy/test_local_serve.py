"""The question that `serve --check` asks, to a real HTTP server."""

import datetime
import decimal
import http.server
import json
import math
import threading
import zoneinfo
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from raymlops.errors import AuthenticationError, DataError, RaymlopsError
from raymlops.serving.deploy.endpoint_client import EndpointClient, to_inputs

EXAMPLE = {"inputs": []}
DOCUMENT = {
    "paths": {
        f"/v2/models/{name}/infer": {
            "post": {"requestBody": {"content": {"application/json": {"example": EXAMPLE}}}}
        }
        for name in ("good", "broken")
    }
}


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers its document to everyone with the key `k`, and one of its two models."""

    def do_GET(self) -> None:
        self._answer(200, DOCUMENT)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(*((200, {"asked": asked}) if "good" in self.path else (500, {"error": "it broke"})))

    def _answer(self, status: int, document: Any) -> None:
        if self.headers["authorization"] != "Bearer k":
            status, document = 401, {"error": "no key"}
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_example_of_the_document_is_asked(base: str) -> None:
    assert (
        EndpointClient(base, "k").ask_example("good") == 'good answered over HTTP: {"asked": {"inputs": []}}'
    )


def test_a_missing_key_is_named_with_where_to_give_it(base: str) -> None:
    with pytest.raises(AuthenticationError, match=r"API key: give --key, or RAYMLOPS_KEY.*no key"):
        EndpointClient(base).ask_example("good")


def test_what_a_model_answers_instead_is_told(base: str) -> None:
    with pytest.raises(RaymlopsError, match=r"/v2/models/broken/infer answered 500.*it broke"):
        EndpointClient(base, "k").ask_example("broken")


def test_columns_of_every_type_become_tensors_of_json() -> None:
    instant = datetime.datetime(2013, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    columns = {
        "number": pa.array([1.5, math.nan, None]),
        "exact": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2")]),
        "text": pa.array(["a", None, "b"]).dictionary_encode(),
        "bytes": pa.array([b"a", None, b"b"]),
        "when": pa.array([instant, None, instant], pa.timestamp("us", tz="Europe/Berlin")),
        "naive": pa.array([instant.replace(tzinfo=None)] * 3, pa.timestamp("ns")),
        "pair": pa.array([[1, 2], [3, 4], [5, 6]]),
    }
    specs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in columns]
    specs[-1]["shape"] = [-1, 2]
    data = {given["name"]: given["data"] for given in to_inputs(pa.table(columns), specs)}
    assert data == {
        "number": [1.5, None, None],
        "exact": [1.5, None, 2.0],
        "text": ["a", None, "b"],
        "bytes": ["a", None, "b"],
        "when": [1372672800000, None, 1372672800000],  # 10:00 in UTC
        "naive": [1372680000000] * 3,
        "pair": [1, 2, 3, 4, 5, 6],
    }
    for wrong in (pa.array([b"\xff"]), pa.array([datetime.timedelta(1)]), pa.array([[1, 2]])):
        with pytest.raises(DataError, match=r"Column .x. is .*; the model takes FP32\[-1, 3, 4\]"):
            to_inputs(pa.table({"x": wrong}), [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 4]}])
