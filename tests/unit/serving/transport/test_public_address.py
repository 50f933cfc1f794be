"""What an application says of its own address behind a route and behind proxies: documents, commands to copy, hints."""

import asyncio
import pathlib
import re
import shlex
from typing import Any

import httpx
import pytest

from raymlops.serving.transport.asgi import DataPlane
from tests import toy_models
from tests.unit.serving.transport.test_asgi import make_plane


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "flights": toy_models.flights()}
    return make_plane(tmp_path_factory.mktemp("models"), models)


def ask(plane: DataPlane, method: str, path: str, root: str = "", **request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=plane, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://models.test:8000") as client:
            return await client.request(method, root + path, **request)

    return asyncio.run(send())


HEADERS: list[tuple[str, dict[str, str], str]] = [
    ("", {}, "http://models.test:8000"),
    ("/shop", {}, "http://models.test:8000/shop"),
    ("/a/b", {}, "http://models.test:8000/a/b"),
    ("", {"X-Forwarded-Prefix": "/ml"}, "http://models.test:8000/ml"),
    ("/shop", {"X-Forwarded-Prefix": "/ml/"}, "http://models.test:8000/ml/shop"),
    ("/shop", {"X-Forwarded-Prefix": "/outer, /inner"}, "http://models.test:8000/outer/inner/shop"),
    ("/shop", {"X-Forwarded-Prefix": "//evil.example"}, "http://models.test:8000/shop"),
    ("/shop", {"X-Forwarded-Prefix": "<script>"}, "http://models.test:8000/shop"),
    ("/shop", {"X-Forwarded-Prefix": "/" + "a" * 300}, "http://models.test:8000/shop"),
    ("/shop", {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "api.example"}, "https://api.example/shop"),
    ("", {"X-Forwarded-Proto": "HTTPS, http", "X-Forwarded-Host": "a.example, b"}, "https://a.example"),
    ("", {"Forwarded": 'for=1.2.3.4;proto=https;host="a.example:8443", for=b'}, "https://a.example:8443"),
    ("", {"X-Forwarded-Proto": "javascript"}, "http://models.test:8000"),
    ("", {"X-Forwarded-Host": "a'; rm -rf /;'"}, "http://HOST:8000"),
    ("", {"Host": "[::1]:8000"}, "http://[::1]:8000"),
]


@pytest.mark.parametrize(("root", "headers", "address"), HEADERS)
def test_documents_and_commands_have_the_address_that_the_caller_used(
    plane: DataPlane, root: str, headers: dict[str, str], address: str
) -> None:
    document = ask(plane, "GET", "/openapi.json", root, headers=headers)
    prefix = re.sub(r"^https?://[^/]*", "", address)
    assert document.json()["servers"] == [{"url": prefix or "/"}]
    assert document.headers["cache-control"] == "no-store"
    page = ask(plane, "GET", "/docs", root, headers=headers).text
    commands = [shlex.split(line.replace("&#x27;", "'").replace("&quot;", '"')) for line in
                re.findall(r"<pre>(curl .*?)</pre>", page)]  # fmt: skip
    assert len(commands) >= 4
    assert all(command[3].startswith(f"{address}/") for command in commands), commands[0]
    hint = ask(plane, "GET", "/v2/model", root, headers=headers).json()["error"]
    assert f"Unknown path '{prefix}/v2/model'; did you mean '{prefix}/v2/models'?" in hint
    refused = ask(plane, "DELETE", "/v2/models", root, headers=headers).json()["error"]
    assert refused == f"{prefix}/v2/models takes GET, HEAD, OPTIONS, not DELETE"


def test_every_path_that_a_sentence_names_can_be_asked_behind_a_prefix(plane: DataPlane) -> None:
    text = ask(plane, "POST", "/invocations", "/shop", json={}).json()["error"]
    assert "POST /shop/invocations/NAME" in text
    plane.hosts.models["doubler"].ready = False
    try:
        body = {"instances": [[1, 2, 3]]}
        text = ask(plane, "POST", "/v1/models/doubler:predict", "/shop", json=body).json()["error"]
    finally:
        plane.hosts.models["doubler"].ready = True
    assert "POST /shop/v2/repository/models/doubler/load" in text


def test_a_path_that_only_begins_like_the_route_is_not_the_applications(plane: DataPlane) -> None:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=plane, root_path="/shop")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/shopping/v2/models")

    assert asyncio.run(send()).status_code == 404


GETS = ("/", "/v2", "/v2/models", "/v2/models/doubler", "/v2/models/doubler/config", "/openapi.json", "/docs",
        "/metrics", "/version", "/v1/models/doubler", "/nothing", "/v2/models/nothing")  # fmt: skip


@pytest.mark.parametrize("path", GETS)
def test_head_tells_what_get_would(plane: DataPlane, path: str) -> None:
    get, head = ask(plane, "GET", path), ask(plane, "HEAD", path)
    assert head.content == b""
    skipped = {"x-request-id"} | ({"content-length"} if path in ("/metrics", "/nothing") else set())
    told, wanted = ({k: v for k, v in a.headers.items() if k not in skipped} for a in (head, get))
    assert (head.status_code, told) == (get.status_code, wanted)
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("path", [path for path in GETS if path != "/"])
def test_a_slash_at_the_end_makes_no_difference(plane: DataPlane, path: str) -> None:
    bare, slashed = ask(plane, "GET", path), ask(plane, "GET", f"{path}/")
    assert bare.status_code == slashed.status_code
    if path != "/metrics" and bare.status_code == 200:
        assert bare.content == slashed.content


def test_a_slash_at_the_end_of_a_path_that_is_posted_to_makes_no_difference(plane: DataPlane) -> None:
    body = {"instances": [[1, 2, 3]]}
    for path in ("/v1/models/doubler:predict/", "/invocations/doubler/", "/v2/repository/index/"):
        assert ask(plane, "POST", path, json=body).status_code == 200, path
    assert ask(plane, "POST", "/v2/repository/index//", json=body).status_code == 404


def test_every_path_tells_its_methods(plane: DataPlane) -> None:
    document = ask(plane, "GET", "/openapi.json").json()
    assert len(document["paths"]) > 15
    for path, operations in document["paths"].items():
        options, refused = ask(plane, "OPTIONS", path), ask(plane, "BREW", path)
        assert (options.status_code, options.content, refused.status_code) == (204, b"", 405)
        assert "content-length" not in options.headers
        assert options.headers["allow"] == refused.headers["allow"]
        allowed = set(options.headers["allow"].split(", "))
        assert {name.upper() for name in operations} <= allowed
        assert ("HEAD" in allowed) == ("GET" in allowed)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            assert (ask(plane, method, path).status_code == 405) == (method not in allowed), (method, path)
    assert ask(plane, "OPTIONS", "/nothing").status_code == 404


def test_an_application_of_its_own_route_answers_below_it(tmp_path: pathlib.Path) -> None:
    planes = {root: make_plane(tmp_path, {"doubler": toy_models.doubler()}) for root in ("/one", "/two")}
    for root, own in planes.items():
        assert ask(own, "GET", "/openapi.json", root).json()["servers"] == [{"url": root}]
