"""Saves the values that stages of a training exchange as files below a location, loads them, and identifies them by
the digest of their bytes. Decides neither where they are kept nor for how long.

Equal values, with dicts in equal order, give equal bytes. Nothing is pickled, and nothing that is loaded runs code.
Rows of a dataset are saved as a reference to their source, with the results of the scan: whoever loads them must know
that the data are still the same.
"""

import contextlib
import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import pydantic
import ray
from ray.data.block import Block, BlockAccessor

from raymlops import locations
from raymlops.artifact import MODEL_FILE
from raymlops.data.contract import Finding
from raymlops.data.scan import Fingerprint, Scan
from raymlops.data.split_rows import SplitRows, open_dataset
from raymlops.data.splits import SplitRule
from raymlops.data.training_rows import TrainingRows
from raymlops.errors import SpecError
from raymlops.features import FittedFeatures
from raymlops.lifecycle.train.verify_export import Proof
from raymlops.models.parity import Parity
from raymlops.specs.dataset import ContractSpec, DatasetSpec, SplitSpec
from raymlops.tensors import Batch
from raymlops.training.blends import Distilled, Judged, Member, Winner
from raymlops.training.packed import PackedSplit
from raymlops.training.storage import explained
from raymlops.training.trials import SearchResult, Trial, open_checkpoint
from raymlops.training.worker import CHECKPOINT_FILE

V = TypeVar("V")
_VALUE, _ROWS = "value.json", "rows.npz"
_CHUNK = 2**20
_RULE = "rule.npz"


@dataclasses.dataclass(frozen=True)
class Saved:
    """The files of a value: path below its location -> sha256."""

    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Digest of all files: equal for equal values."""
        return hashlib.sha256(_to_json(sorted(self.files.items()))).hexdigest()


class Folder:
    """Files below a location, a path or URI, which are hashed while they are written."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._files, self._path = locations.open_location(location)
        self.written: dict[str, str] = {}

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator["_Hashed"]:
        path = f"{self._path}/{name}"
        with explained(self.location):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.open(path, "wb") as file:
                hashed = _Hashed(file)
                yield hashed
        self.written[name] = hashed.sha256.hexdigest()

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        with explained(self.location, "read"), self._files.open(f"{self._path}/{name}", "rb") as file:
            yield file

    def write_json(self, name: str, value: Any) -> None:
        with self.writing(name) as file:
            file.write(_to_json(value))

    def read_json(self, name: str) -> Any:
        with self.reading(name) as file:
            return json.loads(file.read())


