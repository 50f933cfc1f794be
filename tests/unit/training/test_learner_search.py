"""Which learner a search tries next, and with which values."""

import dataclasses
import pathlib
import pickle
import time
from typing import Any

import pytest

from raymlops.specs.training import Dimension
from raymlops.training.candidates import Candidate
from raymlops.training.learner_search import LearnerSearch
from raymlops.training.learner_track import Track
from raymlops.training.search_time import SearchTime
from raymlops.training.trial_limits import SearchDeadline, TrialLimits
from raymlops.training.warm_start import Known, SearchPrior, WarmStart

DEPTH = {"training.options.depth": Dimension(low=1, high=9, integer=True)}
TREES, LINEAR, FIXED = (
    Candidate("trees", DEPTH, {}),
    Candidate("linear", DEPTH, {}),
    Candidate("none", {}, {}),
)


def search_of(*candidates: Candidate, **options: Any) -> LearnerSearch:
    return LearnerSearch(candidates, metric="loss", mode="min", seed=0, **options)


def run(search: LearnerSearch, trials: int, losses: Any, seconds: float = 1.0) -> list[dict[str, Any]]:
    """The parameters of each trial, one after another; `losses(parameters)` is its result, None if it fails."""
    found = []
    for place in range(trials):
        parameters = search.suggest(str(place))
        if not isinstance(parameters, dict):
            break
        loss = losses(parameters)
        found.append(parameters)
        result = {"time_total_s": seconds} | ({} if loss is None else {"loss": loss})
        search.on_trial_complete(str(place), result, error=loss is None)
    return found


def test_every_learner_is_tried_with_its_defaults_first_and_keeps_what_is_held() -> None:
    held = Candidate("held", {}, {"training.options.rounds": 7})
    found = run(search_of(TREES, LINEAR, held), 3, lambda parameters: 1.0)
    assert found == [
        {"training.learner": "trees"},
        {"training.learner": "linear"},
        {"training.learner": "held", "training.options.rounds": 7},
    ]


def test_the_learner_that_gains_more_for_its_cost_gets_more_trials() -> None:
    gaining = iter(1 / (1 + place) for place in range(100))

    def loss(parameters: dict[str, Any]) -> float:
        return next(gaining) if parameters["training.learner"] == "trees" else 2.0

    found = run(search_of(TREES, LINEAR), 60, loss)
    trees = sum(parameters["training.learner"] == "trees" for parameters in found)
    assert trees > 45
    assert all(1 <= one.get("training.options.depth", 1) <= 9 for one in found)


def test_a_learner_that_only_fails_is_left_alone_and_one_without_a_space_is_tried_once() -> None:
    found = run(
        search_of(TREES, LINEAR, FIXED), 20, lambda one: None if one["training.learner"] == "linear" else 1.0
    )
    counts = {
        name: sum(one["training.learner"] == name for one in found) for name in ("trees", "linear", "none")
    }
    assert counts == {"trees": 17, "linear": 2, "none": 1}


def test_it_ends_where_no_trial_fits_into_the_time_that_is_left() -> None:
    assert len(run(search_of(TREES, LINEAR, limit=SearchTime(60)), 20, lambda one: 1.0, seconds=100)) == 2


def test_a_resumed_search_goes_on_with_what_it_knew(tmp_path: pathlib.Path) -> None:
    search = search_of(TREES, LINEAR)
    run(search, 6, lambda one: 1.0)
    search.save(str(tmp_path / "state"))
    again = search_of(TREES, LINEAR)
    again.restore(str(tmp_path / "state"))
    assert [again.suggest(f"n{place}") for place in range(5)] == [
        search.suggest(f"n{place}") for place in range(5)
    ]


