"""Models that are served: serve and deploy, and what they return."""

import asyncio
import atexit
import concurrent.futures
import contextlib
import dataclasses
import html
import os
import pathlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from raymlops.api.arguments import read_content, to_arrow, to_overrides
from raymlops.api.display import teller
from raymlops.api.models import LoadedModel
from raymlops.api.training import Search
from raymlops.errors import UserError, unknown_name
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

if TYPE_CHECKING:
    from raymlops.serving.deploy.local_serve import Served


_ROWS = 1000  # of one request of Endpoint.predict


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
        serving = launch.serving(spec, Settings.from_env(), plain=plain, tell=teller(progress))
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

    spec, tell = read_serving_spec(what, overrides), teller(progress)
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