class _Hashed:
    """Passes writes on to a file and hashes them; has no `seek`, so that nothing is written twice."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return cast(int, self._file.write(data))

    def flush(self) -> None:
        self._file.flush()


def save(value: Any, location: str) -> Saved:
    """Write a value below `location`, a path or URI, replacing what was there. Raises TypeError for a type that no
    stage returns, and StorageError."""
    folder = Folder(location)
    _find(type(value)).save(value, folder)
    return Saved(folder.written)


def load(kind: type[V], location: str) -> V:
    """The value of this type that was saved below `location`. Packed rows go to Ray's object store: a cluster must be
    joined. Raises StorageError."""
    return cast(V, _find(kind).load(Folder(location)))


class _Codec(NamedTuple):
    save: Callable[[Any, Folder], None]
    load: Callable[[Folder], Any]


def _find(kind: type) -> _Codec:
    kind = getattr(kind, "__origin__", kind)  # dict of dict[str, Any]
    if kind not in _CODECS:
        names = ", ".join(known.__name__ for known in _CODECS)
        raise TypeError(f"{kind.__name__} cannot be saved; a stage gives {names}")
    return _CODECS[kind]


def _save_model(model: bytes, folder: Folder) -> None:
    with folder.writing(MODEL_FILE) as file:
        file.write(model)


def _load_model(folder: Folder) -> bytes:
    with folder.reading(MODEL_FILE) as file:
        return cast(bytes, file.read())


def _save_rows(rows: SplitRows, folder: Folder) -> None:
    scan = rows.scan
    folder.write_json(_VALUE, {
        "table": rows.table.model_dump(mode="json"),
        "contract": rows.contract.model_dump(mode="json"),
        "fingerprint": scan.fingerprint.to_json(),
        "findings": [dataclasses.asdict(finding) for finding in scan.findings],
        "rows": scan.rows,
        "failed": scan.failed,
        "split": scan.rule.spec.model_dump(mode="json"),
        "target": scan.rule.target,
        "cuts": scan.rule.cuts,
        "doubled": sorted(scan.doubled),
        "training": scan.training.to_json(),
        "classes": None if scan.classes is None else [*scan.classes.items()],
        "gap": scan.gap,
        "left_out": scan.left_out,
    })  # fmt: skip
    _write_arrays(folder, _RULE, scan.rule.to_arrays())


_SPLIT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(SplitSpec)


def _load_rows(folder: Folder) -> SplitRows:
    held = folder.read_json(_VALUE)
    table = DatasetSpec.model_validate(held["table"])
    scan = Scan(
        fingerprint=Fingerprint.from_json(held["fingerprint"]),
        findings=tuple(
            Finding(**{**finding, "samples": tuple(finding["samples"])}) for finding in held["findings"]
        ),
        rows=held["rows"],
        failed=held["failed"],
        rule=SplitRule.from_arrays(
            _read_arrays(folder, _RULE),
            _SPLIT.validate_python(held["split"]),
            held["cuts"] and tuple(held["cuts"]),
            held["target"],
        ),
        doubled=frozenset(held["doubled"]),
        training=TrainingRows.from_json(held["training"]),
        classes=None
        if held["classes"] is None
        else {value: tuple(counts) for value, counts in held["classes"]},
        gap=held["gap"],
        left_out=tuple(held["left_out"]),
    )
    return SplitRows(table, ContractSpec.model_validate(held["contract"]), scan, open_dataset(table))


def _save_split(split: PackedSplit, folder: Folder) -> None:
    folder.write_json(_VALUE, {"count": split.count, "sizes": split.sizes})
    if split.arrays is not None:
        _write_arrays(folder, _ROWS, ray.get(split.arrays))
        return
    names = [_block_name(number) for number in range(len(split.blocks))]
    write = ray.remote(_write_block)
    found = ray.get(
        [write.remote(folder.location, name, block) for name, block in zip(names, split.blocks, strict=True)]
    )
    folder.written.update(zip(names, found, strict=True))


def _load_split(folder: Folder) -> PackedSplit:
    held = folder.read_json(_VALUE)
    sizes = tuple(held["sizes"])
    if not sizes:
        return PackedSplit(held["count"], arrays=ray.put(_read_arrays(folder, _ROWS)))
    read = ray.remote(_read_block)
    blocks = tuple(read.remote(folder.location, _block_name(number)) for number in range(len(sizes)))
    return PackedSplit(held["count"], blocks=blocks, sizes=sizes)


def _block_name(number: int) -> str:
    return f"blocks/{number:06d}.npz"


def _write_block(location: str, name: str, block: Block) -> str:
    """Runs on the block's node; returns its sha256."""
    folder = Folder(location)
    _write_arrays(folder, name, BlockAccessor.for_block(block).to_batch_format("numpy"))
    return folder.written[name]


def _read_block(location: str, name: str) -> Block:
    return BlockAccessor.batch_to_block(_read_arrays(Folder(location), name))


