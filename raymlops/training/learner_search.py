"""Suggests the parameters of trials of several learners: which learner next, by what its trials gained for their cost,
and which values, from its good first ones and then from one Optuna study a learner. Runs no trial.

First each learner is tried with its defaults, in the order given. Then a learner is drawn with a chance that falls
with its estimated cost for improvement (Wang, Wu, Weimer, Zhu: FLAML, 2021, section 4.2). With a sample of the rows, a
trial runs on that first, and the best values of a learner then on all rows.
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
from raymlops.training.candidates import ROWS, Candidate
from raymlops.training.learner_track import Track, Values
from raymlops.training.search_time import SearchTime
from raymlops.training.warm_start import NOTHING_KNOWN, SearchPrior, WarmStart

_STARTUP = 4
"""Trials of a learner before its study suggests by them."""
_FAILURES = 2
"""Trials that may fail before a learner that never gave a result is left alone, and one more where it gave some."""
_PART = 0.6
"""Share of its expected seconds that a trial must have, where a part of it gives a model too."""
_REFOLDED = 6
"""Trials that are trained again on folds, at most."""
_STALE = 12
"""Trials without gain, after which a learner that is not the best gets no more of a limited time: the cheapest learner
would fill with its trials what is too short for others."""
_LEAST_ROWS = 100
"""Of a learner whose processes were killed."""


@dataclasses.dataclass(frozen=True)
class _Planned:
    """The next trial of a learner; `values` None for those that its study suggests."""

    values: Values | None
    whole: bool
    expected: float | None
    """Seconds."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    name: str
    values: Values
    trial: optuna.Trial | None
    """Of the study, where it suggested the values."""
    whole: bool


