"""A folder of models: which there are, under which names, whether each can be served, and how one is opened. Does not
import Ray.

A model that cannot be served has a reason, and does not stop the others.
"""

import collections
import dataclasses
import hashlib
import io
import logging
from collections.abc import Mapping

from raymlops.errors import ArtifactError, InputError, OverloadedError, RaymlopsError, encodable, shorten
from raymlops.models.external_data import LARGEST_FILE
from raymlops.models.header import Header, read_header
from raymlops.models.model_trial import ModelTrials
from raymlops.models.parity import find_differing
from raymlops.models.process_mac import code_of, has_code
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.safety import check_model
from raymlops.models.session import Session, SessionOptions, check_shareable, open_session
from raymlops.models.weights_as_inputs import ExtractedWeights, extract_weights, read_weights
from raymlops.runtime.model_files import SUFFIX, File, FolderFiles, Listing
from raymlops.serving.protocol.columns import Column, read_columns
from raymlops.specs.serving import NAME
from raymlops.tensors import Batch, make_noise

LOG = logging.getLogger("raymlops.serving")
OPTIONS = SessionOptions(threads=1, lean=True, shared=True)
RELOAD = "deploy again, or POST /v2/repository/models/{}/load"
"""Makes changed files be used."""
RESERVED = frozenset(("stats",))
"""Names that are paths of the protocol, such as /v2/models/stats."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model by its name, and the place of its file; `fault` says why its file cannot be determined or read."""

    name: str
    path: str = ""
    version: str = "1"
    file: File = File()  # noqa: RUF009  -- a tuple
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Entries:
    """`notices` are about files that are not models, and about names that are easily confused."""

    models: Mapping[str, Entry]
    notices: tuple[str, ...]


def read_entries(listing: Listing) -> Entries:
    """The models of a folder by name. Names that are invalid in paths, headers and metrics are left out."""
    models: dict[str, Entry] = {}
    notices: list[str] = []
    origins: dict[str, str] = {}
    for key in sorted(listing):
        files = listing[key]
        name = key.removesuffix(SUFFIX)
        if not NAME.fullmatch(name) or name in RESERVED:
            if files:
                notices.append(_refuse_name(key, name))
            continue
        if name in models:
            fault = f"both {origins[name]!r} and {key!r} are models of this name; keep one of them"
            models[name] = Entry(name, fault=fault)
            continue
        models[name], origins[name] = _choose(name, key, files), key
    lower = collections.defaultdict(list)
    for name in models:
        lower[name.lower()].append(name)
    notices.extend(
        f"models {', '.join(map(repr, alike))} differ by upper and lower case only; each is served under its own name"
        for alike in lower.values()
        if len(alike) > 1
    )
    return Entries(models, tuple(notices))


def _refuse_name(key: str, name: str) -> str:
    why = (
        "is a path of the protocol"
        if name in RESERVED
        else "must be 1 to 100 letters, digits, dots, dashes and underscores, and begin with a letter or digit"
    )
    return f"{shorten(ascii(encodable(key)))} is not served: the name of a model {why}; rename it"


def _choose(name: str, key: str, files: Mapping[str, File]) -> Entry:
    """The file of a model: model.onnx or the only one in its folder, or that in the subfolder with the highest
    number."""
    if not files:
        return Entry(name, fault="its folder holds no .onnx file")
    if key in files:  # it is a file, or cannot be listed
        return Entry(name, key, file=files[key], fault=files[key].fault)
    folders: dict[str, dict[str, File]] = collections.defaultdict(dict)
    for path, file in files.items():
        folders[path.rpartition("/")[0]][path] = file
    place = key if key in folders else max(folders, key=lambda path: int(path.rpartition("/")[2]))
    held = folders[place]
    path = f"{place}/model{SUFFIX}"
    if path not in held and len(held) > 1:
        names = ", ".join(path.rpartition("/")[2] for path in sorted(held))
        return Entry(
            name, fault=f"its folder {place!r} holds several models ({names}); call one of them model{SUFFIX}"
        )
    path = path if path in held else next(iter(held))
    version = "1" if place == key else place.rpartition("/")[2]
    return Entry(name, path, version, held[path], held[path].fault)


@dataclasses.dataclass(frozen=True)
class FolderModel:
    """A model that was read and checked; `code` is the authentication code that its bytes must still have when it is
    loaded.

    Extracted weights are kept only if the rest, the skeleton, is small in comparison.
    """

    files: FolderFiles = dataclasses.field(repr=False, compare=False)
    name: str
    path: str
    version: str
    size: int
    digest: str
    code: bytes = dataclasses.field(repr=False)
    header: Header
    columns: Mapping[str, Column]
    lifted: ExtractedWeights
    independence: Independence
    """Whether requests may share a run."""
    structure: bytes
    """Digest of the part that all models of one structure share."""

    @property
    def key(self) -> str:
        """Changes when the file changes."""
        return f"{self.name}@{self.digest}"


