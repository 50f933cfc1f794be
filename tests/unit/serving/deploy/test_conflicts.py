"""Routes, names and ports that are taken, as the caller is told before anything is deployed."""

import contextlib
import socket
from typing import Any

import pytest

from raymlops.errors import ResourceError, SpecError
from raymlops.serving.deploy import conflicts
from raymlops.specs.serving import ServingSpec

RUNNING = [{"name": "a", "route_prefix": "/"}, {"name": "b", "route_prefix": "/b"}]


def spec(**values: object) -> ServingSpec:
    return ServingSpec.model_validate({"models": {"m": {"source": "m.onnx"}}, **values})


@pytest.mark.parametrize(("name", "route"), [("a", "/"), ("b", "/b"), ("c", "/c"), ("c", "/b/deeper")])
def test_an_application_keeps_its_route_and_a_new_one_takes_a_free_one(name: str, route: str) -> None:
    conflicts.require_own_route({"name": name, "route_prefix": route}, RUNNING)


@pytest.mark.parametrize(
    ("name", "route", "told"),
    [
        ("c", "/", "Route '/' belongs to application 'a'.*route=/c"),
        ("b", "/", "Route '/' belongs to application 'a'"),
        ("b", "/other", "'b' runs on this cluster already, at route '/b'.*--remove"),
    ],
)
def test_a_taken_route_is_refused_with_who_has_it(name: str, route: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        conflicts.require_own_route({"name": name, "route_prefix": route}, RUNNING)


def test_ports_that_the_cluster_does_not_have_are_refused_and_a_default_is_no_wish() -> None:
    conflicts.require_ports(spec(), 9000, 0)
    conflicts.require_ports(spec(port=9000, grpc_port=9001), 9000, 9001)
    with pytest.raises(SpecError, match=r"port is 8000, but all applications .* use port 9000"):
        conflicts.require_ports(spec(port=8000), 9000, 0)
    with pytest.raises(SpecError, match=r"grpc_port is 9001, but .* no gRPC"):
        conflicts.require_ports(spec(grpc_port=9001), 8000, 0)
    with pytest.raises(SpecError, match="gRPC on port 9002"):
        conflicts.require_ports(spec(grpc_port=9001), 8000, 9002)


def test_a_port_in_use_is_told_with_one_that_is_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"Port {port} .* in use .*port=\d+"):
            conflicts.require_free_ports(spec(port=port))
        with pytest.raises(ResourceError, match="grpc_port="):
            conflicts.require_free_ports(spec(port=conflicts.find_free(20_000), grpc_port=port))
    conflicts.require_free_ports(spec(port=port))


def test_models_that_two_applications_share_are_told_to_who_deploys_for_grpc() -> None:
    def config(name: str, grpc_port: int, *models: str) -> dict[str, Any]:
        return {"name": name, "args": {"models": dict.fromkeys(models), "grpc_port": grpc_port}}

    running = [config("one", 0, "a", "b"), config("two", 8001, "c"), {"name": "another", "args": None}]
    (told,) = conflicts.describe_shared_models(config("three", 8001, "b", "d"), running)
    assert "b: application 'one'" in told
    assert "application: three" in told
    assert not list(conflicts.describe_shared_models(config("three", 0, "b"), running))
    assert not list(conflicts.describe_shared_models(config("one", 8001, "a", "b"), running))


def test_a_second_serve_on_a_machine_has_other_inner_ports() -> None:
    """Else one's HAProxy sends what it has no replica for to the other's applications."""
    usual = {
        "RAY_SERVE_HAPROXY_STATS_PORT": 8404, "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500, "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
    }  # fmt: skip
    with contextlib.ExitStack() as held:
        for port in usual.values():
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's proxies have it
            with contextlib.suppress(OSError):  # somebody serves here already
                listener.bind(("127.0.0.1", port))
                listener.listen()
        chosen = conflicts.choose_inner_ports()
        assert chosen.keys() == usual.keys()
        assert all(int(chosen[name]) > port for name, port in usual.items())
        assert all(conflicts.is_free("127.0.0.1", int(port)) for port in chosen.values())


def test_a_host_that_this_machine_has_not_is_no_port_in_use() -> None:
    with pytest.raises(ResourceError, match=r"Nothing can listen on host 'nowhere.invalid'"):
        conflicts.require_free_ports(spec(host="nowhere.invalid", open=True))
