"""Shows the progress of a search: stage lines, then a table and a progress bar, in a terminal or a notebook; else plain
lines."""

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from raymlops import metrics
from raymlops.evaluation.learner_ranking import LearnerRanking
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training.trials import SearchResult

_ROWS = 12  # trials shown at a time; a table that is taller than the screen flickers
_REDRAWN_S = 0.5  # seconds between two updates of a notebook's cell


class SearchProgress:
    """Observes trials and shows them. A context manager: the display ends with it."""

    def __init__(self, trials: int | None, metric: str, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, markup=False, emoji=False)
        self._metric = metric
        self._shown: dict[str, dict[str, Any]] = {}
        self._bar = Progress(
            TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=self.console
        )
        self._task = self._bar.add_task("trials", total=trials)
        self._live: Live | None = None
        self._cell: Any = None
        """For a notebook, where the table is shown as HTML; rich would need ipywidgets for that."""
        self._drawn = 0.0

    @classmethod
    def of(cls, spec: ExperimentSpec, *, quiet: bool = False) -> "SearchProgress":
        """For the trials of a spec."""
        metric = spec.training.metric_of(spec.features.target.task)
        return cls(spec.search.planned, metric, quiet=quiet)

    def __enter__(self) -> "SearchProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._cell is not None:
            self._draw_cell()
        if self._live is not None:
            self._live.stop()

    def tell(self, line: str) -> None:
        """One line about the stage that starts."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {line}", soft_wrap=True)

    def search_started(self, trials: int | None, metric: str) -> None:
        """What the rows decided: how many trials there will be, None if the time decides, and the metric."""
        self._bar.update(self._task, total=trials)
        self._metric = metric

    def trial_started(self, trial: str, parameters: Mapping[str, Any]) -> None:
        self._shown.setdefault(trial, {"status": "running", "parameters": dict(parameters), "learned": {}})
        self._draw()

    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None:
        self._shown[trial]["learned"] = dict(learned)
        self._draw()

    def trial_ended(self, trial: str, error: str | None) -> None:
        shown = self._shown.setdefault(trial, {"status": "", "parameters": {}, "learned": {}})
        shown["status"] = "failed" if error else "done"
        self._bar.advance(self._task)
        if not self.console.is_terminal and not self.console.is_jupyter:
            count = sum(row["status"] in ("done", "failed") for row in self._shown.values())
            score = shown["learned"].get(f"best_{self._metric}", float("nan"))
            learner = shown["parameters"].get(_LEARNER)
            named = f"{trial} of {learner}" if learner else trial
            total = self._bar.tasks[0].total
            of = f" of {total}" if total is not None else ""
            self.tell(f"Trial {count}{of}: {named} {shown['status']}, {self._metric} {score:.4f}")
        if error:
            self.tell(f"Trial {trial} failed: {error}")
        self._draw()

    def _draw(self) -> None:
        if self.console.quiet:
            return
        if self.console.is_jupyter and time.monotonic() - self._drawn > _REDRAWN_S:
            self._draw_cell()
        if not self.console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(Group(self._table(), self._bar))

    def _draw_cell(self) -> None:
        from IPython.display import HTML, display

        self._drawn = time.monotonic()
        task = self._bar.tasks[0]
        shown = HTML(
            (f'<progress value="{task.completed:g}" max="{task.total:g}"></progress> ' if task.total else "")
            + f"{task.completed:g} {f'of {task.total:g} ' if task.total else ''}trials"
            + to_html(self._rows(), self._metric)
        )
        if self._cell is None:
            self._cell = display(shown, display_id=True)
        else:
            self._cell.update(shown)

    def _table(self) -> Table:
        return to_table(self._rows(), self._metric)

    def _rows(self) -> list["TrialRow"]:
        rows = sorted(self._shown.items(), key=lambda item: item[1]["status"] != "running")[:_ROWS]
        return [(trial, row["status"], row["parameters"], row["learned"]) for trial, row in rows]


_LEARNER = "training.learner"
_WORDS = ("trial", "", "learner", "values")
"""Columns of texts."""
TrialRow = tuple[str, str, Mapping[str, Any], Mapping[str, float]]
"""A trial's name, status, parameters and results."""


def to_table(rows: Sequence[TrialRow], metric: str) -> Table:
    """Trials with their parameters and their results."""
    headings, cells = _to_cells(rows, metric)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _WORDS else "right")
    for row in cells:
        table.add_row(*row)
    return table


def to_html(rows: Sequence[TrialRow], metric: str) -> str:
    """The same as an HTML table."""
    headings, cells = _to_cells(rows, metric)
    lines = [("th", headings), *(("td", row) for row in cells)]
    return "<table>{}</table>".format(
        "".join(
            f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>" for tag, row in lines
        )
    )


def _to_cells(rows: Sequence[TrialRow], metric: str) -> tuple[list[str], list[list[str]]]:
    several = any(_LEARNER in row[2] for row in rows)  # each with parameters of its own, in one column
    names = [] if several else list(dict.fromkeys(name for row in rows for name in row[2]))
    headings = ["trial", "", "epoch", f"best {metric}", *(name.split(".")[-1] for name in names)]
    headings += ["learner", "values"] if several else []
    cells = []
    for trial, status, parameters, learned in rows:
        score = learned.get(f"best_{metric}")
        epoch = str(int(learned["epoch"])) if "epoch" in learned else ""
        values = [_show(parameters.get(name)) for name in names]
        if several:
            own = (f"{key.split('.')[-1]} {_show(one)}" for key, one in parameters.items() if key != _LEARNER)
            values = [str(parameters.get(_LEARNER, "")), ", ".join(own) or "defaults"]
        cells.append([trial, status, epoch, "" if score is None else f"{score:.4f}", *values])
    return headings, cells


def result_table(found: SearchResult) -> Table:
    """The trials of a finished search, the best first."""
    rows = [
        (
            trial.name,
            "failed" if trial.error else ("best" if index == 0 else ""),
            trial.parameters,
            trial.learned,
        )
        for index, trial in enumerate(found.trials)
    ]
    return to_table(rows, found.metric)


def metric_lines(values: Mapping[str, float]) -> list[str]:
    """`roc_auc 0.7012 (higher is better)`, one line per metric."""
    width = max(len(name) for name in values)
    return [
        f"  {name:<{width}}  {value:.4f}  ({'lower' if name in metrics.FALLING else 'higher'} is better)"
        for name, value in values.items()
    ]


def ranking_lines(found: LearnerRanking) -> list[str]:
    """The learners of a search on the same rows, one line each, and how sure their order is."""
    lines = [f"\nLearners on the same {found.rows:,} rows, by loss (± is one standard error):"]
    for one in found.lines:
        behind = f"{one.behind:.2g} ± {one.error:.2g} behind" if one.behind else "the least loss"
        file = "" if one.size is None else f", {one.size / 1e3:,.0f} kB, p50 of one row {one.p50_ms:.2f} ms"
        lines.append(
            f"  {one.name:<9} {found.metric} {one.value}, {behind}; fitted in {one.seconds:.1f} s{file}"
        )
    return [*lines, f"  {found.describe()}"]


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
