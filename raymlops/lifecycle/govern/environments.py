"""Rebuilds the environment of a version: a venv with exactly the recorded packages, and the code of its commit."""

import dataclasses
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from packaging.utils import canonicalize_name

import raymlops
from raymlops.errors import NotFoundError, ResourceError, SpecError
from raymlops.settings import read_environment

_DONE = "complete"


@dataclasses.dataclass(frozen=True)
class Environment:
    """An interpreter, and the folder of the code in which it runs, as Ray's workers import from the driver's folder."""

    python: pathlib.Path
    code: pathlib.Path

    def run(
        self, arguments: Sequence[str], home: pathlib.Path, variables: Mapping[str, str] | None = None
    ) -> int:
        """`raymlops ARGUMENTS` in it, on a cluster of this machine; returns the exit code."""
        kept = {name: value for name, value in read_environment().items() if name != "RAY_ADDRESS"}
        variables = {**kept, "PYTHONPATH": str(self.code), "RAYMLOPS_HOME": str(home), **(variables or {})}
        command = [str(self.python), "-m", "raymlops", *arguments]
        return subprocess.run(command, env=variables, cwd=self.code, check=False).returncode

    def link(self, paths: Iterable[str]) -> None:
        """Makes relative paths of data mean the same there as here."""
        for path in paths:
            source, target = pathlib.Path(path).absolute(), self.code / path
            if not pathlib.Path(path).is_absolute() and source.exists() and not target.exists():
                if not target.resolve().is_relative_to(self.code.resolve().parent):
                    raise SpecError(
                        f"The recorded path {path!r} leads out of the environment; nothing was linked"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)


def build_environment(
    lock: str, commit: str, folder: pathlib.Path, tell: Callable[[str], None]
) -> Environment:
    """The environment of a lock and a commit, below `folder`; built once.

    Raises SpecError if the lock or commit has an unexpected form, NotFoundError for a missing interpreter or commit,
    ResourceError if packages cannot be installed.
    """
    locked, exact = read_lock(lock), read_commit(commit)
    place = folder / hashlib.sha256(f"{commit}\n{lock}".encode()).hexdigest()[:16]
    built = Environment(place / "venv" / "bin" / "python", place / "code")
    if not (place / _DONE).exists():
        shutil.rmtree(place, ignore_errors=True)
        tell(f"Building {place}: {len(locked)} packages; takes minutes, and gigabytes if torch is among them")
        interpreter = find_interpreter(lock)
        place.mkdir(parents=True)
        _check_out(exact, commit, built.code, tell)
        _run([interpreter, "-m", "venv", str(place / "venv")])
        _install(built.python, to_requirements(locked), place)
        _name_code(locked, place / "venv")
        (place / _DONE).touch()
    return built


def find_interpreter(lock: str) -> str:
    """An interpreter with the lock's Python version, up to the minor version. Raises NotFoundError if there is none."""
    found = re.search(r"^# Python (\d+)\.(\d+)", lock)
    if found is None or (int(found[1]), int(found[2])) == sys.version_info[:2]:
        return sys.executable
    name = f"python{found[1]}.{found[2]}"
    interpreter = shutil.which(name)
    if interpreter is None:
        raise NotFoundError(f"The version was made with {name}, which is not on the PATH; install it")
    return interpreter


