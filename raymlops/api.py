"""The functions for notebooks: `import raymlops`. Each does the same as the command of its name, with the same
environment variables (RAYMLOPS_HOME, MLFLOW_TRACKING_URI, RAY_ADDRESS ...)."""

import dataclasses
import datetime
import html
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from raymlops.errors import DataError, SpecError
from raymlops.settings import Settings, choose_authentication, export
from raymlops.specs.document import parse_document, read_document
from raymlops.specs.experiment import ExperimentSpec

if TYPE_CHECKING:
    from raymlops.lifecycle.govern.evaluate import EvaluatedVersion
    from raymlops.lifecycle.train.develop import Outcome
    from raymlops.models.safety import Model
    from raymlops.tensors import Signature

Spec = str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec
"""A file, its content as a mapping, or a spec from `read_spec`."""


def read_spec(spec: Spec, overrides: Mapping[str, Any] | None = None) -> ExperimentSpec:
    """Read a spec and check what can be checked without its data: keys, types, values, expressions, learner.

    `overrides` change values by their path, like `--set`: `{"search.trials": 20}`. Raises SpecError, which names the
    key and the remedy. The spec's own networks, learners and readers are imported.
    """
    from raymlops.training import learners

    given = [f"{key}={_to_yaml(value)}" for key, value in (overrides or {}).items()]
    if isinstance(spec, (str, os.PathLike)):
        found = read_document(pathlib.Path(spec), ExperimentSpec, given)
    else:
        content = spec.model_dump(mode="json") if isinstance(spec, ExperimentSpec) else dict(spec)
        found = parse_document(_to_yaml(content), ExperimentSpec, source="the spec", overrides=given)
    learners.check(found)
    return found


def search(
    spec: Spec,
    *,
    why: str = "",
    name: str | None = None,
    resume: bool = False,
    register: bool = True,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> "Search":
    """Search for the best model of a spec on the Ray cluster, export it to one ONNX file, verify it, register it.

    `why` is recorded with the version. `resume` resumes an interrupted search of this spec. Without `register` the
    model is kept as a file. `progress` shows the trials as they run. Raises SpecError, DataError, ResourceError (the
    cluster has no room), StorageError.
    """
    from raymlops.lifecycle.train import launch

    export(choose_authentication())
    found, settings = read_spec(spec, overrides), Settings.from_env()
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
    progress: bool = True,
) -> "Search":
    """Train one model with the values of a spec as they are; otherwise like `search`.

    Resumes an interrupted training of the same spec, unless `fresh`.
    """
    from raymlops.lifecycle.train import launch

    export(choose_authentication())
    found, settings = launch.to_training(read_spec(spec, overrides)), Settings.from_env()
    lost = launch.find_training(found, settings, name, fresh, print)
    return _run(found, settings, lost, progress, name=name, why=why, register=register, or_anew=True)


def _run(
    spec: ExperimentSpec, settings: Settings, lost: str | None, progress: bool, **request: Any
) -> "Search":
    from raymlops.cli.progress import SearchProgress
    from raymlops.lifecycle.train import launch

    with SearchProgress.of(spec, quiet=not progress) as shown:
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
        """One row per trial, the best first: its parameters, its results, its seconds and its error."""
        return pd.DataFrame([
            {"trial": trial.name, **trial.parameters, **trial.learned, "seconds": trial.seconds, "error": trial.error}
            for trial in self.outcome.search.trials
        ])  # fmt: skip

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
        parts = [f"<h4>{title}{alias}</h4>", _to_table(self.metrics), self.leaderboard.to_html(index=False)]
        if self.report:
            parts.append(_to_frame(self.report))
        return "\n".join(parts)


