"""Holds back what looks like a secret in the folders that `ray up` copies to a cluster. Copies nothing itself."""

import pathlib
import re
from collections.abc import Iterable

from raymlops.clusters import packaging, secret_files
from raymlops.clusters.configuration import Config
from raymlops.errors import ForbiddenError, NotFoundError

_WILD = re.compile(r"[*?\[\\]")
_FILTERS = (".gitignore", ".rayignore")


def hold_back(
    config: Config, base: pathlib.Path = pathlib.Path(), sent: Iterable[str] = ()
) -> tuple[Config, dict[str, str]]:
    """The configuration with those files in `rsync_exclude` and .gitignore and .rayignore obeyed; and file -> why.

    What is mounted by its own name, a file or the folder of a program's credentials such as ~/.mlflow, was meant to go.
    `sent` go too: paths relative to `base`. Raises NotFoundError where one of them is not among the files, and
    ForbiddenError where rsync, whose exclusions are for all mounts, would also leave out a file of such a mount.
    """
    meant, held, wanted = set(), {}, {pathlib.PurePosixPath(name).as_posix() for name in sent}
    for source in (config.get("file_mounts") or {}).values():
        path = pathlib.Path(source).expanduser()
        path = path if path.is_absolute() else base / path
        if path.is_file():
            meant.add(path.name)
        elif path.resolve().name.lower() in secret_files.FOLDERS:
            meant |= {name.relative_to(path).as_posix() for name in path.rglob("*") if name.is_file()}
        elif path.is_dir():
            for name, why in packaging.list_files(path).why.items():
                shown = (pathlib.PurePosixPath(source) / name).as_posix()
                if shown in wanted:
                    wanted.discard(shown)
                else:
                    held[name] = (shown, why)
    if wanted:
        raise NotFoundError(
            f"{', '.join(sorted(wanted))} of --send is not among what is mounted and held back"
        )
    if both := sorted(meant & held.keys()):
        raise ForbiddenError(
            f"{', '.join(held[name][0] for name in both)} looks like a secret, and holding it back would hold "
            "back what has this name in another mount; move it, or send it with --send"
        )
    excluded = ["/" + _WILD.sub(r"\\\g<0>", name) for name in held]
    changed = dict(config)
    if config.get("file_mounts"):
        changed["rsync_exclude"] = [*(config.get("rsync_exclude") or []), *excluded]
        changed["rsync_filter"] = list(dict.fromkeys([*(config.get("rsync_filter") or []), *_FILTERS]))
    return changed, dict(held.values())


def describe(held: dict[str, str], most: int = 20) -> str:
    """Lines for whoever would send them."""
    lines = [f"  {name}: {why}" for name, why in list(held.items())[:most]]
    more = [f"  and {len(held) - most} more"] if len(held) > most else []
    return "\n".join(
        ["Held back, since they look like secrets (--send FILE sends one all the same):", *lines, *more]
    )
