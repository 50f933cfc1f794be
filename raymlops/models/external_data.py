"""Weights of an ONNX file in external files of its folder: read once, hashed, and passed on from memory.

No path is opened twice, and none by ONNX Runtime: what was checked is what is loaded, even if the files change.
Symbolic links are followed only inside the folder. A file with several names (hard links) is read only if its digest
is known beforehand: its other name may be anywhere.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence

import onnx

from raymlops import attestation
from raymlops.artifact import MODEL_FILE
from raymlops.errors import ArtifactError
from raymlops.models.traversal import find_tensors

LARGEST_FILE = 2**31 - 1
"""Maximum size of a protobuf message, in bytes."""
_SLACK = 64 * 2**20  # bytes that no weight uses, such as padding for alignment
_NUMBER = re.compile(r"[0-9]{1,18}")
_KEYS = {"location", "offset", "length", "checksum"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Where a tensor's bytes are: `size` of them at `offset` of the file `location`."""

    location: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """An ONNX file, and the whole content of its external weights files, by location."""

    data: bytes
    weights: Mapping[str, bytes] = dataclasses.field(hash=False)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """sha256 of each file."""
        files = {MODEL_FILE: self.data, **self.weights}
        return {name: attestation.digest_of(content) for name, content in files.items()}

    @property
    def digest(self) -> str:
        """sha256 of the list of all files with their digests, so that a changed weight makes another model."""
        return attestation.digest_of_files(self.digests)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return len(self.data) + sum(map(len, self.weights.values()))

    def embed(self) -> onnx.ModelProto:
        """The model with all weights inside. Raises ArtifactError if they do not fit one file."""
        if self.size > LARGEST_FILE:
            raise ArtifactError(f"The model has {self.size} bytes with its weights; one file holds 2 GiB")
        model = onnx.ModelProto.FromString(self.data)
        self._put_inside(model)
        return model

    def split_for_session(self) -> tuple[bytes, dict[str, bytes]]:
        """The model for a session, and the content of its external files: ONNX Runtime takes only weights of the main
        graph from memory, so all others are put inside.

        Raises ArtifactError if those do not fit one file.
        """
        model = onnx.ModelProto.FromString(self.data)
        outer = {}
        for place, tensor in enumerate(model.graph.initializer):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                outer[place] = read_reference(tensor, "the model")
                tensor.data_location = onnx.TensorProto.DEFAULT
        self._put_inside(model)
        names = {location: f"weights-{number}" for number, location in enumerate(sorted(self.weights))}
        for place, at in outer.items():
            tensor = model.graph.initializer[place]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            told = {"location": names[at.location], "offset": at.offset, "length": at.size}
            for key, value in told.items():
                tensor.external_data.add(key=key, value=str(value))
        if model.ByteSize() > LARGEST_FILE:
            raise ArtifactError(
                "The weights inside branches, loops and functions are over 2 GiB; keep them in the main graph"
            )
        used = {at.location for at in outer.values()}
        given = {names[location]: content for location, content in self.weights.items() if location in used}
        return model.SerializeToString(), given

    def _put_inside(self, model: onnx.ModelProto) -> None:
        for tensor in find_tensors(model):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                at = read_reference(tensor, "the model")
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
                tensor.raw_data = self.weights[at.location][at.offset : at.offset + at.size]


BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    **dict.fromkeys((15,), 128),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""TensorProto.DataType -> bits per element; strings have none."""


def count_elements(tensor: onnx.TensorProto, name: str) -> int:
    """Raises ArtifactError for a negative size."""
    if any(size < 0 for size in tensor.dims):
        raise ArtifactError(f"Weight {tensor.name!r} of {name!r} has a negative size {list(tensor.dims)}")
    return math.prod(tensor.dims)


def count_bytes(tensor: onnx.TensorProto, name: str) -> int:
    """Bytes of a tensor, from its shape and datatype; 0 for strings. Raises ArtifactError."""
    return -(-count_elements(tensor, name) * BITS.get(tensor.data_type, 0) // 8)


def read_reference(tensor: onnx.TensorProto, name: str) -> Reference:
    """The location of an external tensor. Raises ArtifactError unless it is inside the folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"Weight {tensor.name!r} of {name!r} is kept in {location!r}"
    if len(entries) != len(tensor.external_data) or set(entries) - _KEYS:
        keys = [entry.key for entry in tensor.external_data]
        raise ArtifactError(
            f"{what} by the entries {keys}; expected each of {sorted(_KEYS)} once at the most"
        )
    paths = pathlib.PurePosixPath(location), pathlib.PureWindowsPath(location)
    if (
        not location
        or any(path.is_absolute() or path.drive or path.root for path in paths)
        or "\\" in location
        or not location.isprintable()
    ):
        raise ArtifactError(f"{what}; only a relative path inside the model's folder is allowed")
    numbers = [entries.get("offset", "0"), entries.get("length", "0")]
    if not all(map(_NUMBER.fullmatch, numbers)):
        raise ArtifactError(f"{what} with an offset or length that is no number")
    offset, length = map(int, numbers)
    if tensor.data_type not in BITS:
        raise ArtifactError(
            f"{what}, but strings and tensors without a datatype cannot be kept in another file"
        )
    size = count_bytes(tensor, name)
    if length not in (0, size):
        raise ArtifactError(f"{what} with length {length}, but the tensor needs {size} bytes")
    return Reference(location, offset, size)