def _write_arrays(folder: Folder, name: str, arrays: Batch) -> None:
    """As numpy's .npz, which numpy itself cannot write to a stream."""
    with folder.writing(name) as file, zipfile.ZipFile(cast(Any, file), "w") as archive:
        for key in sorted(arrays):
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as entry:
                array = np.ascontiguousarray(arrays[key])
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_arrays(folder: Folder, name: str) -> Batch:
    with folder.reading(name) as file, np.load(file, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _save_trial(trial: Trial, folder: Folder) -> None:
    """With its checkpoint, so that the search's folder is no longer needed."""
    if trial.checkpoint is None:
        raise SpecError(f"Trial {trial.name} failed, and has no checkpoint to be saved")
    folder.write_json(_VALUE, {**dataclasses.asdict(trial), "checkpoint": None})
    with (
        open_checkpoint(trial) as directory,
        open(f"{directory}/{CHECKPOINT_FILE}", "rb") as source,
        folder.writing(CHECKPOINT_FILE) as file,
    ):
        while chunk := source.read(_CHUNK):
            file.write(chunk)


def _load_trial(folder: Folder) -> Trial:
    return Trial(**{**folder.read_json(_VALUE), "checkpoint": folder.location})


def _save_winner(winner: Winner, folder: Folder) -> None:
    """With the checkpoints of its members."""
    judged = None if winner.judged is None else dataclasses.asdict(winner.judged)
    folder.write_json(_VALUE, {
        "weights": [one.weight for one in winner.members],
        "judged": judged,
        "teacher": [  # of which nothing is loaded any more
            {"trial": {**dataclasses.asdict(one.trial), "checkpoint": None}, "weight": one.weight}
            for one in winner.teacher
        ],
        "distilled": None if winner.distilled is None else dataclasses.asdict(winner.distilled),
    })  # fmt: skip
    for place, member in enumerate(winner.members):
        inner = Folder(locations.join(folder.location, f"members/{place}"))
        _save_trial(member.trial, inner)
        folder.written.update({f"members/{place}/{name}": digest for name, digest in inner.written.items()})


def _load_winner(folder: Folder) -> Winner:
    held = folder.read_json(_VALUE)
    members = [
        Member(_load_trial(Folder(locations.join(folder.location, f"members/{place}"))), weight)
        for place, weight in enumerate(held["weights"])
    ]
    distilled = held.get("distilled")
    return Winner(
        tuple(members),
        held["judged"] and Judged(**held["judged"]),
        tuple(Member(Trial(**one["trial"]), one["weight"]) for one in held.get("teacher", ())),
        distilled and Distilled(**distilled),
    )


def _save_search(found: SearchResult, folder: Folder) -> None:
    folder.write_json(_VALUE, dataclasses.asdict(found))


def _load_search(folder: Folder) -> SearchResult:
    held = folder.read_json(_VALUE)
    return SearchResult(held["metric"], tuple(Trial(**trial) for trial in held["trials"]), held["seconds"])


def _save_proof(proof: Proof, folder: Folder) -> None:
    example = {
        name: {"dtype": values.dtype.str, "shape": values.shape, "values": values.ravel().tolist()}
        for name, values in proof.example.items()
    }
    folder.write_json(_VALUE, {
        "parity": proof.parity.to_json(),
        "metrics": proof.metrics,
        "predictions": proof.predictions,
        "example": example,
    })  # fmt: skip


def _load_proof(folder: Folder) -> Proof:
    held = folder.read_json(_VALUE)
    example = {
        name: np.array(value["values"], dtype=value["dtype"]).reshape(value["shape"])
        for name, value in held["example"].items()
    }
    return Proof(Parity(**held["parity"]), held["metrics"], held["predictions"], example)


_CODECS: dict[type, _Codec] = {
    SplitRows: _Codec(_save_rows, _load_rows),
    FittedFeatures: _Codec(
        lambda value, folder: folder.write_json(_VALUE, value.to_json()),
        lambda folder: FittedFeatures.from_json(folder.read_json(_VALUE)),
    ),
    dict: _Codec(
        lambda value, folder: folder.write_json(_VALUE, value), lambda folder: folder.read_json(_VALUE)
    ),
    str: _Codec(
        lambda value, folder: folder.write_json(_VALUE, value), lambda folder: folder.read_json(_VALUE)
    ),
    bytes: _Codec(_save_model, _load_model),
    PackedSplit: _Codec(_save_split, _load_split),
    Trial: _Codec(_save_trial, _load_trial),
    SearchResult: _Codec(_save_search, _load_search),
    Winner: _Codec(_save_winner, _load_winner),
    Proof: _Codec(_save_proof, _load_proof),
}
"""Type of value -> how it is saved and loaded."""


def _to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=_to_plain).encode()


def _to_plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")
