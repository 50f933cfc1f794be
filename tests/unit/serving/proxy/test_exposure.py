"""What may be reached from other machines has keys, or someone who says that it needs none."""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from raymlops.cli.serving import deploy, serve
from raymlops.clusters import loopback
from raymlops.errors import ForbiddenError
from raymlops.serving.proxy import exposure, key_guard
from raymlops.serving.proxy.key_guard import read_application
from raymlops.serving.transport.api_keys import Key, KeyRing, make_key
from raymlops.specs.serving import ServingSpec
from tests import toy_models


def spec(**values: object) -> ServingSpec:
    return ServingSpec.model_validate({"models": {"a": {"source": "/a.onnx"}}, **values})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.4", "example.org", ""])
def test_a_host_beyond_loopback_wants_keys_or_a_word(host: str) -> None:
    with pytest.raises(ForbiddenError, match="--open") as failure:
        exposure.require_keys(spec(host=host))
    assert "raymlops keys add" in str(failure.value)
    exposure.require_keys(spec(host=host, keys="keys.yaml"))
    exposure.require_keys(spec(host=host, open=True))
    with pytest.raises(ForbiddenError):  # Serve runs already, on another host than this spec's
        exposure.require_keys(spec(), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_wants_none(host: str) -> None:
    exposure.require_keys(spec(host=host))


@pytest.mark.parametrize("command", [serve, deploy], ids=["serve", "deploy"])
def test_the_commands_refuse_before_they_start_anything(command: object, tmp_path: pathlib.Path) -> None:
    model = toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx")
    with pytest.raises(ForbiddenError, match="without API keys"):
        CliRunner().invoke(command, [str(model), "host=0.0.0.0"], catch_exceptions=False)  # type: ignore[arg-type]


def test_a_cluster_of_this_machine_alone_is_joined_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.network_utils import node_ip_address_from_perspective
    from ray._private import ray_constants

    if node_ip_address_from_perspective().startswith("127."):
        pytest.skip("this machine has no address but loopback")
    monkeypatch.delenv(loopback.VARIABLE, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    turns = (("0.0.0.0", False), ("127.0.0.1", True), ("127.0.0.1", True), ("0.0.0.0", False))
    for host, alone in turns:
        with socket.create_server((host, 0)) as listener:
            loopback.adapt_to(f"127.0.0.1:{listener.getsockname()[1]}")
        assert ray_constants.ENABLE_RAY_CLUSTER is not alone
    loopback.stay_on_loopback()
    for address in ("local", "ray://head:10001", "10.0.0.4:6379", "nonsense:x"):
        loopback.adapt_to(address)
        assert ray_constants.ENABLE_RAY_CLUSTER  # this process may join any cluster after that one
        assert loopback.VARIABLE not in os.environ
    monkeypatch.setenv(loopback.VARIABLE, "0")  # the user's own word stays
    loopback.adapt_to("10.0.0.4:6379")
    assert os.environ[loopback.VARIABLE] == "0"


_CHOSEN_LATE = """
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode
from raymlops.settings import export

assert get_authentication_mode() == AuthenticationMode.DISABLED
export({"RAY_AUTH_MODE": "token"})
# Else it starts a cluster with a token, and asks it without one.
assert get_authentication_mode() == AuthenticationMode.TOKEN
"""


def test_a_token_chosen_after_ray_was_imported_is_what_ray_goes_by() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run(
        [sys.executable, "-c", _CHOSEN_LATE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def make_guard(monkeypatch: pytest.MonkeyPatch, keys: list[Key], *, awake: bool) -> Callable[..., Any]:
    """Asks a proxy's guard; gives the status, 0 for what was let through, or the code that closed a websocket."""
    known = key_guard.Applications()
    known._known = {"a": key_guard.Application("a", "/a", KeyRing(keys, required=True), awake)}
    monkeypatch.setattr(key_guard, "APPLICATIONS", known)

    def ask(path: str, kind: str = "http", **headers: str) -> int:
        known._asked = time.monotonic()
        told: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            told.append(0)

        async def send(message: Any) -> None:
            told.extend(message[key] for key in ("status", "code") if key in message)

        scope = {"type": kind, "method": "POST" if "infer" in path else "GET", "path": path}
        scope["headers"] = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        asyncio.run(key_guard.KeyGuard(app)(scope, app, send))
        return told[0]

    return ask


@pytest.mark.parametrize("awake", [True, False])
def test_a_proxy_lets_through_who_has_a_key_and_answers_probes_of_what_sleeps(
    monkeypatch: pytest.MonkeyPatch, awake: bool
) -> None:
    token, key = make_key("app", ["infer"])
    ended, old = make_key("old", ["infer"], expires="2001-01-01")
    ask = make_guard(monkeypatch, [key, old], awake=awake)
    infer = "/a/v2/models/m/infer"
    assert ask(infer, authorization=f"Bearer {token}") == ask(infer, x_api_key=token) == 0
    for wrong in ("", "rmk_app_x", ended, f"{token}x"):
        assert ask(infer, x_api_key=wrong) == ask("/a/nothing", x_api_key=wrong) == 401
    assert ask("/a/v2/health/ready") == (0 if awake else 200)
    assert ask("/a", "websocket") == ask("/a/v2", "websocket", x_api_key=token) == 1008
    assert ask("/-/healthz") == ask("/ab/v2") == ask("/other") == 0  # Serve's own, and what is not ours


def test_a_proxy_that_knows_nothing_yet_lets_nobody_through(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = make_guard(monkeypatch, [], awake=False)
    monkeypatch.setattr(key_guard, "APPLICATIONS", key_guard.Applications())  # and no cluster to ask
    assert ask("/a/v2") == 503


def details(**changes: object) -> dict[str, object]:
    args = {"keys": "/x/keys.yaml"}
    config = {"import_path": "raymlops.serving.app:build_app", "args": args, **changes}
    return {"route_prefix": "/a", "deployed_app_config": config, "deployments": {"Ingress": {"replicas": []}}}


def test_a_proxy_knows_which_applications_have_keys_and_whether_they_are_awake() -> None:
    told = details()
    found = read_application("a", told, None)
    assert (found.ring.is_open, found.awake, found.prefix) == (False, False, "/a")
    told["deployments"] = {"Ingress": {"replicas": [{"state": "STARTING"}, {"state": "RUNNING"}]}}
    assert read_application("a", told, None).awake
    assert read_application("a", details(args={}), None).ring.is_open
    assert read_application("a", details(import_path="other:app"), None).ring.is_open  # not ours to judge
    given = [{"name": "Ingress", "user_config": {"keys": []}}]
    assert not read_application("a", details(args={}, deployments=given), None).ring.is_open
    found.ring = KeyRing(required=True)
    assert read_application("a", told, found).ring is found.ring  # keys that were read stay in force
