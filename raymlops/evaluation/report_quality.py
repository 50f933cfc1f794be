"""The parts of a report about quality: curves, calibration, confusion, threshold, slices."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.charts import Axis, Series
from raymlops.evaluation.contents import Report, name_metric
from raymlops.evaluation.intervals import four_digits
from raymlops.evaluation.page import NOTHING, write_card, write_cards, write_table
from raymlops.evaluation.results import Evaluation

Curve = Mapping[str, Sequence[float | None]]
_UNIT = (0.0, 1.0)
_SLICES = 15
_COLUMNS = 15
_LABELS = {"roc": ("false positive rate", "true positive rate"), "pr": ("recall", "precision")}


def describe_quality(report: Report) -> str:
    """The line under the heading."""
    text = (
        "Intervals are 95% bootstrap intervals unless the spec says otherwise. ↑ larger is better, ↓ smaller."
    )
    drawn = report.champion is not None and report.evaluation.task == "binary"
    return f"{text} Dashed curves are the champion's." if drawn else text


def show_quality(report: Report) -> Markup:
    """Cards of the task's own charts."""
    found, task = report.evaluation, report.evaluation.task
    if task == "binary":
        return write_cards(
            write_card("ROC", "True positives against false positives.", _pair(report, "roc")),
            write_card(
                "Precision and recall",
                "The share of true positives among the rows found, for each share found.",
                _pair(report, "pr"),
            ),
            write_card(
                "Calibration",
                "The share of positives among rows with about the same predicted probability.",
                _show_calibration(found),
            ),
            write_card("Scores", "Predicted probabilities of each class.", _show_scores(report)),
            write_card(
                "Threshold", "The threshold of the probability with the least cost.", _show_threshold(report)
            ),
            write_card("Metrics", "", _show_metrics(report)),
        )
    if task == "multiclass":
        names = _class_names(report)
        rocs = [
            Series(names[int(key.split()[1])], curve["x"], curve["y"], 1 + place % 6, dashed=place > 6)
            for place, (key, curve) in enumerate(found.curves.items())
            if key.startswith("roc")
        ]
        axes = Axis("false positive rate", _UNIT), Axis("true positive rate", _UNIT)
        return write_cards(
            write_card(
                "Confusion", "Rows by label and prediction.", charts.draw_counts(found.confusion, names)
            ),
            write_card(
                "ROC of each class", "Each class against the rest.", charts.draw_lines(rocs, *axes, True)
            ),
            write_card("Calibration", "Of the predicted class.", _show_calibration(found)),
            write_card("Metrics", "", _show_metrics(report)),
        )
    return write_cards(
        write_card(
            "Predicted and actual", "Mean of rows with about the same prediction.", _show_predicted(found)
        ),
        write_card("Errors", "Prediction minus actual, in the target's unit.", _show_errors(found)),
        write_card("Metrics", "", _show_metrics(report)),
    )


def _show_predicted(found: Evaluation) -> Markup:
    curve = found.curves.get("predicted")
    return _draw_rates(curve, Axis("mean prediction"), Axis("mean actual")) if curve else NOTHING


def _show_errors(found: Evaluation) -> Markup:
    curve = found.curves.get("errors")
    if curve is None:
        return NOTHING
    edge = max(abs(value or 0.0) for value in curve["x"]) * 1.03
    axis, mark = Axis("error", (-edge, edge)), (0.0, "no error")
    return charts.draw_histograms(curve["x"], [("all rows", curve["rows"])], axis, mark, "share of the rows")


def _class_names(report: Report) -> tuple[str, ...]:
    count = max(len(report.evaluation.confusion), 2)
    return report.classes if len(report.classes) == count else tuple(str(n) for n in range(count))


def _show_metrics(report: Report) -> Markup:
    champion = report.champion.metrics if report.champion else {}
    rows = [
        (
            name_metric(name),
            four_digits(found.value),
            f"{four_digits(found.low)} to {four_digits(found.high)}",
            four_digits(champion[name].value) if name in champion else "",
        )
        for name, found in report.evaluation.metrics.items()
    ]
    head = ("metric", "value", "interval", "champion" if champion else "")
    return write_table(head, rows, frozenset({1, 2, 3}))


