"""Nothing listens that nobody chose, TLS and keys hold, and nothing of an endpoint outlives it. All on real sockets."""

import contextlib
import os
import pathlib
import signal
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import yaml
from cryptography import x509

from raymlops.clusters.sockets import is_loopback, list_sockets
from raymlops.serving import key_files
from tests import toy_models
from tests.serving_process import Served, serve_for
from tests.tls_files import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

QUESTION = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


def processes(served: Served) -> list[psutil.Process]:
    root = psutil.Process(served.process.pid)
    return [root, *root.children(recursive=True)]


def listening(found: list[psutil.Process]) -> dict[tuple[str, int], str]:
    """Address and port of every socket that these processes listen on -> the process."""
    sockets = {}
    for process in found:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    sockets[connection.laddr.ip, connection.laddr.port] = process.name()
    return sockets


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What the condition gives once it is true; the last it gave when it never is."""
    ends = time.monotonic() + seconds
    while not (got := condition()) and time.monotonic() < ends:
        time.sleep(0.2)
    return got


class Setup:
    """Files of an endpoint with TLS and keys, and a client of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.serial = self.authority.write_pair(self.certificate, self.key)
        self.token = key_files.add_key(folder / "keys.yaml", "app", ["infer", "view"])
        self.auth = {"Authorization": f"Bearer {self.token}"}
        source = str(toy_models.save(toy_models.doubler(), folder / "toy.onnx"))
        fatal = {
            "nodes": {
                name: {
                    "kind": "python", "target": f"tests.fatal_node:{target}", "placement": placement,
                    "inputs": {"x": "inputs.x"},
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
                }
                for name, target, placement in (("here", "Fatal", "fused"), ("apart", "Calm", "separate"))
            },
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": {"y": "here.y", "z": "apart.y"},
        }  # fmt: skip
        self.spec: dict[str, Any] = {
            "models": {"toy": {"source": source}}, "graphs": {"fatal": fatal},
            "keys": str(folder / "keys.yaml"), "grpc_port": 1, "replicas": 2, "cpus": 0.2,
            "tls": {"certificate": str(self.certificate), "key": str(self.key)},
        }  # fmt: skip

    def client(self, served: Served, **options: Any) -> httpx.Client:
        verify = ssl.create_default_context(cafile=str(self.authority.path))
        url = served.url.replace("http:", "https:")
        return httpx.Client(base_url=url, verify=verify, headers=self.auth, timeout=60, **options)

    def ask_grpc(self, served: Served, token: str | None) -> Any:
        credentials = tritonclient.grpc.InferenceServerClient
        client = credentials(
            f"127.0.0.1:{served.grpc_port}", ssl=True, root_certificates=str(self.authority.path)
        )
        tensor = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
        try:
            return client.infer(
                "toy", [tensor], headers={"authorization": f"Bearer {token}"} if token else {}
            )
        finally:
            client.close()

    def served_serials(self, served: Served) -> set[int]:
        """Of the certificates that new connections are shown, over HTTP and gRPC."""
        shown = set()
        for port in (served.port, served.grpc_port):
            pem = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(self.authority.path))
            shown.add(x509.load_pem_x509_certificate(pem.encode()).serial_number)
        return shown


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("closed"))


@pytest.fixture(scope="module")
def served(setup: Setup) -> Iterator[Served]:
    yield from serve_for(setup.folder, setup.spec)


def check_sockets(served: Served) -> None:
    sockets = listening(processes(served))
    assert {served.port, served.grpc_port} <= {port for _, port in sockets}
    assert not {found: name for found, name in sockets.items() if not is_loopback(found[0])}
    listed = {(s.address, s.port) for s in list_sockets(processes(served))}
    assert listed == sockets.keys()  # the doctor knows each of them


def test_nothing_listens_beyond_loopback_on_an_endpoint_that_does_not(served: Served) -> None:
    check_sockets(served)


