"""An endpoint with TLS and keys, its processes and sockets, and what must hold for each kind of it."""

import contextlib
import pathlib
import ssl
import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
from cryptography import x509

from raymlops.clusters.sockets import is_loopback, list_sockets
from raymlops.serving.transport import key_files
from tests import toy_models
from tests.serving_process import Served
from tests.tls_files import Authority

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


def check_sockets(served: Served) -> None:
    ports = {served.port, served.grpc_port}
    # One HAProxy may just be taking the place of another.
    assert until(lambda: ports <= {port for _, port in listening(processes(served))})
    sockets = listening(processes(served))
    assert not {found: name for found, name in sockets.items() if not is_loopback(found[0])}
    listed = {(s.address, s.port) for s in list_sockets(processes(served))}
    assert listed == sockets.keys()  # the doctor knows each of them


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


def check_wakes(setup: Setup, served: Served, route: str, name: str) -> None:
    def replicas() -> list[psutil.Process]:
        return [process for process in served.replicas() if process.cmdline()[0].startswith(name)]

    assert until(lambda: not replicas())  # the one that showed that it can start has ended
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