def _pair(report: Report, curve: str) -> Markup:
    """The curve of this version and of the champion."""
    x, y = _LABELS[curve]
    series = []
    if report.champion is not None and curve in report.champion.curves:
        held = report.champion.curves[curve]
        series.append(Series(report.champion_name or "champion", held["x"], held["y"], 6, dashed=True))
    if curve not in report.evaluation.curves:
        return NOTHING
    held = report.evaluation.curves[curve]
    series.append(Series("this version", held["x"], held["y"], 1))
    return charts.draw_lines(series, Axis(x, _UNIT), Axis(y, _UNIT), curve == "roc")


def _show_calibration(found: Evaluation) -> Markup:
    curve = found.curves.get("calibration")
    axes = Axis("mean predicted probability", _UNIT), Axis("observed rate", _UNIT)
    return _draw_rates(curve, *axes) if curve else NOTHING


def _draw_rates(curve: Curve, x: Axis, y: Axis) -> Markup:
    """The outcome of rows with about the same prediction; the size of a dot grows with its rows."""
    rows = [value or 0.0 for value in curve["rows"]]
    top = max([*rows, 1.0])
    sizes = [3 + 7 * math.sqrt(value / top) for value in rows]
    titles = [f"{value:,.0f} rows" for value in rows]
    dots = Series("rate", curve["x"], curve["y"], 1, dots=True, sizes=sizes, titles=titles)
    line = Series("", curve["x"], curve["y"], 1, faint=True)
    return charts.draw_lines([line, dots], x, y, True, False)


def _show_scores(report: Report) -> Markup:
    curve = report.evaluation.curves.get("scores")
    if curve is None:
        return NOTHING
    names = _class_names(report)
    cut = report.evaluation.threshold.value if report.evaluation.threshold else 0.5
    mark = (cut, f"threshold {cut:.3g}")
    groups = [(names[0], curve["negative"]), (names[1], curve["positive"])]
    return charts.draw_histograms(
        curve["x"], groups, Axis(f"probability of {names[1]}", _UNIT), mark, "share of the class"
    )


def _show_threshold(report: Report) -> Markup:
    chosen = report.evaluation.threshold
    if chosen is None:
        return NOTHING
    rows = [
        ("cost a row", f"{chosen.cost}"),
        ("cost at 0.5", f"{chosen.cost_at_half:.4g}"),
        ("cost of never · of always", f"{chosen.cost_of_never:.4g} · {chosen.cost_of_always:.4g}"),
        ("precision · recall", f"{chosen.precision:.1%} · {chosen.recall:.1%}"),
        ("rows above it", f"{chosen.chosen_share:.1%}"),
    ]
    table = write_table(("threshold", f"{chosen.value:.3g}"), rows, frozenset({1}))
    return charts.draw_counts(chosen.confusion, _class_names(report)) + table


def describe_importance(report: Report) -> str:
    """The line under the heading."""
    found = report.permuted
    if found is None:
        return ""
    late = f" There was no time for {', '.join(found.left_out[:5])}" if found.left_out else ""
    late += f" and {len(found.left_out) - 5:,} more." if len(found.left_out) > 5 else "." if late else ""
    return (
        f"The increase of the {found.loss} ({found.unpermuted:.4g}) of {found.rows:,} of these rows when one column is "
        f"permuted among them, {found.repeats} times; intervals are over rows and repeats. Columns that say the "
        f"same stand in for each other, and each of them looks less important.{late}"
    )


def show_importance(report: Report) -> Markup:
    """The columns that the model depends on most."""
    if report.permuted is None or not report.permuted.columns:
        return NOTHING
    columns = [one for one in report.permuted.columns if math.isfinite(one.value)]
    shown = columns[:_COLUMNS]
    bars = charts.draw_bars(
        [one.column for one in shown],
        [one.value for one in shown],
        intervals=[(one.low, one.high) for one in shown],
    )
    of = f"The first {len(shown)} of {len(columns):,} columns." if len(columns) > len(shown) else ""
    return write_cards(write_card(f"Increase of {report.permuted.loss}", of, bars)) if shown else NOTHING


def show_slices(report: Report) -> Markup:
    """A card for each column."""
    cards = []
    whole = report.evaluation.metrics.get(report.metric)
    for column in dict.fromkeys(part.column for part in report.evaluation.slices):
        parts = [part for part in report.evaluation.slices if part.column == column][:_SLICES]
        rows = []
        for part in parts:
            found = part.metrics[report.metric]
            rows.append((f"{part.value or '(empty)'} ({part.rows:,})", found.value, found.low, found.high))
        drawn = charts.draw_intervals(rows, name_metric(report.metric), whole.value if whole else None)
        cards.append(write_card(column, f"The {len(rows)} most frequent values, with their rows.", drawn))
    return write_cards(*cards)
