"""The report of a version: all measurements, as one self-contained HTML file."""

from collections.abc import Iterator

from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.contents import Report, name_metric, show_number
from raymlops.evaluation.intervals import four_digits
from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_badge,
    write_card,
    write_cards,
    write_facts,
    write_page,
    write_table,
)
from raymlops.evaluation.report_quality import (
    describe_importance,
    describe_quality,
    show_importance,
    show_quality,
    show_slices,
)
from raymlops.evaluation.report_search import describe_search, show_search
from raymlops.metrics import FALLING, SPECIAL


def write_report(report: Report) -> str:
    """The HTML document."""
    found = report.evaluation
    verdict = NOTHING
    if report.verdict is not None:
        count = len(report.verdict.failures)
        text = "passed the gate" if report.verdict.passed else f"blocked by {count} check{'s' * (count > 1)}"
        verdict = write_badge(report.verdict.passed, text)
    return write_page(
        report.title,
        f"{found.task} task, measured on {found.rows:,} rows",
        verdict,
        _list_tiles(report),
        (
            Section(
                "leaderboard",
                "Leaderboard",
                "This version and untuned models that were fitted to the same training rows, on the same test rows; "
                "samples of both if there are many.",
                _show_leaderboard(report),
            ),
            Section("quality", "Quality", describe_quality(report), show_quality(report)),
            Section(
                "slices",
                "Slices",
                "Each value's rows alone; the dashed line is all rows.",
                show_slices(report),
            ),
            Section("importance", "Importance", describe_importance(report), show_importance(report)),
            Section("gate", "Gate", "The checks that it must pass to become champion.", _show_gate(report)),
            Section("search", "Search", describe_search(report), show_search(report)),
            Section(
                "variants",
                "Files",
                "The original and smaller files of the same model; one thread.",
                _show_variants(report),
            ),
            Section(
                "parity",
                "Parity",
                "Whether the ONNX file gives the same outputs as the trained network.",
                _show_parity(report),
            ),
            Section(
                "data", "Data", "Where the rows came from, and which broke the contract.", _show_data(report)
            ),
            Section(
                "lineage",
                "Lineage",
                "Who made this version, from what, and why.",
                write_card("", "", write_facts(report.facts)),
            ),
        ),
    )


def _list_tiles(report: Report) -> Iterator[tuple[str, str, str]]:
    order = sorted(report.evaluation.metrics, key=lambda name: name != report.metric)
    for name in order:
        if name in SPECIAL and name != report.metric:
            continue
        interval = report.evaluation.metrics[name]
        small = f"{four_digits(interval.low)} to {four_digits(interval.high)}"
        if report.champion is not None and name in report.champion.metrics:
            small += f" · champion {four_digits(report.champion.metrics[name].value)}"
        yield f"{name_metric(name)} {'↓' if name in FALLING else '↑'}", four_digits(interval.value), small
    if report.evaluation.nonfinite:
        yield "answers not finite", f"{report.evaluation.nonfinite:,}", "rows with nan or infinity"


def _show_leaderboard(report: Report) -> Markup:
    sign = 1 if report.metric in FALLING else -1
    rows = [
        (
            line.name,
            line.text,
            four_digits(line.value.value),
            f"{four_digits(line.value.low)} to {four_digits(line.value.high)}",
            f"{four_digits(line.gain.low)} to {four_digits(line.gain.high)}" if line.gain else "",
            f"{line.seconds:.1f}" if line.gain else "",
        )
        for line in sorted(report.leaderboard, key=lambda line: sign * line.value.value)
    ]
    head = ("", "model", name_metric(report.metric), "interval", "gain of this version on it", "s to fit")
    return write_card("", "", write_table(head, rows, frozenset({2, 3, 4, 5})))


