"""What of a working directory goes to the cluster: listed, measured, and put into one file. Uploads nothing."""

import dataclasses
import fnmatch
import os
import pathlib
import subprocess
import zipfile
from collections.abc import Iterator

from raymlops.errors import NotFoundError, TooLargeError

LIMIT = 100 * 2**20
"""Bytes; Ray keeps packages in the memory of the head's control store."""
NEVER_FOLDERS = frozenset({
    ".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".tox", "mlruns", "outputs", "build", "dist",
})  # fmt: skip
"""Folders that are not sent even where git does not ignore them."""
SECRETS = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", "auth_token", ".netrc", ".pgpass",
    "credentials", "credentials.*", "*service-account*.json", "keys.yaml", "keys.json",
)  # fmt: skip
"""Names of files that hold secrets: whoever may read the cluster's packages could read them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same package, which is then not sent again


@dataclasses.dataclass(frozen=True)
class Package:
    """Files to send, relative to `root`, with their sizes in bytes; `held_back` look like secrets."""

    root: pathlib.Path
    files: dict[str, int]
    held_back: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.files.values())


def list_files(root: str | pathlib.Path) -> Package:
    """What would be sent: what git does not ignore, without caches and secrets. Raises NotFoundError."""
    root = pathlib.Path(root).resolve()
    if not root.is_dir():
        raise NotFoundError(f"No folder {str(root)!r} to send; give --working-dir")
    files: dict[str, int] = {}
    held_back = []
    for name in sorted(_git_files(root) if (root / ".git").exists() else _walk(root)):
        path = root / name
        if (
            NEVER_FOLDERS & set(pathlib.PurePosixPath(name).parts[:-1])
            or path.is_symlink()
            or not path.is_file()
        ):
            continue
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in SECRETS):
            held_back.append(name)
        else:
            files[name] = path.stat().st_size
    return Package(root, files, tuple(held_back))


def _git_files(root: pathlib.Path) -> Iterator[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        yield from _walk(root)
        return
    yield from (name for name in listed.decode(errors="surrogateescape").split("\0") if name)


def _walk(root: pathlib.Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NEVER_FOLDERS]
        for name in names:
            yield (pathlib.Path(folder) / name).relative_to(root).as_posix()


def largest(package: Package, count: int = 5) -> list[tuple[str, int]]:
    """The files and folders that take most, the largest first; a folder stands for what is in it."""
    top: dict[str, int] = {}
    for name, size in package.files.items():
        parts = pathlib.PurePosixPath(name).parts
        shown = name if len(parts) <= 2 else "/".join(parts[:2]) + "/"
        top[shown] = top.get(shown, 0) + size
    return sorted(top.items(), key=lambda item: -item[1])[:count]


def require_size(package: Package, limit: int = LIMIT) -> None:
    """Raises TooLargeError with the largest offenders named."""
    if package.size <= limit:
        return
    named = "\n".join(f"  {to_mib(size):>10}  {name}" for name, size in largest(package))
    raise TooLargeError(
        f"{package.root} would send {to_mib(package.size)} in {len(package.files):,} files; a cluster takes "
        f"{to_mib(limit)}. The largest:\n{named}\nKeep data in the shared storage, or name it in .gitignore"
    )


def pack(package: Package, target: pathlib.Path) -> pathlib.Path:
    """One zip with the files; equal files give equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in package.files:
            path = package.root / name
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return target


def to_mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
