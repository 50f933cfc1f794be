"""Kinds of an endpoint that are as closed as the one of tests/e2e: as Serve comes, with certificates of clients."""

import pathlib
import signal
import ssl

import httpx
import pytest

from raymlops.clusters.sockets import is_loopback
from tests.closed_endpoint import (
    Setup,
    alive,
    check_renewal,
    check_sockets,
    check_tls,
    check_wakes,
    listening,
    processes,
    until,
)
from tests.serving_process import Served
from tests.tls_files import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("closed"))


def test_serve_as_it_comes_is_as_closed(setup: Setup, tmp_path: pathlib.Path) -> None:
    """`--plain`: TLS by uvicorn and gRPC themselves, keys asked for by Serve's proxy."""
    spec = {**setup.spec, "graphs": {}, "autoscaling": {"min": 0, "max": 1, "down_s": 2}}
    served = Served(tmp_path, spec, "--plain")
    try:
        assert not [p for p in processes(served) if p.name() == "haproxy"]
        check_sockets(served)
        check_wakes(setup, served, "", "ray::ServeReplica:raymlops")
        check_tls(setup, served)
        check_renewal(setup, served)
    finally:
        served.stop()


def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(
    setup: Setup, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "clients' authority"
    folder.mkdir()
    trusted = Authority(folder)
    spec = {**setup.spec, "graphs": {}, "replicas": 1, "grpc_port": 0, "host": "0.0.0.0"}
    spec["tls"] = {**spec["tls"], "client_ca": str(trusted.path)}

    def ask(authority: Authority | None) -> int:
        context = ssl.create_default_context(cafile=str(setup.authority.path))
        if authority is not None:
            authority.write_pair(tmp_path / "client.pem", tmp_path / "client.key")
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        url = f"{served.url.replace('http:', 'https:')}/v2"
        try:
            return httpx.get(url, verify=context, headers=setup.auth).status_code
        except httpx.TransportError:
            return 0

    served = Served(tmp_path, spec)
    try:

        def beyond() -> set[tuple[str, int]]:
            return {found for found in listening(processes(served)) if not is_loopback(found[0])}

        assert until(lambda: beyond() == {("0.0.0.0", served.port)}, 20), beyond()
        assert (ask(None), ask(setup.authority), ask(trusted)) == (0, 0, 200)
        other = Authority(tmp_path)
        other.path.replace(trusted.path)  # another authority is trusted from now on
        assert until(lambda: ask(other) == 200)
        assert ask(trusted) == 0
    finally:
        served.stop()


def test_no_haproxy_is_left_where_ray_was_killed_before_its_endpoint_ends(
    setup: Setup, tmp_path: pathlib.Path
) -> None:
    spec = {**setup.spec, "graphs": {}, "replicas": 1, "grpc_port": 0}
    spec.pop("tls")
    served = Served(tmp_path, spec)
    try:
        running = processes(served)
        proxies = [p for p in running if p.name() == "haproxy"]
        next(p for p in running if p.name() == "raylet").send_signal(signal.SIGKILL)
        assert alive(proxies)
    finally:
        served.stop()
    assert until(lambda: not alive(proxies))
