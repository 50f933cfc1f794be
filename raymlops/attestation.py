"""Signs records and verifies records of others: DSSE envelopes and in-toto statements, with ed25519 keys.

Works on bytes and keys; does not depend on models or stores. Anyone who holds a trusted private key can sign
anything: a signature says who recorded it, not that it is right.

Formats: DSSE v1 (github.com/secure-systems-lab/dsse), in-toto Statement v1 (in-toto.io/Statement/v1).
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import stat
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key, Signature, SSlibKey

from raymlops.errors import StorageError, UntrustedError, UserError
from raymlops.settings import Settings

STATEMENT_PAYLOAD = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
KEY_FILE = "signing.pem"
_LARGEST = 16 * 2**20  # largest envelope, in bytes
_LINE = re.compile(r"^ed25519:(?P<key>[A-Za-z0-9+/]{43}=)$")

TrustedKeys: TypeAlias = Mapping[str, Key]
"""Key id -> public key."""


@dataclasses.dataclass(frozen=True)
class Verified:
    """A payload with the trusted key that signed it, in the form of RAYMLOPS_TRUSTED_KEYS."""

    payload: bytes
    key: str


class SigningKey:
    """A private key that makes signatures."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._signer = CryptoSigner(private)
        self.public: Key = self._signer.public_key

    @property
    def line(self) -> str:
        """The public key in the form of RAYMLOPS_TRUSTED_KEYS."""
        return to_line(self.public)

    def sign(self, payload: bytes, payload_type: str) -> str:
        """A DSSE envelope as JSON."""
        envelope = Envelope(payload, payload_type, {})
        envelope.sign(self._signer)
        return json.dumps(envelope.to_dict(), sort_keys=True)

    def sign_apart(self, payload: bytes, payload_type: str) -> dict[str, str]:
        """The key id and the signature of an envelope whose payload is stored unchanged elsewhere."""
        held: dict[str, str] = json.loads(self.sign(payload, payload_type))["signatures"][0]
        return held


def load_signing_key(settings: Settings) -> SigningKey:
    """The key of RAYMLOPS_SIGNING_KEY, or of RAYMLOPS_HOME, where it is made on first use.

    Raises UserError if a file is not an ed25519 key, or others may read it; StorageError if none can be made.
    """
    path = settings.signing_key or _own_path(settings)
    if not path.exists():
        if settings.signing_key:
            raise UserError(
                f"RAYMLOPS_SIGNING_KEY names {str(path)!r}, which does not exist; expected a PEM file with an ed25519 "
                "private key: openssl genpkey -algorithm ed25519 -out FILE"
            )
        _make_key(path)
    return SigningKey(_read_private(path))


def _own_path(settings: Settings) -> pathlib.Path:
    return settings.home / "keys" / KEY_FILE


def _make_key(path: pathlib.Path) -> None:
    """If two processes make it at once, both use the one that was written first."""
    pem = CryptoSigner(Ed25519PrivateKey.generate()).private_bytes
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(number, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(number)
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
    except OSError as error:
        raise StorageError(
            f"Cannot make the signing key {str(path)!r}: {error}; set RAYMLOPS_HOME to a folder that can be written, "
            "or RAYMLOPS_SIGNING_KEY to a key"
        ) from None


def _read_private(path: pathlib.Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LARGEST)
    except OSError as error:
        raise UserError(f"Cannot read the signing key {str(path)!r}: {error}") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise UserError(
            f"The signing key {str(path)!r} has mode {stat.S_IMODE(mode):o}, so others may read it; run: "
            f"chmod 600 {shlex.quote(str(path))}"
        )
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{str(path)!r} is not a PEM file of a private key without password: {error}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{str(path)!r} holds a {type(key).__name__}; expected an ed25519 key")
    return key


def load_trusted_keys(settings: Settings) -> TrustedKeys:
    """The keys whose signatures count: those of RAYMLOPS_TRUSTED_KEYS, and your own. Makes no key.

    Raises UserError if an entry is neither a key nor a file or folder of keys.
    """
    keys = [key for entry in settings.trusted_keys for key in _read_entry(entry)]
    own = settings.signing_key or _own_path(settings)
    if own.exists():
        keys.append(SigningKey(_read_private(own)).public)
    return {key.keyid: key for key in keys}


def to_lines(keys: TrustedKeys) -> str:
    """Keys as a value of RAYMLOPS_TRUSTED_KEYS, for a process that does not have their files."""
    return ",".join(sorted(map(to_line, keys.values())))


def to_line(key: Key) -> str:
    return "ed25519:" + base64.b64encode(bytes.fromhex(key.keyval["public"])).decode()


def _read_entry(entry: str) -> list[Key]:
    """The key in a text, the keys of a file, or those of the *.pub and *.pem files of a folder."""
    if entry.startswith("ed25519:"):
        return [_from_line(entry, "RAYMLOPS_TRUSTED_KEYS")]
    path = pathlib.Path(entry).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".pub", ".pem") and file.is_file())
    elif path.is_file():
        files = [path]
    else:
        raise UserError(
            f"RAYMLOPS_TRUSTED_KEYS names {entry!r}, which is neither a file or folder nor a key in the form "
            "ed25519:BASE64, as `raymlops history --key` prints it"
        )
    return [key for file in files for key in _read_public(file)]


