"""Changes key files: one writer at a time, atomically, so that no change undoes another one. Checks no requests."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

import yaml

from raymlops.errors import NotFoundError, ResourceError, unknown_name
from raymlops.serving.transport.api_keys import Key, make_key, read_keys

_PATIENCE_S = 30.0


def write_keys(path: pathlib.Path, keys: Iterable[Key]) -> None:
    """Replace the file atomically, so that a reader never sees half of it; readable by its owner only."""
    target = path.resolve()  # a symbolic link is kept
    entries = []
    for key in keys:
        entry: dict[str, object] = {"name": key.name, "roles": list(key.roles), "sha256": key.sha256}
        if key.models:
            entry["models"] = list(key.models)
        if key.expires:
            entry["expires"] = key.expires
        entries.append(entry)
    file = tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8")  # noqa: SIM115  -- mode 0600
    try:
        with file:
            yaml.safe_dump({"keys": entries}, file, sort_keys=False)
            file.flush()
            os.fsync(file.fileno())
        pathlib.Path(file.name).replace(target)
    except BaseException:
        pathlib.Path(file.name).unlink(missing_ok=True)
        raise


def change_keys(path: pathlib.Path, change: Callable[[list[Key]], list[Key]]) -> list[Key]:
    """Read, change and write while no other process does; returns what was written. Raises what reading and `change`
    raise."""
    with _locked(path.resolve()):
        keys = change(read_keys(path) if path.exists() else [])
        write_keys(path, keys)
        return keys


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """The lock is on a permanent file beside it, since the key file itself is replaced."""
    ends = time.monotonic() + _PATIENCE_S
    with (path.parent / f".{path.name}.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise ResourceError(
                        f"Another command has been changing {str(path)!r} for {_PATIENCE_S:g} s"
                    ) from None
                time.sleep(0.02)
        yield


def add_key(
    path: pathlib.Path, name: str, roles: Iterable[str], models: Iterable[str] = (), expires: str = ""
) -> str:
    """A new key in the file, replacing all of its name; returns the text to hand out."""
    token, key = make_key(name, roles, models, expires)
    change_keys(path, lambda keys: [*(old for old in keys if old.name != name), key])
    return token


def rotate_key(path: pathlib.Path, name: str, overlap_s: float) -> str:
    """A second key of this name with the newest one's roles and models; older ones end after `overlap_s`.

    Raises NotFoundError.
    """
    ends = time.time() + overlap_s
    instant = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
    made: list[str] = []

    def change(keys: list[Key]) -> list[Key]:
        old = [key for key in keys if key.name == name]
        if not old:
            raise NotFoundError(unknown_name("key", name, [key.name for key in keys]))
        token, new = make_key(name, old[-1].roles, old[-1].models)
        made.append(token)
        kept = [
            dataclasses.replace(key, expires=instant) if key.name == name and key.ends > ends else key
            for key in keys
        ]
        return [*(key for key in kept if key.name != name or not _has_ended(key)), new]

    change_keys(path, change)
    return made[0]


def _has_ended(key: Key) -> bool:
    return key.ends < time.time()


def revoke_key(path: pathlib.Path, which: str) -> list[Key]:
    """Remove all keys of a name, or the one with an id; returns the removed ones. Raises NotFoundError."""
    gone: list[Key] = []

    def change(keys: list[Key]) -> list[Key]:
        gone.extend(key for key in keys if which in (key.name, key.id))
        if not gone:
            raise NotFoundError(unknown_name("key", which, [key.name for key in keys]))
        return [key for key in keys if key not in gone]

    read_keys(path)  # raises NotFoundError if the file does not exist
    change_keys(path, change)
    return gone
