"""Nothing listens that nobody chose, TLS and keys hold, and nothing of an endpoint outlives it. All on real sockets."""

import datetime
import json
import pathlib
import shutil
import stat
from collections.abc import Iterator

import grpc
import httpx
import pytest
import yaml

from raymlops.serving.transport import key_files
from tests import own_observers
from tests.closed_endpoint import (
    QUESTION,
    Setup,
    alive,
    can_connect,
    check_renewal,
    check_sockets,
    check_tls,
    check_wakes,
    processes,
    until,
)
from tests.serving_process import CommandError, Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("closed"))


@pytest.fixture(scope="module")
def served(setup: Setup) -> Iterator[Served]:
    shutil.copy(pathlib.Path(own_observers.__file__), setup.folder / "high_scores.py")
    config = {"path": str(setup.folder / "told.jsonl"), "output": "y"}
    observers = {"high": {"target": "high_scores:HighScores", "config": config}}
    channels = {"record": {"kind": "file", "path": str(setup.folder / "alarms.jsonl")}}
    (setup.folder / "notify.yaml").write_text(yaml.safe_dump({"channels": channels, "fold": {"gather_s": 0}}))
    checked = {"slo": {"p99_ms": 0.001}, "operations": {"every_s": 2, "free_share": 0.9999}}
    yield from serve_for(setup.folder, setup.spec | {"observers": observers} | checked)


def test_nothing_listens_beyond_loopback_on_an_endpoint_that_does_not(served: Served) -> None:
    check_sockets(served)


def test_nobody_but_the_owner_may_administer_haproxy(served: Served) -> None:
    configs = [p.cmdline()[p.cmdline().index("-f") + 1] for p in processes(served) if p.name() == "haproxy"]
    folder = pathlib.Path(configs[0]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "front.pem").stat().st_mode) == 0o600


def test_http_and_grpc_speak_tls_and_nothing_else(setup: Setup, served: Served) -> None:
    check_tls(setup, served)


def test_an_observer_beside_the_document_is_told_of_requests_over_http_and_grpc(
    setup: Setup, served: Served
) -> None:
    with setup.client(served) as client:
        headers = {"x-request-id": "over-http"}
        assert client.post("/v2/models/toy/infer", json=QUESTION, headers=headers).status_code == 200
    setup.ask_grpc(served, setup.token)

    def read() -> list[dict[str, object]]:
        file = setup.folder / "told.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    http = {"model": "toy", "version": "1", "request": "over-http", "score": 2.0}
    assert until(lambda: http in read() and len(read()) >= 2), read()


def test_certificates_that_change_are_taken_up(setup: Setup, served: Served) -> None:
    check_renewal(setup, served)


def test_what_is_wrong_with_how_it_operates_is_an_alarm_that_people_and_prometheus_are_told(
    setup: Setup, served: Served
) -> None:
    key_files.add_key(setup.folder / "keys.yaml", "soon", ["metrics"], expires=_in_days(2))
    token = key_files.add_key(setup.folder / "keys.yaml", "scraper", ["metrics"])
    failing = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [-2, 2, 3]}]}
    with setup.client(served) as client:
        for _ in range(20):
            assert client.post("/v2/models/fatal/infer", json=failing).status_code == 500
            assert client.post("/v2/models/toy/infer", json=QUESTION).status_code == 200
    with pytest.raises(CommandError, match="ended with 1"):
        served.run("alarms", "check", "raymlops")
    with pytest.raises(CommandError, match="did you mean 'raymlops'"):
        served.run("alarms", "check", "raymlop")
    found = {
        entry["data"]["details"]["check"]: entry["data"]
        for line in (setup.folder / "alarms.jsonl").read_text().splitlines()
        for entry in [json.loads(line)]
    }
    assert found.keys() >= {"errors", "latency", "certificate", "keys", "storage"}
    assert "fatal" in found["errors"]["what"]
    assert found["errors"]["severity"] == found["latency"]["severity"] == "page"
    assert "of the requests to fatal version" in found["errors"]["what"]
    assert "toy" in found["latency"]["what"]
    assert "expires in" in found["certificate"]["what"]
    assert found["keys"]["next"].endswith("soon")
    with setup.client(served) as client:
        client.headers = httpx.Headers({"Authorization": f"Bearer {token}"})

        def read() -> str:
            return client.get("/metrics").text

        # told by the process of the application, which the replicas have started by then
        wanted = 'raymlops_incidents_open{application="raymlops",check="certificate",family="operations"'
        assert until(lambda: wanted in read(), 90), read()
        assert "raymlops_certificate_expiry_timestamp_seconds{" in read()


def _in_days(days: float) -> str:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return at.isoformat(timespec="seconds")


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
        "autoscaling": {"min": 0, "max": 1, "down_s": 2},
    }  # fmt: skip
    path = setup.folder / "sleeper.yaml"
    path.write_text(yaml.safe_dump({**spec, "port": served.port, "grpc_port": served.grpc_port}))
    served.run("deploy", str(path))
    check_wakes(setup, served, "/sleeper", "ray::ServeReplica:sleeper")


def test_a_request_that_ends_a_process_ends_no_other(setup: Setup, served: Served) -> None:
    fatal = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [-1, 2, 3]}]}

    def ingress() -> set[int]:
        name = "ray::ServeReplica:raymlops:Ingress"
        return {process.pid for process in served.replicas() if process.cmdline()[0].startswith(name)}

    for kept_alive in (False, True):
        before = until(lambda: ingress() if len(ingress()) == 2 else None)
        with setup.client(served) as client:
            if kept_alive:
                assert client.get("/v2").status_code == 200
            try:
                answer = client.post("/v2/models/fatal/infer", json=fatal, headers={"Idempotency-Key": "1"})
            except httpx.RemoteProtocolError:
                # HAProxy closes a connection without an answer if it, or its own to the replica, was used before. It
                # keeps its own for 5 seconds or more after any other request.
                pass
            else:
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
