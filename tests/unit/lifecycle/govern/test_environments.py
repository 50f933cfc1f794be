"""Environments are rebuilt from locks and commits: real venvs, pip with wheels of a folder, a real repository."""

import pathlib
import platform
import subprocess
import zipfile

import pytest

from raymlops.errors import NotFoundError, ResourceError, SpecError
from raymlops.lifecycle.govern import environments, provenance
from raymlops.lifecycle.govern.reproduce import compare_locks

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
    with pytest.raises(NotFoundError, match="There is no commit 000000000000 here"):
        environments.build_environment(HEAD, "0" * 40, tmp_path / "built", print)
    with pytest.raises(NotFoundError, match=r"python3\.5, which is not on the PATH"):
        environments.find_interpreter("# Python 3.5.1 on Linux x86_64\n")


def test_locks_differ_in_packages_and_not_in_our_own_which_the_commit_names() -> None:
    lock = f"{HEAD}a==1\nraymlops==0.1.0\n"
    assert compare_locks(lock, f"{HEAD}a==1\nraymlops==0.2.0\n") == ()
    assert compare_locks(lock, f"{HEAD}a==2\nb==1\n") == ("a: 1 -> 2", "b: absent -> 1")
    assert compare_locks("", lock) == ("no lock was recorded",)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple",
        "-i https://evil.example",
        "--extra-index-url=https://evil.example/a==1",
        "-r other.txt",
        "-e .",
        "-c x==1",
        "name @ https://evil.example/x-1.0.tar.gz",
        "name@https://evil.example/x==1",
        "https://evil.example/x==1.0.whl",
        "git+https://evil.example/x@a==1",
        "./local==1",
        "../x==1",
        "name==1 ; python_version > '3'",
        "name==1; os_name=='posix'",
        "name[extra]==1",
        "name===1",
        "name>=1",
        "name==1,==2",
        "name==1.*",
        "name==1 --hash=md5:00",
        "name==1 --hash=sha256:00",
        f"name==1 --hash=sha256:{'0' * 64} --index-url=x",
        "name==1 \\",
        "name==1\\",
        "name == 1",
        " name==1",
        "name==1 ",
        "name==1\t",
        "name==1\r",
        "name==1\x0b--index-url https://evil.example",
        "name==1\x0c-i x",
        "name==1\x85-r x",
        "name==1\u2028--index-url x",
        "ｎame==1",
        "nаme==1",
        "${HOME}==1",
        "name==${X}",
        "# a comment==1",
        "# Python 3.11 on Linux\nname==1",
        "-name==1",
        "name-==1",
        "==1",
        "name==",
        "name==-1",
        "name",
        "tiny==2.0",
        "Tiny==2.0",
    ],
)
def test_a_line_of_a_lock_that_is_more_than_a_name_and_a_version_is_refused_with_its_number(
    line: str,
) -> None:
    with pytest.raises(SpecError, match=r"The lock of packages, line 3: "):
        environments.read_lock(f"{HEAD}tiny==1.0\n{line}\n")


def test_the_lock_of_this_environment_is_one_that_is_read() -> None:
    locked = environments.read_lock(provenance.environment_lock())
    assert len(locked) == provenance.environment_lock().count("==")
    digest = "a" * 64
    hashed, plain = environments.to_requirements(
        environments.read_lock(f"{HEAD}a==1.0+cpu --hash=sha256:{digest}\nraymlops==0.1\nb_c==2!1.post1\n")
    )
    assert (hashed, plain) == (f"a==1.0+cpu --hash=sha256:{digest}\n", "b_c==2!1.post1\n")


@pytest.mark.parametrize(
    "commit", ["--upload-pack=x", "HEAD", "a" * 39, "a" * 40 + "^{/x}", "A" * 40, "a" * 40 + "\n"]
)
def test_a_commit_is_hexadecimal_before_git_sees_it(commit: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="is not 40 hexadecimal digits"):
        environments.build_environment(HEAD, commit, tmp_path / "built", print)
    assert not (tmp_path / "built").exists()


def test_a_recorded_path_does_not_lead_out_of_the_environment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    (tmp_path / "a" / "rows").touch()
    monkeypatch.chdir(here)
    code = tmp_path / "environments" / "x" / "code"
    code.mkdir(parents=True)
    built = environments.Environment(code / "python", code)
    with pytest.raises(SpecError, match="leads out of the environment"):
        built.link(["../../rows"])
