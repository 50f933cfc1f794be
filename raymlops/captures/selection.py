"""Which requests are captured, which of their columns, and which columns are replaced by a keyed hash."""

import dataclasses
import hashlib
import hmac
import json
import math
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from raymlops.errors import SpecError

INPUTS, OUTPUTS, PARAMETERS = KINDS = ("inputs", "outputs", "parameters")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Columns are named as `age`, an input or output of any model, or as `inputs.age`, `outputs.score`,
    `parameters.episode`. An empty `columns` is all."""

    columns: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    person: str = ""
    secret: bytes = dataclasses.field(default=b"", repr=False)

    def keeps(self, kind: str, name: str) -> bool:
        chosen = not self.columns or is_named(self.columns, kind, name)
        return chosen and not is_named(self.drop, kind, name)

    def names(self, kind: str, name: str) -> bool:
        """Whether it is named as one to keep, hashed or not."""
        return is_named((*self.columns, *self.hash, self.person), kind, name)

    def hashes_column(self, column: str) -> bool:
        """The same of a column of a dataset, see `to_column`."""
        kind, name = INPUTS, column
        if column.startswith("parameter_") and not self.hashes(kind, name):
            kind, name = PARAMETERS, column.removeprefix("parameter_")
        return self.hashes(kind, name)

    def hashes(self, kind: str, name: str) -> bool:
        return is_named(self.hash, kind, name)

    def find_person(self, columns: Iterable[str]) -> str:
        """The person's column among those of a table, such as `inputs.customer`; empty for none."""
        for column in columns:
            kind, _, name = column.partition(".")
            if self.person and kind in KINDS and is_named((self.person,), kind, name):
                return column
        return ""


def is_named(given: Collection[str], kind: str, name: str) -> bool:
    return bool(given) and (f"{kind}.{name}" in given or (kind != PARAMETERS and name in given))


def is_in_share(request_id: str, share: float) -> bool:
    """Decided by a hash of the id alone, so that all replicas, and all tries of one request, agree."""
    if share >= 1 or share <= 0:
        return share >= 1
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def to_column(name: str) -> str:
    """`inputs.age`, `outputs.label` and `parameters.step` of a file as columns of a dataset: `age`, `predicted_label`
    and `parameter_step`."""
    kind, _, rest = name.partition(".")
    return {INPUTS: "", OUTPUTS: "predicted_", PARAMETERS: "parameter_"}[kind] + rest


def to_text(value: Any) -> str | None:
    """A value as text for comparing and hashing: whole numbers without decimals, since an id may be kept as a float,
    and the only value of a list as itself. None for a missing value."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)


def hash_text(text: str, secret: bytes) -> str:
    """HMAC-SHA256 in hex."""
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def hash_column(values: pa.Array | pa.ChunkedArray, secret: bytes) -> pa.Array:
    """Each value's keyed hash; missing values stay missing."""
    known: dict[str, str] = {}
    hashed: list[str | None] = []
    for value in values.to_pylist():
        text = to_text(value)
        if text is not None and text not in known:
            known[text] = hash_text(text, secret)
        hashed.append(None if text is None else known[text])
    return pa.array(hashed, pa.string())


def name_secret(secret: bytes) -> str:
    """Tells two secrets apart, and reveals none."""
    return hash_text("raymlops capture", secret)[:16] if secret else ""


def require_secret(variable: str, value: str | None, purpose: str) -> bytes:
    """The secret in an environment variable, as bytes. Raises SpecError if it is not set."""
    if not value:
        raise SpecError(
            f"{purpose} needs the secret of capture.hash: set the environment variable {variable or 'of its spec'!s} "
            "to the one that the replicas have"
        )
    return value.encode("utf-8", "surrogateescape")
