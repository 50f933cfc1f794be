"""Findings of a check: what is wrong, why it matters, and the command that fixes it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to fix: with an `error`, work fails or gives wrong results; a `warning` may cause trouble later."""

    check: str
    what: str
    why: str
    fix: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.level.upper()} {self.check}: {self.what}\n    why: {self.why}\n    fix: {self.fix}"


def to_lines(findings: Sequence[Finding]) -> str:
    """The report of `raymlops doctor`: what, why and the command, errors first."""
    ordered = sorted(findings, key=lambda finding: finding.level != "error")
    return "\n".join(str(finding) for finding in ordered)
