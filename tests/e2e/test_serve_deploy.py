"""`serve deploy`, Ray's own command, takes our file; its metrics, of two replicas, are summed by a real Prometheus, and
every panel of the Grafana dashboard shows something."""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import yaml

from raymlops.lifecycle.govern.register import promote_version, register_file
from raymlops.settings import Settings
from tests import toy_models
from tests.cluster_process import ROOT, Head
from tests.serving_process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMETHEUS = shutil.which("prometheus")
QUESTION = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    head = Head(folder, pathlib.Path(sys.executable), "--num-cpus=2")
    yield head
    head.stop()


@pytest.fixture(scope="module")
def url(head: Head, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where serve_configs/flights.yaml answers, a toy being the champion, by two replicas whose queues hold one request
    each, beside a graph and a folder of models; another application answers at /second."""
    folder = tmp_path_factory.mktemp("deploy")
    file = toy_models.save(toy_models.flights(), folder / "flights.onnx")
    settings = Settings.from_env(head.environment)
    version, _ = register_file(file, "flights", "a test", settings)
    promote_version("flights", version, "champion", "a test", settings, force=True)
    config = yaml.safe_load((ROOT / "serve_configs" / "flights.yaml").read_text())
    config["http_options"]["port"] = free_port()
    file = toy_models.save(toy_models.doubler(), folder / "many" / "m1.onnx")
    shutil.copy(file, file.with_name("m2.onnx"))  # for which there is no room beside it
    first, model = config["applications"][0], {"kind": "model", "model": str(file)}
    first["args"]["limits"]["queue"] = 1
    first["args"] |= {
        "replicas": 2,
        "cpus": 0.2,
        "many": {"folder": str(file.parent), "memory_mb": 1.5 * file.stat().st_size / 1e6},
    }
    first["args"]["graphs"] = {
        "release": {
            "nodes": {
                "champion": model, "mirrored": model, "spare": model,
                "challenger": model | {"fallback": "spare"},
                "steady": {"kind": "shadow", "primary": "champion", "mirror": "mirrored"},
                "canary": {"kind": "split", "weights": {"steady": 0.5, "challenger": 0.5}},
            },
            "outputs": ["canary"],
        }
    }  # fmt: skip
    second = {"name": "second", "route": "/second", "models": {"m1": {"source": str(file)}}, "cpus": 0.2}
    config["applications"].append(first | {"name": "second", "route_prefix": "/second", "args": second})
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


def test_what_cannot_be_deployed_is_told_before_anything_is(
    head: Head, url: str, tmp_path: pathlib.Path
) -> None:
    """The route of another application, a port that the cluster does not have, a model that cannot be opened."""
    good = toy_models.save(toy_models.doubler(), tmp_path / "good.onnx")
    broken = toy_models.doubler()
    broken.graph.node[0].op_type = "Nonsense"
    toy_models.save(broken, tmp_path / "broken.onnx")
    models = {f"m{number}": {"source": str(good)} for number in range(3)}
    told = {
        "Route '/' belongs to application 'flights'": {"name": "other"},
        "all applications of this cluster use port": {"name": "other", "route": "/b", "port": 1},
        "broken.onnx": {"models": models | {"last": {"source": str(tmp_path / "broken.onnx")}}},
    }
    commands = []
    for number, values in enumerate(told.values()):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({"models": models, **values}))
        commands.append(("deploy", str(path)))
    answers = head.run_in_turn(*commands, RAY_ADDRESS=head.address)
    for sentence, done in zip(told, answers, strict=True):
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert "bug in raymlops" not in done.stderr
    assert ask(url).status_code == 200


@pytest.fixture(scope="module")
def query(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Asks a Prometheus that scrapes the applications as our example says, one target each."""
    if PROMETHEUS is None:
        pytest.skip("no prometheus (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "dashboards" / "prometheus.yaml").read_text())
    shutil.copy(ROOT / "dashboards" / "alerts.yaml", folder)
    (scrape,) = config["scrape_configs"]
    scrape |= {"scrape_interval": "1s", "static_configs": [{"targets": [url.partition("//")[2]]}]}
    config["scrape_configs"].append(scrape | {"job_name": "second", "metrics_path": "/second/metrics"})
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        str(PROMETHEUS), f"--config.file={path}", f"--storage.tsdb.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    ends = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).status_code == 200:
                break
        assert time.monotonic() < ends, (folder / "log").read_text()
        time.sleep(0.1)

    def query(expression: str) -> list[Any]:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=20)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    yield query
    process.terminate()
    process.wait(20)


def ask_models(url: str) -> None:
    for path in ("/v2/models/release", "/v2/models/m1", "/second/v2/models/m1"):
        response = httpx.post(f"{url}{path}/infer", json=QUESTION, timeout=20)
        assert response.status_code == 200, response.text
    wrong = httpx.post(f"{url}/v2/models/flights/infer", json={"inputs": []}, timeout=20)
    assert wrong.status_code == 400


def find_sums(query: Any, metric: str) -> dict[tuple[str, str, str], float]:
    """Over replicas and versions, by application, model and status."""
    try:
        found = query(f"sum by (application, model, status) ({metric}) > 0")
    except httpx.TransportError:
        return {}
    names = ("application", "model", "status")
    return {
        (labels.get(names[0], ""), labels.get(names[1], ""), labels.get(names[2], "")): float(
            entry["value"][1]
        )
        for entry in found
        for labels in [entry["metric"]]
    }


def test_sums_over_replicas_are_the_requests_that_were_sent(query: Any, url: str) -> None:
    assert ask(url).status_code == 200
    ends = time.monotonic() + 120
    while httpx.get(f"{url}/second/v2/health/ready").status_code != 200 and time.monotonic() < ends:
        time.sleep(0.5)
    before = {
        model: httpx.get(f"{url}/v2/models/{model}/stats").json()["model_stats"][0]["outcomes"]
        for model in ("flights", "release", "m1")
    }
    for _ in range(40):  # each on a connection of its own, which HAProxy gives to either replica
        ask_models(url)
        assert httpx.post(f"{url}/v2/models/nobody/infer", json=QUESTION).status_code == 404
    expected = {("flights", "release", "success"): 40 + before["release"]["success"]}
    expected["flights", "m1", "success"] = 40 + before["m1"]["success"]
    expected["flights", "flights", "success"] = before["flights"]["success"]
    expected["flights", "flights", "client_error"] = 40 + before["flights"].get("client_error", 0)
    expected["flights", "", "client_error"] = 40
    expected["second", "m1", "success"] = 40
    found: dict[Any, float] = {}
    ends = time.monotonic() + 60
    while found != expected and time.monotonic() < ends:
        time.sleep(0.5)
        found = find_sums(query, "raymlops_requests_total")
    assert found == expected
    counts = find_sums(query, "raymlops_request_duration_seconds_count")
    assert counts == expected
    replicas = query('count by (application) (raymlops_replica_up{application="flights"})')
    assert [entry["value"][1] for entry in replicas] == ["2"]
    for _ in range(10):  # whichever replica is asked
        stats = httpx.get(f"{url}/v2/models/release/stats").json()["model_stats"][0]
        assert (stats["replicas"], stats["outcomes"]) == (
            2,
            {"success": expected["flights", "release", "success"]},
        )
        assert stats["inference_count"] == 2 * stats["inference_stats"]["success"]["count"]
        assert 0 < stats["latency_ms"]["request"]["p50"] <= stats["latency_ms"]["request"]["p99"]


def test_every_panel_has_something_to_show(query: Any, url: str) -> None:
    panels = json.loads((ROOT / "dashboards" / "serving.json").read_text())["panels"]
    missing = {(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]}
    ends = time.monotonic() + 120
    while True:
        assert ask(url).status_code == 200
        ask_models(url)
        assert httpx.post(f"{url}/v2/models/m2/infer", json=QUESTION, timeout=20).status_code == 200
        missing = {(title, asked) for title, asked in missing if not shows(query, asked)}
        if not missing or time.monotonic() > ends:
            break
        time.sleep(1)
    assert not missing


def test_the_alerts_are_rules_that_prometheus_takes_and_none_fires(query: Any, url: str) -> None:
    rules = yaml.safe_load((ROOT / "dashboards" / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        found = query(
            rule["expr"]
        )  # one with `for` fires after some minutes of it, which a loaded machine may have
        assert found == [] or "for" in rule, rule["alert"]


def test_what_is_shed_is_counted(query: Any, url: str) -> None:
    assert 503 in ask_at_once(url)
    stats = httpx.get(f"{url}/v2/models/flights/stats").json()["model_stats"][0]
    assert stats["outcomes"]["overloaded"] > 0


def test_what_a_killed_replica_counted_stays_in_the_sums(head: Head, url: str) -> None:
    def read() -> Any:
        return httpx.get(f"{url}/v2/models/release/stats", timeout=30).json()["model_stats"][0]["outcomes"][
            "success"
        ]

    before = read()  # which asks all replicas
    replica = next(
        process
        for process in psutil.Process(head.process.pid).children(recursive=True)
        if process.name().startswith("ray::ServeRepli") and ":flights:" in "".join(process.cmdline())
    )
    replica.kill()
    replica.wait(20)
    ends, asked = time.monotonic() + 90, 0
    while asked < 20 and time.monotonic() < ends:
        with contextlib.suppress(httpx.TransportError):
            response = httpx.post(f"{url}/v2/models/release/infer", json=QUESTION, timeout=20)
            asked += response.status_code == 200
    assert asked == 20
    assert read() == before + 20


def test_the_replicas_tell_everything_again_to_another_process_when_the_one_that_adds_is_killed(
    head: Head, url: str
) -> None:
    processes = psutil.Process(head.process.pid).children(recursive=True)
    (adder,) = (process for process in processes if process.name().startswith("ray::Aggregator"))
    adder.kill()
    adder.wait(20)
    ends, stats = time.monotonic() + 90, dict[str, Any]()
    while stats.get("replicas") != 2 and time.monotonic() < ends:
        stats = httpx.get(f"{url}/v2/models/release/stats", timeout=30).json()["model_stats"][0]
    before = stats["outcomes"]["success"]
    assert httpx.post(f"{url}/v2/models/release/infer", json=QUESTION, timeout=20).status_code == 200
    stats = httpx.get(f"{url}/v2/models/release/stats", timeout=30).json()["model_stats"][0]
    assert (stats["replicas"], stats["outcomes"]["success"]) == (2, before + 1)


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
