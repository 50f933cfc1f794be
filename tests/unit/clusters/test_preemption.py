"""Notices of clouds, from a server that answers as their machines' own do."""

import functools
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from raymlops.clusters import preemption

SOON = "%Y-%m-%dT%H:%M:%SZ"


class Machine(http.server.ThreadingHTTPServer):
    """The metadata service of one machine: path -> answer; other paths are not found."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: dict[str, str] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.host = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        machine: Machine = self.server  # type: ignore[assignment]
        machine.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        text = machine.answers.get(self.path.partition("?")[0])
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def machine() -> Iterator[Machine]:
    server = Machine()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_aws_says_when_a_spot_instance_goes(machine: Machine) -> None:
    machine.answers["/latest/api/token"] = "secret"
    assert preemption.ask_aws(machine.host) is None
    assert machine.asked[0][0] == "PUT"
    assert machine.asked[1][2]["x-aws-ec2-metadata-token"] == "secret"
    moment = time.strftime(SOON, time.gmtime(time.time() + 100))
    machine.answers["/latest/meta-data/spot/instance-action"] = (
        f'{{"action": "terminate", "time": "{moment}"}}'
    )
    left = preemption.ask_aws(machine.host)
    assert left is not None
    assert 0 < left <= 100


def test_gcp_says_that_a_spot_machine_goes(machine: Machine) -> None:
    path = "/computeMetadata/v1/instance/preempted"
    machine.answers[path] = "FALSE"
    assert preemption.ask_gcp(machine.host) is None
    machine.answers[path] = "TRUE"
    assert preemption.ask_gcp(machine.host) == 30
    assert machine.asked[-1][2]["metadata-flavor"] == "Google"


def test_azure_names_the_event_and_its_time(machine: Machine) -> None:
    path = "/metadata/scheduledevents"
    machine.answers[path] = '{"Events": [{"EventType": "Freeze", "NotBefore": ""}]}'
    assert preemption.ask_azure(machine.host) is None
    machine.answers[path] = (
        '{"Events": [{"EventType": "Preempt", "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT"}]}'
    )
    assert preemption.ask_azure(machine.host) == 0
    machine.answers[path] = '{"Events": [{"EventType": "Preempt", "NotBefore": ""}]}'
    assert preemption.ask_azure(machine.host) == 30


def test_a_machine_asks_until_its_cloud_gives_notice(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cloud in (preemption.ask_aws, preemption.ask_azure, preemption.ask_gcp):
        here = machine.host if cloud is preemption.ask_gcp else "http://127.0.0.1:1"
        monkeypatch.setattr(preemption, cloud.__name__, functools.partial(cloud, here))
    asked = 0

    def ask() -> float | None:
        nonlocal asked
        asked += 1
        if asked == 3:
            machine.answers["/computeMetadata/v1/instance/preempted"] = "TRUE"
        return preemption.ask_any()

    assert preemption.watch(ask, pause=0.01) == 30
    assert asked == 3
