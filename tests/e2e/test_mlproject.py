import os
import pathlib
import re
import subprocess
import sys

import mlflow
import pytest
import yaml

from raymlops.cli import VERBS

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


@pytest.mark.parametrize("name", [name for name in PROJECT["entry_points"] if name != "main"])
def test_every_entry_point_is_a_job_and_gives_only_parameters_that_it_has(name: str) -> None:
    entry = PROJECT["entry_points"][name]
    assert entry["command"].startswith(f"python jobs/{name}.py ")
    assert (ROOT / "jobs" / f"{name}.py").is_file()
    assert name in VERBS
    assert set(re.findall(r"{(\w+)}", entry["command"])) == set(entry["parameters"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_run_searches_and_its_run_is_the_parent_of_ours(tmp_path: pathlib.Path) -> None:
    spec = yaml.safe_load((ROOT / "jobs/specs/digits.yaml").read_text())
    spec["training"]["epochs"] = 1
    spec["search"]["trials"] = 1
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(spec))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))
    } | {
        "RAYMLOPS_HOME": str(tmp_path / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", "--experiment-name", "digits",
         "-e", "search",
         "-P", f"spec={tmp_path / 'digits.yaml'}"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    (project,) = [run.info.run_id for run in runs if "mlflow.project.entryPoint" in run.data.tags]
    (search,) = [run.info.run_id for run in runs if "raymlops.search" in run.data.tags]
    assert parents[project] is None
    assert parents[search] == project
    assert [parents[run] for run in parents if run not in (project, search)] == [search]
    assert {run.info.status for run in runs} == {"FINISHED"}
