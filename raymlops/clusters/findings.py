"""What is wrong with a set-up, why it matters, and the command that mends it."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to mend: `error` when work cannot be right with it, `warning` when it will hurt later."""

    check: str
    what: str
    why: str
    mend: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.level.upper()} {self.check}: {self.what}\n    why:  {self.why}\n    mend: {self.mend}"
