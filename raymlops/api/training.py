"""From a table to a version: read_spec, init, search, train, evaluate, and what they return."""

import dataclasses
import html
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from raymlops.api.arguments import read_content, to_overrides, to_yaml
from raymlops.api.display import is_shown, to_frame, to_table
from raymlops.settings import Settings
from raymlops.specs.document import parse_document, read_document
from raymlops.specs.experiment import ExperimentSpec, to_one_trial

if TYPE_CHECKING:
    from raymlops.data.profiling.target import Task
    from raymlops.lifecycle.govern.evaluate import EvaluatedVersion
    from raymlops.lifecycle.init.proposal import Proposal
    from raymlops.lifecycle.train.develop import Outcome


Spec = str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec
"""A file, its content as a mapping, or a spec from `read_spec`."""


def read_spec(spec: Spec, overrides: Mapping[str, Any] | None = None) -> ExperimentSpec:
    """Read a spec and check what can be checked without its data: keys, types, values, expressions, learner.

    `overrides` change values by their path, like `--set`: `{"search.trials": 20}`. Raises SpecError, which names the
    key and the remedy. The spec's own networks, learners and readers are imported.
    """
    from raymlops.training import candidates

    if isinstance(spec, (str, os.PathLike)):
        found = read_document(pathlib.Path(spec), ExperimentSpec, to_overrides(overrides))
    else:
        text = to_yaml(read_content(spec))
        found = parse_document(text, ExperimentSpec, source="the spec", overrides=to_overrides(overrides))
    candidates.check(found)
    return found


