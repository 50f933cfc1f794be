"""The question that `serve --check` asks, to a real HTTP server."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raymlops.errors import AuthenticationError, RaymlopsError
from raymlops.serving.deploy.endpoint_client import EndpointClient

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