def read_weights(
    folder: pathlib.Path,
    tensors: Sequence[onnx.TensorProto],
    name: str,
    *,
    largest: int,
    pinned: bool = False,
) -> dict[str, bytes]:
    """The content of every file that external tensors name, by location; `largest` limits the bytes of all together.

    `pinned` says that the digest of these files is known and will be compared. Raises ArtifactError.
    """
    used: dict[str, int] = {}
    references = []
    for tensor in tensors:
        at = read_reference(tensor, name)
        references.append((tensor.name, at))
        used[at.location] = used.get(at.location, 0) + at.size
    contents: dict[str, bytes] = {}
    for location, needed in used.items():
        left = largest - sum(map(len, contents.values()))
        what = f"A weight of {name!r} is kept in {location!r}"
        contents[location] = read_file(folder, location, what, left, needed, pinned=pinned)
    for weight, at in references:
        size = len(contents[at.location])
        if at.offset + at.size > size:
            raise ArtifactError(
                f"Weight {weight!r} of {name!r} is kept in {at.location!r} at {at.offset}, {at.size} bytes, but that "
                f"file has {size} bytes"
            )
    return contents


def read_file(
    folder: pathlib.Path, location: str, what: str, largest: int, needed: int, *, pinned: bool
) -> bytes:
    """The whole content of a plain file in a folder. Raises ArtifactError."""
    root = folder.resolve()
    try:
        real = (root / location).resolve()
        if not real.is_relative_to(root):
            raise ArtifactError(f"{what}, which leads out of the model's folder")
        with open_plain(real, what) as number:
            if not _is_inside(number, root):
                raise ArtifactError(f"{what}, which leads out of the model's folder")
            found = os.fstat(number)
            if found.st_nlink > 1 and not pinned:
                raise ArtifactError(
                    f"{what}, a file with {found.st_nlink} names (hard links), whose other names may lie anywhere; "
                    "copy it, or give the digest of the model"
                )
            if found.st_size > largest:
                raise ArtifactError(
                    f"{what}, which has {found.st_size} bytes; {largest} are left of the limit"
                )
            if found.st_size > needed + max(needed, _SLACK):
                raise ArtifactError(
                    f"{what}, which has {found.st_size} bytes, but the weights use {needed} of them"
                )
            return read_all(number, found.st_size, what)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{what}, which does not exist in the model's folder") from None
    except (OSError, RuntimeError, ValueError) as error:  # a cycle of links, or a name that is too long
        raise ArtifactError(f"{what}, which cannot be read: {error}") from None


@contextlib.contextmanager
def open_plain(path: pathlib.Path, what: str) -> Iterator[int]:
    """A plain file opened for reading, as a descriptor; does not block on a pipe or a device.

    Raises OSError, ArtifactError.
    """
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    number = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ArtifactError(f"{what}, which is not a plain file")
        yield number
    finally:
        os.close(number)


def read_all(number: int, size: int, what: str) -> bytes:
    """`size` bytes of a descriptor. Raises ArtifactError if its size has changed."""
    with open(number, "rb", buffering=0, closefd=False) as file:
        parts: list[bytes] = []
        while part := file.read(min(size + 1 - sum(len(held) for held in parts), 2**30)):
            parts.append(part)
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(content) != size:
        raise ArtifactError(f"{what}, which changed while it was read; try again")
    return content


def _is_inside(number: int, root: pathlib.Path) -> bool:
    """Whether the opened file is in the folder, whatever its path names by now. Only Linux can tell."""
    link = f"/proc/self/fd/{number}"
    return not os.path.lexists(link) or pathlib.Path(os.readlink(link)).is_relative_to(root)
