"""Lists the files of a working directory that go to the cluster, adds up their sizes, and packs them into one zip.
Uploads nothing."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping

import pathspec

from raymlops.clusters import secret_files
from raymlops.errors import NotFoundError, TooLargeError

LIMIT = 100 * 2**20
"""Bytes; Ray keeps packages in the memory of the head's control store (GCS)."""
NEVER_FOLDERS = frozenset({
    ".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".tox", "mlruns", "outputs", "build", "dist",
})  # fmt: skip
"""Folders that are never sent, even if git does not ignore them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time: equal files give an equal package, which is not uploaded again


@dataclasses.dataclass(frozen=True)
class Package:
    """Files to send, relative to `root`, with sizes in bytes; `held_back` files look like secrets, for the reasons in
    `why`."""

    root: pathlib.Path
    files: dict[str, int]
    held_back: tuple[str, ...] = ()
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(self.files.values())


def list_files(root: str | pathlib.Path, sent: Iterable[str] = ()) -> Package:
    """The files to send: those not ignored by .gitignore or .rayignore, without caches and secrets.

    Files of `sent`, relative to the folder, are sent even if they look like secrets. Raises NotFoundError if the
    folder or one of those files does not exist.
    """
    root = pathlib.Path(root).resolve()
    if not root.is_dir():
        raise NotFoundError(f"No folder {str(root)!r} to send; give --working-dir")
    wanted = {pathlib.PurePosixPath(name).as_posix() for name in sent}
    files: dict[str, int] = {}
    why: dict[str, str] = {}
    listed = _git_files(root)
    ignores = Ignores(root, (".rayignore",) if listed is not None else (".rayignore", ".gitignore"))
    for name in sorted(_walk(root, ignores) if listed is None else listed):
        path = root / name
        if (
            NEVER_FOLDERS & set(pathlib.PurePosixPath(name).parts[:-1])
            or path.is_symlink()
            or not path.is_file()
            or ignores.match(name)
        ):
            continue
        reason = None if name in wanted else judge(path, pathlib.PurePosixPath(name))
        wanted.discard(name)
        if reason is None:
            files[name] = path.stat().st_size
        else:
            why[name] = reason
    if wanted:
        raise NotFoundError(
            f"{', '.join(sorted(wanted))} of --send is not among the files of {root} that may be sent"
        )
    return Package(root, files, tuple(why), why)


def judge(path: pathlib.Path, name: pathlib.PurePath) -> str | None:
    """Why a file looks as if it holds a secret, or None; `name` is its path relative to the folder that is sent."""
    try:
        return secret_files.explain_secret_name(name) or secret_files.find_secret_contents(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


class Ignores:
    """Ignore files with .gitignore's patterns, in a folder and its subfolders."""

    def __init__(self, root: pathlib.Path, names: Iterable[str]) -> None:
        self._root, self._names = root, tuple(names)
        self._read: dict[pathlib.PurePosixPath, pathspec.GitIgnoreSpec] = {}

    def match(self, name: str, folder: bool = False) -> bool:
        """Whether a path relative to the root is ignored; the ignore file nearest to it decides."""
        path = pathlib.PurePosixPath(name)
        ignored = False
        for part in (*reversed(path.parents), path):
            if part.parts and not ignored:
                ignored = self._judge(part, "" if part == path and not folder else "/")
        return ignored

    def _judge(self, path: pathlib.PurePosixPath, suffix: str) -> bool:
        found = False
        for folder in reversed(path.parents):
            told = self._spec(folder).check_file(path.relative_to(folder).as_posix() + suffix).include
            if told is not None:
                found = told
        return found

    def _spec(self, folder: pathlib.PurePosixPath) -> pathspec.GitIgnoreSpec:
        if folder not in self._read:
            lines: list[str] = []
            for name in self._names:
                with contextlib.suppress(OSError):
                    lines += (
                        (self._root / folder / name)
                        .read_text(encoding="utf-8", errors="replace")
                        .splitlines()
                    )
            self._read[folder] = pathspec.GitIgnoreSpec.from_lines(lines)
        return self._read[folder]


def _git_files(root: pathlib.Path) -> list[str] | None:
    """The files that git would add in this folder, which may be a subfolder of the repository; None outside of a
    repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _walk(root: pathlib.Path, ignores: Ignores) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        inner = pathlib.Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in folders
            if name not in NEVER_FOLDERS and not ignores.match((inner / name).as_posix(), folder=True)
        ]
        for name in names:
            yield (inner / name).as_posix()


def largest(package: Package, count: int = 5) -> list[tuple[str, int]]:
    """The largest files and folders first; a folder counts all that is in it."""
    top: dict[str, int] = {}
    for name, size in package.files.items():
        parts = pathlib.PurePosixPath(name).parts
        shown = name if len(parts) <= 2 else "/".join(parts[:2]) + "/"
        top[shown] = top.get(shown, 0) + size
    return sorted(top.items(), key=lambda item: -item[1])[:count]


def require_size(package: Package, limit: int = LIMIT) -> None:
    """Raises TooLargeError, which names the largest files."""
    if package.size <= limit:
        return
    named = "\n".join(f"  {to_mib(size):>10}  {name}" for name, size in largest(package))
    raise TooLargeError(
        f"{package.root} would send {to_mib(package.size)} in {len(package.files):,} files; a cluster takes "
        f"{to_mib(limit)}. The largest:\n{named}\nKeep data in the shared storage, or add it to .gitignore or "
        ".rayignore"
    )


def pack(package: Package, target: pathlib.Path) -> pathlib.Path:
    """One zip of the files; equal files give equal bytes."""
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