def init(
    data: str | os.PathLike[str],
    target: str,
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    name: str | None = None,
    task: "Task | None" = None,
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Proposal":
    """Look at a table, and propose a spec that predicts the column `target`: `search(init("data.csv", "y").spec)`.

    `data` is a file, a folder, a pattern or a URL. The spec's text is written to `output` if that is given; what the
    function is not sure of is in `unsure`, and marked in the text; `page` is the table's profile as HTML. `options` are
    passed to the reader. Raises NotFoundError, DataError, and SpecError if `output` exists.
    """
    from raymlops.lifecycle.init import proposal

    settings = _begin()
    found = proposal.propose(
        str(data), target, settings, name=name, task=task, reader=reader, options=options
    )
    if output is not None:
        proposal.write_new(pathlib.Path(output), found.text, overwrite=overwrite)
    return found


def search(
    spec: Spec,
    *,
    why: str = "",
    name: str | None = None,
    resume: bool = False,
    register: bool = True,
    overrides: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> "Search":
    """Search for the best model of a spec on the Ray cluster, export it to one ONNX file, verify it, register it.

    `why` is recorded with the version. `resume` resumes an interrupted search of this spec. Without `register` the
    model is kept as a file. `progress` shows the trials as they run; by default in notebooks and terminals only. Raises
    SpecError, DataError, ResourceError (the cluster has no room), StorageError.
    """
    from raymlops.lifecycle.train import launch

    found, settings = read_spec(spec, overrides), _begin()
    lost = launch.find_search(found, settings, name, resume, print)
    return _run(found, settings, lost, progress, name=name, why=why, register=register)


def train(
    spec: Spec,
    *,
    why: str = "",
    name: str | None = None,
    fresh: bool = False,
    register: bool = True,
    overrides: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> "Search":
    """Train one model with the values of a spec as they are; otherwise like `search`.

    Resumes an interrupted training of the same spec, unless `fresh`.
    """
    from raymlops.lifecycle.train import launch

    found, settings = to_one_trial(read_spec(spec, overrides)), _begin()
    lost = launch.find_training(found, settings, name, fresh, print)
    return _run(found, settings, lost, progress, name=name, why=why, register=register, or_anew=True)


def _begin() -> Settings:
    """Set what Ray reads when it starts: the token, and Serve's faster settings, as the process may serve later."""
    from raymlops.serving.deploy import launch

    settings = Settings.from_env()
    launch.set_environment(settings)
    return settings


def _run(
    spec: ExperimentSpec, settings: Settings, lost: str | None, progress: bool | None, **request: Any
) -> "Search":
    from raymlops.cli.progress import SearchProgress
    from raymlops.lifecycle.train import launch

    with SearchProgress.of(spec, quiet=not is_shown(progress)) as shown:
        outcome = launch.run(spec, settings, lost, observers=[shown], tell=shown.tell, **request)
    return Search(spec, outcome)


@dataclasses.dataclass(frozen=True)
class Search:
    """The result of a search or a training. Jupyter shows its trials, metrics and report."""

    spec: ExperimentSpec
    outcome: "Outcome"
    """All results, as on the command line."""

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row per trial, the best first: its parameters, its results, its seconds and its error. If it was
        registered, `test_METRIC` of the best trial, and below the trials the baselines: constant, linear, boosting."""
        rows = [
            {
                "trial": trial.name,
                **trial.parameters,
                **trial.learned,
                "seconds": trial.seconds,
                "error": trial.error,
            }
            for trial in self.outcome.search.trials
        ]
        board = self.outcome.trusted.leaderboard if self.outcome.trusted else None
        if board is None:
            return pd.DataFrame(rows)
        for line in board.lines:
            value = {f"test_{board.metric}": line.value.value}
            if line.gain is None:  # the version itself
                rows[0].update(value)
            else:
                rows.append({"trial": line.name, **value, "seconds": line.seconds})
        return pd.DataFrame(rows)

    @property
    def learners(self) -> pd.DataFrame:
        """The best trial of each learner, and the blend if one was taken, on the same rows: one row each, the least
        loss first. Empty for a search over one learner, or without `search.blend`."""
        found = self.outcome.learners
        names = ["learner", "low", "high", "loss", "behind", "error", "first", "seconds", "bytes", "p50_ms"]
        if found is None:
            return pd.DataFrame(columns=names)
        return pd.DataFrame([
            {
                "learner": line.name, found.metric: line.value.value, "low": line.value.low,
                "high": line.value.high, "loss": line.loss, "behind": line.behind, "error": line.error,
                "first": line.first, "seconds": line.seconds, "bytes": line.size, "p50_ms": line.p50_ms,
            }
            for line in found.lines
        ])  # fmt: skip

    @property
    def baselines(self) -> pd.DataFrame:
        """The version and untuned models of the same training rows, on the same test rows: one row each; empty if
        nothing was registered."""
        return _to_leaderboard(self.outcome.trusted)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the best model on the test split."""
        return dict(self.outcome.proof.metrics)

    @property
    def model(self) -> pathlib.Path:
        """The ONNX file."""
        return self.outcome.model

    @property
    def version(self) -> str | None:
        """`models:/NAME/VERSION`; None if it was not registered."""
        return f"models:/{self.spec.name}/{self.outcome.version}" if self.outcome.version else None

    @property
    def report(self) -> pathlib.Path | None:
        """The HTML report of the gate; None if it was not registered."""
        return self.outcome.trusted.report if self.outcome.trusted else None

    def _repr_html_(self) -> str:
        title = html.escape(self.version or str(self.model))
        alias = f" (@{html.escape(self.outcome.alias)})" if self.outcome.alias else ""
        parts = [f"<h4>{title}{alias}</h4>", to_table(self.metrics), self.leaderboard.to_html(index=False)]
        if self.report:
            parts.append(to_frame(self.report))
        return "\n".join(parts)


def evaluate(
    version: str, data: str | None = None, *, spec: Spec | None = None, trust: bool = False
) -> "Evaluated":
    """Measure a registered version on the test split of its spec, or on the rows at the path `data`, with intervals
    and slices; the gate judges it, but no alias is moved.

    `trust` runs code that the version's record names (own readers). Raises NotFoundError, UntrustedError, DataError.
    """
    from raymlops.lifecycle.train import launch

    given = None if spec is None else read_spec(spec)
    return Evaluated(launch.evaluate(version, _begin(), data=data, spec=given, trusted=trust, warn=print))


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The results for a version. Jupyter shows its report."""

    trusted: "EvaluatedVersion"
    """All results, as on the command line."""

    @property
    def passed(self) -> bool:
        """Whether it passed the gate."""
        return self.trusted.verdict.passed

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per metric: its value, and the bounds of its interval."""
        found = self.trusted.evaluation.metrics
        return pd.DataFrame([{"metric": name, **interval.to_json()} for name, interval in found.items()])

    @property
    def leaderboard(self) -> pd.DataFrame:
        """The version and untuned models of the same training rows, on the same test rows: one row each, the best
        first; empty for data other than its own."""
        return _to_leaderboard(self.trusted)

    @property
    def report(self) -> pathlib.Path:
        """The HTML report."""
        return self.trusted.report

    def _repr_html_(self) -> str:
        return to_frame(self.report)


def _to_leaderboard(found: "EvaluatedVersion | None") -> pd.DataFrame:
    if found is None or not found.leaderboard.lines:
        return pd.DataFrame(columns=["model", "low", "high", "gain", "gain_low", "gain_high", "seconds"])
    metric, lines = found.leaderboard.metric, found.leaderboard.ranked()
    return pd.DataFrame([
        {
            "model": line.name, metric: line.value.value, "low": line.value.low, "high": line.value.high,
            "gain": line.gain.value if line.gain else None, "gain_low": line.gain.low if line.gain else None,
            "gain_high": line.gain.high if line.gain else None, "seconds": line.seconds,
        }
        for line in lines
    ])  # fmt: skip
