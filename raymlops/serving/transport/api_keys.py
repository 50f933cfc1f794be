"""API keys with roles: created once, stored as hashes in a file, checked in constant time, replaced while serving.

A key reads `rmk_<name>_<secret>`: the name finds its entries, the secret has 256 random bits, so one SHA-256 is
enough. Two entries may have one name while a key is rotated. Reads and checks; `key_files` writes.
"""

import dataclasses
import datetime
import hashlib
import hmac
import math
import pathlib
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping
from typing import Any

from raymlops.errors import AuthenticationError, ForbiddenError, NotFoundError, SpecError, unknown_name
from raymlops.specs.document import read_yaml

ROLES = ("infer", "label", "metrics", "view", "admin")
"""What a key may do: use models; send labels of earlier requests; read counters; read descriptions of models and
their statistics; and load, unload and all of the others."""
_ALSO: Mapping[str, tuple[str, ...]] = {"ready": ("infer", "view")}
"""What several roles may do: clients check that a model is ready before they use it."""
_OF_OLD: Mapping[str, tuple[str, ...]] = {"infer": ("infer", "view"), "admin": ("admin",)}
"""The meaning of an entry's single `role`, from before there were several."""
_NAME = re.compile(r"[A-Za-z0-9.-]{1,64}")
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """An entry of the file. `models` are those it may use, None allows all; it ends at `expires`, an ISO time."""

    name: str
    roles: tuple[str, ...]
    sha256: str
    models: tuple[str, ...] = ()
    expires: str = ""
    ends: float = dataclasses.field(init=False, repr=False, compare=False, default=math.inf)
    """Seconds since the epoch."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", parse_instant(self.expires) if self.expires else math.inf)

    @property
    def id(self) -> str:
        """Distinguishes two keys of one name; reveals nothing of the secret."""
        return self.sha256[:12]

    def may(self, role: str) -> bool:
        held = self.roles
        return role in held or "admin" in held or any(also in held for also in _ALSO.get(role, ()))

    def sees(self, model: str) -> bool:
        return not self.models or model in self.models


ANYONE = Key("", ("infer", "label", "metrics", "view"), "")
"""The caller of an application without keys."""


class KeyRing:
    """The valid keys. Without any, everyone may do everything except administer."""

    def __init__(self, keys: Iterable[Key] = (), required: bool = False) -> None:
        self.replace(keys)
        self.required = required

    def replace(self, keys: Iterable[Key]) -> None:
        """Replace the keys; requests that were already admitted continue."""
        named: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            named[key.name] = (*named.get(key.name, ()), key)
        self._keys: Mapping[str, tuple[Key, ...]] = named

    @property
    def is_open(self) -> bool:
        return not self._keys and not self.required

    def identify(self, token: str) -> Key:
        """The key of this text. Raises AuthenticationError if it is not a key, or no longer valid."""
        if self.is_open:
            return ANYONE
        if not token:
            raise AuthenticationError(
                "An API key is missing; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self._keys.get(token.removeprefix("rmk_").partition("_")[0], ()):
            if hmac.compare_digest(digest, key.sha256):
                found = key
        if found is None:
            hmac.compare_digest(digest, _NOBODY)
            raise AuthenticationError("The API key is not known here; it may have been revoked")
        if time.time() >= found.ends:
            raise AuthenticationError(f"Key {found.name!r} expired at {found.expires}; ask for a new one")
        return found

    def admit(self, token: str, role: str, model: str | None = None) -> Key:
        """The key, if it may act in this role, on this model if one is named; None stands for all models.

        Raises AuthenticationError, ForbiddenError.
        """
        key = self.identify(token)
        if not key.may(role):
            if key is ANYONE:
                raise ForbiddenError(
                    "This route needs an admin key, and this application has no keys; see: raymlops keys"
                )
            held = ", ".join(key.roles)
            raise ForbiddenError(f"Key {key.name!r} has the roles {held}; this route needs {role}")
        if model is not None and not key.sees(model):
            raise ForbiddenError(f"Key {key.name!r} is for {', '.join(key.models)} only, not for {model!r}")
        return key


def parse_instant(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 date or time; UTC if it has no offset. Raises SpecError."""
    try:
        instant = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise SpecError(f"{text!r} is not an ISO instant such as 2027-01-31T00:00:00Z") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=datetime.UTC)
    return instant.timestamp()


def make_key(
    name: str, roles: Iterable[str], models: Iterable[str] = (), expires: str = ""
) -> tuple[str, Key]:
    """A new key: its text, which is shown once, and the entry to store. Raises SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"Key name {name!r} must be 1 to 64 letters, digits, dots and dashes")
    held = tuple(dict.fromkeys(roles))
    _require_roles(held)
    token = f"rmk_{name}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, Key(name, held, digest, tuple(dict.fromkeys(models)), expires)


def _require_roles(roles: tuple[str, ...]) -> None:
    if not roles:
        raise SpecError(f"A key needs one or more of the roles {', '.join(ROLES)}")
    for role in roles:
        if role not in ROLES:
            raise SpecError(unknown_name("role", role, ROLES))


def read_entry(entry: Any) -> Key:
    """The key of an entry of a file or a config, in today's form or with the old single `role`. Raises SpecError."""
    try:
        name, sha256 = str(entry["name"]), str(entry["sha256"])
        roles = entry["roles"] if "roles" in entry else _OF_OLD.get(entry["role"], (entry["role"],))
        models = entry.get("models") or ()
        expires = entry.get("expires") or ""
    except (TypeError, KeyError, AttributeError):
        raise SpecError("an entry of keys must have name, roles and sha256") from None
    if isinstance(expires, datetime.date):  # YAML reads an unquoted time as a timestamp
        expires = expires.isoformat()
    wrong = [part for part in (roles, models) if isinstance(part, str) or not isinstance(part, list | tuple)]
    if wrong or not all(isinstance(part, str) for part in (*roles, *models, expires)):
        raise SpecError(
            f"roles and models of key {name!r} must be lists of names, and expires an ISO instant"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise SpecError(f"sha256 of key {name!r} must be 64 hexadecimal digits in lower case")
    _require_roles(tuple(roles))
    return Key(name, tuple(roles), sha256, tuple(models), expires)


def read_keys(path: pathlib.Path) -> list[Key]:
    """The entries of a key file. Raises NotFoundError, SpecError."""
    try:
        value, _ = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        made = f"raymlops keys add {shlex.quote(str(path))} NAME"
        raise NotFoundError(f"No key file {str(path)!r}; make one with: {made}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read the key file {str(path)!r}: {error}") from None
    entries = ({} if value is None else value).get("keys", []) if isinstance(value, dict | None) else None
    if not isinstance(entries, list):
        raise SpecError(f"{str(path)!r} must hold keys: a list of name, roles and sha256")
    try:
        return [read_entry(entry) for entry in entries]
    except SpecError as error:
        raise SpecError(f"{str(path)!r}: {error}") from None
