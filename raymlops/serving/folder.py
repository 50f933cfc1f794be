"""A folder of models: finds and checks them all, and opens them one by one. No Ray."""

import collections
import dataclasses
import hashlib
import io
import logging
import pathlib
from collections.abc import Iterator, Mapping

from raymlops.errors import ArtifactError, InputError, NotFoundError
from raymlops.models.header import Header, read_header
from raymlops.models.lifting import Lifted, lift_weights, read_weights
from raymlops.models.parity import find_differing
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.safety import read_model
from raymlops.models.session import Session, SessionOptions, check_shareable, open_session
from raymlops.serving.hosting import find_file
from raymlops.serving.model import make_noise
from raymlops.tensors import Batch

LOG = logging.getLogger("raymlops.serving")
OPTIONS = SessionOptions(threads=1, lean=True, shared=True)


@dataclasses.dataclass(frozen=True)
class Found:
    """A checked model file; `digest` is what it must still be when it is loaded."""

    name: str
    path: pathlib.Path
    size: int
    digest: str
    header: Header
    lifted: Lifted


def find_models(folder: pathlib.Path) -> Iterator[Found]:
    """Every NAME.onnx and every folder with an ONNX file; those that are broken are logged and left out."""
    if not folder.is_dir():
        raise NotFoundError(f"No folder {str(folder)!r} with models")
    skeletons: dict[bytes, bytes] = {}  # each is kept once
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix == ".onnx"):
            continue
        try:
            file = find_file(path)
            data = read_model(file)
            if not isinstance(data, bytes):
                raise ArtifactError(f"{file.name!r} keeps weights in other files; export it as one file")
            check_shareable(data, repr(file.name))
            digest = hashlib.sha256(data).hexdigest()
            lifted = lift_weights(data)
            skeleton = skeletons.setdefault(lifted.skeleton, lifted.skeleton)
            lifted = dataclasses.replace(lifted, skeleton=skeleton)
            yield Found(path.stem, file, len(data), digest, read_header(data), lifted)
        except (ArtifactError, NotFoundError) as error:
            LOG.error("a model is left out: %s", error)


class Opener:
    """Opens found models, from several threads at once. Models of one structure run in one session of their
    skeleton, so
    that opening one is reading its weights, a tenth of the time of making a session.
    """

    def __init__(self, found: Mapping[str, Found], options: SessionOptions = OPTIONS) -> None:
        self._found = found
        self._options = options
        alike = collections.Counter(model.lifted.skeleton for model in found.values() if model.lifted.weights)
        self._shared = {skeleton for skeleton, number in alike.items() if number > 1}
        self._sessions: dict[bytes, Session] = {}
        self._proofs: dict[bytes, Independence] = {}

    def prove(self, name: str) -> Independence:
        """Whether requests for a model may share a run; one proof for all models of one structure."""
        lifted = self._found[name].lifted
        if lifted.skeleton not in self._proofs:
            weights = {weight.name for weight in lifted.weights}
            self._proofs[lifted.skeleton] = prove_rows(lifted.skeleton, weights)
        return self._proofs[lifted.skeleton]

    def open(self, name: str) -> Session:
        """Only the bytes that were checked when the model was found. Raises ArtifactError when they have changed."""
        found = self._found[name]
        data = found.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != found.digest:
            raise ArtifactError(f"{found.path.name!r} has changed since this replica started; deploy again")
        skeleton = found.lifted.skeleton
        if skeleton not in self._shared:
            return open_session(data, self._options)
        weights = read_weights(io.BytesIO(data), found.lifted.weights)
        if skeleton in self._sessions:
            return self._sessions[skeleton].with_weights(weights)
        return self._share(found, data, open_session(skeleton, self._options), weights)

    def _share(self, found: Found, data: bytes, skeleton: Session, weights: Batch) -> Session:
        """Prove once for each structure that the skeleton answers as a model does on its own."""
        alone, together = open_session(data, self._options), skeleton.with_weights(weights)
        noise = make_noise(alone.signature, rows=4)
        try:
            differing = find_differing(alone.infer(noise), together.infer(noise))
        except InputError as error:
            differing = str(error)
        if differing:
            LOG.warning("models of the structure of %r are opened one by one: %s", found.name, differing)
            self._shared.discard(found.lifted.skeleton)
            return alone
        self._sessions[found.lifted.skeleton] = skeleton
        return together