def _show_gate(report: Report) -> Markup:
    if report.verdict is None:
        return NOTHING
    rows = []
    for check in report.verdict.checks:
        interval = "" if check.low is None else f"{show_number(check.low)} to {show_number(check.high)}"
        rows.append(
            (
                write_badge(check.passed, "pass" if check.passed else "fail"),
                check.name,
                show_number(check.value),
                interval,
                show_number(check.limit),
                check.text,
            )
        )
    table = write_table(("", "check", "value", "interval", "limit", "in words"), rows, frozenset({2, 3, 4}))
    against = report.verdict.champion or "no champion yet"
    return write_card("", f"Compared with: {against}", table)


def _show_variants(report: Report) -> Markup:
    metric, rows = report.metric, []
    for one in report.variants:
        found = one.metrics.get(metric)
        state = "" if one.passed is None else write_badge(one.passed, "passes" if one.passed else "blocked")
        rows.append(
            (
                one.kind,
                f"{one.size / 1e3:,.1f} kB" if one.size else "not made",
                f"{one.p50_ms:.3f}" if one.size else "",
                f"{one.p99_ms:.3f}" if one.size else "",
                f"{one.rows_per_second:,.0f}" if one.size else "",
                str(found) if found else "",
                f"{one.difference:.2e}" if one.difference else "",
                state,
                one.note,
            )
        )
    head = (
        "file",
        "size",
        "p50 ms",
        "p99 ms",
        "rows/s",
        name_metric(metric),
        "largest difference",
        "gate",
        "",
    )
    return write_card("", "", write_table(head, rows, frozenset(range(1, 7))))


def _show_parity(report: Report) -> Markup:
    names = {"rows": "rows compared", "difference": "largest difference", "flipped": "labels that differ"}
    facts = {names.get(name, name): show_number(value) for name, value in report.parity.items()}
    return write_card("", "", write_facts(facts))


def _show_data(report: Report) -> Markup:
    findings = [
        (
            str(f.get("column", "")),
            str(f.get("rule", "")),
            f"{f.get('rows', 0):,}",
            ", ".join(map(str, f.get("samples", ()))),
        )
        for f in report.findings
    ]
    kept = Markup("No row broke it.") if report.data and not findings else NOTHING
    contract = write_table(("column", "rule", "rows", "such as"), findings, frozenset({2}))
    strongest = sorted(report.columns.items(), key=lambda item: -item[1])[:10]
    alone = charts.draw_bars([n for n, _ in strongest], [v for _, v in strongest]) if strongest else NOTHING
    measures = {"binary": "ROC AUC (0.5 is chance)", "regression": "R²"}
    measure = measures.get(report.evaluation.task, "Share of errors removed by")
    return write_cards(
        write_card("Source", "", write_facts(report.data)),
        write_card("Contract", "Rows that broke a rule and were left out.", contract or kept),
        write_card("Single columns", f"{measure} of each column alone; near 1 is a leak.", alone),
        _show_anomalies(report),
    ) + _show_slice_counts(report)


def _show_anomalies(report: Report) -> Markup:
    rows = [(str(one["column"]), str(one["kind"]), str(one["text"])) for one in report.anomalies]
    text = "What was unusual about the training set before it was trained on: no row was left out for it."
    return write_card("Anomalies", text, write_table(("column", "kind", ""), rows))


def _show_slice_counts(report: Report) -> Markup:
    """The rows of each slice in each split, and the mean of the target in them."""
    if not report.slice_counts:
        return NOTHING
    splits = list(report.slice_counts[0]["rows"])
    rows = [
        (
            one["column"],
            one["value"] or "(empty)",
            *(
                f"{one['rows'][split]:,} ({show_number(one['means'][split])})" if one["rows"][split] else "0"
                for split in splits
            ),
        )
        for one in report.slice_counts
    ]
    mean = {
        "binary": "the share of positives",
        "multiclass": f"the share of {report.classes[-1] if report.classes else 'the last class'}",
    }.get(report.evaluation.task, "the mean of the target")
    return write_card(
        "Rows by slice",
        f"The rows with each value of evaluation.slices in each split, and {mean} among them.",
        write_table(("column", "value", *splits), rows, frozenset(range(2, 2 + len(splits)))),
    )
