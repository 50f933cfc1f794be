"""`make run`, as its lines stand in the Makefile: the main job on 336,776 flights, and one question to its endpoint."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.cluster_process import ROOT
from tests.serving_process import free_port, separate_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def recipe_of(target: str) -> list[str]:
    """The lines of a target, with the Makefile's own variables in their places."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(\w+) [:?]= (.*)$", text, re.MULTILINE)) | {"PY": sys.executable}
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [
        re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], line)
        for line in lines.strip("\t\n").split("\n\t")
    ]


def test_the_main_job_runs_to_its_end(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "RAYMLOPS_HOME": str(tmp_path / "home"), **separate_ports()}
    search, serve = recipe_of("run")
    said = []
    for line in (search, f"{serve} port={free_port()}"):
        done = subprocess.run(
            shlex.split(line), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said.append(done.stdout)
    assert "models:/flights/1  (@champion)" in said[0]
    assert "Every model has answered" in said[1]
