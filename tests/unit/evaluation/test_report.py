"""The report is one file that needs nothing else, shows what was measured, and escapes what it shows."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from raymlops.evaluation import charts, gate, page, partials, results
from raymlops.evaluation.charts import Axis, Series
from raymlops.evaluation.contents import MemberLine, Report, TrialLine, VariantLine
from raymlops.evaluation.intervals import Interval
from raymlops.evaluation.learner_ranking import LearnerLine, LearnerRanking, LimitCost, SliceLine
from raymlops.evaluation.partials import Layout
from raymlops.evaluation.permutation import ColumnImportance, PermutationImportance
from raymlops.evaluation.report import write_report
from raymlops.specs.evaluation import GateSpec
from tests.row_groups import groups_of

VOID = {"meta", "br"}


class _Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and collects text."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def _read(document):
    reader = _Reader()
    reader.feed(document)
    assert reader.open == []
    return reader


def _evaluate(task, rows=800):
    random = np.random.default_rng(0)
    if task == "binary":
        labels = random.integers(0, 2, rows)
        scores = 1 / (1 + np.exp(-random.normal(size=rows) - labels))
    elif task == "multiclass":
        labels = random.integers(0, 3, rows)
        scores = random.dirichlet([1, 1, 1], rows)
    else:
        labels = random.normal(size=rows)
        scores = labels + random.normal(size=rows)
    towns = np.array(["<b>Rome</b>", ""], dtype=object)[np.arange(rows) % 2]
    groups = groups_of({"row": np.arange(rows)})
    part = partials.observe(Layout(task, classes=3), labels, scores, groups, {"town": towns})
    return part, results.finish(part)


def _trials(metric):
    curves = {metric: [0.1, 0.2]}
    done = [TrialLine(f"t{n}", {"lr": n / 100, "kind": "<a>"}, n / 100, 1.0, curves=curves) for n in range(8)]
    return (*done, TrialLine("bad", {"lr": 1.0}, float("nan"), error="loss is nan"))


def _report(task, **more):
    part, evaluation = _evaluate(task)
    metric = GateSpec().metric_of(task)
    evidence = gate.Evidence("models:/m/1", partial=part, columns={"<script>": 0.6}, latency_ms=1.0)
    given = {"trials": _trials(metric), **more}
    return Report(
        title="flights & more, version 1",
        metric=metric,
        evaluation=evaluation,
        champion=evaluation,
        verdict=gate.judge(evidence, evidence),
        facts={"why": "<script>alert(1)</script>"},
        findings=[{"column": "<img src=x>", "rule": "min", "rows": 3, "samples": ["<"]}],
        importance={"lr": 0.9, "<kind>": 0.1},
        variants=(VariantLine("original", 1000, 0.1, 0.2, 1e5, evaluation.metrics, passed=True),),
        parity={"difference": 1e-7},
        data={"source": "here"},
        **given,
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_full_report_is_well_formed_and_needs_nothing_from_outside(task):
    document = write_report(_report(task))
    reader = _read(document)
    assert not {"script", "link", "img", "iframe"} & reader.tags
    assert not re.search(r"(?:src|href)=[\"'](?!#)", document)
    assert "url(" not in document
    assert "default-src 'none'" in document


def test_every_section_is_there_when_its_matter_is():
    text = " ".join(_read(write_report(_report("binary"))).text)
    for heading in ("Quality", "Slices", "Gate", "Search", "Files", "Parity", "Data", "Lineage"):
        assert heading in text
    for part in ("ROC", "Calibration", "Threshold", "Learning curves", "Importance", "9 trials, 1 failed"):
        assert part in text


def test_a_search_over_learners_shows_the_best_of_each_over_time():
    trials = [
        TrialLine(f"t{n}", {"training.learner": name}, value, 1.0, ended=float(n + 1))
        for n, (name, value) in enumerate(
            [("linear", 0.7), ("lightgbm", 0.6), ("linear", 0.65), ("lightgbm", 0.8)]
        )
    ]
    held = write_report(dataclasses.replace(_report("binary"), trials=tuple(trials)))
    budget = held[held.index("<h3>Budget") :]
    budget = budget[: budget.index("</section>")] if "</section>" in budget else budget
    for name, values in (("linear", 2), ("lightgbm", 2), ("best so far", 4)):
        line = re.search(rf'points="([^"]*)"><title>{name}<', budget).group(1).split()
        assert len(line) == 2 * values, "a step at the end of each trial, and one at the end of all"
    heights = [
        float(point.split(",")[1])
        for point in re.search(r'points="([^"]*)"><title>linear<', budget).group(1).split()
    ]
    assert len(set(heights)) == 1, "the second linear trial was worse, so its line stays"
    assert held.count("<title>t3 lightgbm: 0.8<") == 1


def test_a_blend_lists_its_members_with_their_weights():
    members = (MemberLine("a1", "lightgbm", 0.75, 5), MemberLine("b2", "<linear>", 0.25, 1))
    held = write_report(dataclasses.replace(_report("binary"), members=members))
    assert "<title>lightgbm a1 ×5: 0.75<" in held
    assert "<title>&lt;linear&gt; b2: 0.25<" in held
    assert "Members" not in write_report(_report("binary"))


def test_the_columns_that_the_model_depends_on_are_shown_with_their_intervals():
    columns = tuple(ColumnImportance(f"c{n:02}", 0.3 / n, 0.2 / n, 0.4 / n) for n in range(1, 21))
    found = PermutationImportance("log loss", 0.5, columns, 2000, 5, left_out=("late",))
    held = write_report(_report("binary", permuted=found))
    assert "<title>c01: 0.3 [0.2, 0.4]<" in held
    assert "<title>c15" in held
    assert "<title>c16" not in held
    assert "2,000 of these rows" in held
    assert "no time for late." in held


def test_text_from_data_is_escaped():
    document = write_report(_report("binary", classes=("<i>no</i>", "yes")))
    for evil in ("<script>", "<b>Rome", "<img src", "<i>no", "<a>", "<kind>"):
        assert evil not in document
    assert "&lt;b&gt;Rome" in document


def test_only_markup_is_taken_as_html():
    assert "&lt;b&gt;" in page.write_card("a", "b", "<b>")
    assert "<b>" in page.write_card("a", "b", page.Markup("<b>"))
    assert "&lt;i&gt;" in page.write_table(["<i>"], [["x"]])


def test_a_report_of_nothing_but_an_evaluation_leaves_the_rest_out():
    evaluation = _evaluate("binary")[1]
    text = " ".join(_read(write_report(Report("m, version 1", "roc_auc", evaluation))).text)
    assert "Quality" in text
    assert "Search" not in text
    assert "Gate" not in text


def test_a_model_that_answers_only_nan_still_gets_a_report():
    part = partials.observe(
        Layout("binary"), np.zeros(20), np.full(20, np.nan), groups_of({"r": np.arange(20)})
    )
    text = " ".join(_read(write_report(Report("m", "roc_auc", results.finish(part)))).text)
    assert "rows with nan or infinity" in text


def test_charts_take_constants_and_gaps():
    line = Series("a", [1.0, None, 3.0], [2.0, 2.0, float("nan")])
    assert "polyline" in charts.draw_lines([line], Axis("x", whole=True), Axis("y"))
    assert "<svg" in charts.draw_intervals([("a", 1.0, float("nan"), float("nan"))], "x", 1.0)
    assert "<svg" in charts.draw_bars(["a"], [0.0])


def test_ticks_have_as_many_digits_as_their_distance_needs():
    def texts(*ticks):
        return [text for _, text in charts._label(ticks)]

    assert texts(0.6675, 0.67, 0.6725) == ["0.6675", "0.6700", "0.6725"]
    assert texts(0.0, 0.25, 0.5) == ["0", "0.25", "0.50"]
    assert texts(0.0, 1000.0, 2000.0) == ["0", "1,000", "2,000"]
    assert texts(0.0, 2e-7) == ["0", "2e-07"]
    assert texts() == []


def test_the_learners_of_a_search_are_compared_on_the_same_rows():
    lines = (
        LearnerLine("blend", ("a", "b"), Interval(0.8, 0.7, 0.9), 0.5, 0.0, 0.0, 0.75, 3.0, 20_000, 0.25),
        LearnerLine("<forest>", ("a",), Interval(0.78, 0.7, 0.9), 0.51, 0.01, 0.02, 0.25, 2.0),
    )
    held = write_report(_report("binary", learners=LearnerRanking("roc_auc", 500, 5, lines)))
    shown = " ".join(_read(held).text)
    assert "0.010 ± 0.020" in shown or "0.01 ± 0.02" in shown
    assert "blend has the least loss in 75% of resamples of the 500 rows" in shown
    assert "each answered by the model of 5 that had left it out" in shown
    assert "20.0 kB" in shown
    assert "&lt;forest&gt;" in held


def test_slices_limits_and_what_became_of_each_learner_are_told():
    line = LearnerLine("linear", ("a",), Interval(0.8, 0.7, 0.9), 0.5, 0.0, 0.0, 0.75, 3.0)
    slices = (
        SliceLine("sex", "<f>", 200, "forest", 0.4, 0.1, 0.02),
        SliceLine("sex", "", 150, "linear", 0.5, 0.0, 0.0),
    )
    limits = (LimitCost("9 MB, and gate.size_mb is 2", "the blend", "b of linear", "roc_auc", 0.81, 0.8),)
    found = LearnerRanking("roc_auc", 500, 5, (line,), slices, limits, ("The folds of x are left out.",))
    trials = (
        TrialLine("a", {"training.learner": "linear", "training.options.C": 1.0}, 0.8, 2.0),
        TrialLine("b", {"training.learner": "tests:<Own>"}, float("nan"), 1.0, "it broke"),
    )
    held = write_report(
        _report(
            "binary",
            learners=found,
            trials=trials,
            trial_metric="roc_auc",
            constraints=("search.glassbox: true",),
            chosen={"search.learners": {"value": {}, "why": "each can; Learner tabm is left out: images"}},
            anomalies=({"column": "<age>", "kind": "constant", "text": "1 in all 9 training rows"},),
            slice_counts=(
                {
                    "column": "sex",
                    "value": "",
                    "rows": {"train": 9, "test": 0},
                    "means": {"train": 0.25, "test": 0.0},
                },
            ),
        )
    )
    shown = " ".join(_read(held).text)
    assert [one.value for one in found.list_slices("forest")] == ["<f>"]
    assert "0.1 ± 0.02" in shown
    assert "the blend → b of linear" in shown
    assert "0.01" in shown
    assert "not measured: no baseline without it" in shown
    assert "Learner tabm is left out: images. The folds of x are left out." in shown
    assert "it broke" in shown
    assert "a learner of the user's own" in shown
    assert "1 in all 9 training rows" in shown
    assert "9 (0.25)" in shown
    assert "(empty)" in shown
    assert "&lt;age&gt;" in held
    assert "<Own>" not in held


def test_a_network_that_learned_from_a_blend_names_it():
    members = (MemberLine("a", "forest", 0.7, 1), MemberLine("b", "linear", 0.3, 1))
    trials = (TrialLine("a", {"training.learner": "forest"}, 0.8, 2.0),)
    held = write_report(_report("binary", members=members, taught="A network learned", trials=trials))
    assert "The blend that the network learned from" in held
    assert "A network learned." in " ".join(_read(held).text)
