"""Records which searches were started, in a small file beside each, so that an interrupted one can be resumed.

While its driver lives, the file is rewritten every half minute. This tells a search that was cut off from one that
still runs: on this machine by its process, elsewhere by a file that is no longer rewritten.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from raymlops import locations
from raymlops.errors import SpecError, StorageError
from raymlops.specs import defaults
from raymlops.specs.dataset import CONVERSION_OPTIONS, ColumnRule
from raymlops.specs.document import read_json, to_first_names
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import storage

HEARTBEAT_FILE = "raymlops.mark"  # not .json: Tune copies files with that suffix
_PERIOD = 30.0  # seconds between two writes
_SILENCE = 3.5 * _PERIOD  # after this long without a write, a driver elsewhere is considered dead
_READERS = 16  # files read in parallel: in a bucket each takes a round trip


_LATER = {
    "defaults": "fixed",
    "training.passes": 1,
    "features.min_count": 20,
    "search.first": "suggested",
    "gate.baselines": ["constant"],
    "training.loss": None,
    "training.quantile": 0.5,
    "training.class_weights": None,
    "training.sample_weights": None,
    "training.monotonic": {},
    "features.target.transform": "none",
    "features.target.exponent": 0.5,
    "features.auto": False,
    "features.exclude": [],
    "features.texts": [],
    "dataset.images": {},
    "features.means_above": None,
    "split.key": [],
    "split.gap": 0,
    "evaluation.folds": 0,
    "evaluation.repeats": 1,
    "gate.new_rows": 100,
    "search.learners": None,
    "search.blend": True,
    "search.glassbox": False,
    "search.folds": None,
    "search.trial_minutes": None,
    "search.refit": None,
    "search.sample_rows": None,
    "search.warm_start": "auto",
    "training.rows": None,
    "search.distill": None,
}
"""Keys that specs did not have at first -> the value that means the same: left out of digests."""
_LATER_OF_CATEGORIES: Mapping[str, tuple[Any, Any]] = {
    "encoding": ("auto", None), "buckets": (1024, None), "max_values": (None, 10_000),
}  # fmt: skip
"""The same for keys of columns of kind category, with the value that was recorded at first, if there was one."""


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """A search that was started: its spec and data, its process, and whether it finished."""

    name: str
    spec: str
    data: str = ""
    done: bool = False
    host: str = ""
    process: tuple[int, float] | None = None
    """Number and start time of the driver's process; None once it has reported its end."""
    beat: float = 0.0
    split: int = 1
    """Version of its split; heartbeats did not have it at first."""


def digest_of(spec: ExperimentSpec) -> str:
    """What must be equal for a search to be resumed: the whole spec, except how many trials and minutes it may take."""
    value = to_first_names(spec)
    value["split"].pop("version", None)  # a search goes on with the one that it was begun with
    for key, before in _LATER.items():
        *parents, last = key.split(".")
        held = value
        for parent in parents:
            held = held[parent]
        if held.get(last) == before:
            del held[last]
    for rule in value["contract"]["columns"].values():  # whose options for conversions came later
        for key in CONVERSION_OPTIONS:
            if rule[key] == ColumnRule.model_fields[key].get_default(call_default_factory=True):
                del rule[key]
    for feature in value["features"]["columns"].values():
        for key, (later, first) in _LATER_OF_CATEGORIES.items():
            if feature["kind"] == "category" and feature[key] == later:
                del feature[key]
                feature |= {} if first is None else {key: first}
    for key in ("trials", "concurrent", "max_minutes"):
        value["search"].pop(key)
    if spec.training.learner == "network":  # specs had no other, and their searches can be resumed
        del value["training"]["learner"], value["training"]["options"]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests_of(spec: ExperimentSpec) -> set[str]:
    """The digest of a spec, and those that it had when all that it leaves open was fixed, and when there were only
    networks."""
    return {digest_of(one) for one in (spec, *_as_before(spec))}


def _as_before(spec: ExperimentSpec) -> tuple[ExperimentSpec, ExperimentSpec]:
    networks = spec.model_copy(
        update={
            "search": spec.search.model_copy(
                update={"learners": None, "glassbox": False, "distill": None, "refit": None}
            )
        }
    )
    return networks, defaults.fix(networks)


def to_resumed(storage_path: str, name: str | None, spec: ExperimentSpec) -> ExperimentSpec:
    """The spec in the form in which that search began: with fixed defaults or networks only, if it is older."""
    held = read_heartbeat(storage_path, name) if name else None
    if held is None or held.spec == digest_of(spec):
        return spec
    return next((one for one in _as_before(spec) if held.spec == digest_of(one)), spec)


