"""Pages of other origins: what browsers are told, before and with every answer."""

import asyncio
import pathlib
from typing import Any

import pytest

from raymlops.errors import SpecError
from raymlops.serving.proxy import key_guard
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.cors import CorsPolicy
from raymlops.specs.document import validate_document
from raymlops.specs.serving import Cors, ServingSpec
from tests import toy_models
from tests.unit.serving.transport.test_asgi import Ask, infer_body, make_ask, make_plane

PAGE = "https://app.example"
TOKEN, KEY = make_key("app", ["infer"])


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    folder = tmp_path_factory.mktemp("models")
    return make_plane(
        folder, {"doubler": toy_models.doubler()}, keys=KeyRing([KEY]), cors=CorsPolicy(Cors(origins=[PAGE]))
    )


@pytest.fixture(scope="module")
def ask(plane: DataPlane) -> Ask:
    return make_ask(plane)


def preflight(method: str = "POST", headers: str = "authorization, content-type", origin: str = PAGE) -> Any:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def vary(response: Any) -> set[str]:
    return {name.strip().lower() for name in response.headers["vary"].split(",")}


def test_a_browser_is_told_without_a_key_what_its_page_may_send(ask: Ask) -> None:
    response = ask("OPTIONS", "/v2/models/doubler/infer", headers=preflight())
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"].split(", ")
    assert response.headers["access-control-allow-headers"] == "authorization, content-type"
    assert response.headers["access-control-max-age"] == "600"
    assert {"origin", "access-control-request-headers"} <= vary(response)
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        preflight(origin="https://evil.example"), preflight(origin="null"), preflight(origin=f"{PAGE}.evil"),
        preflight(method="DELETE"), preflight(headers="x-other"), preflight(method="post"),
    ],
)  # fmt: skip
def test_a_browser_is_told_why_its_page_may_not(ask: Ask, headers: dict[str, str]) -> None:
    response = ask("OPTIONS", "/v2/models/doubler/infer", headers=headers)
    assert response.status_code == 403
    assert "cors" in response.json()["error"]
    allowed = response.headers.get("access-control-allow-origin")
    assert allowed == (PAGE if headers["Origin"] == PAGE else None)
    assert "origin" in vary(response)


def test_every_answer_can_be_read_by_the_page_whatever_its_status(ask: Ask) -> None:
    body, page = infer_body([1, 2, 3], [1, 3]), {"Origin": PAGE}
    keyed = page | {"Authorization": f"Bearer {TOKEN}"}
    for status, method, path, request in (
        (200, "POST", "/v2/models/doubler/infer", {"json": body, "headers": keyed}),
        (400, "POST", "/v2/models/doubler/infer", {"json": {}, "headers": keyed}),
        (401, "POST", "/v2/models/doubler/infer", {"json": body, "headers": page}),
        (404, "GET", "/nothing", {"headers": keyed}),
        (405, "DELETE", "/v2/models", {"headers": page}),
        (200, "GET", "/v2/health/live", {"headers": page}),
    ):
        response = ask(method, path, **request)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert "origin" in vary(response)
        request["headers"] = {**request["headers"], "Origin": "https://evil.example"}
        other = ask(method, path, **request)
        assert other.status_code == status  # it is the browser that keeps pages apart
        assert "access-control-allow-origin" not in other.headers
        assert "origin" in vary(other)


def test_without_configuration_no_page_is_let_in(tmp_path: pathlib.Path) -> None:
    ask = make_ask(make_plane(tmp_path, {"doubler": toy_models.doubler()}))
    asked = ask("OPTIONS", "/v2/models/doubler/infer", headers=preflight())
    assert asked.status_code == 204  # what the path takes
    answered = ask("GET", "/v2/models", headers={"Origin": PAGE})
    assert not [name for name in (*asked.headers, *answered.headers) if name.startswith("access-control")]


def test_every_origin_and_header_may_be_let_in(tmp_path: pathlib.Path) -> None:
    policy = CorsPolicy(Cors(origins=["*"], headers=["*"], methods=["get"], max_age_s=0))
    ask = make_ask(make_plane(tmp_path, {"doubler": toy_models.doubler()}, cors=policy))
    asked = ask("OPTIONS", "/v2/models", headers=preflight("GET", "X-Any", "null"))
    assert asked.headers["access-control-allow-origin"] == "*"
    assert asked.headers["access-control-allow-headers"] == "x-any"
    assert asked.headers["access-control-max-age"] == "0"


@pytest.mark.parametrize(
    "cors",
    [
        {"origins": []}, {"origins": ["app.example"]}, {"origins": [f"{PAGE}/"]}, {"origins": ["https://a, https://b"]},
        {"origins": ["*"], "headers": ["a b"]}, {"origins": ["*"], "methods": ["GET\r\n"]}, {"origin": ["*"]}, {},
        {"origins": ["https://a\nX: y"]},
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(cors: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="cors"):
        validate_document({"models": {"a": {"source": "a.onnx"}}, "cors": cors}, ServingSpec)


def test_a_proxy_tells_browsers_of_a_sleeping_application_without_waking_it() -> None:
    told = {
        "route_prefix": "/shop",
        "deployed_app_config": {
            "import_path": "raymlops.serving.app:build_app",
            "args": {"keys": "/nowhere", "cors": {"origins": [PAGE]}},
        },
        "deployments": {"Ingress": {"replicas": []}},
    }
    application = key_guard.read_application("shop", told, None)
    guard = key_guard.KeyGuard(None)

    async def judge(method: str, headers: dict[str, str]) -> Any:
        key_guard.APPLICATIONS = known
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        path = "/shop/v2/models/doubler/infer"
        return await guard._judge({"type": "http", "method": method, "path": path, "headers": pairs})

    class Known(key_guard.Applications):
        async def refresh(self) -> Any:
            return {"shop": application}

    known, before = Known(), key_guard.APPLICATIONS
    try:
        allowed = asyncio.run(judge("OPTIONS", preflight()))
        refused = asyncio.run(judge("POST", {"Origin": PAGE}))
    finally:
        key_guard.APPLICATIONS = before
    assert (allowed.status, dict(allowed.headers)[b"access-control-allow-origin"]) == (204, PAGE.encode())
    assert (refused.status, dict(refused.headers)[b"access-control-allow-origin"]) == (401, PAGE.encode())
