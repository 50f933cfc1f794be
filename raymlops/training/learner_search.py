"""Suggests the parameters of trials of several learners: which learner next, by what its trials gained for their cost,
and which values, by one Optuna study a learner. Runs no trial.

First each learner is tried with its defaults, in the order given. Then a learner is drawn with a chance that falls
with its estimated cost for improvement (Wang, Wu, Weimer, Zhu: FLAML, 2021, section 4.2).
"""

import dataclasses
import math
import pathlib
import pickle
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import optuna
from ray.tune.search import Searcher

from raymlops.specs.training import Dimension
from raymlops.training.candidates import Candidate

_STARTUP = 4
"""Random trials of a learner before its study suggests."""
_FAILURES = 2
"""Trials that may fail before a learner that never gave a result is left alone."""


@dataclasses.dataclass
class Track:
    """What the trials of one learner cost and gained. Costs are in seconds, or in trials where the search counts
    trials; errors are values of the metric, negated where larger is better."""

    started: int = 0
    failed: int = 0
    costs: list[float] = dataclasses.field(default_factory=list)
    best: float = math.inf
    before: float = math.inf
    """The best but one."""
    spent: float = 0.0
    spent_at_best: float = 0.0
    spent_at_before: float = 0.0

    def add(self, error: float, cost: float) -> None:
        """A trial ended."""
        self.costs.append(cost)
        self.spent += cost
        if error < self.best:
            self.best, self.before = error, self.best
            self.spent_at_best, self.spent_at_before = self.spent, self.spent_at_best

    def estimate_cost(self, best: float, scale: float) -> float:
        """Of the next improvement: of this learner's own best, and of the best of all, which takes longer the further
        away it is. `scale` is the error that counts as one improvement where only one is known."""
        own = max(self.spent - self.spent_at_best, self.spent_at_best - self.spent_at_before)
        gained = self.before - self.best if math.isfinite(self.before) else scale
        to_best = (self.best - best) * (self.spent - self.spent_at_before) / max(gained, 1e-12)
        return max(own, to_best, 1e-9)


class LearnerSearch(Searcher):  # type: ignore[misc]
    """Tune's interface to it. `seconds` is the time of the search, if it has a limit: a trial that would take longer
    than what is left is not started, and the costs are in seconds."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        metric: str,
        mode: str,
        seed: int,
        sampled: bool = False,
        seconds: float | None = None,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._tracks = {name: Track() for name in self._candidates}
        self._studies = {
            name: _make_study(mode, seed + place, sampled) for place, name in enumerate(self._candidates)
        }
        self._chance = random.Random(seed)  # noqa: S311
        self._asked: dict[str, tuple[str, optuna.Trial | None]] = {}
        self._seconds = seconds
        self._began: float | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._began is None:
            self._began = time.monotonic()
        name = self._choose()
        if name is None:
            return cast(str, Searcher.FINISHED)
        candidate, track = self._candidates[name], self._tracks[name]
        track.started += 1
        if track.started == 1 or not candidate.varied:  # its defaults
            self._asked[trial_id] = name, None
            return candidate.with_learner({})
        asked = self._studies[name].ask(
            {key: _to_distribution(dimension) for key, dimension in candidate.varied.items()}
        )
        self._asked[trial_id] = name, asked
        return candidate.with_learner(asked.params)

    def _choose(self) -> str | None:
        """The learner of the next trial; None if none has anything left to try in the time that is left."""
        names = [name for name, track in self._tracks.items() if self._has_more(name, track)]
        if not names:
            return None
        if untried := [name for name in names if not self._tracks[name].started]:
            return untried[0]
        known = [name for name in names if self._tracks[name].costs]
        if not known:  # all first trials still run
            return min(names, key=lambda name: self._tracks[name].started)
        errors = sorted(self._tracks[name].best for name in known)
        best, scale = errors[0], _find_scale(errors)
        chances = [1 / self._tracks[name].estimate_cost(best, scale) for name in known]
        if self._seconds is None:  # trials are counted, so a slow first one must not leave all to the others
            waiting = [name for name in names if not self._tracks[name].costs]
            chances += [statistics.mean(chances)] * len(waiting)
            known += waiting
        return self._chance.choices(known, chances)[0]

    def _has_more(self, name: str, track: Track) -> bool:
        if track.started and not self._candidates[name].varied:
            return False
        if not track.costs and track.failed >= _FAILURES:
            return False
        expected = self._expect_cost(name, track)
        if expected is None or self._seconds is None or self._began is None:
            return True
        return expected < self._seconds - (time.monotonic() - self._began)

    def _expect_cost(self, name: str, track: Track) -> float | None:
        """Of its next trial: the median of those before, or for a first one by what others took; None if unknown."""
        if track.costs:
            return statistics.median(track.costs)
        own = self._candidates[name].cost
        known = [
            self._tracks[other].costs[0] / candidate.cost
            for other, candidate in self._candidates.items()
            if candidate.cost and self._tracks[other].costs
        ]
        return None if own is None or not known else own * statistics.median(known)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        name, asked = self._asked.pop(trial_id, (None, None))
        if name is None:
            return
        track = self._tracks[name]
        value = (result or {}).get(self.metric)
        if error or value is None or not math.isfinite(value):
            track.failed += 1
            if asked is not None:
                self._studies[name].tell(asked, state=optuna.trial.TrialState.FAIL)
            return
        cost = 1.0 if self._seconds is None else float((result or {}).get("time_total_s", 1.0))
        track.add(-value if self.mode == "max" else value, cost)
        if asked is not None:
            self._studies[name].tell(asked, value)
        elif (known := self._describe_defaults(name, value)) is not None:
            self._studies[name].add_trial(known)

    def _describe_defaults(self, name: str, value: float) -> optuna.trial.FrozenTrial | None:
        """The trial of a learner's defaults; None if they are not known or not in its space."""
        candidate = self._candidates[name]
        if candidate.defaults.keys() != candidate.varied.keys() or not candidate.varied:
            return None
        spaces = {key: _to_distribution(dimension) for key, dimension in candidate.varied.items()}
        try:
            return optuna.trial.create_trial(
                params=dict(candidate.defaults), distributions=spaces, value=value
            )
        except ValueError:
            return None

    def save(self, checkpoint_path: str) -> None:
        # the time that a search may take starts anew when it is resumed
        held = {key: value for key, value in self.__dict__.items() if key not in ("_began", "_seconds")}
        pathlib.Path(checkpoint_path).write_bytes(pickle.dumps(held))

    def restore(self, checkpoint_path: str) -> None:
        # signed, and verified before: search_state.py
        self.__dict__.update(pickle.loads(pathlib.Path(checkpoint_path).read_bytes()))  # noqa: S301


def _make_study(mode: str, seed: int, sampled: bool) -> optuna.Study:
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.RandomSampler(seed=seed)
        if sampled
        else optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)
    )
    return optuna.create_study(sampler=sampler, direction="maximize" if mode == "max" else "minimize")


def _to_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choices is not None:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    low, high = dimension.low, dimension.high
    assert low is not None
    assert high is not None
    if dimension.integer:
        return optuna.distributions.IntDistribution(int(low), int(high), log=dimension.log)
    return optuna.distributions.FloatDistribution(low, high, log=dimension.log)


def _find_scale(errors: Sequence[float]) -> float:
    """How far learners lie apart: the median distance to the best."""
    distances = [error - errors[0] for error in errors[1:]]
    middle = distances[len(distances) // 2] if distances else 0.0
    return middle or abs(errors[0]) * 0.01 or 1e-6