@contextlib.contextmanager
def keep_heartbeat(
    storage_path: str,
    name: str,
    spec: ExperimentSpec,
    data: str,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Record that a search runs, as long as the context lasts, and at its end whether it finished. A storage that
    stops answering is reported: the search itself may notice it minutes later.

    Raises StorageError if nothing can be written.
    """
    process = (os.getpid(), psutil.Process().create_time())
    split = getattr(spec.split, "version", 2)
    heartbeat = Heartbeat(
        name, digest_of(spec), data, host=socket.gethostname(), process=process, split=split
    )
    _write(storage_path, heartbeat)
    over = threading.Event()

    def keep_writing() -> None:
        troubled = False
        while not over.wait(_PERIOD):
            try:
                with storage.explained(storage_path):
                    storage.in_time(lambda: _write(storage_path, heartbeat))
            except StorageError as error:  # the search itself ends with it, or continues
                if not troubled:
                    tell(f"{error}")
                troubled = True
            else:
                troubled = False

    thread = threading.Thread(target=keep_writing, name="heartbeat", daemon=True)
    thread.start()
    done = False
    try:
        yield
        done = True
    except SpecError:  # with the same spec it would end so again; data may be readable later
        done = True
        raise
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(*(() if done else (StorageError,))):
            _write(storage_path, dataclasses.replace(heartbeat, done=done, process=None))


def _write(storage_path: str, heartbeat: Heartbeat) -> None:
    text = json.dumps(dataclasses.asdict(dataclasses.replace(heartbeat, beat=time.time())))
    with storage.explained(storage_path):
        filesystem, folder = locations.open_location(storage_path, heartbeat.name)
        filesystem.makedirs(folder, exist_ok=True)
        filesystem.pipe_file(f"{folder}/{HEARTBEAT_FILE}.new", text.encode())
        filesystem.mv(f"{folder}/{HEARTBEAT_FILE}.new", f"{folder}/{HEARTBEAT_FILE}")


def read_heartbeat(storage_path: str, name: str) -> Heartbeat | None:
    """The heartbeat of a search; None if there is none. Raises StorageError if the storage does not answer."""
    with storage.explained(storage_path, "read"):
        return _read(*locations.open_location(storage_path, name))


def _read(filesystem: Any, folder: str) -> Heartbeat | None:
    """The heartbeat in a folder; None if the file is broken or not ours."""
    try:
        held = read_json(filesystem.cat_file(f"{folder}/{HEARTBEAT_FILE}"), HEARTBEAT_FILE)
        process = held["process"] and (int(held["process"][0]), float(held["process"][1]))
        if process and not 0 < process[0] < 2**31:
            raise ValueError
        texts = {key: str(held[key]) for key in ("name", "spec", "data", "host")}
        heartbeat = Heartbeat(
            **texts,
            done=bool(held["done"]),
            process=process or None,
            beat=float(held["beat"]),
            split=int(held.get("split", 1)),
        )
    except (FileNotFoundError, NotADirectoryError, SpecError, KeyError, TypeError, ValueError, IndexError):
        return None
    return heartbeat if heartbeat.name == folder.rpartition("/")[2] else None


def list_unfinished(storage_path: str, spec: ExperimentSpec, name: str | None = None) -> list[Heartbeat]:
    """Searches of this model's name, or the named one, that did not finish; the oldest first."""
    with storage.explained(storage_path, "read"), ThreadPoolExecutor(_READERS) as pool:
        filesystem, folder = locations.open_location(storage_path)
        try:  # not by glob, which treats an unreachable server as an empty folder
            paths = filesystem.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        wanted = [
            path for path in paths if fnmatch.fnmatchcase(path.rpartition("/")[2], name or f"{spec.name}-*")
        ]
        heartbeats = list(pool.map(functools.partial(_read, filesystem), wanted))
    return sorted(
        (heartbeat for heartbeat in heartbeats if heartbeat and not heartbeat.done),
        key=lambda heartbeat: heartbeat.name,
    )


def is_lost(storage_path: str, heartbeat: Heartbeat, tell: Callable[[str], None] | None = None) -> bool:
    """Whether the driver of an unfinished search is gone. Without `tell` it does not wait: in doubt the driver is
    alive."""
    if heartbeat.process is None:
        return True
    if heartbeat.host == socket.gethostname():
        number, began = heartbeat.process
        with contextlib.suppress(psutil.Error):
            return bool(abs(psutil.Process(number).create_time() - began) > 1)
        return True
    if time.time() - heartbeat.beat > 10 * _SILENCE:
        return True
    if tell is None:
        return False
    tell(
        f"Waiting {_SILENCE:.0f} s to learn whether {heartbeat.name}, started on {heartbeat.host}, still runs"
    )
    time.sleep(_SILENCE)
    now = read_heartbeat(storage_path, heartbeat.name)
    return now is not None and not now.done and (now.process is None or now.beat == heartbeat.beat)


def find_lost(
    storage_path: str, spec: ExperimentSpec, name: str | None, tell: Callable[[str], None] | None
) -> Heartbeat | None:
    """The newest search of exactly this spec, or the named one, that was cut off and does not run; None if there is
    none."""
    wanted = digests_of(spec)
    for heartbeat in reversed(list_unfinished(storage_path, spec, name)):
        if heartbeat.spec in wanted and is_lost(storage_path, heartbeat, tell):
            return heartbeat
    return None


def explain_none(storage_path: str, spec: ExperimentSpec, name: str | None) -> str:
    """Why there is nothing to resume."""
    others = list_unfinished(storage_path, spec, name)
    if not others:
        return f"nothing under {storage_path!r} was cut off"
    newest = others[-1]
    runs = newest.spec in digests_of(spec)
    return f"{newest.name!r} " + ("still runs" if runs else "was cut off, but its spec differs from this one")
