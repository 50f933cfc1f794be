"""The Open Inference Protocol v2 as values: requests, endpoints, and the documents that describe them. Parses
nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from raymlops.errors import NodeError, RaymlopsError, encodable, shorten
from raymlops.tensors import Batch, Signature, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "parameters")


class Endpoint(Protocol):
    """Anything that answers under a model's name: one session, or a graph of many."""

    @property
    def signature(self) -> Signature: ...

    @property
    def version(self) -> str: ...

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        """Answer a batch; `key` keeps a caller on one branch of a split."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class RequestedOutput:
    name: str
    binary: bool


@dataclasses.dataclass(slots=True)  # a frozen dataclass would take a microsecond per request
class InferRequest:
    """A decoded request. `outputs` is empty for all of them; `binary` is the requested form, else JSON."""

    id: str
    batch: Batch
    outputs: tuple[RequestedOutput, ...] = ()
    binary: bool = False
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: int = 1

    def binary_by_output(self, signature: Signature) -> dict[str, bool]:
        """Whether each requested output is a binary tensor, by name."""
        if self.outputs:
            return {output.name: output.binary for output in self.outputs}
        return {spec.name: self.binary for spec in signature.outputs}


def describe_server(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "version": version, "extensions": list(EXTENSIONS)}


def describe_model(
    name: str,
    version: str,
    signature: Signature,
    platform: str,
    shared_runs: str,
    optional: Sequence[TensorSpec] = (),
    explanation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`shared_runs` says why requests share runs of the model, or why they do not; `optional` are inputs beside those
    of the signature, which a request may omit; `explanation` says what an output with contributions of terms has."""
    told: dict[str, Any] = {"optional_inputs": [spec.name for spec in optional]} if optional else {}
    if explanation:
        told["explanation"] = dict(explanation)
    return {
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": [spec.to_json() for spec in (*signature.inputs, *optional)],
        "outputs": [spec.to_json() for spec in signature.outputs],
        "parameters": {"shared_runs": shared_runs, **told},
    }


def describe_index(states: Mapping[str, tuple[str, bool, str]]) -> list[dict[str, str]]:
    """The repository index from name -> (version, ready, reason)."""
    return [
        {
            "name": name,
            "version": version,
            "state": "READY" if ready else "UNAVAILABLE",
            "reason": encodable(reason),
        }
        for name, (version, ready, reason) in states.items()
    ]


def describe_error(error: BaseException, request_id: str) -> dict[str, Any]:
    """The common form of every error answer; for faults of ours the cause is only logged. Always encodable."""
    if isinstance(error, RaymlopsError) and error.status != 500:
        text, status = encodable(shorten(str(error), 2000)), error.status
    else:
        where = f"Node {error.node!r}" if isinstance(error, NodeError) else "The server"
        text = f"{where} failed on this request; its log has the cause under request id {request_id}"
        status = 500
    return {"error": text, "status": status, "request_id": request_id}
