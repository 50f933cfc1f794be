"""The part of a report about the search: history, learning curves, importance, best trials."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.charts import Axis, Series
from raymlops.evaluation.contents import Report, TrialLine, name_metric, show_name, show_number
from raymlops.evaluation.improvement import find_improvement
from raymlops.evaluation.page import NOTHING, write_card, write_cards, write_table
from raymlops.metrics import FALLING


def describe_search(report: Report) -> str:
    """The line under the heading."""
    metric = report.trial_metric or report.metric
    sign = -1 if metric in FALLING else 1
    done = [trial for trial in report.trials if math.isfinite(trial.value)]
    best = max(done, key=lambda trial: sign * trial.value, default=None)
    curve = best.curves.get(metric, ()) if best else ()
    values = [trial.value for trial in report.trials]
    epochs = report.epochs
    if best is not None:
        epochs = int(best.parameters.get("training.epochs", best.parameters.get("epochs", epochs)))
    more = find_improvement(metric, values, curve, epochs=epochs, ordered=not report.grid)
    failed = sum(bool(trial.error) for trial in report.trials)
    seconds = sum(trial.seconds for trial in report.trials)
    return (
        f"{len(report.trials)} trials, {failed} failed, {seconds:,.0f} s of training; the best is drawn bold. "
        + " ".join(f"{line}." for line in more)
    ).strip()


def show_search(report: Report) -> Markup:
    """Cards; empty if there was no search."""
    done = [trial for trial in report.trials if math.isfinite(trial.value)]
    if not done:
        return NOTHING
    metric = report.trial_metric or report.metric
    sign = -1 if metric in FALLING else 1
    best = max(done, key=lambda trial: sign * trial.value)
    reached, top = [], -math.inf
    for trial in done:
        top = max(top, sign * trial.value)
        reached.append(sign * top)
    numbers = [float(place) for place in range(1, len(done) + 1)]
    titles = [f"{trial.name}: {trial.value:.4g}" for trial in done]
    history = charts.draw_lines(
        [
            Series("best so far", numbers, reached, 6, dashed=True),
            Series("trial", numbers, [trial.value for trial in done], 1, dots=True, titles=titles),
        ],
        Axis("trial", whole=True),
        Axis(name_metric(metric)),
    )
    shares = dict(list(report.importance.items())[:10])
    importance = charts.draw_bars([show_name(name) for name in shares], list(shares.values()))
    return (
        write_cards(
            write_card("History", f"Best validation {name_metric(metric)} of each trial.", history),
            write_card(
                "Learning curves",
                f"Validation {name_metric(metric)} after each epoch.",
                _show_curves(done, best, metric),
            ),
            write_card(
                "Importance",
                "Share of each parameter in what decides whether a trial is among the best tenth (PED-ANOVA).",
                importance if shares else NOTHING,
            ),
        )
        + write_card("Best trials", "", _list_trials(done, sign, metric))
        + _show_chosen(report)
    )


def _show_chosen(report: Report) -> Markup:
    rows = [
        (key, ", ".join(map(show_name, held)) if isinstance(held, Mapping) else show_number(held), why)
        for key, held, why in (
            (key, one.get("value"), one.get("why", "")) for key, one in report.chosen.items()
        )
    ]
    return write_card(
        "Defaults",
        "What the spec left open, and the value that rows, columns and classes decided.",
        write_table(("key", "value", "why"), rows) if rows else NOTHING,
    )


def _show_curves(trials: Sequence[TrialLine], best: TrialLine, metric: str) -> Markup:
    series = []
    for trial in sorted(trials, key=lambda trial: trial is best):
        curve = trial.curves.get(metric, ())
        epochs = [float(place) for place in range(1, len(curve) + 1)]
        if len(curve) > 1:
            series.append(
                Series(trial.name, epochs, list(curve), 1 if trial is best else 6, faint=trial is not best)
            )
    axes = Axis("epoch", whole=True), Axis(name_metric(metric))
    return charts.draw_lines(series, *axes, legend=False) if series else NOTHING


def _list_trials(trials: Sequence[TrialLine], sign: int, metric: str) -> Markup:
    ordered = sorted(trials, key=lambda trial: -sign * trial.value)[:8]
    if any(_LEARNER in trial.parameters for trial in ordered):
        return _list_of_learners(ordered, metric)
    names = sorted({name for trial in ordered for name in trial.parameters})
    rows = [
        (
            trial.name,
            show_number(trial.value),
            *(show_number(trial.parameters.get(name)) for name in names),
            show_number(trial.seconds),
        )
        for trial in ordered
    ]
    last = len(names) + 2
    return write_table(
        ("trial", name_metric(metric), *map(show_name, names), "seconds"), rows, frozenset(range(1, last + 1))
    )


_LEARNER = "training.learner"


def _list_of_learners(trials: Sequence[TrialLine], metric: str) -> Markup:
    """Each learner has parameters of its own, which stand in one column."""
    rows = []
    for trial in trials:
        values = [
            f"{show_name(name)} {show_number(value)}"
            for name, value in sorted(trial.parameters.items())
            if name != _LEARNER
        ]
        learner = str(trial.parameters.get(_LEARNER, ""))
        rows.append(
            (
                trial.name,
                learner,
                show_number(trial.value),
                ", ".join(values) or "defaults",
                show_number(trial.seconds),
            )
        )
    return write_table(
        ("trial", "learner", name_metric(metric), "values", "seconds"), rows, frozenset({2, 4})
    )
