"""A family of models that is added to ours, as CONTRIBUTING.md says."""

import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from raymlops.data.sources import load_attribute
from raymlops.errors import RaymlopsError, SpecError
from raymlops.training import learners, networks
from raymlops.training.learners import find_learner
from tests import learner_rows

ROOT = pathlib.Path(__file__).parents[3]
USE = """
import raymlops
from raymlops.data.sources import load_attribute
from raymlops.errors import SpecError

spec = {"name": "toy", "dataset": {"path": "rows.parquet"}, "training": {"learner": "logistic", "options": {"C": 2}},
        "features": {"target": {"column": "y"}, "numbers": ["x"]}}
raymlops.read_spec(spec)
try:
    raymlops.read_spec(spec, {"training.options": {"c": 2}})
except SpecError as error:
    print(error)
"""


def test_a_family_is_one_new_file_and_one_line(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (diff,) = (
        found
        for found in re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
        if "raymlops/training/learners/" in found
    )
    assert re.findall(r"^diff --git a/(\S+)", diff, re.MULTILINE) == [
        "raymlops/training/learners/__init__.py"
    ]
    shutil.copytree(ROOT / "raymlops", tmp_path / "raymlops", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "learner.diff").write_text(diff)
    patch = ["git", "apply", "--unsafe-paths", "--recount", "learner.diff"]
    subprocess.run(patch, cwd=tmp_path, check=True)
    shutil.copy(ROOT / "tests" / "own_learners.py", tmp_path / "raymlops/training/learners/logistic.py")
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"a logistic regression takes C" in done.stdout


@pytest.mark.parametrize("find", [find_learner, networks.find_network, load_attribute])
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def broken(:", "SyntaxError: invalid syntax (own_broken_family.py, line 1)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_mistake_in_a_users_own_module_is_told_with_its_cause(
    find: Callable[[str], Any],
    text: str,
    cause: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_broken_family.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match=re.escape(f"'own_broken_family:Forest': {cause}")):
        find("own_broken_family:Forest")


def test_a_learner_that_leaves_its_process_is_named() -> None:
    spec = learner_rows.spec_for("tests.own_learners:Leaving")
    rows = learner_rows.draw_rows(50, "binary", 0)
    run = learners.Run(learner_rows.job_for(spec, "binary", rows, rows), spec, lambda *_: True)
    with pytest.raises(RaymlopsError, match=r"own_learners:Leaving' called sys.exit\(0\)"):
        learners.fit(run)