def test_nobody_but_the_owner_may_administer_haproxy(served: Served) -> None:
    configs = [p.cmdline()[p.cmdline().index("-f") + 1] for p in processes(served) if p.name() == "haproxy"]
    folder = pathlib.Path(configs[0]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "front.pem").stat().st_mode) == 0o600


def check_tls(setup: Setup, served: Served) -> None:
    with setup.client(served) as client:
        answer = client.post("/v2/models/toy/infer", json=QUESTION)
        assert answer.json()["outputs"][0]["data"] == [2, 4, 6]
        assert (
            client.post("/v2/models/toy/infer", json=QUESTION, headers={"Authorization": "x"}).status_code
            == 401
        )
    assert setup.ask_grpc(served, setup.token).as_numpy("y").tolist() == [[2, 2, 2]]
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="UNAUTHENTICATED"):
        setup.ask_grpc(served, None)
    with pytest.raises(httpx.TransportError):  # plain text
        httpx.get(served.url + "/v2/health/live")
    with pytest.raises(httpx.ConnectError):  # an authority that this client does not know
        httpx.get(served.url.replace("http:", "https:") + "/v2/health/live")
    with (
        grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(timeout=3)


def check_renewal(setup: Setup, served: Served) -> None:
    """New files are shown to new connections, without a restart; half a pair leaves the old one in use."""
    before = setup.served_serials(served)
    kept = setup.certificate.read_bytes(), setup.key.read_bytes()
    setup.certificate.write_text("nonsense")
    time.sleep(3)
    assert setup.served_serials(served) == before
    setup.certificate.write_bytes(kept[0])
    renewed = setup.authority.write_pair(setup.certificate, setup.key)
    assert until(lambda: setup.served_serials(served) == {renewed})
    with setup.client(served) as client:
        assert client.get("/v2").status_code == 200


def test_http_and_grpc_speak_tls_and_nothing_else(setup: Setup, served: Served) -> None:
    check_tls(setup, served)


def test_certificates_that_change_are_taken_up(setup: Setup, served: Served) -> None:
    check_renewal(setup, served)


def test_an_unauthenticated_grpc_message_is_not_parsed(setup: Setup, served: Served) -> None:
    credentials = grpc.ssl_channel_credentials(setup.authority.path.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{served.grpc_port}", credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("authorization", f"Bearer {setup.token}"),), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call(b"\xff\xff not a message", metadata=metadata, timeout=30)
            assert failure.value.code() is code


def test_an_application_at_zero_is_woken_by_callers_with_a_key_only(setup: Setup, served: Served) -> None:
    spec = {
        **setup.spec, "graphs": {}, "name": "sleeper", "route": "/sleeper",
        "autoscaling": {"min": 0, "max": 1, "down_s": 300},
    }  # fmt: skip
    path = setup.folder / "sleeper.yaml"
    path.write_text(yaml.safe_dump({**spec, "port": served.port, "grpc_port": served.grpc_port}))
    served.run("deploy", str(path))
    check_wakes(setup, served, "/sleeper", "ray::ServeReplica:sleeper")


def check_wakes(setup: Setup, served: Served, route: str, name: str) -> None:
    def replicas() -> list[psutil.Process]:
        return [process for process in served.replicas() if process.cmdline()[0].startswith(name)]

    assert not replicas()
    with setup.client(served) as client:
        wrong = [{}, {"Authorization": "Bearer rmk_app_wrong"}, {"X-API-Key": "rmk_ops_x"}]
        for headers in wrong:
            client.headers = httpx.Headers(headers)
            assert client.post(f"{route}/v2/models/toy/infer", json=QUESTION).status_code == 401
            assert client.post(f"{route}/invocations", content=b"[" * 100_000).status_code == 401
            assert (
                client.get(f"{route}/docs").status_code == client.get(f"{route}/nothing").status_code == 401
            )
            assert client.get(f"{route}/v2/health/ready").status_code == 200  # for those who may wake it
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="UNAUTHENTICATED"):
            setup.ask_grpc(served, None) if route == "/" else ask_other(setup, served)
        time.sleep(3)
        assert not replicas()
        client.headers = httpx.Headers(setup.auth)
        answer = client.post(f"{route}/v2/models/toy/infer", json=QUESTION)
        assert answer.json()["outputs"][0]["data"] == [2, 4, 6]
    assert len(replicas()) == 1


def ask_other(setup: Setup, served: Served) -> None:
    client = tritonclient.grpc.InferenceServerClient(
        f"127.0.0.1:{served.grpc_port}", ssl=True, root_certificates=str(setup.authority.path)
    )
    try:
        client.get_model_metadata("toy", headers={"application": "sleeper"})
    finally:
        client.close()


def test_a_request_that_ends_a_process_ends_no_other(setup: Setup, served: Served) -> None:
    fatal = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [-1, 2, 3]}]}

    def ingress() -> set[int]:
        name = "ray::ServeReplica:raymlops:Ingress"
        return {process.pid for process in served.replicas() if process.cmdline()[0].startswith(name)}

    for kept_alive in (False, True):
        before = until(lambda: ingress() if len(ingress()) == 2 else None)
        with setup.client(served) as client:
            if (
                kept_alive
            ):  # HAProxy closes a connection that was used before, and leaves it to the client to ask again
                assert client.get("/v2").status_code == 200
                with pytest.raises(httpx.RemoteProtocolError):
                    client.post("/v2/models/fatal/infer", json=fatal)
            else:
                answer = client.post("/v2/models/fatal/infer", json=fatal, headers={"Idempotency-Key": "1"})
                assert answer.status_code == 502, answer.text
                assert "not sent to another" in answer.json()["error"]
            assert len(before - ingress()) == 1
            assert client.get("/v2").status_code == 200


