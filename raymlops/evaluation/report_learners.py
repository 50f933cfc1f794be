"""The part of a report about the learners of a search: their ranking, what each was good at, what became of their
trials, what limits cost, and the members of a blend."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.baselines import BOOSTING
from raymlops.evaluation.contents import Report, TrialLine, learner_of, name_metric, show_name, show_number
from raymlops.evaluation.intervals import four_digits
from raymlops.evaluation.learner_ranking import LearnerRanking
from raymlops.evaluation.page import NOTHING, write_card, write_cards, write_table
from raymlops.metrics import FALLING

_LEFT_OUT = "search.learners"
_ABOUT = {
    "network": "torch network",
    "lightgbm": "gradient boosting of trees",
    "xgboost": "gradient boosting of trees",
    "catboost": "gradient boosting of symmetric trees",
    "forest": "extremely randomised trees",
    "linear": "linear or logistic regression",
    "ebm": "explainable boosting: a sum of functions of one or two columns",
    "realmlp": "torch network with periodic embeddings of numbers",
    "tabm": "torch networks that share weights",
    "sklearn": "an estimator of scikit-learn",
    "keras": "a Keras model",
}


def show_learners(report: Report) -> Markup:
    """Cards; those without content are left out."""
    return (
        _show_ranking(report)
        + _show_slices(report)
        + _show_limits(report)
        + _show_notes(report)
        + _show_members(report)
    )


def _show_ranking(report: Report) -> Markup:
    """The best of each learner on the same rows."""
    found = report.learners
    if found is None or not found.lines:
        return NOTHING
    sliced = bool(found.slices)
    rows = []
    for line in found.lines:
        cells = [
            line.name,
            four_digits(line.value.value),
            f"{four_digits(line.value.low)} to {four_digits(line.value.high)}",
            four_digits(line.loss),
            f"{line.behind:.2g} ± {line.error:.2g}" if line.behind else "",
            f"{line.first:.0%}",
            f"{line.seconds:,.1f}",
            "" if line.p50_ms is None else f"{line.p50_ms:.3f}",
            "" if line.size is None else f"{line.size / 1e3:,.1f} kB",
        ]
        rows.append([*cells, _name_slices(found, line.name)] if sliced else cells)
    head = [
        "learner", name_metric(found.metric), "interval", "loss", "behind the first ± standard error",
        "first in resamples", "s to fit", "p50 ms of one row", "file", *["ahead of the first for"] * sliced,
    ]  # fmt: skip
    of = (
        f"{found.rows:,} rows, each answered by the model of {found.folds} that had left it out"
        if found.folds > 1
        else f"{found.rows:,} validation rows, by which the trials were also chosen"
    )
    text = f"The best trial of each learner, and the blend if one was taken, on {of}. {found.describe()}."
    return write_card("Learners", text, write_table(head, rows, frozenset(range(1, 9))))


def _name_slices(found: LearnerRanking, name: str) -> str:
    return ", ".join(f"{line.column} {line.value or '(empty)'}" for line in found.list_slices(name))


def _show_slices(report: Report) -> Markup:
    found = report.learners
    if found is None or not found.slices:
        return NOTHING
    rows = [
        (
            line.column,
            line.value or "(empty)",
            f"{line.rows:,}",
            line.name,
            four_digits(line.loss),
            f"{line.gain:.2g} ± {line.error:.2g}" if line.gain else "",
        )
        for line in found.slices
    ]
    text = (
        "Which learner has the least loss for each value of evaluation.slices, on the rows of the ranking, and how "
        f"much less that is than the loss of {found.lines[0].name}, the first of all rows. Of many slices, some are "
        "ahead by chance: two standard errors are the least to take note of."
    )
    head = ("column", "value", "rows", "least loss", "loss", "gain on the first ± standard error")
    return write_card("Learners by slice", text, write_table(head, rows, frozenset({2, 4, 5})))


def _show_limits(report: Report) -> Markup:
    """What limits on size and latency cost in validation, and others against what is free of them in test."""
    rows: list[tuple[str, ...]] = [
        (
            cost.limit,
            f"{cost.given_up} → {cost.taken}",
            name_metric(cost.metric),
            *_compare(cost.metric, cost.before, cost.after),
        )
        for cost in (report.learners.limits if report.learners else ())
    ]
    rows += list(_list_constraints(report))
    head = ("limit", "given up → taken", "metric", "without it", "with it", "cost")
    text = (
        "What the limits of the spec cost: of gate.size_mb and gate.latency_ms on the rows of the ranking, or of "
        "validation; of search.glassbox and training.monotonic on test rows, against untuned boosting, which has none."
    )
    return write_card("Limits", text, write_table(head, rows, frozenset({3, 4, 5})) if rows else NOTHING)


def _compare(metric: str, before: float, after: float) -> tuple[str, str, str]:
    cost = after - before if metric in FALLING else before - after
    texts = (four_digits(value) if math.isfinite(value) else "" for value in (before, after))
    return (*texts, f"{cost:.2g}" if math.isfinite(cost) else "")  # type: ignore[return-value]


def _list_constraints(report: Report) -> Iterator[tuple[str, ...]]:
    free = next((line for line in report.leaderboard if line.name == BOOSTING), None)
    own = next((line for line in report.leaderboard if line.gain is None), None)
    for constraint in report.constraints:
        if free is None or own is None or free.gain is None:
            yield constraint, "", "", "", "", "not measured: no baseline without it"
            continue
        gain = free.gain
        yield (
            constraint,
            "untuned boosting → this version",
            name_metric(report.metric),
            four_digits(free.value.value),
            four_digits(own.value.value),
            f"{four_digits(-gain.high)} to {four_digits(-gain.low)}",
        )


@dataclasses.dataclass(frozen=True)
class _Note:
    """What became of the trials of one learner."""

    name: str
    trials: tuple[TrialLine, ...]

    @property
    def failed(self) -> tuple[TrialLine, ...]:
        return tuple(trial for trial in self.trials if trial.error)

    def find_best(self, metric: str) -> TrialLine | None:
        sign = 1 if metric in FALLING else -1
        done = [trial for trial in self.trials if math.isfinite(trial.value)]
        return min(done, key=lambda trial: sign * trial.value, default=None)


def _show_notes(report: Report) -> Markup:
    """What each learner was, how its trials went, and what was left out, and why."""
    names = dict.fromkeys(filter(None, map(learner_of, report.trials)))
    if not names:
        return NOTHING
    metric = report.trial_metric or report.metric
    notes = [
        _Note(name, tuple(trial for trial in report.trials if learner_of(trial) == name)) for name in names
    ]
    rows = [_write_note(note, metric) for note in notes]
    head = ("learner", "what it is", "trials", "failed", f"best {name_metric(metric)}", "its values", "seconds",
            "last error")  # fmt: skip
    told = [*_list_left_out(report), *(report.learners.remarks if report.learners else ())]
    text = " ".join(f"{line.rstrip('.')}." for line in told)
    return write_card("Notes on learners", text, write_table(head, rows, frozenset({2, 3, 4, 6})))


def _write_note(note: _Note, metric: str) -> Sequence[str]:
    best = note.find_best(metric)
    values = ", ".join(
        f"{show_name(name)} {show_number(value)}"
        for name, value in sorted((best.parameters if best else {}).items())
        if name != "training.learner"
    )
    return (
        note.name,
        _ABOUT.get(note.name, "a learner of the user's own" if ":" in note.name else ""),
        f"{len(note.trials)}",
        f"{len(note.failed)}",
        show_number(best.value) if best else "",
        (values or "defaults") if best else "",
        f"{sum(trial.seconds for trial in note.trials):,.1f}",
        note.failed[-1].error if note.failed else "",
    )


def _list_left_out(report: Report) -> list[str]:
    """The learners that were not tried, as the choice of them says."""
    _, _, left = str(report.chosen.get(_LEFT_OUT, {}).get("why", "")).partition("; ")
    return [left] if left else []


def _show_members(report: Report) -> Markup:
    """What a blend is made of."""
    if not report.members:
        return NOTHING
    names = [
        f"{one.learner or 'trial'} {one.trial}" + (f" ×{one.models}" if one.models > 1 else "")
        for one in report.members
    ]
    bars = charts.draw_bars(names, [one.weight for one in report.members])
    text = (
        "The weight of each trial in the sum of log odds, log probabilities or predictions; ×5 are the models of 5 "
        "folds. Weights that add up to less than 1 make probabilities milder, and to more sharper."
    )
    if report.taught:
        return write_cards(
            write_card("The blend that the network learned from", f"{report.taught}. {text}", bars)
        )
    return write_cards(write_card("Members of the blend", text, bars))
