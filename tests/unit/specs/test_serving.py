"""Serving specs are read from our files and from Serve's, and say what is wrong with them."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from raymlops.errors import NotFoundError, SpecError
from raymlops.expressions import columns_in
from raymlops.runtime import sources
from raymlops.runtime.model_files import find_file
from raymlops.serving.deploy import config_files
from raymlops.serving.deploy.history import History, make_config
from raymlops.serving.endpoints.prometheus import FAMILIES
from raymlops.serving.endpoints.told_gauges import GAUGES
from raymlops.serving.fastpath import ray_serve_env
from raymlops.settings import Settings
from raymlops.specs.document import read_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.serving import Limits, ServingSpec
from tests import toy_models

ROOT = pathlib.Path(__file__).parents[3]


def settings(folder: pathlib.Path) -> Settings:
    return Settings.from_env({"RAYMLOPS_HOME": str(folder)})


def test_the_files_that_are_shipped_are_read() -> None:
    flights = config_files.read_spec(ROOT / "serve_configs/flights.yaml", ["port=9000"])
    assert flights.models["flights"].source == "models:/flights@champion"
    assert (flights.name, flights.port) == ("flights", 9000)
    files = config_files.read_spec(ROOT / "serve_configs/files.yaml")
    many = config_files.read_spec(ROOT / "serve_configs/many.yaml")
    assert many.many is not None
    assert many.many.memory_mb == 1024
    assert files.models["expensive"].batching.mode == "on"
    assert files.autoscaling


def test_the_readmes_request_asks_about_the_columns_of_the_main_job() -> None:
    assert "-d @examples/request.json" in (ROOT / "README.md").read_text()
    features = read_document(ROOT / "jobs/specs/flights.yaml", ExperimentSpec).features
    wanted = {*features.numbers, *features.categories}
    for column in features.columns.values():
        wanted |= set(columns_in(column.expression or ""))
    request = json.loads((ROOT / "examples/request.json").read_text())
    assert {entry["name"] for entry in request["inputs"]} == wanted
    assert all(entry["shape"] == [len(entry["data"])] for entry in request["inputs"])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("models:/flights@champion", "flights"),
        ("models:/flights/3", "flights"),
        ("zoo/the net.onnx", "the-net"),
    ],
)
def test_a_model_may_stand_in_the_place_of_a_spec(given: str, name: str) -> None:
    spec = config_files.read_spec(pathlib.Path(given), ["limits.queue=3"])
    assert {name: model.source for name, model in spec.models.items()} == {name: given}
    assert (spec.name, spec.limits.queue) == (name, 3)


def test_a_folder_with_a_model_may_stand_in_the_place_of_a_spec(tmp_path: pathlib.Path) -> None:
    (tmp_path / "net").mkdir()
    assert list(config_files.read_spec(tmp_path / "net").models) == ["net"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {}", "models"),
        ("models: {a b: {source: x}}", "model name 'a b'"),
        ("models: {a: {source: x, batchin: {}}}", "did you mean 'batching'"),
        ("models: {a: {source: x}}\nautoscaling: {min: 3, max: 2}", "min is 3"),
        ("applications: [{}, {}]", "one application"),
    ],
)
def test_a_wrong_spec_is_explained(tmp_path: pathlib.Path, text: str, words: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        config_files.read_spec(path)


def test_a_pinned_config_is_what_serve_deploy_takes(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx")
    spec = ServingSpec.model_validate({"models": {"toy": {"source": str(path)}}})
    config = make_config(sources.pin(spec, settings(tmp_path)), settings(tmp_path))
    written = yaml.safe_load(config_files.write_config(config))
    assert written["applications"][0]["import_path"] == "raymlops.serving.app:build_app"
    again = ServingSpec.model_validate(written["applications"][0]["args"])
    assert again.models["toy"].version == "1"
    with pytest.raises(NotFoundError):
        sources.pin(
            ServingSpec.model_validate({"models": {"toy": {"source": "absent.onnx"}}}), settings(tmp_path)
        )


def test_folders_of_every_layout_are_found(tmp_path: pathlib.Path) -> None:
    plain = toy_models.save(toy_models.doubler(), tmp_path / "plain/any.onnx")
    mlflow = toy_models.save(toy_models.doubler(), tmp_path / "mlflow/model.onnx")
    toy_models.save(toy_models.doubler(), tmp_path / "triton/2/model.onnx")
    newest = toy_models.save(toy_models.doubler(), tmp_path / "triton/10/model.onnx")
    assert find_file(tmp_path / "plain") == plain
    assert find_file(tmp_path / "mlflow") == mlflow
    assert find_file(tmp_path / "triton") == newest
    with pytest.raises(NotFoundError):
        find_file(tmp_path)


def test_the_history_goes_back_one_deployment(tmp_path: pathlib.Path) -> None:
    history = History(settings(tmp_path), "flights")
    with pytest.raises(NotFoundError, match="no earlier deployment"):
        history.previous()
    for version in (1, 2, 2):
        history.add({"version": version})
    assert [entry["version"] for entry in history.read()] == [1, 2]
    assert history.previous() == {"version": 1}
    history.drop_newest()
    assert [entry["version"] for entry in history.read()] == [1]


def test_plain_sets_only_what_closes_it_and_fast_says_which_middleware() -> None:
    callback = {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raymlops.serving.fastpath.middleware:make_guards"
    }
    assert ray_serve_env.choose_environment(plain=True) == callback
    chosen = ray_serve_env.choose_environment(cores=8)
    assert chosen["RAY_SERVE_HAPROXY_NBTHREAD"] == "4"
    assert chosen["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"] == str(Limits().proxy_buffer_kb * 1024)
    assert ray_serve_env.choose_environment(buffer_kb=128)["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"] == "131072"
    assert (
        chosen["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
        == "raymlops.serving.fastpath.middleware:make_middlewares"
    )


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist() -> None:
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"], "unknown": [""]}
    shown = {name + end for name, family in FAMILIES.items() for end in ends[family.kind]} | GAUGES.keys()
    asked = []
    for file in ("serving.json", "monitoring.json"):
        board = json.loads((ROOT / "dashboards" / file).read_text())
        asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        asked += [entry["definition"] for entry in board["templating"]["list"] if "definition" in entry]
    rules = [
        rule
        for group in yaml.safe_load((ROOT / "dashboards/alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    asked += [rule["expr"] for rule in rules]
    for expression in asked:
        names = set(re.findall(r"\b(?:raymlops|nv|process|ray|serve)[_:][\w:]+", expression))
        assert names, expression
        assert names <= shown | recorded, expression
    known = {label for told in GAUGES.values() for label in told.labels} | {"application"}
    for rule in rules:  # a label that no series has would be an empty text
        for label in re.findall(r"\$labels\.(\w+)", rule.get("annotations", {}).get("summary", "")):
            assert label in known | {"instance", "node", "observer"}, rule


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool (Debian: apt-get install prometheus)"
)
def test_promtool_takes_the_rules_and_panels_and_made_up_series_raise_the_alerts(
    tmp_path: pathlib.Path,
) -> None:
    panels = [
        panel
        for file in ("serving.json", "monitoring.json")
        for panel in json.loads((ROOT / "dashboards" / file).read_text())["panels"]
    ]
    asked = [
        {"record": f"panel:{place}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for place, panel in enumerate(panels)
        for target in panel["targets"]
    ]
    made = tmp_path / "panels.yaml"
    made.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))
    for command in (["check", "rules", "alerts.yaml", str(made)], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=ROOT / "dashboards", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("operations: {leave_out: [trafic]}", "did you mean 'traffic'"),
        ("operations: {expiry_days: 0}", "operations.expiry_days"),
        ("slo: {errors: 1}", "slo.errors"),
        ("slo: {p99: 50}", "did you mean 'p99_ms'"),
        ("notify: {channels: {a: {kind: log}}, routes: [{to: b}]}", "Unknown channel 'b'"),
    ],
)
def test_objectives_and_checks_that_are_wrong_are_explained(
    tmp_path: pathlib.Path, text: str, told: str
) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(f"models: {{m: {{source: m.onnx}}}}\n{text}\n")
    with pytest.raises(SpecError, match=re.escape(told)):
        config_files.read_spec(path)


def test_operational_alarms_are_on_can_be_off_and_the_spec_takes_notify_yaml_along(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "serving.yaml"
    found = {}
    for text in ("", "operations: off", "operations: on", "operations: {leave_out: traffic, idle_min: 5}"):
        path.write_text(f"models: {{m: {{source: m.onnx}}}}\n{text}\n")
        found[text] = config_files.read_spec(path).operations
    assert found[""] == found["operations: on"] != found["operations: off"]
    assert found["operations: off"] is None
    last = found["operations: {leave_out: traffic, idle_min: 5}"]
    assert last is not None
    assert (last.leave_out, last.idle_min) == (("traffic",), 5)
    file = tmp_path / "notify.yaml"
    file.write_text("channels: {log: {kind: log}}\n")
    spec = config_files.read_spec(path)
    assert spec.notify is not None
    assert (list(spec.notify.channels), spec.notify_file) == (["log"], str(file))
