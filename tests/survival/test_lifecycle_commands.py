"""A stranger's way: what the quick start has its readers save and type, as it stands, then the commands of the other
pages for the model that came of it. Each is a process of its own, in a fresh folder."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.documented_commands import (
    FEWER,
    PAGES,
    QUICK_START,
    RUN_ON_A_CLUSTER,
    commands_on_a_cluster,
    write_quick_start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_commands_of_the_lifecycle_run_in_the_order_of_the_pages(tmp_path: pathlib.Path) -> None:
    write_quick_start(tmp_path)
    home = tmp_path / "home"
    environment = {**os.environ, "RAYMLOPS_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    said: dict[str, list[str]] = {}
    for command in commands_on_a_cluster([QUICK_START, *(page for page in PAGES if page != QUICK_START)]):
        words = command.words
        if words[0] == "raymlops":
            words = [sys.executable, "-P", "-m", *words]
        words[0] = sys.executable
        verb = words[4] if "-m" in words else "table"
        shutil.rmtree(tmp_path / "scores", ignore_errors=True)
        done = subprocess.run(
            [*words, *(FEWER if verb == "search" else ())],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{command}: {shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        said.setdefault(verb, []).append(done.stdout)
        if verb == "search":
            (model, *_) = (home / "models/cells").glob("*/model.onnx")
            shutil.copy(model, tmp_path / "model.onnx")  # as a reader has one
    for version, told in enumerate(said["search"], 1):
        assert f"models:/cells/{version}  (@champion)" in told
    assert "Wrote 569 rows" in said["predict"][0]
    assert set(said) == {"table"} | {
        words.split()[1] for words in RUN_ON_A_CLUSTER if words.startswith("raymlops")
    }