@dataclasses.dataclass(frozen=True)
class Locked:
    """A package at its version, with the allowed digests of its files; empty if none was recorded."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)]
        )


_HEAD = re.compile(r"# Python [0-9][0-9A-Za-z.+]{0,30} on [A-Za-z0-9_. -]{1,60}")
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,100}[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]{0,100})"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64}){0,200})"
)
_LARGEST = 4 * 2**20


def read_lock(lock: str) -> tuple[Locked, ...]:
    """The packages of a lock. A lock is written by `environment_lock`, and no other form is accepted: pip would take
    indexes, URLs, files and options from such lines.

    Raises SpecError with the number of a line that is not NAME==VERSION.
    """
    if len(lock) > _LARGEST:
        raise SpecError(f"The lock of packages has {len(lock):,} characters; {_LARGEST:,} are read at most")
    found: dict[str, Locked] = {}
    # splitlines would split at characters that must be refused
    for number, line in enumerate(lock.split("\n"), start=1):
        if not line or (number == 1 and _HEAD.fullmatch(line)):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SpecError(
                f"The lock of packages, line {number}: {line[:100]!r} is not NAME==VERSION, with --hash=sha256:DIGEST "
                "at the most; a recorded lock has nothing else, so this one was changed, and nothing of it is installed"
            )
        name = canonicalize_name(match["name"])
        if name in found:
            raise SpecError(f"The lock of packages, line {number}: {match['name']!r} is given twice")
        hashes = tuple(part.rpartition(":")[2] for part in match["hashes"].split())
        found[name] = Locked(match["name"], match["version"], hashes)
    return tuple(found.values())


def read_commit(commit: str) -> str:
    """The hexadecimal name of a recorded commit; `unknown` unchanged. Raises SpecError for anything else, since git
    accepts options and expressions in its place."""
    exact = commit.removesuffix("-dirty")
    if exact != "unknown" and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", exact):
        raise SpecError(
            f"The recorded commit {commit[:100]!r} is not 40 hexadecimal digits; nothing was checked out"
        )
    return exact


def to_requirements(locked: Iterable[Locked]) -> tuple[str, str]:
    """The packages for pip, those with digests separately; not raymlops itself, which comes with the code."""
    others = [one for one in locked if canonicalize_name(one.name) != "raymlops"]
    hashed, plain = ([one for one in others if bool(one.hashes) == wanted] for wanted in (True, False))
    return tuple("".join(f"{one}\n" for one in part) for part in (hashed, plain))  # type: ignore[return-value]


def _install(python: pathlib.Path, requirements: tuple[str, str], place: pathlib.Path) -> None:
    """In one requirements file, pip needs digests of all packages or of none."""
    for name, text in zip(("hashed", "plain"), requirements, strict=True):
        if not text:
            continue
        file = place / f"requirements-{name}.txt"
        file.write_text(text, encoding="ascii")
        options = ["--require-hashes"] if name == "hashed" else []
        _run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--disable-pip-version-check",
                *options,
                "-r",
                file,
            ]
        )


def _check_out(exact: str, commit: str, code: pathlib.Path, tell: Callable[[str], None]) -> None:
    """The commit's files from the repository in which this runs; today's raymlops if they do not contain it."""
    if exact == "unknown":
        tell("The commit is not known: the present code is used")
        code.mkdir()
    else:
        if exact != commit:
            tell(f"The code was commit {exact[:12]} with uncommitted changes; it is used without them")
        try:
            root = _run(["git", "rev-parse", "--show-toplevel"]).strip()
            _run(["git", "-C", root, "cat-file", "-e", f"{exact}^{{commit}}"])
        except ResourceError:
            raise NotFoundError(
                f"There is no commit {exact[:12]} here; run this in a clone of the version's repository that has "
                "it"
            ) from None
        _run(["git", "clone", "-q", "--shared", "--no-checkout", "--", root, code])
        _run(["git", "-C", code, "checkout", "-q", "--detach", exact, "--"])
    if not (code / "raymlops").is_dir():
        shutil.copytree(pathlib.Path(raymlops.__file__).parent, code / "raymlops")


def _name_code(locked: Iterable[Locked], venv: pathlib.Path) -> None:
    """The code is not installed, but has the metadata of an installed package, with its version."""
    version = next((one.version for one in locked if canonicalize_name(one.name) == "raymlops"), None)
    if version is None:
        return
    for packages in venv.glob("lib/python*/site-packages"):
        folder = packages / f"raymlops-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: raymlops\nVersion: {version}\n")


def _run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise ResourceError(f"`{' '.join(str(part) for part in command[:4])} ...` failed: {last.strip()}")
    return done.stdout
