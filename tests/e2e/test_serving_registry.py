"""From the registry to an answer over HTTP with the commands that people type."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import yaml

from raymlops.lifecycle.captures import reading
from raymlops.monitoring.tick_store import find_root
from raymlops.serving.endpoints.answered_rows import find_ended, find_folder
from raymlops.serving.transport.api_keys import make_key
from raymlops.serving.transport.key_files import write_keys
from raymlops.settings import Settings
from raymlops.tensors import Batch
from tests import toy_models
from tests.commands_in_turn import run_in_turn
from tests.monitored_versions import add_reference, list_ticks
from tests.serving_process import free_port, separate_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_promoted_version_is_served_under_its_number(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "RAYMLOPS_HOME": str(tmp_path / "home"), **separate_ports()}
    file = toy_models.save(toy_models.flights(), tmp_path / "flights.onnx")
    application = {
        "name": "flights",
        "import_path": "raymlops.serving.app:build_app",
        "args": {"models": {"flights": {"source": "models:/flights@champion"}}, "cpus": 0.2},
    }
    config = tmp_path / "flights.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": free_port()}, "applications": [application]}))
    register = ["register", str(file), "--name", "flights", "--why", "a test"]
    promote = ["promote", "flights", "2", "--force", "--why", "a test"]
    commands = [register, register, promote, ["deploy", str(config), "--print"]]
    answers = run_in_turn(commands, tmp_path, environment)
    assert [done.returncode for done in answers] == [0] * 4, answers
    pinned = yaml.safe_load(answers[-1].stdout)["applications"][0]["args"]["models"]
    assert pinned["flights"]["source"] == "models:/flights/2"
    settings = Settings.from_env(environment)
    rows: Batch = {
        "distance": np.array([100, 200, 300] * 10, np.float32),
        "carrier": np.array(["UA", "DL", "B6"] * 10, object),
        "departure": np.full(30, 1_700_000_000_000),
    }
    add_reference("models:/flights/2", rows, settings)
    token, key = make_key("tester", ("infer", "view"))
    write_keys(tmp_path / "keys.yaml", [key])
    application["args"]["keys"] = str(tmp_path / "keys.yaml")  # type: ignore[index]
    application["args"]["capture"] = {"file_s": 1, "drop": ["carrier"]}  # type: ignore[index]
    config.write_text(yaml.safe_dump({"http_options": {"port": free_port()}, "applications": [application]}))
    serve = [sys.executable, "-m", "raymlops", "--debug", "serve", str(config), "--check", "--key", token]
    done = subprocess.run(serve, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    said = done.stdout
    assert "flights version 2: POST" in said
    assert '"model_version":"2"' in said
    assert '"name":"label"' in said
    assert said.splitlines()[-1].endswith(f"Next: raymlops serve {config}")
    ticks = list_ticks(settings, "flights")
    for tick in ticks:
        assert (tick.place.model, tick.place.version, tick.place.role) == ("flights", "2", "endpoint")
        assert (tick.rows, tick.requests) == (1, {"2xx": 1})
        assert (tick.counts[:, :31].sum(axis=1) == 1).all()
    # of a replica that ended before the collector was there, a file of the node tells
    noted = [
        ended.answered["flights"]
        for _, ended in find_ended(find_folder("flights", find_root(settings.storage_path)))
    ]
    assert sum(tick.answered for tick in ticks) + sum(noted) == 1
    store = reading.find_store(settings)
    (row,) = reading.show_rows(store, "flights").to_pylist()
    assert row["outputs.label"] is not None
    assert "inputs.carrier" not in row
    (traced,) = reading.trace_request(store, row["request_id"], settings)
    assert (traced.source, traced.version) == ("models:/flights/2", "2")
    assert traced.lineage["models:/flights/2"]["version"] == "models:/flights/2"
    assert traced.lineage["models:/flights/2"]["why"] == "a test"
