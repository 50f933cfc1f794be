"""Remembers which searches were begun, by a small file beside each, so that one that was cut off can go on."""

import dataclasses
import hashlib
import json

import fsspec

from raymlops.errors import SpecError, StorageError
from raymlops.specs.experiment import ExperimentSpec

MARK_FILE = "raymlops.json"


@dataclasses.dataclass(frozen=True)
class Mark:
    """A search that was begun: of which spec, and whether it came to its end."""

    name: str
    spec: str
    done: bool


def digest_of(spec: ExperimentSpec) -> str:
    """What must be equal for a search to go on: the whole spec, but for how many trials and minutes it may take."""
    value = spec.model_dump(mode="json")
    for key in ("trials", "concurrent", "max_minutes"):
        value["search"].pop(key)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_mark(storage_path: str, name: str, spec: ExperimentSpec, *, done: bool) -> None:
    """Note that a search was begun, or is done. Raises StorageError where nothing can be written."""
    mark = Mark(name, digest_of(spec), done)
    filesystem, folder = fsspec.core.url_to_fs(f"{storage_path}/{name}")
    try:
        filesystem.makedirs(folder, exist_ok=True)
        with filesystem.open(f"{folder}/{MARK_FILE}", "w") as file:
            file.write(json.dumps(dataclasses.asdict(mark)))
    except OSError as error:
        raise StorageError(
            f"Cannot write to the storage path {storage_path!r}: {error.strerror or error}; set "
            "RAYMLOPS_STORAGE to a folder you own"
        ) from None


def find_unfinished(storage_path: str, spec: ExperimentSpec, name: str | None = None) -> str:
    """The newest search of this spec that did not end, or the one named. Raises SpecError when there is none."""
    filesystem, folder = fsspec.core.url_to_fs(storage_path)
    paths = filesystem.glob(f"{folder}/{name or spec.name + '-*'}/{MARK_FILE}")
    marks = [Mark(**json.loads(filesystem.cat_file(path))) for path in paths]
    wanted = digest_of(spec)
    found = sorted(mark.name for mark in marks if not mark.done and mark.spec == wanted)
    if found:
        return found[-1]
    changed = sorted(mark.name for mark in marks if not mark.done)
    hint = f"; {changed[-1]!r} was cut off, but its spec differs from this one" if changed else ""
    raise SpecError(f"Nothing to resume under {storage_path!r} for this spec{hint}; run it without --resume")