class Examiner:
    """Reads and checks models, from several threads at once."""

    def __init__(self, files: FolderFiles, largest: int = LARGEST_FILE) -> None:
        """`largest` is the largest size of a model's file, in bytes."""
        self._files = files
        self._largest = min(largest, LARGEST_FILE)
        self._skeletons: dict[bytes, bytes] = {}  # each is kept once
        self._proofs: dict[bytes, Independence] = {}
        """One proof for all models of a structure, by the digest of its skeleton."""

    def examine(self, entry: Entry) -> FolderModel | str:
        """The checked model, or why it cannot be served."""
        if entry.fault:
            return entry.fault
        try:
            return self._read(entry)
        except RaymlopsError as error:
            return str(error).replace(f"{self._files.where}/", "")
        except (
            Exception
        ) as error:  # a file may be broken in unforeseen ways, which must not affect other models
            LOG.error("model %r was not read: %s", entry.name, error, exc_info=error)
            return f"{entry.path!r} cannot be read: {type(error).__name__}"

    def _read(self, entry: Entry) -> FolderModel:
        """Raises RaymlopsError."""
        path = entry.path
        data = self._files.read(path, self._largest) or b""
        check_model(data, path)
        check_shareable(data, repr(path))
        header = read_header(data)
        lifted = extract_weights(data)
        structure = hashlib.sha256(lifted.skeleton).digest()
        independence = self._prove(structure, lifted)
        if len(lifted.skeleton) > max(_SMALL, len(data) // 4):  # it contains most weights
            lifted = ExtractedWeights(b"", ())
        skeleton = self._skeletons.setdefault(lifted.skeleton, lifted.skeleton)
        return FolderModel(
            files=self._files,
            name=entry.name,
            path=path,
            version=entry.version,
            size=len(data),
            digest=hashlib.sha256(data).hexdigest(),
            code=code_of(data),
            header=header,
            columns=read_columns(header.signature, header.contract, header.optional),
            lifted=dataclasses.replace(lifted, skeleton=skeleton),
            independence=independence,
            structure=structure,
        )

    def _prove(self, structure: bytes, lifted: ExtractedWeights) -> Independence:
        if structure not in self._proofs:
            weights = {weight.name for weight in lifted.weights}
            self._proofs[structure] = prove_rows(lifted.skeleton, weights)
        return self._proofs[structure]


_SMALL = 2**16
"""Bytes of a skeleton that is kept whatever the size of its model."""


class Opener:
    """Opens found models, from several threads at once. Models of one structure run in one session of their skeleton,
    so that opening one only reads its weights, a tenth of the time of making a session."""

    def __init__(
        self,
        found: Mapping[str, FolderModel],
        options: SessionOptions = OPTIONS,
        trial: ModelTrials | None = None,
    ) -> None:
        """With a `trial`, the first model of each structure is opened in another process before it is opened here."""
        self._options = options
        self._trial = trial
        self._found: dict[str, FolderModel] = {}
        self._alike: collections.Counter[bytes] = collections.Counter()
        self._apart: set[bytes] = set()
        """Skeletons that do not compute the same as their models."""
        self._sessions: dict[bytes, Session] = {}
        for key, model in found.items():
            self.add(key, model)

    def add(self, key: str, found: FolderModel) -> None:
        """Open this model by this key from now on."""
        self._found[key] = found
        if found.lifted.weights:
            self._alike[found.lifted.skeleton] += 1

    def remove(self, key: str) -> None:
        """Forget a model, and the session of its structure if it was the last one."""
        found = self._found.pop(key, None)
        if found is None:
            return
        skeleton = found.lifted.skeleton
        self._alike[skeleton] -= 1
        if self._alike[skeleton] <= 0:
            del self._alike[skeleton]
            self._sessions.pop(skeleton, None)
            self._apart.discard(skeleton)

    def open(self, key: str) -> Session:
        """Loads only the bytes that were checked when the model was found. Raises ArtifactError if they have changed
        or cannot be loaded, NotFoundError if they are gone, StorageError."""
        found = self._found.get(key)
        if found is None:
            raise OverloadedError("The model was replaced while this request was on its way; send it again")
        data = found.files.read(found.path, found.size, found.size)
        if data is None or not has_code(data, found.code):
            raise ArtifactError(
                f"{found.path!r} has changed since this replica started; {RELOAD.format(found.name)}"
            )
        if self._trial is not None:
            self._trial.require(found.structure, repr(found.path), data)
        skeleton = found.lifted.skeleton
        if not found.lifted.weights or self._alike[skeleton] < 2 or skeleton in self._apart:
            return open_session(data, self._options)
        weights = read_weights(io.BytesIO(data), found.lifted.weights)
        if skeleton in self._sessions:
            return self._sessions[skeleton].with_weights(weights)
        return self._use_skeleton(found, data, open_session(skeleton, self._options), weights)

    def _use_skeleton(self, found: FolderModel, data: bytes, skeleton: Session, weights: Batch) -> Session:
        """Verify once per structure that the skeleton computes the same as a model on its own."""
        if self._trial is not None:
            key = hashlib.sha256(b"skeleton" + found.structure).digest()
            self._trial.require(key, f"{found.path!r} without its weights", found.lifted.skeleton)
        alone, together = open_session(data, self._options), skeleton.with_weights(weights)
        noise = make_noise(alone.signature, rows=4)
        try:
            differing = find_differing(alone.infer(noise), together.infer(noise))
        except InputError as error:
            differing = str(error)
        if differing:
            LOG.warning("models of the structure of %r are opened one by one: %s", found.name, differing)
            self._apart.add(found.lifted.skeleton)
            return alone
        self._sessions[found.lifted.skeleton] = skeleton
        return together