def test_equal_seeds_suggest_equal_trials_where_trials_are_counted() -> None:
    def loss(parameters: dict[str, Any]) -> float:
        time.sleep(0.001)
        return float(parameters.get("training.options.depth", 5))

    assert run(search_of(TREES, LINEAR), 12, loss) == run(search_of(TREES, LINEAR), 12, loss)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_larger_is_better_where_the_metric_says_so(mode: str) -> None:
    search = LearnerSearch((TREES, LINEAR), metric="auc", mode=mode, seed=0)
    sign = 1 if mode == "max" else -1
    for place in range(40):
        parameters = search.suggest(str(place))
        assert isinstance(parameters, dict)
        good = parameters["training.learner"] == "trees"
        search.on_trial_complete(str(place), {"auc": sign * ((0.9 + place / 1000) if good else 0.5)})
    held = search._tracks
    assert held["trees"].started > held["linear"].started


def test_a_learner_far_behind_has_to_make_up_for_it() -> None:
    near, far = Track(), Track()
    for error in (1.0, 0.9):
        near.add(error, 1)
        far.add(error + 1, 1)
    assert far.estimate_cost(0.9, 0.1) > near.estimate_cost(0.9, 0.1)


def test_a_study_knows_how_good_the_defaults_were() -> None:
    known = Candidate("trees", DEPTH, {}, {"training.options.depth": 4})
    search = search_of(known)
    run(search, 3, lambda one: float(one.get("training.options.depth", 4)))
    held = [trial.params for trial in search._studies["trees"].trials]
    assert held[0] == {"training.options.depth": 4}
    assert len(held) == 3


def test_learners_whose_first_trial_still_runs_are_not_passed_over_where_trials_are_counted() -> None:
    search = search_of(TREES, LINEAR)
    assert isinstance(search.suggest("slow"), dict)
    tried = []
    for place in range(20):
        parameters = search.suggest(str(place))
        assert isinstance(parameters, dict)
        tried.append(parameters["training.learner"])
        if tried[-1] == "linear":
            search.on_trial_complete(str(place), {"loss": 1.0, "time_total_s": 1.0})
    assert {"trees", "linear"} == set(tried)


def test_a_learner_that_would_take_longer_than_what_is_left_is_not_begun() -> None:
    fast = Candidate("fast", DEPTH, {}, cost=1.0)
    slow, quick = Candidate("slow", DEPTH, {}, cost=20.0), Candidate("quick", DEPTH, {}, cost=0.5)
    search = search_of(fast, slow, quick, limit=SearchTime(60))
    found = run(search, 6, lambda one: 1.0, seconds=10)
    assert [one["training.learner"] for one in found][:2] == ["fast", "quick"]
    assert "slow" not in [one["training.learner"] for one in found]


PORTFOLIO = dataclasses.replace(
    TREES,
    defaults={"training.options.depth": 4},
    first=({"training.options.depth": 8}, {"training.options.random": True}),
)


def test_good_first_values_are_tried_before_the_study_suggests_and_it_learns_of_those_in_its_space() -> None:
    search = search_of(PORTFOLIO)
    found = run(search, 4, lambda one: float(one.get("training.options.depth", 5)))
    assert found[:3] == [
        {"training.learner": "trees"},
        {"training.learner": "trees", "training.options.depth": 8},
        {"training.learner": "trees", "training.options.random": True},
    ]
    assert [trial.value for trial in search._studies["trees"].trials[:2]] == [5.0, 8.0]


def test_values_are_tried_on_the_sample_and_the_best_then_on_all_rows() -> None:
    search = search_of(PORTFOLIO, rows=100_000, sample_rows=10_000, limit=SearchTime(1000))
    found = run(search, 9, lambda one: float(one.get("training.options.depth", 5)), seconds=0.01)
    assert found[0] == {"training.learner": "trees", "training.rows": 10_000}
    assert found[1] == {"training.learner": "trees"}, "the defaults are the best so far"
    whole = [one for one in found if "training.rows" not in one]
    assert 1 < len(whole) < len(found) - 2
    assert len({str(one) for one in whole}) == len(whole), "none runs twice on all rows"
    for one in whole:
        assert any({**one, "training.rows": 10_000} == other for other in found)


def test_all_rows_are_left_where_they_would_take_more_than_the_time_that_is_left() -> None:
    search = search_of(PORTFOLIO, rows=100_000, sample_rows=10_000, limit=SearchTime(60))
    found = run(search, 6, lambda one: 1.0, seconds=20)
    assert all(one["training.rows"] == 10_000 for one in found)


