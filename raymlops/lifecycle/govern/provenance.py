"""Provenance of a model: who, when, which code, which environment. Reads git and the installed packages."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess


def git_commit(directory: pathlib.Path | None = None) -> str:
    """The commit of the code, with `-dirty` if files differ from it; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD", directory=directory)
        dirty = _git("status", "--porcelain", "--untracked-files=no", directory=directory)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if dirty else commit


def _git(*arguments: str, directory: pathlib.Path | None) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=10, cwd=directory
    )
    return done.stdout.strip()


def environment_lock() -> str:
    """Every installed package with its version, as pip requirements; the interpreter in a comment."""
    versions = {
        dist.metadata["Name"]: dist.version
        for dist in importlib.metadata.distributions()
        if dist.metadata["Name"]
    }
    lines = [
        f"{name}=={version}" for name, version in sorted(versions.items(), key=lambda item: item[0].lower())
    ]
    return (
        "\n".join(
            [f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}", *lines]
        )
        + "\n"
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
