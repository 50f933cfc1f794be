"""The options of a learner: what it takes, and a message for what it does not."""

import dataclasses
from collections.abc import Mapping

from raymlops.errors import SpecError, unknown_name
from raymlops.specs.experiment import ExperimentSpec, space_key


@dataclasses.dataclass(frozen=True)
class Option:
    """A number from `low` to `high`, a boolean if it has neither, one of some words, or anything if it is `free`."""

    meaning: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    words: tuple[str, ...] = ()
    free: bool = False
    kind: type | None = None
    """Of what is neither a number, a boolean nor a word: str, or dict for named values."""

    def takes(self, value: object) -> bool:
        if self.free:
            return True
        if self.kind is not None:
            return isinstance(value, self.kind) and bool(value or self.kind is dict)
        if self.words:
            return value in self.words
        if self.low is None or self.high is None:
            return isinstance(value, bool)
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.kind is not None:
            return "a text" if self.kind is str else "names with values"
        if self.words:
            return " or ".join(self.words)
        if self.low is None or self.high is None:
            return "true or false"
        return f"{'an integer' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"


READ = ("class_weights", "seed", "loss", "quantile")
"""Keys of `training` that a search over built-in learners other than networks may vary."""


def check_options(spec: ExperimentSpec, known: Mapping[str, Option]) -> None:
    """Raises SpecError for options, and dimensions of the search, that the learner does not take."""
    name = spec.training.learner
    for key, value in spec.training.options.items():
        _find(key, known, f"training.options of {name}")
        if not known[key].takes(value):
            raise SpecError(f"training.options.{key}: expected {known[key]}, got {value!r}")
    for key, dimension in spec.search.varied.items():
        part, option = space_key(key)
        if part != "training.options":
            if option not in READ:
                raise SpecError(
                    f"search.space.{key}: learner {name!r} does not read training.{option}; vary training.options.NAME "
                    f"({', '.join(known)})"
                )
            continue
        _find(option, known, f"search space of {name}")
        bounds = dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)
        for value in bounds:
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            if not known[option].takes(whole):
                raise SpecError(f"search space of {name}: {option}: expected {known[option]}, got {value!r}")


def _find(key: str, known: Mapping[str, Option], where: str) -> None:
    if key not in known:
        raise SpecError(f"{where}: {unknown_name('option', key, known)}")