def test_good_values_of_earlier_searches_come_after_the_defaults_and_the_study_knows_the_others() -> None:
    tried = Known("run", {"training.options.depth": 7}, 0.1)
    known = Known("run", {"training.options.depth": 2}, 0.5)
    search = search_of(PORTFOLIO, prior=SearchPrior({"trees": WarmStart((tried,), (known,))}))
    found = run(search, 2, lambda one: 1.0)
    assert found[1]["training.options.depth"] == 7
    assert search._studies["trees"].trials[0].params == known.values


def test_the_next_trials_of_a_learner_whose_process_was_killed_train_on_half_of_the_rows() -> None:
    search = search_of(TREES, LINEAR, rows=50_000)
    assert search.suggest("0") == {"training.learner": "trees"}
    search.on_trial_complete("0", error=True)
    assert search.note_killed("0") == 25_000
    assert search.suggest("1") == {"training.learner": "linear"}
    search.on_trial_complete("1", {"loss": 1.0, "time_total_s": 1.0})
    found = [search.suggest(f"n{place}") for place in range(10)]
    for one in found:
        assert isinstance(one, dict)
        assert ("training.rows" in one) == (one["training.learner"] == "trees")


def test_a_trial_of_which_a_part_gives_a_model_may_start_where_most_of_it_fits() -> None:
    for reports, starts in ((1, False), (5, True)):
        search = search_of(TREES, limit=SearchTime(1000))
        search.suggest("first")
        search.on_trial_result("first", {"training_iteration": reports})
        search.on_trial_complete("first", {"loss": 1.0, "time_total_s": 1200.0})
        assert isinstance(search.suggest("last"), dict) == starts


def test_what_a_trial_may_take_is_known_from_its_learner_or_from_the_others() -> None:
    search = search_of(TREES, LINEAR)
    search.suggest("trees")
    search.suggest("linear")
    assert search.expect_seconds("linear") is None
    search.on_trial_complete("trees", {"loss": 1.0, "time_total_s": 7.0})
    assert search.expect_seconds("linear") == 7.0


def test_a_learner_without_memory_for_all_rows_trains_on_fewer_and_one_without_any_is_left_out() -> None:
    search = search_of(
        TREES, LINEAR, rows=50_000, prior=SearchPrior(most_rows={"trees": 20_000, "linear": 0})
    )
    found = run(search, 5, lambda one: 1.0)
    assert [one["training.learner"] for one in found] == ["trees"] * 5
    assert all(one["training.rows"] == 20_000 for one in found)


def test_a_cheap_learner_that_gains_nothing_does_not_fill_the_time_with_its_trials() -> None:
    def loss(one: dict[str, Any]) -> float:
        return 1.0 if one["training.learner"] == "trees" else 2.0

    found = run(search_of(FIXED, LINEAR, TREES, limit=SearchTime(1000)), 200, loss, seconds=0.01)
    counts = [sum(one["training.learner"] == name for one in found) for name in ("none", "linear")]
    assert counts == [1, 13]


def test_good_values_run_on_all_rows_before_a_learner_is_tried_whose_first_trial_takes_longer() -> None:
    quick, slow = Candidate("quick", DEPTH, {}, cost=1.0), Candidate("slow", DEPTH, {}, cost=20.0)
    search = search_of(quick, slow, rows=100_000, sample_rows=10_000, limit=SearchTime(1000))
    found = run(search, 3, lambda one: 1.0)
    assert [(one["training.learner"], one.get("training.rows")) for one in found] == [
        ("quick", 10_000),
        ("quick", None),
        ("slow", 10_000),
    ]


def test_what_ends_trials_knows_the_search_that_tune_restores_with_it() -> None:
    search = search_of(TREES, limit=SearchTime(60))
    search._began -= 1000
    deadline = SearchDeadline(60, search)
    limits = TrialLimits(learners=search, deadline=deadline)
    restored, ends, limits = pickle.loads(pickle.dumps((search, deadline, limits)))
    assert limits._learners is ends._learners is restored
    assert limits._deadline is ends
    assert restored.seconds_left > 50, "the time starts anew"
