"""Models that others logged in MLflow, by whatever flavour: finds and downloads their files, and opens none of them."""

import contextlib
import pathlib
from collections.abc import Iterator

import mlflow
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

from raymlops.errors import NotFoundError, SpecError, shorten
from raymlops.settings import Settings
from raymlops.tracking import store

SCHEMES = ("runs:/", "models:/")


def is_logged(name: str) -> bool:
    """Whether it names a model in MLflow, and no file."""
    return name.startswith(SCHEMES)


def fetch_model(uri: str, settings: Settings, folder: pathlib.Path) -> pathlib.Path:
    """The folder with the files of `runs:/RUN/PATH`, `models:/NAME/VERSION`, `models:/NAME/latest`,
    `models:/NAME@ALIAS` or a logged model, `models:/m-ID`, below `folder`.

    Raises SpecError, NotFoundError, and UnreachableError if the store does not answer.
    """
    client = store.connect(settings)
    with store.reaching_artifacts(uri):
        try:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=_locate(client, uri), dst_path=str(folder), tracking_uri=settings.tracking_uri,
                registry_uri=settings.registry_uri,
            )  # fmt: skip
        except MlflowException as error:
            if not store.is_refusal(error):
                raise
            raise NotFoundError(f"No model {uri!r}: {shorten(' '.join(str(error).split()))}") from None
    return pathlib.Path(found)


def _locate(client: mlflow.MlflowClient, uri: str) -> str:
    """Where its files are. By this client: MLflow's own download of a logged model asks the store that the process has
    by default."""
    scheme, _, rest = uri.partition(":/")
    first, _, path = rest.strip("/").partition("/")
    if scheme == "runs" and first and path:
        return _locate_of_run(client, first, path)
    if scheme == "models" and first and not path and "@" not in first and first.startswith("m-"):
        return str(client.get_logged_model(first).artifact_location)
    name, _, alias = first.partition("@")
    if scheme != "models" or bool(alias) == bool(path) or not name:
        raise SpecError(
            f"{uri!r} names no model; give runs:/RUN/PATH, models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID"
        )
    version = client.get_model_version_by_alias(name, alias).version if alias else path
    if version == "latest":
        found = [int(one.version) for one in client.search_model_versions(f"name = '{name}'")]
        version = str(max(found, default=0))
    source = str(client.get_model_version_download_uri(name, version))
    return _locate(client, source) if is_logged(source) else source


def _locate_of_run(client: mlflow.MlflowClient, run: str, path: str) -> str:
    """Of a path of a run, which is the name of a logged model where MLflow 3 or later logged it."""
    info = client.get_run(run).info
    name, _, below = path.partition("/")
    with contextlib.suppress(MlflowException):  # of a server that has no logged models
        for model in _list_logged(client, info.experiment_id, name):
            if model.source_run_id == run:
                return f"{model.artifact_location}/{below}".rstrip("/")
    return f"{info.artifact_uri}/{path}"


def _list_logged(client: mlflow.MlflowClient, experiment: str, name: str) -> Iterator[LoggedModel]:
    """Those of a name, the newest first."""
    token: str | None = None
    while "'" not in name:  # as no model's name has
        page = client.search_logged_models([experiment], filter_string=f"name = '{name}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return