@pytest.mark.parametrize(
    "who", ["the proxy's actor", "the driver"]
)  # the driver last: nothing is left after it
def test_no_haproxy_outlives_its_endpoint(served: Served, who: str) -> None:
    running = processes(served)
    proxies = [p for p in running if p.name() == "haproxy"]
    watchers = [p for p in running if "--watch" in p.cmdline()]
    workers = [p for p in running if p.name().startswith("ray::Serve")]
    assert proxies
    assert watchers
    assert workers
    if who == "the driver":
        served.process.kill()
    else:
        next(
            p for p in running if p.cmdline()[:1] and p.cmdline()[0].startswith("ray::HAProxyManager")
        ).kill()
    assert until(lambda: not alive([*proxies, *watchers]))
    if who == "the driver":
        assert until(lambda: not alive(workers))
    else:  # Serve starts another
        assert until(lambda: can_connect(served.port))


def alive(found: list[psutil.Process]) -> list[int]:
    running = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process.pid)
    return running


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(ssl.get_server_certificate(("127.0.0.1", port)))
    return False


def test_serve_as_it_comes_is_as_closed(setup: Setup, tmp_path: pathlib.Path) -> None:
    """`--plain`: TLS by uvicorn and gRPC themselves, keys asked for by Serve's proxy."""
    spec = {**setup.spec, "graphs": {}, "autoscaling": {"min": 0, "max": 1, "down_s": 300}}
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
    os.environ.pop("SSL_CERT_FILE", None)
    spec = {**setup.spec, "graphs": {}, "replicas": 1, "grpc_port": 0}
    spec["tls"] = {**spec["tls"], "client_ca": str(setup.authority.path)}
    spec["host"] = "0.0.0.0"
    served = Served(tmp_path, spec)
    try:
        beyond = {found for found in listening(processes(served)) if not is_loopback(found[0])}
        assert beyond == {("0.0.0.0", served.port)}
        with setup.client(served) as client, pytest.raises(httpx.TransportError):
            client.get("/v2")
        setup.authority.write_pair(tmp_path / "client.pem", tmp_path / "client.key")
        context = ssl.create_default_context(cafile=str(setup.authority.path))
        context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        url = served.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=context, headers=setup.auth) as client:
            assert client.get("/v2").status_code == 200
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
