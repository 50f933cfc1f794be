"""`serve deploy`, Ray's own command, takes our file; every panel of the Grafana dashboard for a model shows
something of it."""

import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests import toy_models
from tests.cluster_process import ROOT, Head
from tests.serving_process import free_port, port_range

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMETHEUS = shutil.which("prometheus")
OF_OTHERS = ("raymlops_node_", "raymlops_shadow_", "raymlops_many_")
"""Metrics of graphs and of many models, which this application has none of."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    variables = {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        **port_range(),
    }
    head = Head(folder, pathlib.Path(sys.executable), "--num-cpus=2", variables=variables)
    yield head
    head.stop()


@pytest.fixture(scope="module")
def url(head: Head, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where serve_configs/flights.yaml answers, a toy being the champion; its queue holds one request."""
    folder = tmp_path_factory.mktemp("deploy")
    file = toy_models.save(toy_models.flights(), folder / "flights.onnx")
    for arguments in (
        ("register", str(file), "--name", "flights", "--why", "a test"),
        ("promote", "flights", "1", "--force", "--why", "a test"),
    ):
        done = head.run(*arguments)
        assert done.returncode == 0, done.stderr
    config = yaml.safe_load((ROOT / "serve_configs" / "flights.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["applications"][0]["args"]["limits"]["queue"] = 1
    path = folder / "flights.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = pathlib.Path(sys.executable).with_name("serve")
    done = subprocess.run(
        [serve, "deploy", str(path), "--address", head.url],
        env=head.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return f"http://127.0.0.1:{config['http_options']['port']}"


def ask(url: str, seconds: float = 120) -> httpx.Response:
    """The example of its own documentation, asked until it answers."""
    ends = time.monotonic() + seconds
    while True:
        try:
            documentation = httpx.get(f"{url}/openapi.json", timeout=20)
            documentation.raise_for_status()
            operation = documentation.json()["paths"]["/v2/models/flights/infer"]["post"]
            body = operation["requestBody"]["content"]["application/json"]["example"]
            return httpx.post(f"{url}/v2/models/flights/infer", json=body, timeout=20)
        except httpx.HTTPError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)


def test_rays_own_command_deploys_the_same_file(url: str) -> None:
    response = ask(url)
    assert response.status_code == 200, response.text
    assert response.json()["model_version"] == "1"
    assert response.headers["x-model-version"] == "flights/1"


@pytest.fixture(scope="module")
def query(head: Head, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Asks a Prometheus that scrapes the cluster as Ray tells it to."""
    if PROMETHEUS is None:
        pytest.skip("no prometheus (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    discovery = f"{head.temporary.name}/prom_metrics_service_discovery.json"  # Ray keeps it up to date
    scrape = {"job_name": "ray", "file_sd_configs": [{"files": [discovery]}]}
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    port = free_port()
    command = [
        str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(expression: str) -> list[Any]:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=20)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    yield query
    process.terminate()
    process.wait(20)


def test_every_panel_of_a_model_has_something_to_show(query: Any, url: str) -> None:
    panels = json.loads((ROOT / "dashboards" / "serving.json").read_text())["panels"]
    missing = {
        f"{panel['title']}: {target['expr']}"
        for panel in panels
        for target in panel.get("targets", [])
        if not any(name in target["expr"] for name in OF_OTHERS)
    }
    ends = time.monotonic() + 120
    while True:
        assert ask(url).status_code == 200
        wrong = httpx.post(f"{url}/v2/models/flights/infer", json={"inputs": []}, timeout=20)
        assert wrong.status_code == 400
        assert 503 in ask_at_once(url)
        missing = {panel for panel in missing if not shows(query, panel.partition(": ")[2])}
        if not missing or time.monotonic() > ends:
            break
        time.sleep(1)
    assert not missing


def ask_at_once(url: str) -> set[int]:
    """Statuses of whole requests that come together where one has a place; large ones are read for a while."""
    numbers = "[" + "0.12345678," * 900_000 + "0]"
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ' + numbers.encode() + b"}]}"

    def post(_: int) -> int:
        return httpx.post(f"{url}/v2/models/flights/infer", content=body, timeout=60).status_code

    found: set[int] = set()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found |= set(pool.map(post, range(8)))
            if 503 in found:
                break
    return found


def shows(query: Any, expression: str) -> bool:
    """Whether the expression gives a number, its variables being what Grafana sets by default."""
    for name, value in (("$application", ".*"), ("$model", ".*"), ("$__rate_interval", "1m")):
        expression = expression.replace(name, value)
    try:
        return any(entry["value"][1] != "NaN" for entry in query(expression))
    except httpx.TransportError:
        return False
