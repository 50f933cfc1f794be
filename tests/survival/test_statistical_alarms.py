"""What a served version sees is judged while it answers: rows that its reference does not have raise one alarm, which a
judge that was killed does not tell again."""

import pathlib
import signal
import time
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import pytest

from raymlops.events.incident import Incident
from raymlops.events.incidents import Incidents, find_location
from raymlops.settings import Settings
from tests.monitored_versions import register_doubler
from tests.serving_process import Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("judged")
    uri = register_doubler(folder, find_settings(folder))
    spec = {"name": "app", "models": {"toy": {"source": uri}}, "cpus": 0.2, "monitoring": {"tick_seconds": 1}}
    yield from serve_for(folder, spec)


def find_settings(folder: pathlib.Path) -> Settings:
    return Settings.from_env({"RAYMLOPS_HOME": str(folder / "home"), "USER": "tester"})


def send(served: Served, shift: float) -> None:
    values = np.random.default_rng().normal(size=(20, 3)) + shift
    tensor = {"name": "x", "datatype": "FP32", "shape": [20, 3], "data": values.ravel().tolist()}
    httpx.post(f"{served.url}/v2/models/toy/infer", json={"inputs": [tensor]}).raise_for_status()


def read_incidents(settings: Settings) -> list[Incident]:
    return [
        one
        for one in Incidents(find_location(settings), "app").read()
        if one.alarm.watched.family != "operations"
    ]


def test_rows_beyond_the_reference_raise_one_alarm_that_outlives_its_judge(served: Served) -> None:
    settings, ends, killed = find_settings(served.folder), time.monotonic() + 420, False
    found: list[Incident] = []
    while time.monotonic() < ends and not (killed and found):
        send(served, shift=1000.0)
        time.sleep(0.5)
        found = [one for one in read_incidents(settings) if one.alarm.watched.family == "quality"]
        if found and not killed:
            judges = [
                one
                for one in psutil.Process(served.process.pid).children(recursive=True)
                if "JudgeWatch" in " ".join(one.cmdline()[:1])
            ]
            judges[0].send_signal(signal.SIGKILL)
            killed = True
    assert found, "no alarm was raised"
    alarm = found[0].alarm
    assert alarm.severity == "page"
    assert alarm.watched.model == "doubler"
    assert "above" in alarm.sentence
    assert "By chance alone once in more than" in alarm.sentence
    for _ in range(60):
        send(served, shift=1000.0)
        time.sleep(0.5)
    assert len([one for one in read_incidents(settings) if one.alarm.watched.family == "quality"]) == 1
    shown = httpx.get(f"{served.url}/metrics").text  # by the next judge, and by the operational checks
    assert 'raymlops_drift_deviate{application="app",column="x' in shown
    assert 'raymlops_drift_threshold{application="app",family="quality"' in shown
    counts: list[str] = []
    while not counts and time.monotonic() < ends + 300:  # operational checks look once a minute
        time.sleep(2)
        counts = [
            line.rpartition(" ")[2]
            for line in httpx.get(f"{served.url}/metrics").text.splitlines()
            if line.startswith("raymlops_incidents_open{") and 'family="quality"' in line
        ]
    assert counts == ["1.0"]
