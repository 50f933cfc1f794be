"""Why an application does not start, derived from Serve's status messages. Asks nothing and decides nothing."""

import re
from collections.abc import Mapping
from typing import Any

_ERROR = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Died|Exit|Interrupt))(?:: ?(.*)|\(\))?$")
_RETRYING = re.compile(r"Retrying(?: (\d+) more time)?")
_DIED = ("ActorDiedError", "WorkerCrashedError", "ActorUnavailableError", "NodeDiedError")
_PASSING = (*_DIED, "UnreachableError", "ConnectionError", "TimeoutError", "GetTimeoutError")
"""Causes that may be absent at a replica's next start."""


UNKNOWN = "Serve gives no more details"


def find_cause(text: str) -> tuple[str, str]:
    """Kind and message of the innermost error in Serve's text, which holds nested tracebacks.

    Both are empty if it holds none.
    """
    lines = text.splitlines()
    for index in range(len(lines) - 1, -1, -1):
        found = _ERROR.match(lines[index].strip())
        if found is None:
            continue
        kind = found[1]
        message = [found[2] or ""]
        for line in lines[index + 1 :]:
            if not line.strip() or line.lstrip().startswith(("File ", "Traceback ", "During handling")):
                break
            message.append(line.strip())
        return kind, _shorten(kind, " ".join(message).strip(), text)
    return "", ""


def _shorten(kind: str, message: str, text: str) -> str:
    if kind in _DIED:
        code = re.search(r"exit code (\d+)|signal (\d+)|SIG[A-Z]+", text)
        why = (
            "for lack of memory"
            if "OOM" in text and "memory pressure" in text
            else "as by a signal, or for lack of memory"
        )
        return f"its process ended while it started, {why}" + (f" ({code[0]})" if code else "")
    return message[:1500] or kind


def describe(deployments: Mapping[str, Any], message: str) -> str:
    """One sentence on the deployment that does not start and why; `deployments` are Serve's statuses by name."""
    for name, status in deployments.items():
        kind, cause = find_cause(status.message or "")
        if cause:
            return f"{_subject(name)} cannot start: {_with_kind(kind, cause)}"
    kind, cause = find_cause(message)
    if cause:
        return _with_kind(kind, cause)
    told = [f"{_subject(name)}: {status.message}" for name, status in deployments.items() if status.message]
    return "; ".join(told) or message.strip() or UNKNOWN


def _subject(deployment: str) -> str:
    return "a replica" if deployment == "Ingress" else f"the separate node {deployment!r}"


def _with_kind(kind: str, cause: str) -> str:
    """Python's built-in errors say little without their names."""
    ours = kind in _DIED or cause.startswith(("Model ", "Node ", kind))
    return cause if ours or kind in _OURS else f"{kind}: {cause}"


_OURS = (
    "ArtifactError", "SpecError", "NotFoundError", "ForbiddenError", "ResourceError", "StorageError", "InputError",
)  # fmt: skip


def count_failures(deployments: Mapping[str, Any], seen: dict[str, set[str]]) -> int:
    """Failed starts of the deployment that failed most often; `seen` keeps earlier counts.

    A failure that the next start would repeat counts as many.
    """
    for name, status in deployments.items():
        text = status.message or ""
        kind, _ = find_cause(text)
        if not kind or "Retrying" not in text:
            continue
        found = _RETRYING.search(text)
        left = found[1] if found and found[1] else ""
        known = seen.setdefault(name, set())
        known.add(left)
        if kind not in _PASSING:
            return 100
    return max((len(known) for known in seen.values()), default=0)
