"""What an earlier version of this package wrote is read by this one: see tests/kept/README.md."""

import csv
import fcntl
import importlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import yaml

from raymlops.specs.graph_nodes import NODE_DOCUMENTS
from tests.commands_in_turn import run_in_turn
from tests.serving_process import free_port, separate_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPOSITORY = pathlib.Path(__file__).parents[2]
KEPT = REPOSITORY / "tests/kept"
FOLDER = pathlib.Path("/tmp/kept-y7fk8hdq")
Said = Callable[..., str]

COMMANDS = [
    ["history", "--json", "kept"],
    ["lineage", "models:/kept/2", "--json"],
    ["diff", "models:/kept/1", "models:/kept/2"],
    ["evaluate", "models:/kept/2", "--json"],
    ["predict", "models:/kept/2", "rows.csv", "--output", "again", "--keep", "id", "--quiet"],
    ["graph", "graph.yaml", "--check"],
    ["predict", "graph.yaml", "graph_rows.jsonl", "--output", "answers", "--format", "jsonl", "--keep", "row"],
    ["search", "cut.yaml", "--resume", "--why", "to end it", "--quiet"],
    ["lineage", "models:/cut/1", "--json"],
    ["deploy", "deployed.yaml", "--rollback", "--print"],
    ["promote", "kept", "1", "--why", "by this version", "--force"],
    ["rollback", "kept", "--why", "and back"],
    ["history", "kept"],
]  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[pathlib.Path]:
    """The user's folder where it was, since Ray Tune names checkpoints by absolute paths: specs, tracking store,
    artifacts, and storage. One run of the tests at a time has it."""
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(FOLDER, ignore_errors=True)  # of a run that was killed
        shutil.copytree(KEPT, FOLDER)
        text = (FOLDER / "mlflow.sql").read_text(encoding="utf-8")
        with sqlite3.connect(FOLDER / "home/mlflow.db") as database:
            database.executescript(text.replace("@ROOT@", str(FOLDER)))
        database.close()
        yield FOLDER
        shutil.rmtree(FOLDER)


@pytest.fixture(scope="module")
def environment_of_user(folder: pathlib.Path) -> dict[str, str]:
    """Of another user than the one who signed the files, who trusts that one's key."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "RAY_TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "USER": "bob",
        "PYTHONPATH": str(REPOSITORY),
        "RAYMLOPS_HOME": str(folder / "home"),
        "RAYMLOPS_TRUSTED_KEYS": str(folder / "key.pub"),
    }


@pytest.fixture(scope="module")
def said(folder: pathlib.Path, environment_of_user: dict[str, str]) -> Said:
    """What each command said, by its first words; all ran in one process with one cluster."""
    answers = run_in_turn(COMMANDS, folder, environment_of_user)

    def find(*words: str) -> str:
        command = next(one for one in COMMANDS if one[: len(words)] == list(words))
        done = answers[COMMANDS.index(command)]
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return find


def test_a_record_holds_and_goes_on(said: Said) -> None:
    record = orjson.loads(said("history", "--json"))
    assert record["problems"] == []
    moves = [(entry["action"], entry["alias"], entry["version"]) for entry in record["entries"]]
    assert moves[0] == ("register", "", "1")
    assert ("promote", "champion", "2") in moves
    assert {entry["who"] for entry in record["entries"]} == {"ann"}
    assert "moved from version 2 to version 1" in said("promote")
    assert "moved back from version 1 to version 2" in said("rollback")
    said("history", "kept")  # which fails where a problem is found


def test_a_version_tells_its_lineage_and_what_differs_from_another(said: Said) -> None:
    facts = orjson.loads(said("lineage", "models:/kept/2"))
    assert (facts["who"], facts["why"]) == ("ann", "the second")
    assert "spec: training.lr: 0.03 -> 0.02" in said("diff")


def test_a_version_is_measured_and_answers_as_it_did(said: Said, folder: pathlib.Path) -> None:
    measured = orjson.loads(said("evaluate"))
    with sqlite3.connect(folder / "home/mlflow.db") as database:
        query = "SELECT value FROM model_version_tags WHERE key = 'raymlops.test' AND name = 'kept' AND version = 2"
        (tag,) = database.execute(query).fetchone()
    database.close()
    for name, value in orjson.loads(
        tag
    ).items():  # of the rows one by one, as all metrics of few rows are by now
        assert measured["metrics"][name]["value"] == pytest.approx(value, abs=1e-5), name
    said("predict", "models:/kept/2")
    found = pq.read_table(folder / "again").sort_by("id").to_pydict()
    rows = list(csv.DictReader((folder / "scores.csv").read_text().splitlines()))
    rows.sort(key=lambda row: int(row["id"]))
    assert found["id"] == [int(row["id"]) for row in rows]
    assert found["label"] == [row["label"] for row in rows]
    np.testing.assert_allclose(found["probability"], [float(row["probability"]) for row in rows], atol=1e-6)


def test_a_search_that_was_cut_off_goes_on_and_ends(said: Said, folder: pathlib.Path) -> None:
    assert "models:/cut/1" in said("search")
    mark = orjson.loads((folder / "home/storage/cut-off/raymlops.mark").read_bytes())
    assert mark["done"] is True
    with sqlite3.connect(folder / "home/mlflow.db") as database:
        query = (
            "SELECT status FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = 'cut'"
        )
        statuses = [status for (status,) in database.execute(query)]
    database.close()
    assert statuses == ["FINISHED"] * 3  # of the search and its two trials, none twice
    assert orjson.loads(said("lineage", "models:/cut/1"))["why"] == "to end it"


def test_what_was_deployed_before_is_gone_back_to(said: Said) -> None:
    config = yaml.safe_load(said("deploy"))["applications"][0]
    module, _, name = config["import_path"].partition(":")
    assert config["import_path"] == "raymlops.serving.app:build_app"
    assert callable(getattr(importlib.import_module(module), name))
    assert config["args"]["models"]["kept"]["source"] == "models:/kept/1"


def test_a_graph_of_every_kind_of_node_answers_as_it_did(said: Said, folder: pathlib.Path) -> None:
    kinds = {node["kind"] for node in yaml.safe_load((KEPT / "graph.yaml").read_text())["nodes"].values()}
    assert kinds == set(NODE_DOCUMENTS)
    assert "every-kind: a valid graph of" in said("graph")
    said("predict", "graph.yaml")
    found = _read_lines(b"".join(path.read_bytes() for path in (folder / "answers").glob("*.jsonl")))
    kept = _read_lines((folder / "graph_answers.jsonl").read_bytes())
    assert found.keys() == kept.keys()
    for row, answer in kept.items():
        assert found[row].keys() == answer.keys()
        for name, values in answer.items():
            np.testing.assert_allclose(
                found[row][name], values, rtol=1e-4, atol=1e-6, err_msg=f"{row} {name}"
            )


def _read_lines(text: bytes) -> dict[int, dict[str, Any]]:
    return {row.pop("row"): row for row in map(orjson.loads, text.splitlines())}


def test_a_serving_config_of_a_version_a_file_a_graph_and_a_folder_serves(
    said: Said, folder: pathlib.Path, environment_of_user: dict[str, str]
) -> None:
    said("rollback")
    done = subprocess.run(
        [sys.executable, "-m", "raymlops", "serve", "serving.yaml", f"port={free_port()}", "--check"],
        cwd=folder, env=environment_of_user | separate_ports(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "kept version 2: POST" in done.stdout
    for name in ("one", "every-kind", "c4"):
        assert f'"model_name":"{name}"' in done.stdout
