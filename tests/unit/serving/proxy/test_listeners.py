"""The private functions of Serve that are replaced to close ports are those of the installed Ray; else it is told."""

import inspect
import logging
import socket

import pytest
from ray.serve._private import default_impl, grpc_util, http_util, replica

from raymlops.serving.proxy import key_guard, listeners


def test_what_is_replaced_is_there() -> None:
    """A new version of Ray that fails here would listen where it likes."""
    assert callable(default_impl.add_grpc_address)
    assert callable(replica.add_port_to_grpc_server)
    assert http_util.socket is socket
    assert "socket.socket(" in inspect.getsource(http_util.start_asgi_http_server)
    assert callable(grpc_util.gRPCGenericServer._override_method_handler)


@pytest.mark.parametrize(
    ("module", "name", "close"),
    [
        (default_impl, "add_grpc_address", listeners.close_ports),
        (replica, "add_port_to_grpc_server", listeners.close_replica_ports),
    ],
)
def test_a_port_that_cannot_be_closed_is_told(
    module: object,
    name: str,
    close: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(module, name)
    monkeypatch.setattr(logging.getLogger("raymlops.serving"), "propagate", True)
    with caplog.at_level(logging.ERROR, "raymlops.serving"):
        close()  # type: ignore[operator]
    assert "is not a known version" in caplog.text


def test_a_server_of_another_kind_is_not_guarded_without_a_word() -> None:
    assert key_guard.guard_grpc(object()) is False


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("::", "[::]:1"), ("10.0.0.4", "10.0.0.4:1")],
)
def test_addresses_of_both_families_are_joined(host: str, address: str) -> None:
    assert listeners.join_address(host, "1") == address


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_a_socket_behind_haproxy_is_on_loopback_whatever_the_host(
    family: socket.AddressFamily, host: str
) -> None:
    with listeners._LOOPBACK_SOCKETS.socket(family, listeners._LOOPBACK_SOCKETS.SOCK_STREAM) as made:
        try:
            made.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no such addresses")
        assert made.getsockname()[0] in ("127.0.0.1", "::ffff:127.0.0.1")
