"""API keys with roles: made once, kept as hashes in a file, checked in constant time, replaced while serving.

A key reads `rmk_<name>_<secret>`: the name finds its entry, the secret has 256 random bits, so one SHA-256 is
enough.
"""

import dataclasses
import hashlib
import hmac
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping

import yaml

from raymlops.errors import AuthenticationError, ForbiddenError, NotFoundError, SpecError, unknown_name

ROLES = ("infer", "admin")
_NAME = re.compile(r"[A-Za-z0-9.-]{1,64}")
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """An entry of the file; an admin may also infer."""

    name: str
    role: str
    sha256: str


class KeyRing:
    """The keys in force. Without any, everyone may infer and nobody may administer."""

    def __init__(self, keys: Iterable[Key] = (), required: bool = False) -> None:
        self.replace(keys)
        self.required = required

    def replace(self, keys: Iterable[Key]) -> None:
        """Put other keys in force; requests that were admitted go on."""
        self._keys: Mapping[str, Key] = {key.name: key for key in keys}

    @property
    def is_open(self) -> bool:
        return not self._keys and not self.required

    def admit(self, token: str, role: str) -> str:
        """The name of the key that may act in this role. Raises AuthenticationError, ForbiddenError."""
        if self.is_open:
            if role == "admin":
                raise ForbiddenError(
                    "This route needs an admin key, and this application has no keys; see: raymlops keys"
                )
            return ""
        if not token:
            raise AuthenticationError(
                "An API key is missing; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        name = token.removeprefix("rmk_").partition("_")[0]
        key = self._keys.get(name)
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        matches = hmac.compare_digest(digest, key.sha256 if key else _NOBODY)
        if key is None or not matches:
            raise AuthenticationError("The API key is not known here; it may have been revoked")
        if role == "admin" and key.role != "admin":
            raise ForbiddenError(f"Key {name!r} has the role {key.role}; this route needs admin")
        return name


def make_key(name: str, role: str) -> tuple[str, Key]:
    """A new key: the text to hand out, shown once, and the entry to keep."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"Key name {name!r} must be 1 to 64 letters, digits, dots and dashes")
    if role not in ROLES:
        raise SpecError(unknown_name("role", role, ROLES))
    token = f"rmk_{name}_{secrets.token_urlsafe(32)}"
    return token, Key(name, role, hashlib.sha256(token.encode()).hexdigest())


def read_keys(path: pathlib.Path) -> list[Key]:
    """The entries of a key file. Raises NotFoundError, SpecError."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(
            f"No key file {str(path)!r}; make one with: raymlops keys add {path} NAME"
        ) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read the key file {str(path)!r}: {error}") from None
    try:
        keys = [
            Key(str(e["name"]), str(e["role"]), str(e["sha256"]))
            for e in ({} if value is None else value).get("keys", [])
        ]
    except (TypeError, KeyError, AttributeError):
        raise SpecError(f"{str(path)!r} must hold keys: a list of name, role and sha256") from None
    for key in keys:
        if key.role not in ROLES:
            raise SpecError(f"{str(path)!r}: {unknown_name('role', key.role, ROLES)}")
    return keys


def write_keys(path: pathlib.Path, keys: Iterable[Key]) -> None:
    """Replace the file at once, so that a reader never sees half of it; readable by its owner only."""
    entries = [dataclasses.asdict(key) for key in keys]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        yaml.safe_dump({"keys": entries}, file, sort_keys=False)  # mode 0600, which tempfile gives
    pathlib.Path(file.name).replace(path)
