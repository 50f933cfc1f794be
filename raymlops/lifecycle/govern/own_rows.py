"""Which of the rows on which a version is measured are rows that it was trained on or chosen by. Judges nothing."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raymlops.data import training_rows
from raymlops.data.training_rows import FALSE_SHARE, to_share


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """Of the rows on which a version is measured, how many are its own, as far as its record knows."""

    rows: int = 0
    train: int = 0
    validation: int = 0
    left_out: int = 0
    """By the sample of a large training."""
    unknown: int = 0
    """The table lacks columns that the record goes by."""

    @classmethod
    def from_marks(cls, marks: npt.NDArray[np.int8]) -> "OwnRows":
        counts = np.bincount(marks, minlength=training_rows.UNKNOWN + 1).tolist()
        return cls(len(marks), *counts[1:])

    def __add__(self, other: "OwnRows") -> "OwnRows":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return OwnRows(*(one + two for one, two in pairs))

    @property
    def known(self) -> int:
        return self.rows - self.left_out - self.unknown

    @property
    def found(self) -> bool:
        """Whether there are more than those that the record takes for its own by mistake."""
        mistaken = 2 * FALSE_SHARE * self.known
        return bool(self.train + self.validation > mistaken + 4 * math.sqrt(mistaken) + 1)

    def describe(self, name: str) -> str:
        """A sentence on them; empty if there are none."""
        if not self.found:
            return ""
        share = to_share(self.train, self.known)
        of = f"{self.known:,} rows" if self.known == self.rows else f"a sample of {self.known:,} rows"
        more = f", and {self.validation:,} were its validation rows" if self.validation else ""
        return f"{self.train:,} of {of} (about {share:.0%}) were training rows of {name}{more}"


def add_all(counts: Mapping[str, OwnRows], more: Mapping[str, OwnRows]) -> dict[str, OwnRows]:
    return {name: counts.get(name, OwnRows()) + more[name] for name in more} | {
        name: held for name, held in counts.items() if name not in more
    }


def is_new(marks: Mapping[str, npt.NDArray[np.int8]]) -> npt.NDArray[np.bool_]:
    """The rows that no version had, as far as is known."""
    new = (np.isin(held, (training_rows.NEW, training_rows.UNKNOWN)) for held in marks.values())
    return functools.reduce(np.logical_and, new)
