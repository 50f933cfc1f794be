"""KServe's clients, over both versions of REST and over gRPC, against one application and against two."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from raymlops.serving.transport.api_keys import make_key
from raymlops.serving.transport.key_files import write_keys
from tests import toy_models
from tests.extras.environments import run_script
from tests.serving_process import Served, serve_for

pytestmark = pytest.mark.timeout(900)  # the environment is made by the first test

REFUSED = {
    "v1.explain": "explain",  # no model explains itself over this protocol
    "v1.is_server_ready": "UnsupportedProtocol",  # by the client: the protocol has no such thing
    "v2.explain": "UnsupportedProtocol",
}
METHODS = {"infer", "is_server_live", "is_server_ready", "is_model_ready"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, str]]:
    token, key = make_key("app", ("infer", "view"))
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    write_keys(path, [key])
    return path, {"x-api-key": token}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("first")
    source = str(toy_models.save(toy_models.doubler(), folder / "doubler.onnx"))
    spec = {"models": {"doubler": {"source": source}}, "grpc_port": 1, "cpus": 0.2, "keys": str(keys[0])}
    yield from serve_for(folder, spec)


@pytest.fixture(scope="module")
def both(served: Served, tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Served:
    folder = tmp_path_factory.mktemp("second")
    toy_models.save(toy_models.doubler(), folder / "models" / "tripler.onnx")
    spec = {
        "name": "second", "route": "/second", "many": {"folder": str(folder / "models")}, "cpus": 0.2,
        "keys": str(keys[0]), "port": served.port, "grpc_port": served.grpc_port,
    }  # fmt: skip
    (folder / "second.yaml").write_text(json.dumps(spec))
    served.run("deploy", str(folder / "second.yaml"))
    return served


def call_all(served: Served, model: str, prefix: str, headers: dict[str, str]) -> dict[str, str]:
    target = {
        "http": f"{served.url}{prefix}", "grpc": f"127.0.0.1:{served.grpc_port}", "model": model, "headers": headers,
    }  # fmt: skip
    told: dict[str, str] = json.loads(run_script("kserve", "kserve_clients.py", json.dumps(target)))
    return told


def check(told: dict[str, str]) -> None:
    assert {name.partition(".")[2] for name in told} >= METHODS
    assert {name: refusal for name, refusal in told.items() if refusal and name not in REFUSED} == {}
    for name, words in REFUSED.items():
        assert words in told[name], f"{name}: {told[name]}"


def test_every_method_is_called_against_one_application(served: Served, keys: Any) -> None:
    check(call_all(served, "doubler", "", keys[1]))


def test_every_method_is_called_against_two_applications(both: Served, keys: Any) -> None:
    check(call_all(both, "doubler", "", keys[1]))
    check(call_all(both, "tripler", "/second", keys[1]))
