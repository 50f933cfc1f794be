"""What was seen of an application at earlier moments, thinned with age, from which operational checks tell rates. Pure
values; reads and writes no files."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

DAY_S = 86_400.0
HOUR_S = 3600.0
KEPT_S = 3 * DAY_S + 2 * HOUR_S
"""The longest window that a check looks back, and some more."""
_SPACING: tuple[tuple[float, float], ...] = ((1.2 * HOUR_S, 0.0), (7 * HOUR_S, 300.0), (KEPT_S, 1800.0))
"""Samples up to an age are kept so many seconds apart."""
HOURS = 15 * 24
"""Hours whose requests are counted apart, to know when requests usually come."""
MOST_MODELS = 200
"""Models that are followed one by one; the rest of a folder are followed as one."""
REST = ("other models", "")


class Counts(NamedTuple):
    """Of one version over all replicas; numbers of requests only grow while it serves."""

    answered: int = 0
    failed: int = 0
    """Server errors."""
    late: int = 0
    """Not answered by their deadline."""
    overloaded: int = 0
    refused: int = 0
    """Beyond the rate of their key or address."""
    mistaken: int = 0
    """Of other outcomes, which are the caller's."""
    slow: int = 0
    """Answered, in more than the objective's time."""
    queue_ms: int = 0
    compute_ms: int = 0
    last: float = 0.0
    """Unix seconds of the newest answer; 0 if there is none."""

    @property
    def bad(self) -> int:
        return self.failed + self.late + self.overloaded

    @property
    def valid(self) -> int:
        """Requests that should have been answered."""
        return self.answered + self.bad

    @property
    def all(self) -> int:
        return self.valid + self.refused + self.mistaken

    def since(self, before: "Counts") -> "Counts":
        """What was counted after `before`; nothing if counting began anew, since what was counted then is not new."""
        grown = [now - then for now, then in zip(self, before, strict=True)]
        if any(number < 0 for number in grown[:-1]):
            return Counts(last=self.last)
        return Counts._make([*(int(number) for number in grown[:-1]), self.last])

    def plus(self, other: "Counts") -> "Counts":
        sums = [int(a + b) for a, b in zip(self[:-1], other[:-1], strict=True)]
        return Counts._make([*sums, max(self.last, other.last)])


