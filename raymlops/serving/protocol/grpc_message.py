"""Which model a message of the protocol is about, read from its bytes without parsing it. Knows no server."""

from collections.abc import Collection

from raymlops.serving.protocol.protobuf_limits import BYTES, read_field

FIELDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "Check", "Watch"),
        (1,),
    ),
    # KServe's messages have the model where Triton's have the repository.
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), (2, 1)),
    "TraceSetting": (2,),
}
"""Method -> the fields in which a model is named, the most telling first; the other methods are about no model."""
SERVERS = ("inference.GRPCInferenceService", "grpc.health.v1.Health")
"""What Check and Watch may name, which is no model."""
_ID = 3
"""The field of a ModelInferRequest."""


def find_model(method: str, message: bytes) -> str:
    """The model's name; empty where the method or the message has none, or the message is none."""
    fields = FIELDS.get(method)
    if fields is None:
        return ""
    found = _read_texts(message, fields)
    name = next((found[field] for field in fields if found.get(field)), "")
    return "" if method in ("Check", "Watch") and name in SERVERS else name


def find_id(message: bytes) -> str:
    """Of a ModelInferRequest; empty where it has none, or is none."""
    return _read_texts(message, (_ID,)).get(_ID, "")


def _read_texts(message: bytes, fields: Collection[int]) -> dict[int, str]:
    """The texts of these fields; none where it is no message as far as they were looked for."""
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
