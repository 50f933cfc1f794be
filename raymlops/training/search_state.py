"""Signs the pickles that Tune writes for a search, and verifies them before Tune unpickles them: the storage path is
shared, and a pickle can run any code. Pickles nothing, and starts no search.

Tune overwrites a few files of the search's folder every few seconds. Their digests are signed and stored before that,
with those of a few earlier writes, so that a driver that is killed in between leaves files that can be verified.
"""

import collections
import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping

from raymlops import attestation, locations, ray_internals
from raymlops.attestation import SigningKey, TrustedKeys
from raymlops.errors import StorageError, UntrustedError
from raymlops.training import storage

SIGNATURE_FILE = "raymlops.signed"  # not .json: Tune reads files with that suffix
_PAYLOAD = "application/vnd.raymlops.search-state+json"
_PICKLED = (".json", ".pkl")
_KEPT = 8  # writes of a file whose digests stay valid
_REMEDY = (
    "Tune would run code in it. Start over (`raymlops train --fresh`, or `raymlops search` without --resume), "
    "list the key of who started it in RAYMLOPS_TRUSTED_KEYS, or pass --trust if you know that no one else can "
    "write there"
)


class SearchState:
    """The signed digests of one search's files, by name."""

    def __init__(self, storage_path: str, name: str, key: SigningKey, trusted: TrustedKeys) -> None:
        self._storage_path, self._name = storage_path, name
        self._key, self._trusted = key, trusted
        self._digests: dict[str, collections.deque[str]] = {}

    def require_signed(self) -> None:
        """Raises UntrustedError unless a trusted key signed every file that Tune would read."""
        with storage.explained(self._storage_path, "read"):
            held = self._read_signed()
            found = self._read_files()
        for file, digest in found.items():
            if digest not in held.get(file, ()):
                raise UntrustedError(
                    f"{file!r} of the search {self._name!r} is not what a trusted key signed. {_REMEDY}"
                )
        self._digests = {file: collections.deque(digests, _KEPT) for file, digests in held.items()}

    def adopt(self) -> None:
        """Sign the present files, as just written, or as trusted by the caller."""
        with storage.explained(self._storage_path, "read"):
            self._add(self._read_files())
        with storage.explained(self._storage_path):
            self._write()

    def sign(self, folder: str) -> None:
        """Sign the files of a local folder that are about to be copied to the storage path."""
        paths = [
            path for path in pathlib.Path(folder).iterdir() if path.suffix in _PICKLED and path.is_file()
        ]
        self._add({path.name: attestation.digest_of(path.read_bytes()) for path in paths})
        with contextlib.suppress(OSError):  # the code that copies the files reports an unreachable storage
            storage.in_time(self._write, seconds=5)

    def _add(self, digests: Mapping[str, str]) -> None:
        for file, digest in digests.items():
            known = self._digests.setdefault(file, collections.deque(maxlen=_KEPT))
            if digest not in known:
                known.append(digest)

    def _write(self) -> None:
        files = {file: list(digests) for file, digests in self._digests.items()}
        payload = attestation.canonical({"search": self._name, "files": files})
        filesystem, folder = locations.open_location(self._storage_path, self._name)
        filesystem.makedirs(folder, exist_ok=True)
        filesystem.pipe_file(f"{folder}/{SIGNATURE_FILE}.new", self._key.sign(payload, _PAYLOAD).encode())
        filesystem.mv(f"{folder}/{SIGNATURE_FILE}.new", f"{folder}/{SIGNATURE_FILE}")

    def _read_signed(self) -> dict[str, list[str]]:
        filesystem, folder = locations.open_location(self._storage_path, self._name)
        try:
            text = filesystem.cat_file(f"{folder}/{SIGNATURE_FILE}")
        except FileNotFoundError:
            raise UntrustedError(f"Nobody signed the state of the search {self._name!r}. {_REMEDY}") from None
        try:
            held = json.loads(attestation.verify(text, _PAYLOAD, self._trusted).payload)
            if held["search"] != self._name:
                raise UntrustedError(f"it was signed for the search {held['search']!r}")
            return {str(file): [str(digest) for digest in digests] for file, digests in held["files"].items()}
        except (UntrustedError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UntrustedError(f"The state of the search {self._name!r}: {error}. {_REMEDY}") from None

    def _read_files(self) -> dict[str, str]:
        filesystem, folder = locations.open_location(self._storage_path, self._name)
        paths = [path for path in filesystem.ls(folder, detail=False) if path.endswith(_PICKLED)]
        return {path.rpartition("/")[2]: attestation.digest_of(filesystem.cat_file(path)) for path in paths}


@contextlib.contextmanager
def signed_by(state: SearchState | None) -> Iterator[None]:
    """Sign each write of the search that runs in this context.

    Tune does not announce a write before it copies it, so its method is wrapped. If a later Tune has no such method,
    nothing is signed, and `--resume` says so.
    """
    if state is None:
        yield
        return
    with ray_internals.told_of_saves(state.sign):
        yield


def open_state(storage_path: str, name: str, key: SigningKey, trusted: TrustedKeys) -> SearchState:
    """The state of a search that is about to start or to be resumed. Raises StorageError for a name that leads
    elsewhere."""
    if "/" in name or name in ("", ".", ".."):
        raise StorageError(f"{name!r} is not a name of a search")
    return SearchState(storage_path, name, key, trusted)
