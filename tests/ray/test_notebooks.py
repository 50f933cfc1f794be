"""The notebooks of examples/ run from top to bottom, in the order they are read, and keep no outputs in git."""

import os
import pathlib
from typing import Any

import nbclient
import nbformat
import pytest
import ray

from raymlops.serving.deploy import client
from tests.serving_process import free_port

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "examples"


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_notebook_runs_on_a_cluster_that_is_there_and_leaves_it_as_it_was(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAYMLOPS_HOME": str(tmp_path / "home"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    shown = {}
    for name in ("first_model", "serve_and_ask"):
        notebook = read(name)
        for cell in notebook.cells:  # two clusters may run on one machine
            cell.source = cell.source.replace(
                "raymlops.serve(spec)", f'raymlops.serve(spec, overrides={{"port": {free_port()}}})'
            )
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute(env=environment)
        shown[name] = str([cell.get("outputs") for cell in notebook.cells])
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(shown)
    assert "2 of 2 trials" in shown["first_model"]  # the bar
    assert "<iframe" in shown["first_model"]  # the report
    assert "models:/flowers/2" in shown["first_model"]
    assert "virginica" in shown["serve_and_ask"]
    assert not client.is_serving()
    assert not client.running_configs()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_holds_what_it_printed(path: pathlib.Path) -> None:
    for cell in read(path.stem).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source
