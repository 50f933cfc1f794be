"""Environments are rebuilt from locks and commits: real venvs, pip with wheels of a folder, a real repository."""

import pathlib
import platform
import subprocess
import zipfile

import pytest

from raymlops.errors import NotFoundError, ResourceError
from raymlops.pipelines import environments
from raymlops.pipelines.reproduction import compare_locks

PROGRAM = """import importlib.metadata, pathlib, sys, tiny
ours = importlib.metadata.version("raymlops")
pathlib.Path(sys.argv[1]).write_text("code {number} of " + ours + ", tiny " + tiny.VERSION)
"""
HEAD = f"# Python {platform.python_version()} on Linux x86_64\n"


def write_wheel(folder: pathlib.Path, version: str) -> None:
    """A package `tiny` that knows its version."""
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def commits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A repository with a package named as ours, which says what it sees; its two commits."""
    root = tmp_path / "repository"
    (root / "raymlops").mkdir(parents=True)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    made = []
    for number in (1, 2):
        (root / "raymlops" / "__main__.py").write_text(PROGRAM.format(number=number))
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", str(number)], check=True)
        made.append(
            subprocess.run(
                [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
            ).stdout.strip()
        )
    for version in ("1.0", "2.0"):
        write_wheel(tmp_path, version)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return made


@pytest.mark.slow
def test_the_recorded_packages_run_the_recorded_code(commits: list[str], tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    lock = f"{HEAD}raymlops==0.1.0\ntiny==1.0\n"
    built = environments.build_environment(lock, commits[0], tmp_path / "built", said.append)
    (tmp_path / "repository" / "data").mkdir()
    built.link(["data", "s3://bucket/data", str(tmp_path)])
    assert (built.code / "data").samefile(tmp_path / "repository" / "data")
    assert built.run([str(tmp_path / "answer")], tmp_path) == 0
    assert (tmp_path / "answer").read_text() == "code 1 of 0.1.0, tiny 1.0"
    again = environments.build_environment(lock, commits[0], tmp_path / "built", said.append)
    assert (again, len(said)) == (built, 1)  # it is made once

    with pytest.raises(ResourceError, match=r"tiny==3\.0"):
        environments.build_environment(f"{HEAD}tiny==3.0\n", commits[0], tmp_path / "built", said.append)


def test_what_is_not_here_is_named(commits: list[str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="No commit 000000000000 here"):
        environments.build_environment(HEAD, "0" * 40, tmp_path / "built", print)
    with pytest.raises(NotFoundError, match=r"python3\.5, which is not on the PATH"):
        environments.find_interpreter("# Python 3.5.1 on Linux x86_64\n")


def test_locks_differ_in_packages_and_not_in_our_own_which_the_commit_names() -> None:
    lock = f"{HEAD}a==1\nraymlops==0.1.0\n"
    assert compare_locks(lock, f"{HEAD}a==1\nraymlops==0.2.0\n") == ()
    assert compare_locks(lock, f"{HEAD}a==2\nb==1\n") == ("a: 1 -> 2", "b: absent -> 1")
    assert compare_locks("", lock) == ("no lock was recorded",)
