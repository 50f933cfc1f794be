"""From the registry to an answer over HTTP with the commands that people type."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from raymlops.serving.transport.api_keys import make_key
from raymlops.serving.transport.key_files import write_keys
from tests import toy_models
from tests.serving_process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_promoted_version_is_served_under_its_number(tmp_path: pathlib.Path) -> None:
    environment = {
        **os.environ,
        "RAYMLOPS_HOME": str(tmp_path / "home"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }

    def raymlops(*arguments: str) -> str:
        command = [sys.executable, "-m", "raymlops", "--debug", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    file = toy_models.save(toy_models.flights(), tmp_path / "flights.onnx")
    for _ in range(2):
        raymlops("register", str(file), "--name", "flights", "--why", "a test")
    raymlops("promote", "flights", "2", "--force", "--why", "a test")
    application = {
        "name": "flights",
        "import_path": "raymlops.serving.app:build_app",
        "args": {"models": {"flights": {"source": "models:/flights@champion"}}, "cpus": 0.2},
    }
    config = tmp_path / "flights.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": free_port()}, "applications": [application]}))
    pinned = yaml.safe_load(raymlops("deploy", str(config), "--print"))["applications"][0]["args"]["models"]
    assert pinned["flights"]["source"] == "models:/flights/2"
    token, key = make_key("tester", ("infer", "view"))
    write_keys(tmp_path / "keys.yaml", [key])
    application["args"]["keys"] = str(tmp_path / "keys.yaml")  # type: ignore[index]
    config.write_text(yaml.safe_dump({"http_options": {"port": free_port()}, "applications": [application]}))
    said = raymlops("serve", str(config), "--check", "--key", token)
    assert "flights version 2: POST" in said
    assert '"model_version":"2"' in said
    assert '"name":"label"' in said
    assert said.splitlines()[-1].endswith(f"Next: raymlops serve {config}")