def _read_public(path: pathlib.Path) -> list[Key]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the public keys of {str(path)!r}: {error}") from None
    if "PRIVATE KEY" in text:
        raise UserError(f"{str(path)!r} holds a private key; trusted keys must be public keys")
    if "-----BEGIN" in text:
        try:
            key = load_pem_public_key(text.encode())
        except ValueError as error:
            raise UserError(f"{str(path)!r} is not a PEM file of a public key: {error}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UserError(f"{str(path)!r} holds a {type(key).__name__}; expected an ed25519 key")
        return [cast(Key, SSlibKey.from_crypto(key))]
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return [_from_line(words[0], str(path)) for words in lines if words]


def _from_line(line: str, where: str) -> Key:
    found = _LINE.match(line)
    if found is None:
        raise UserError(f"{line!r} of {where} is not a key; expected ed25519:BASE64, of 32 bytes")
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(found["key"]))
    return cast(Key, SSlibKey.from_crypto(public))


def verify(text: str | bytes, payload_type: str, keys: TrustedKeys) -> Verified:
    """The payload of a DSSE envelope that a trusted key signed.

    Raises UntrustedError if the envelope is malformed, of another payload type, or not signed by a trusted key.
    """
    if len(text) > _LARGEST:
        raise UntrustedError(f"The envelope has {len(text)} bytes; the limit is {_LARGEST}")
    try:
        envelope = Envelope.from_dict(json.loads(text))
        found = str(envelope.payload_type)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, VerificationError) as error:
        raise UntrustedError(f"This is not a signed envelope: {type(error).__name__}: {error}") from None
    except Exception as error:  # FormatError and others of the library have no common base
        raise UntrustedError(f"This is not a signed envelope: {error}") from None
    if found != payload_type:
        raise UntrustedError(f"The signed payload is a {found!r}; expected a {payload_type!r}")
    return Verified(envelope.payload, _verify(envelope, keys))


def verify_apart(payload: bytes, payload_type: str, signature: Mapping[str, Any], keys: TrustedKeys) -> str:
    """The trusted key that signed a payload. Raises UntrustedError."""
    try:
        held = Signature(str(signature["keyid"]), base64.b64decode(signature["sig"], validate=True).hex())
    except (ValueError, TypeError, KeyError) as error:
        raise UntrustedError(f"This is not a signature: {error}") from None
    return _verify(Envelope(payload, payload_type, {held.keyid: held}), keys)


def _verify(envelope: Envelope, keys: TrustedKeys) -> str:
    try:
        accepted = envelope.verify(list(keys.values()), 1) if keys else {}
    except Exception:  # whatever the library raises, the signature does not count
        accepted = {}
    if not accepted:
        signers = ", ".join(keyid[:12] for keyid in envelope.signatures) or "nobody"
        raise UntrustedError(
            f"Signed by {signers}, which is no trusted key, or changed since; the {len(keys)} trusted keys are "
            "your own and those of RAYMLOPS_TRUSTED_KEYS"
        )
    return to_line(next(iter(accepted.values())))


def canonical(value: Any) -> bytes:
    """JSON that is equal for equal values: sorted keys, ASCII, no spaces. Raises ValueError for NaN and infinities."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
    ).encode()


def digest_of(value: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(value).hexdigest()


def digest_of_files(digests: Mapping[str, str]) -> str:
    """One sha256 for several files, name -> sha256: a single file's own, else that of the whole list."""
    return next(iter(digests.values())) if len(digests) == 1 else digest_of(canonical(digests))


def make_statement(subjects: Mapping[str, str], kind: str, predicate: Mapping[str, Any]) -> bytes:
    """An in-toto statement of type `kind` with `predicate` on the files `subjects`, name -> sha256."""
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": sha}} for name, sha in sorted(subjects.items())],
            "predicateType": kind,
            "predicate": predicate,
        }
    )


def read_statement(payload: bytes, kind: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Subjects and predicate of a verified payload. Raises UntrustedError for a statement of another type."""
    try:
        held = json.loads(payload)
        if held["_type"] != STATEMENT_TYPE or held["predicateType"] != kind:
            raise UntrustedError(f"The signed statement is a {held['predicateType']!r}; expected a {kind!r}")
        entries: Sequence[Mapping[str, Any]] = held["subject"]
        subjects = {str(entry["name"]): str(entry["digest"]["sha256"]) for entry in entries}
        predicate = dict(held["predicate"])
    except (ValueError, TypeError, KeyError) as error:
        raise UntrustedError(f"A signed payload is not an in-toto statement: {error}") from None
    if len(subjects) != len(entries):
        raise UntrustedError("A signed statement names a file twice")
    return subjects, predicate
