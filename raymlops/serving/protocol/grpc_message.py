"""Reads which model a protocol message names from its bytes, without parsing it. Imports no server."""

from collections.abc import Collection

from raymlops.serving.protocol.protobuf_limits import BYTES, read_field

FIELDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "Check", "Watch"),
        (1,),
    ),
    # KServe's messages have the model in the field in which Triton's have the repository.
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), (2, 1)),
    "TraceSetting": (2,),
}
"""Method -> the fields that name a model, the decisive one first; other methods name no model."""
SERVERS = ("inference.GRPCInferenceService", "grpc.health.v1.Health")
"""Names for Check and Watch that are not models."""
_ID = 3
"""The field of a ModelInferRequest."""


def find_model(method: str, message: bytes) -> str:
    """The model's name; empty if the method or the message has none, or the bytes are not a message."""
    fields = FIELDS.get(method)
    if fields is None:
        return ""
    found = _read_texts(message, fields)
    name = next((found[field] for field in fields if found.get(field)), "")
    return "" if method in ("Check", "Watch") and name in SERVERS else name


def find_id(message: bytes) -> str:
    """The request id of a ModelInferRequest; empty if it has none, or the bytes are not a message."""
    return _read_texts(message, (_ID,)).get(_ID, "")


def _read_texts(message: bytes, fields: Collection[int]) -> dict[int, str]:
    """The texts of these fields; empty if the bytes are not a message as far as they were read."""
    found: dict[int, str] = {}
    at, end = 0, len(message)
    try:
        while at < end and len(found) < len(fields):
            tag, start, at = read_field(message, at, end)
            if tag & 7 == BYTES and tag >> 3 in fields:
                found[tag >> 3] = message[start:at].decode()
    except (IndexError, UnicodeDecodeError):
        return {}
    return found