def evaluate(
    version: str, data: str | None = None, *, spec: Spec | None = None, trust: bool = False
) -> "Evaluated":
    """Measure a registered version on the test split of its spec, or on the rows at the path `data`, with intervals
    and slices; the gate judges it, but no alias is moved.

    `trust` runs code that the version's record names (own readers). Raises NotFoundError, UntrustedError, DataError.
    """
    from raymlops.lifecycle.train import launch

    export(choose_authentication())
    given = None if spec is None else read_spec(spec)
    return Evaluated(
        launch.evaluate(version, Settings.from_env(), data=data, spec=given, trusted=trust, warn=print)
    )


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
    def report(self) -> pathlib.Path:
        """The HTML report."""
        return self.trusted.report

    def _repr_html_(self) -> str:
        return _to_frame(self.report)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model that predicts in this process, with ONNX Runtime."""

    uri: str
    content: "Model"

    @property
    def signature(self) -> "Signature":
        """Its inputs and outputs."""
        from raymlops.models.session import open_session

        return open_session(self.content).signature

    def predict(self, rows: pd.DataFrame | pa.Table, keep: tuple[str, ...] | list[str] = ()) -> pd.DataFrame:
        """The predictions, one row for each row of `rows`; `keep` are input columns to add.

        Raises DataError if `rows` is not a table, or a column is missing or of another type.
        """
        from raymlops.lifecycle.batch.predict import OnnxScorer

        if not isinstance(rows, (pd.DataFrame, pa.Table)):
            raise DataError(f"Expected a pandas DataFrame or an arrow table, got {type(rows).__name__}")
        table = rows if isinstance(rows, pa.Table) else _to_arrow(rows)
        answer = OnnxScorer(self.content, tuple(keep), threads=os.cpu_count() or 1, max_rows=8192)(table)
        frame: pd.DataFrame = answer.to_pandas()
        if isinstance(rows, pd.DataFrame):
            frame.index = rows.index
        return frame


def load_model(model: str | os.PathLike[str]) -> LoadedModel:
    """A version (`models:/flights@champion`, `models:/flights/3`) or an ONNX file, checked as for serving.

    Raises NotFoundError, ArtifactError, UntrustedError.
    """
    from raymlops.cli.prediction import read_one_model

    return LoadedModel(str(model), read_one_model(str(model), Settings.from_env()))


def predict(
    model: str | os.PathLike[str], rows: pd.DataFrame | pa.Table, keep: tuple[str, ...] | list[str] = ()
) -> pd.DataFrame:
    """The predictions of a model for a table in memory: see LoadedModel.predict. For files use `raymlops predict`."""
    return load_model(model).predict(rows, keep)


def register(file: str | os.PathLike[str], name: str, why: str) -> str:
    """Register an ONNX file of any origin; returns `models:/NAME/VERSION`. Raises NotFoundError, ArtifactError."""
    from raymlops.lifecycle.govern.register import register_file

    version, _ = register_file(pathlib.Path(file), name, why, Settings.from_env())
    return f"models:/{name}/{version}"


def promote(name: str, version: str | int, why: str, *, alias: str = "champion", force: bool = False) -> None:
    """Point an alias of a model at a version, on the record. Only a version that passed the gate becomes champion,
    unless `force`. Raises NotFoundError, UserError."""
    from raymlops.lifecycle.govern.register import promote_version

    promote_version(name, str(version), alias, why, Settings.from_env(), force=force)


def _to_arrow(frame: pd.DataFrame) -> pa.Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas passes time zones to pyarrow
        return pa.Table.from_pandas(frame, preserve_index=False)


def _to_yaml(value: Any) -> str:
    return (
        yaml.safe_dump(_to_plain(value), default_flow_style=True, width=2**20).removesuffix("...\n").strip()
    )


def _to_plain(value: Any) -> Any:
    """As in YAML: paths as text, numpy's numbers and arrays as Python's. Raises SpecError."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int, float, datetime.date)):
        return value
    raise SpecError(f"A spec holds text, numbers, lists and mappings, not {type(value).__name__} {value!r}")


def _to_table(values: Mapping[str, float]) -> str:
    return pd.DataFrame([values]).to_html(index=False, float_format="{:.4f}".format)


def _to_frame(report: pathlib.Path) -> str:
    """A separate page within the notebook's: its styles do not leak, and scripts do not run."""
    content = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe srcdoc="{content}" sandbox="" style="width: 100%; height: 40em; border: 0"></iframe>'
