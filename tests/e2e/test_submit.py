"""`raymlops submit` and `doctor` against a real cluster with token authentication that does not have the package."""

import base64
import json
import pathlib
import shutil
from collections.abc import Iterator

import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost

from raymlops.specs.document import parse_document
from raymlops.specs.experiment import ExperimentSpec
from tests.cluster_process import ROOT, Head, head_for, make_bare_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    yield from head_for(folder, make_bare_python(folder / "bare"), "--num-cpus=2")


@pytest.mark.parametrize("token", ["", "wrong" * 10])
def test_nobody_gets_in_without_the_token(head: Head, token: str) -> None:
    for path in ("/api/jobs/", "/api/v0/nodes", "/nodes?view=summary"):
        assert head.get(path, token).status_code in (401, 403)


def test_a_wrong_token_is_told_with_the_remedy(head: Head, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").write_text("x" * 64)
    done = head.run("submit", "check", "jobs/specs/digits.yaml", RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr


def test_a_job_runs_on_a_cluster_without_the_package_and_its_log_comes_back(head: Head) -> None:
    done = head.run("submit", "check", "jobs/specs/digits.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jobs/specs/digits.yaml is valid: model 'digits'" in done.stdout
    assert "succeeded" in done.stderr


def test_a_spec_is_made_by_a_job_and_printed_here(head: Head) -> None:
    done = head.run("submit", "init", "tests/kept/rows.csv", "--target", "late", "--output", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout[done.stdout.index("# Made from") :]
    spec = parse_document(text.partition("\nJob ")[0], ExperimentSpec)
    assert (spec.features.target.column, spec.features.timestamps) == ("late", ("when",))


def test_a_saved_model_of_another_library_is_converted_by_a_job(head: Head, tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"age": draw.normal(40, 10, 300), "amount": draw.exponential(100, 300)})
    rows.loc[::9, "age"] = np.nan
    rows.to_parquet(tmp_path / "sample.parquet")
    trained = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(rows, rows["amount"] > 90), 5)
    trained.save_model(tmp_path / "model.json")
    done = head.run(
        "submit", "convert", str(tmp_path / "model.json"), "--name", "sent_boosting", "--data",
        str(tmp_path / "sample.parquet"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Parity on 300 rows of the sample" in done.stdout
    assert "Registered models:/sent_boosting/1" in done.stdout


def test_alarms_and_channels_are_those_of_the_cluster(head: Head) -> None:
    listed = head.run("submit", "alarms", "--open")
    assert (listed.returncode, "No alarm is open." in listed.stdout) == (0, True), (
        listed.stdout + listed.stderr
    )
    checked = head.run("submit", "notify", "check", "--file", "examples/notify.yaml")
    assert checked.returncode == 2, checked.stdout + checked.stderr
    assert "ONCALL_SECRET, which notify.yaml names, is not set" in checked.stdout  # on that node


def test_a_job_that_fails_gives_its_own_exit_code(head: Head) -> None:
    done = head.run(
        "submit", "predict", "no-such-model.onnx", "no-such-data.parquet", "--output", "/tmp/never"
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Error: " in done.stdout
    assert "ended with exit code 2" in done.stderr


def test_a_job_may_be_left_and_followed_later_and_its_metadata_hold_no_secret(
    head: Head, tmp_path: pathlib.Path
) -> None:
    trusted = "ed25519:" + base64.b64encode(bytes(range(32))).decode()
    (tmp_path / "colleague.pub").write_text(trusted)
    left = head.run(
        "submit", "--no-wait", "check", "jobs/specs/digits.yaml",
        RAYMLOPS_TRUSTED_KEYS=str(tmp_path / "colleague.pub"),
    )  # fmt: skip
    identity = left.stdout.strip()
    assert left.returncode == 0, left.stderr
    followed = head.run("submit", "--follow", identity)
    assert followed.returncode == 0
    assert "is valid" in followed.stdout
    shown = json.dumps(head.get("/api/jobs/").json())
    assert identity in shown
    assert trusted in shown  # a file of this machine says nothing to the cluster
    assert head.token_path.read_text() not in shown


def test_a_job_nobody_knows_is_told(head: Head) -> None:
    done = head.run("submit", "--follow", "raysubmit_none")
    assert done.returncode == 2
    assert "has no job" in done.stderr


def test_what_cannot_work_is_told_before_anything_is_sent(head: Head, tmp_path: pathlib.Path) -> None:
    before = len(head.get("/api/jobs/").json())
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (tmp_path / "big.bin").write_bytes(b"\0" * (101 * 2**20))
    autoscaling = ("submit", "search", "jobs/specs/digits.yaml", "--autoscaling")
    refused = {
        ("submit", "search", "jobs/specs/digits.yaml", "--set", "training.epohcs=3"): "did you mean 'epochs'",
        ("submit", "search", "jobs/specs/digits.yaml", "--set", "training.workers=9"): "at most 2 fit",
        ("submit", "search", "jobs/specs/digits.yaml", "--set", "training.use_gpu=true"): "add --autoscaling",
        (*autoscaling, "--set", "training.cpus_per_worker=99"): "Even with all the nodes",
        (
            *autoscaling,
            "--set",
            "training.labels={raymlops/pool: tpu}",
        ): "with labels {'raymlops/pool': 'tpu'}",
        ("submit", "serach", "jobs/specs/digits.yaml"): "did you mean 'search'",
        ("submit", "init", "rows.csv", "--target", "y"): "or --output - to print the spec here",
        ("submit", "predict", "m.onnx", "rows.csv", "--output", "scores"): "an absolute path on storage",
        ("submit", "search", "jobs/specs/digits.yaml", "--speed=9"): "No such option",
        (
            "submit",
            "--env",
            "MLFLOW_TRACKING_PASSWORD=x",
            "search",
            "jobs/specs/digits.yaml",
        ): "looks like a secret",
        ("submit", "--working-dir", str(tmp_path), "check", "jobs/specs/digits.yaml"): "101.0 MiB  big.bin",
        ("submit", "--env", "RAYMLOPS_STORAGE=here", "search", "jobs/specs/digits.yaml"): "temporary copy",
        (
            "submit",
            "--env",
            "RAYMLOPS_STORAGE=/proc/x",
            "search",
            "jobs/specs/digits.yaml",
        ): "cannot be written",
    }
    for (arguments, told), done in zip(refused.items(), head.run_in_turn(*refused), strict=True):
        assert done.returncode == 2, arguments
        assert told in done.stderr, (arguments, done.stderr)
    assert len(head.get("/api/jobs/").json()) == before


def test_a_search_runs_as_a_job_and_leaves_its_run(head: Head) -> None:
    done = head.run(
        "submit", "search", "jobs/specs/digits.yaml", "--set", "training.epochs=1", "--set", "search.trials=2",
        "--name",
        "sent",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Trial 2 of 2" in done.stdout
    client = mlflow.MlflowClient(f"sqlite:///{head.environment['RAYMLOPS_HOME']}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 3


def test_the_doctor_asks_the_nodes(head: Head, tmp_path: pathlib.Path) -> None:
    specs = ROOT / "jobs" / "specs"
    sound = head.run("doctor", "--cluster", head.address, str(specs / "digits.yaml"), cwd=tmp_path)
    assert "1 nodes at" in sound.stdout, sound.stdout + sound.stderr
    assert "does not have raymlops" in sound.stdout
    assert "0 errors" in sound.stdout
    labelled = tmp_path / "labelled.yaml"
    text = (specs / "digits.yaml").read_text()
    labelled.write_text(text.replace("training:\n", "training:\n  labels: {raymlops/pool: tpu}\n"))
    nowhere = head.run("doctor", "--cluster", head.address, str(labelled), cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "can never be met" in nowhere.stdout
    assert "with labels {'raymlops/pool': 'tpu'}" in nowhere.stdout
    variables = {"RAYMLOPS_STORAGE": "/proc/nowhere", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    broken = head.run(
        "doctor", "--cluster", head.address, str(specs / "flights.yaml"), cwd=tmp_path, **variables
    )
    assert broken.returncode == 2
    assert "cannot write to the storage" in broken.stdout
    assert "cannot reach http://127.0.0.1:9" in broken.stdout
