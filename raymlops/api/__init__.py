"""The functions for notebooks: `import raymlops`. Each does the same as the command of its name, with the same
environment variables (RAYMLOPS_HOME, MLFLOW_TRACKING_URI, RAY_ADDRESS ...)."""

import asyncio
import atexit
import concurrent.futures
import contextlib
import dataclasses
import html
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from raymlops.api.arguments import read_content, select_columns, to_arrow, to_overrides, to_yaml
from raymlops.errors import DataError, UserError, unknown_name
from raymlops.settings import Settings
from raymlops.specs.document import parse_document, read_document
from raymlops.specs.experiment import ExperimentSpec, to_one_trial
from raymlops.specs.serving import ServingSpec

if TYPE_CHECKING:
    from raymlops.data.profiling.target import Task
    from raymlops.lifecycle.batch.predict import OnnxScorer
    from raymlops.lifecycle.govern.evaluate import EvaluatedVersion
    from raymlops.lifecycle.init.proposal import Proposal
    from raymlops.lifecycle.train.develop import Outcome
    from raymlops.models.safety import Model
    from raymlops.serving.deploy.local_serve import Served
    from raymlops.tensors import Signature

Spec = str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec
"""A file, its content as a mapping, or a spec from `read_spec`."""

_ROWS = 1000  # of one request of Endpoint.predict


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

    with SearchProgress.of(spec, quiet=not _is_shown(progress)) as shown:
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
        return _to_frame(self.report)


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


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model that predicts in this process, with ONNX Runtime."""

    uri: str
    content: "Model"
    _scorer: "OnnxScorer | None" = dataclasses.field(default=None, init=False, repr=False, compare=False)
    """Created when the first rows are predicted."""

    @property
    def signature(self) -> "Signature":
        """Its inputs and outputs."""
        from raymlops.models.session import open_session

        return open_session(self.content).signature

    def predict(self, rows: pd.DataFrame | pa.Table, keep: tuple[str, ...] | list[str] = ()) -> pd.DataFrame:
        """The predictions, one row for each row of `rows` and with its index; `keep` are input columns to add.
        A prediction that has the name of one of them becomes `predicted_NAME`.

        Strings, categories, booleans, nullable integers, and timestamps with or without a time zone are converted to
        the model's inputs; other columns are ignored. Raises DataError if `rows` is not a table, or a column is missing
        or of another type.
        """
        from raymlops.lifecycle.batch.predict import OnnxScorer, name_predictions

        scorer = self._scorer
        if scorer is None:
            scorer = OnnxScorer(self.content, (), threads=os.cpu_count() or 1, max_rows=8192)
            object.__setattr__(self, "_scorer", scorer)
        table = to_arrow(rows, {spec.name for spec in (*scorer.signature.inputs, *scorer.optional)})
        frame: pd.DataFrame = scorer(table).to_pandas()
        if isinstance(rows, pd.DataFrame):
            frame.index = rows.index
        kept = select_columns(rows, [*map(str, keep)])
        frame = frame.rename(columns=name_predictions(map(str, kept.columns), frame.columns))
        return pd.concat([kept, frame], axis=1) if len(kept.columns) else frame


def load_model(model: str | os.PathLike[str] | Search) -> LoadedModel:
    """A version (`models:/flights@champion`, `models:/flights/3`), an ONNX file, or what a search found, checked as for
    serving.

    Raises NotFoundError, ArtifactError, UntrustedError.
    """
    from raymlops.runtime.sources import read_source

    if isinstance(model, Search):
        model = model.version or model.model
    if not isinstance(model, (str, os.PathLike)):
        raise DataError(
            f"Cannot load a {type(model).__name__}; give models:/NAME@ALIAS, an ONNX file, or what search returned"
        )
    return LoadedModel(str(model), read_source(str(model), Settings.from_env()))


def predict(
    model: str | os.PathLike[str] | Search,
    rows: pd.DataFrame | pa.Table,
    keep: tuple[str, ...] | list[str] = (),
) -> pd.DataFrame:
    """The predictions of a model for a table in memory: see LoadedModel.predict. For files use `raymlops predict`."""
    return load_model(model).predict(rows, keep)


def register(file: str | os.PathLike[str], name: str, why: str) -> str:
    """Register an ONNX file of any origin; returns `models:/NAME/VERSION`. Raises NotFoundError, ArtifactError."""
    from raymlops.lifecycle.govern.register import register_file

    version, _ = register_file(pathlib.Path(file), name, why, Settings.from_env())
    return f"models:/{name}/{version}"


def convert(
    file: str | os.PathLike[str],
    name: str,
    *,
    data: str | os.PathLike[str] | pd.DataFrame | pa.Table | None = None,
    classes: Sequence[str | int] = (),
    target: str = "target",
    rounds: int | None = None,
    why: str = "",
) -> str:
    """Register a saved model of XGBoost (.json, .ubj) or LightGBM (.txt, .lgb); returns `models:/NAME/VERSION`.

    `data` are rows as it was trained on them (a table, .parquet or .csv), which both predict; `classes` are in the
    order of training. Raises NotFoundError, SpecError, DataError, ArtifactError (a file that is broken or not
    convertible), ParityError (the ONNX file answers otherwise).
    """
    from raymlops.lifecycle.govern.convert import convert_file

    given: Any = data
    if isinstance(data, (str, os.PathLike)):
        given = pathlib.Path(data)
    elif data is not None:
        given = to_arrow(data, {str(column) for column in getattr(data, "columns", ())})
    found = convert_file(
        pathlib.Path(file),
        name,
        Settings.from_env(),
        why=why,
        data=given,
        classes=tuple(map(str, classes)),
        target=target,
        rounds=rounds,
    )
    return f"models:/{name}/{found.version}"


def promote(name: str, version: str | int, why: str, *, alias: str = "champion", force: bool = False) -> None:
    """Point an alias of a model at a version, on the record. Only a version that passed the gate becomes champion,
    unless `force`. Raises NotFoundError, UserError."""
    from raymlops.lifecycle.govern.register import promote_version

    promote_version(name, str(version), alias, why, Settings.from_env(), force=force)


Servable = str | os.PathLike[str] | Mapping[str, Any] | ServingSpec | LoadedModel | Search
"""A serving spec as a file, a mapping or from `read_serving_spec`; or a model: an ONNX file, `models:/NAME@ALIAS`, the
result of a search, or a loaded model."""


def read_serving_spec(what: Servable, overrides: Mapping[str, Any] | None = None) -> ServingSpec:
    """Read a serving spec, or make that of one model, and check what can be checked without its models. `overrides`
    change values by their path: `{"port": 8000}`. Raises SpecError, NotFoundError."""
    from raymlops.serving.deploy import config_files

    given = to_overrides(overrides)
    if isinstance(what, Search):
        name, source = what.spec.name, what.version or str(what.model)
        what = {"name": name, "models": {name: {"source": source}}}
    if isinstance(what, LoadedModel):
        what = what.uri
    if isinstance(what, (str, os.PathLike)):
        return config_files.read_spec(pathlib.Path(what), given)
    return config_files.parse_spec(read_content(what), given)


def serve(
    what: Servable,
    *,
    overrides: Mapping[str, Any] | None = None,
    key: str = "",
    plain: bool = False,
    progress: bool | None = None,
) -> "Endpoint":
    """Serve models over HTTP (and gRPC, with `grpc_port`) from this process, until the endpoint is stopped:

        with raymlops.serve("models:/flights@champion", overrides={"port": 8000}) as endpoint:
            endpoint.predict(frame)

    If Ray is initialised in this process, or RAY_ADDRESS names a cluster, that is used, and left as it was; else a
    local cluster is started, and stopped with the endpoint. `key` is the API key that `Endpoint.predict` sends, if the
    spec has `keys`. `plain` uses Ray Serve's default settings. Raises SpecError, NotFoundError, ArtifactError,
    ForbiddenError (other machines would reach it without keys), ResourceError (its port is taken, or it does not become
    healthy).
    """
    return Endpoint(read_serving_spec(what, overrides), key=key, plain=plain, progress=progress)


class Endpoint:
    """Models served over HTTP until `stop`, the end of the `with` block, or the end of the process."""

    def __init__(self, spec: ServingSpec, *, key: str, plain: bool, progress: bool | None) -> None:
        from raymlops.serving.deploy import launch

        self._stack, self._key = contextlib.ExitStack(), key
        serving = launch.serving(spec, Settings.from_env(), plain=plain, tell=_teller(progress))
        self._served: Served | None = self._stack.enter_context(serving)
        atexit.register(self.stop)
        self.url: str = self._served.url
        """Its address: `{url}/v2/models/NAME/infer`, and `{url}/docs` for people."""
        self.models: tuple[str, ...] = (*self._served.spec.models, *self._served.spec.graphs)
        """Names of its models and graphs, without those of a folder."""

    def predict(self, rows: pd.DataFrame | pa.Table, model: str | None = None) -> pd.DataFrame:
        """Send rows to a model over HTTP; returns its predictions, one row for each row of `rows` and with its index.

        `model` may be omitted if there is only one. Raises DataError for a column that is missing, InputError for
        values that the model does not accept, NotFoundError, UserError once the endpoint has ended.
        """
        from raymlops.errors import NotFoundError
        from raymlops.serving.deploy.endpoint_client import infer_table, to_columns

        if self._served is None:
            raise UserError(f"The endpoint at {self.url} has ended; call raymlops.serve again")
        if model is None and len(self.models) != 1:
            raise NotFoundError(f"Name the model: {', '.join(self.models) or 'one of its folder'}")
        if model is not None and model not in self.models and self._served.spec.many is None:
            raise NotFoundError(unknown_name("model", model, self.models))
        name, client = model or self.models[0], self._served.connect(self._key)
        inputs = client.describe(name)["inputs"]
        table = to_arrow(rows, {spec["name"] for spec in inputs})
        parts = [
            pd.DataFrame(to_columns(infer_table(client, name, table.slice(start, _ROWS), inputs)))
            for start in range(0, max(1, table.num_rows), _ROWS)
        ]
        frame = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        if isinstance(rows, pd.DataFrame):
            frame.index = rows.index
        return frame

    def stop(self) -> None:
        """Answer the requests in flight, and stop; a second call does nothing."""
        atexit.unregister(self.stop)
        self._served = None
        _outside_loop(self._stack.close)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "" if self._served else ", ended"
        return f"Endpoint({self.url}, {', '.join(self.models) or 'a folder of models'}{state})"

    def _repr_html_(self) -> str:
        if self._served is None:
            return html.escape(repr(self))
        url = html.escape(self.url, quote=True)
        names = html.escape(", ".join(self.models) or "a folder of models")
        return f'<b>{names}</b> at <a href="{url}/docs">{url}</a>'


def deploy(
    what: Servable,
    *,
    overrides: Mapping[str, Any] | None = None,
    timeout_s: float = 300.0,
    plain: bool = False,
    progress: bool | None = None,
) -> "Deployment":
    """Deploy an application on the cluster of RAY_ADDRESS, or the one that this process is in, with aliases pinned to
    versions, replacing replicas one by one; it stays when this process ends.

    Raises the same as `serve`, and ResourceError if it is not healthy in `timeout_s` seconds; the previous deployment
    is then restored.
    """
    from raymlops.serving.deploy import launch

    spec, tell = read_serving_spec(what, overrides), _teller(progress)
    options: dict[str, Any] = {"plain": plain, "timeout_s": timeout_s, "report": tell, "tell": tell}
    return Deployment(launch.deploy(spec, Settings.from_env(), **options))


@dataclasses.dataclass(frozen=True)
class Deployment:
    """An application that was deployed."""

    config: dict[str, Any]
    """In Ray Serve's form, with versions and digests of its models."""

    @property
    def name(self) -> str:
        """Name of the application."""
        return str(self.config["name"])

    @property
    def models(self) -> pd.DataFrame:
        """One row per model or graph: its name, source and version."""
        args = self.config["args"]
        rows = [{"name": name, **model} for name, model in args.get("models", {}).items()]
        rows += [{"name": name, "source": "a graph"} for name in args.get("graphs", {})]
        return pd.DataFrame(rows, columns=["name", "source", "version"])

    def _repr_html_(self) -> str:
        return f"<h4>{html.escape(self.name)}</h4>{self.models.to_html(index=False)}"


def _outside_loop(call: Callable[[], None]) -> None:
    """Call in another thread if this one runs an event loop, as in a notebook: Serve's handles do not answer there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        call()
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def _is_shown(progress: bool | None) -> bool:
    """Whether to print progress: by default in notebooks and terminals only."""
    if progress is not None:
        return progress
    from rich.console import Console

    console = Console()
    return console.is_jupyter or console.is_terminal


def _teller(progress: bool | None) -> Callable[[str], None]:
    return print if _is_shown(progress) else lambda line: None


def _to_table(values: Mapping[str, float]) -> str:
    return pd.DataFrame([values]).to_html(index=False, float_format="{:.4f}".format)


def _to_frame(report: pathlib.Path) -> str:
    """A separate page within the notebook's: its styles do not leak, and scripts do not run."""
    content = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe srcdoc="{content}" sandbox="" style="width: 100%; height: 40em; border: 0"></iframe>'
