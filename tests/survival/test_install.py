"""A cluster that has Ray and nothing else runs a search that brings its packages along."""

import pathlib
import subprocess
import sys
import venv

import mlflow
import pytest
import ray

from tests.cluster_process import ROOT, Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def make_python_with_ray(folder: pathlib.Path) -> pathlib.Path:
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-qq",
        "-c",
        ROOT / "constraints.txt",
        f"ray[default]=={ray.__version__}",
    ]
    subprocess.run(install, check=True, timeout=400)
    found = subprocess.run(
        [python, "-c", "import torch"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert "No module named 'torch'" in found.stderr, found.stderr
    return python


def test_a_job_installs_what_its_cluster_lacks(tmp_path: pathlib.Path) -> None:
    head = Head(tmp_path / "head", make_python_with_ray(tmp_path / "bare"), "--num-cpus=2")
    submit = [sys.executable, "-P", "-m", "raymlops", "submit"]
    search = ["search", "jobs/specs/digits.yaml", "--set", "training.epochs=1", "--set", "search.trials=2"]
    try:
        lacking = subprocess.run(
            [*submit, *search], cwd=ROOT, env=head.environment, capture_output=True, text=True
        )
        assert lacking.returncode != 0
        assert "No module named" in lacking.stdout
        done = subprocess.run(
            [*submit, "--install", *search],
            cwd=ROOT,
            env=head.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    finally:
        head.stop()
    client = mlflow.MlflowClient(f"sqlite:///{head.environment['RAYMLOPS_HOME']}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
