"""The verdict of a gate: checks with all numbers, for people and machines. Judges nothing itself."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of a model. `value` and its interval are compared with `limit`."""

    name: str
    passed: bool
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None

    def __str__(self) -> str:
        numbers = _show(self.value)
        if self.low is not None and self.high is not None:
            numbers += f" [{_show(self.low)}, {_show(self.high)}]"
        if self.limit is not None:
            numbers += f", limit {_show(self.limit)}"
        word = "pass" if self.passed else "FAIL"
        return f"{word}  {self.name}: {f'{numbers}; ' if numbers else ''}{self.text}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Names, file digests and every check. An empty `champion` means that there was none."""

    candidate: str
    champion: str
    digest: str
    champion_digest: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def sha256(self) -> str:
        """Digest of the JSON, so that a record can name exactly this verdict."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        against = f" against {self.champion}" if self.champion else ", no champion to compare with"
        count = len(self.failures)
        head = f"{self.candidate}{against}: " + ("passed" if self.passed else f"blocked by {count} checks")
        return "\n".join([head.replace(" 1 checks", " 1 check"), *(f"  {check}" for check in self.checks)])

    def to_json(self) -> dict[str, Any]:
        """Infinite and undefined numbers become null, since JSON has none."""
        return {
            "passed": self.passed,
            "candidate": self.candidate,
            "champion": self.champion,
            "digest": self.digest,
            "champion_digest": self.champion_digest,
            "checks": [{k: _plain(v) for k, v in dataclasses.asdict(check).items()} for check in self.checks],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        return cls(
            candidate=value["candidate"],
            champion=value["champion"],
            digest=value["digest"],
            champion_digest=value["champion_digest"],
            checks=tuple(Check(**check) for check in value["checks"]),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _show(value: float | None) -> str:
    return (
        ""
        if value is None
        else f"{value:,.4g}"
        if abs(value) < 1e4 or not np.isfinite(value)
        else f"{value:,.0f}"
    )