class LearnerSearch(Searcher):  # type: ignore[misc]
    """Tune's interface to it. With a limit of `time`, a trial that would take longer than what is left is not started,
    and the costs are in seconds; else they are in trials. Trials of new values train on `sample_rows` of the training
    `rows`, if that is given."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        metric: str,
        mode: str,
        seed: int,
        sampled: bool = False,
        limit: SearchTime | None = None,
        rows: int = 0,
        sample_rows: int | None = None,
        prior: SearchPrior = NOTHING_KNOWN,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._tracks = {name: Track([*one.first]) for name, one in self._candidates.items()}
        self._studies = {
            name: _make_study(mode, seed + place, sampled) for place, name in enumerate(self._candidates)
        }
        self._chance = random.Random(seed)  # noqa: S311
        self._asked: dict[str, _Asked] = {}
        self._ended: dict[str, _Asked] = {}
        """The last one."""
        self._limit, self._rows, self._sample_rows = limit, rows, sample_rows
        self._most_rows = dict(prior.most_rows)
        self._began = time.monotonic()
        for name, known in prior.warm.items():
            self._begin_warm(name, known)

    def _begin_warm(self, name: str, known: WarmStart) -> None:
        tried, track = [dict(one.values) for one in known.tried], self._tracks[name]
        track.waiting = [*tried, *(values for values in track.waiting if values not in tried)]
        for one in known.observed:
            if one.value is not None:
                self.observe(name, one.values, one.value)

    # What a trial is given

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        plans = {name: planned for name in self._tracks if (planned := self._plan(name)) is not None}
        if not plans:
            return cast(str, Searcher.FINISHED)
        name = self._choose(plans)
        planned = plans[name]
        candidate, track = self._candidates[name], self._tracks[name]
        asked = None
        if planned.values is None:
            asked = self._studies[name].ask(
                {key: to_distribution(dimension) for key, dimension in candidate.varied.items()}
            )
        elif planned.values in track.waiting:
            track.waiting.remove(planned.values)
        values = asked.params if planned.values is None and asked else planned.values or {}
        if planned.whole and self._sample_rows is not None:
            track.promoted.append(values)
        track.started += 1
        self._asked[trial_id] = _Asked(name, values, asked, planned.whole)
        rows = self._find_rows(name, whole=planned.whole)
        return candidate.with_learner({**values, **({} if rows is None else {ROWS: rows})})

    def _find_rows(self, name: str, *, whole: bool) -> int | None:
        """The training rows of a trial; None for all."""
        found = self._most_rows.get(name)
        if not whole and self._sample_rows is not None:
            found = self._sample_rows if found is None else min(found, self._sample_rows)
        return found

    # Which learner is next

    def _choose(self, plans: Mapping[str, _Planned]) -> str:
        """The learner of the next trial, of those that have something left to try in the time that is left."""
        names = [*plans]
        if untried := [name for name in names if not self._tracks[name].started]:
            return self._find_cheaper(plans, untried[0]) or untried[0]
        known = [name for name in names if self._tracks[name].known]
        if not known:  # all first trials still run
            return min(names, key=lambda name: self._tracks[name].started)
        errors = sorted(self._tracks[name].best for name in known)
        best, scale = errors[0], _find_scale(errors)
        chances = [1 / self._tracks[name].estimate_cost(best, scale) for name in known]
        # A slow first trial must not leave all to the learners that are done with theirs.
        waiting = [name for name in names if not self._tracks[name].known]
        chances += [statistics.mean(chances)] * len(waiting)
        known += waiting
        return self._chance.choices(known, chances)[0]

    def _find_cheaper(self, plans: Mapping[str, _Planned], untried: str) -> str | None:
        """The best learner on the sample, if its values are to be tried on all rows, and that takes less than the first
        trial of another."""
        first, sampled = plans[untried].expected, [name for name, one in self._tracks.items() if one.sampled]
        if first is None or not sampled:
            return None
        best = min(sampled, key=lambda name: min(error for error, _ in self._tracks[name].sampled))
        planned = plans.get(best)
        if planned is None or not planned.whole or planned.expected is None:
            return None
        return best if planned.expected <= first else None

    def _plan(self, name: str) -> _Planned | None:
        """The next trial of a learner; None if it has none left, or no time for it."""
        track, candidate = self._tracks[name], self._candidates[name]
        if self._most_rows.get(name) == 0 or track.failed_in_row >= _FAILURES + track.known:
            return None
        if self._limit is not None and track.without_gain >= _STALE and track.best > self._best:
            return None
        promising = track.find_promising() if self._sample_rows is not None else None
        if promising is not None:
            planned = _Planned(promising, True, self._expect_cost(name, whole=True))
            if self._fits(track, planned.expected):
                return planned
        values: Values | None = (
            candidate.begin if not track.started else track.waiting[0] if track.waiting else None
        )
        if values is None and not candidate.varied:
            return None
        whole = self._sample_rows is None
        planned = _Planned(values, whole, self._expect_cost(name, whole=whole))
        return planned if self._fits(track, planned.expected) else None

    @property
    def _best(self) -> float:
        """The error of the best trial of all."""
        return min(track.best for track in self._tracks.values())

    def _fits(self, track: Track, expected: float | None) -> bool:
        left = self.seconds_left
        if expected is None or left is None:
            return True
        return expected * (_PART if track.gradual else 1.0) < left

    def _expect_cost(self, name: str, *, whole: bool) -> float | None:
        """Seconds of its next trial: by those before, or for a first one by what others took; None if unknown."""
        share = self._share
        if self._tracks[name].known:
            return self._tracks[name].expect_cost(share, whole=whole)
        own = self._candidates[name].cost
        others = (
            (candidate.cost, self._tracks[other].expect_cost(share, whole=whole))
            for other, candidate in self._candidates.items()
            if candidate.cost
        )
        known = [found / cost for cost, found in others if found is not None]
        return None if own is None or not known else own * statistics.median(known)

    @property
    def _share(self) -> float:
        """Of the training rows that the sample has."""
        return 1.0 if self._sample_rows is None else self._sample_rows / max(1, self._rows)

    # Time

    @property
    def seconds_left(self) -> float | None:
        """Until the trials have to end; None without a limit. It depends on which trials are to be trained again."""
        if self._limit is None:
            return None
        kept = self._limit.keep(self._list_refolded())
        return self._limit.seconds - kept - (time.monotonic() - self._began)

    def _list_refolded(self) -> list[float]:
        """The seconds of the best trial of each learner, the best learner first."""
        known = sorted((track for track in self._tracks.values() if track.known), key=lambda one: one.best)
        return [track.best_cost for track in known[:_REFOLDED]]

    def expect_seconds(self, trial_id: str) -> float | None:
        """What a running trial takes at most by all that is known: what the slowest of its learner, or of the others,
        took; None if none ended."""
        asked = self._asked.get(trial_id)
        if asked is None:
            return None
        own = self._tracks[asked.name]
        if own.slowest:
            return own.slowest / (self._share if asked.whole and not own.whole_costs else 1.0)
        return max(track.slowest for track in self._tracks.values()) or None

    # What a trial gave

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if trial_id in self._asked and int(result.get("training_iteration", 1)) > 1:
            self._tracks[self._asked[trial_id].name].gradual = True

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        self._ended = {trial_id: asked}
        track, study = self._tracks[asked.name], self._studies[asked.name]
        value = (result or {}).get(self.metric)
        if error or value is None or not math.isfinite(value):
            track.failed += 1
            track.failed_in_row += 1
            if asked.trial is not None:
                study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
            return
        seconds = float((result or {}).get("time_total_s", 1.0))
        track.failed_in_row, track.slowest = 0, max(track.slowest, seconds)
        cost = 1.0 if self._limit is None else seconds
        signed = -value if self.mode == "max" else value
        track.add(signed, cost, whole=asked.whole)
        if not asked.whole:
            track.sampled.append((signed, asked.values))
        if asked.trial is not None:
            study.tell(asked.trial, value)
        elif not (asked.whole and self._sample_rows is not None):  # its study knows it from the sample
            self.observe(asked.name, asked.values, value)

    def note_killed(self, trial_id: str) -> int | None:
        """The process of a trial was killed, as for want of memory: the next ones of its learner train on half of its
        rows. Returns their number; None where that would be too few."""
        asked = self._ended.get(trial_id)
        if asked is None or not self._rows:
            return None
        half = (self._find_rows(asked.name, whole=asked.whole) or self._rows) // 2
        if half < _LEAST_ROWS:
            return None
        self._most_rows[asked.name] = min(half, self._most_rows.get(asked.name, half))
        return self._most_rows[asked.name]

    def observe(self, name: str, values: Values, value: float) -> bool:
        """Tell the study of a learner what values gave; false if they do not lie in its space."""
        candidate = self._candidates[name]
        complete = {**candidate.defaults, **values}
        if complete.keys() != candidate.varied.keys() or not candidate.varied:
            return False
        spaces = {key: to_distribution(dimension) for key, dimension in candidate.varied.items()}
        try:
            known = optuna.trial.create_trial(params=complete, distributions=spaces, value=value)
        except ValueError:
            return False
        self._studies[name].add_trial(known)
        return True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _began=time.monotonic())  # the clocks of two processes differ

    def save(self, checkpoint_path: str) -> None:
        # the time that a search may take starts anew when it is resumed
        held = {key: value for key, value in self.__dict__.items() if key not in ("_began", "_limit")}
        pathlib.Path(checkpoint_path).write_bytes(pickle.dumps(held))

    def restore(self, checkpoint_path: str) -> None:
        # signed, and verified before: search_state.py
        self.__dict__.update(pickle.loads(pathlib.Path(checkpoint_path).read_bytes()))  # noqa: S301
        self._began = time.monotonic()


def _make_study(mode: str, seed: int, sampled: bool) -> optuna.Study:
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.RandomSampler(seed=seed)
        if sampled
        else optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)
    )
    return optuna.create_study(sampler=sampler, direction="maximize" if mode == "max" else "minimize")


def to_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
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
