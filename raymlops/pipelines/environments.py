"""Rebuilds what a version was made with: a venv of exactly the recorded packages, and the code of its commit."""

import dataclasses
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

import raymlops
from raymlops.errors import NotFoundError, ResourceError
from raymlops.settings import read_environment

_DONE = "complete"


@dataclasses.dataclass(frozen=True)
class Environment:
    """An interpreter, and the folder of the code that it runs in, as Ray's workers import from the driver's."""

    python: pathlib.Path
    code: pathlib.Path

    def run(self, arguments: Sequence[str], home: pathlib.Path) -> int:
        """`raymlops ARGUMENTS` in it, on a cluster of this machine; gives the exit code."""
        kept = {name: value for name, value in read_environment().items() if name != "RAY_ADDRESS"}
        variables = {**kept, "PYTHONPATH": str(self.code), "RAYMLOPS_HOME": str(home)}
        command = [str(self.python), "-m", "raymlops", *arguments]
        return subprocess.run(command, env=variables, cwd=self.code, check=False).returncode

    def link(self, paths: Iterable[str]) -> None:
        """Relative paths of data mean there what they mean here."""
        for path in paths:
            source, target = pathlib.Path(path).absolute(), self.code / path
            if not pathlib.Path(path).is_absolute() and source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)


def build_environment(
    lock: str, commit: str, folder: pathlib.Path, tell: Callable[[str], None]
) -> Environment:
    """The environment of a lock and a commit, below `folder`; made once.

    Raises NotFoundError for an interpreter or a commit that is not here, ResourceError for packages that cannot
    be had.
    """
    place = folder / hashlib.sha256(f"{commit}\n{lock}".encode()).hexdigest()[:16]
    built = Environment(place / "venv" / "bin" / "python", place / "code")
    if not (place / _DONE).exists():
        shutil.rmtree(place, ignore_errors=True)
        tell(
            f"Building {place}: {lock.count('==')} packages; minutes, and gigabytes where torch is among them"
        )
        interpreter = find_interpreter(lock)
        place.mkdir(parents=True)
        _check_out(commit, built.code, tell)
        _run([interpreter, "-m", "venv", str(place / "venv")])
        (place / "requirements.txt").write_text(to_requirements(lock))
        _run(
            [built.python, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "-r",
             place / "requirements.txt"]
        )  # fmt: skip
        _name_code(lock, place / "venv")
        (place / _DONE).touch()
    return built


def find_interpreter(lock: str) -> str:
    """An interpreter of the lock's Python, to the minor version. Raises NotFoundError when there is none."""
    found = re.search(r"^# Python (\d+)\.(\d+)", lock)
    if found is None or (int(found[1]), int(found[2])) == sys.version_info[:2]:
        return sys.executable
    name = f"python{found[1]}.{found[2]}"
    interpreter = shutil.which(name)
    if interpreter is None:
        raise NotFoundError(f"The version was made with {name}, which is not on the PATH; install it")
    return interpreter


def to_requirements(lock: str) -> str:
    """The lock's packages for pip; not raymlops itself, which comes with the code."""
    lines = [line for line in lock.splitlines() if "==" in line and not line.startswith("raymlops==")]
    return "\n".join(lines) + "\n"


def _check_out(commit: str, code: pathlib.Path, tell: Callable[[str], None]) -> None:
    """The commit's files, of the repository that this runs in; raymlops as it is here where they do not hold it."""
    exact = commit.removesuffix("-dirty")
    if exact == "unknown":
        tell("The commit is not known: the code is the present one")
        code.mkdir()
    else:
        if exact != commit:
            tell(
                f"The code was commit {exact[:12]} with changes that were not committed; it is taken without them"
            )
        try:
            root = _run(["git", "rev-parse", "--show-toplevel"]).strip()
            _run(["git", "-C", root, "cat-file", "-e", f"{exact}^{{commit}}"])
        except ResourceError:
            raise NotFoundError(
                f"No commit {exact[:12]} here; run this in a clone of the version's repository that holds it"
            ) from None
        _run(["git", "clone", "-q", "--shared", "--no-checkout", root, code])
        _run(["git", "-C", code, "checkout", "-q", "--detach", exact])
    if not (code / "raymlops").is_dir():
        shutil.copytree(pathlib.Path(raymlops.__file__).parent, code / "raymlops")


def _name_code(lock: str, venv: pathlib.Path) -> None:
    """The code is not installed, but says its version as an installed package does."""
    version = re.search(r"^raymlops==(\S+)$", lock, re.MULTILINE)
    if version is None:
        return
    for packages in venv.glob("lib/python*/site-packages"):
        folder = packages / f"raymlops-{version[1]}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: raymlops\nVersion: {version[1]}\n")


def _run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise ResourceError(f"`{' '.join(str(part) for part in command[:4])} ...` failed: {last.strip()}")
    return done.stdout