ModelKey = tuple[str, str]
"""Model and version."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """An application at one moment."""

    at: float
    """Unix seconds."""
    deployed: float = 0.0
    """When it was deployed."""
    models: Mapping[ModelKey, Counts] | None = None
    """None if its replicas could not be asked."""
    p99_ms: float | None = None
    """The objective by which `slow` was counted."""
    replicas: tuple[str, ...] = ()
    """Ids of those that exist."""
    wanted: int = 0
    """Replicas that there should be."""
    pending: int = 0
    """Requests that wait or run, over all replicas."""
    healthy: bool = True
    free: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Place -> free bytes."""
    lost: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Observer -> requests that did not reach it, over the replicas of now; of `monitoring`, rows."""


@dataclasses.dataclass(frozen=True)
class History:
    """Samples, the oldest first, and requests by model and hour."""

    samples: tuple[Sample, ...] = ()
    hours: Mapping[str, Mapping[int, int]] = dataclasses.field(default_factory=dict)
    """Model -> hours since 1970 -> requests."""

    @property
    def newest(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def add(self, sample: Sample) -> "History":
        """With one more sample; unchanged by one that is not newer than the newest."""
        if self.newest is not None and sample.at <= self.newest.at:
            return self
        grown = dataclasses.replace(self, samples=(*self.samples, sample))
        times, step = next(iter(grown.steps(2)), ((sample.at, sample.at), {}))
        return History(_thin(grown.samples), _count_hours(self.hours, times, step))

    def steps(self, most: int | None = None) -> Iterator[tuple[tuple[float, float], dict[ModelKey, Counts]]]:
        """Two samples that follow one another, of the newest `most`: their times, and what each version counted between
        them, if anything."""
        known = [sample for sample in self.samples if sample.models is not None][-(most or 0) :]
        for before, after in itertools.pairwise(known):
            yield (before.at, after.at), _count_between(before, after)


def sum_counts(steps: Iterable[Mapping[ModelKey, Counts]]) -> dict[ModelKey, Counts]:
    found: dict[ModelKey, Counts] = {}
    for step in steps:
        for key, counts in step.items():
            found[key] = found[key].plus(counts) if key in found else counts
    return found


def start_history(sample: Sample) -> History:
    """Of an application that is seen for the first time: it counted nothing when it was deployed."""
    if sample.models is None or not 0.0 < sample.deployed < sample.at:
        return History((sample,))
    nothing = dataclasses.replace(
        sample, at=sample.deployed, models={}, replicas=(), free={}, pending=0, healthy=True
    )
    return History((nothing, sample))


def fold_models(counts: Mapping[ModelKey, Counts]) -> dict[ModelKey, Counts]:
    """At most MOST_MODELS entries, those with the most requests, and one for the rest."""
    if len(counts) <= MOST_MODELS:
        return dict(counts)
    order = sorted(counts, key=lambda key: (-counts[key].all, key))
    found = {key: counts[key] for key in order[: MOST_MODELS - 1]}
    rest = Counts()
    for key in order[MOST_MODELS - 1 :]:
        rest = rest.plus(counts[key])
    return found | {REST: rest}


def _count_between(before: Sample, after: Sample) -> dict[ModelKey, Counts]:
    assert before.models is not None
    assert after.models is not None
    found = {}
    for key, counts in after.models.items():
        # A version that was not there has counted from 0 since; with another deployment all others have, too.
        step = counts.since(before.models.get(key, Counts()))
        if step.all:
            found[key] = step if before.p99_ms == after.p99_ms else step._replace(slow=0)
    return found


def _thin(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    newest = samples[-1].at
    kept: dict[tuple[float, int], Sample] = {}
    for place, sample in enumerate(samples):
        age = newest - sample.at
        spacing = next((spacing for oldest, spacing in _SPACING if age <= oldest), None)
        if spacing is None:
            continue
        # The first of each span of time, by the clock, so that the choice stays the same as samples grow older.
        kept.setdefault((spacing, int(sample.at // spacing) if spacing else place), sample)
    return tuple(sorted(kept.values(), key=lambda sample: sample.at))


def _count_hours(
    hours: Mapping[str, Mapping[int, int]], times: tuple[float, float], step: Mapping[ModelKey, Counts]
) -> dict[str, dict[int, int]]:
    hour = int(sum(times) / 2 // HOUR_S)
    found = {model: {at: n for at, n in of.items() if at > hour - HOURS} for model, of in hours.items()}
    for (model, _), counts in step.items():
        of = found.setdefault(model, {})
        of[hour] = of.get(hour, 0) + counts.all
    return {model: of for model, of in found.items() if of}


def write_history(history: History) -> bytes:
    """As JSON."""
    held = {
        "samples": [
            dataclasses.asdict(sample)
            | {
                "models": None
                if sample.models is None
                else [[*key, list(counts)] for key, counts in sample.models.items()]
            }
            for sample in history.samples
        ],
        "hours": {model: {str(hour): n for hour, n in of.items()} for model, of in history.hours.items()},
    }
    return json.dumps(held, separators=(",", ":")).encode()


def read_history(data: bytes) -> History:
    """Empty for what is not one, as of an earlier release: it begins anew."""
    try:
        held = json.loads(data)
        return History(
            tuple(_read_sample(sample) for sample in held["samples"]),
            {model: {int(hour): int(n) for hour, n in of.items()} for model, of in held["hours"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return History()


def _read_sample(held: dict[str, Any]) -> Sample:
    models = held["models"]
    return Sample(
        **held
        | {
            "models": None if models is None else {(name, of): Counts(*n) for name, of, n in models},
            "replicas": tuple(held["replicas"]),
        }
    )
