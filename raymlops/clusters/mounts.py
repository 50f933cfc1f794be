"""Excludes files that look like secrets from the folders that `ray up` copies to a cluster. Copies nothing itself."""

import pathlib
import re
from collections.abc import Iterable

from raymlops.clusters import packaging, secret_files
from raymlops.clusters.configuration import Config
from raymlops.errors import ForbiddenError, NotFoundError

_WILD = re.compile(r"[*?\[\\]")
_FILTERS = (".gitignore", ".rayignore")


def exclude_secrets(
    config: Config, base: pathlib.Path = pathlib.Path(), sent: Iterable[str] = ()
) -> tuple[Config, dict[str, str]]:
    """The configuration that excludes such files in `rsync_exclude` and obeys .gitignore and .rayignore; and a
    mapping of file to reason.

    A mount of a single file, or of a credentials folder such as ~/.mlflow, is copied whole. So are files of `sent`,
    as paths relative to `base`. Raises NotFoundError if one of them is not among the excluded files, and
    ForbiddenError if rsync, whose exclusions hold for all mounts, would also leave out a file of such a mount.
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
            f"{', '.join(sorted(wanted))} of --send is not among the files that are mounted and held back"
        )
    if both := sorted(meant & held.keys()):
        raise ForbiddenError(
            f"{', '.join(held[name][0] for name in both)} looks like a secret, and excluding it would also "
            "exclude the file of this name in another mount; move it, or send it with --send"
        )
    excluded = ["/" + _WILD.sub(r"\\\g<0>", name) for name in held]
    changed = dict(config)
    if config.get("file_mounts"):
        changed["rsync_exclude"] = [*(config.get("rsync_exclude") or []), *excluded]
        changed["rsync_filter"] = list(dict.fromkeys([*(config.get("rsync_filter") or []), *_FILTERS]))
    return changed, dict(held.values())


def describe(held: dict[str, str], limit: int = 20) -> str:
    """The message that lists the excluded files."""
    lines = [f"  {name}: {why}" for name, why in list(held.items())[:limit]]
    more = [f"  and {len(held) - limit} more"] if len(held) > limit else []
    return "\n".join(
        ["Held back, since they look like secrets (--send FILE sends one anyway):", *lines, *more]
    )
