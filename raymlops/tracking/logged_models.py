"""Models that others logged in MLflow, by whatever flavour: downloads their files, and opens none of them."""

import pathlib

import mlflow
from mlflow.exceptions import MlflowException

from raymlops.errors import NotFoundError, SpecError, shorten
from raymlops.settings import Settings
from raymlops.tracking import store

SCHEMES = ("runs:/", "models:/")


def is_logged(name: str) -> bool:
    """Whether it names a model in MLflow, and no file."""
    return name.startswith(SCHEMES)


def fetch_model(uri: str, settings: Settings, folder: pathlib.Path) -> pathlib.Path:
    """The folder with the files of `runs:/RUN/PATH`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`, below `folder`.

    Raises SpecError, NotFoundError, and UnreachableError if the store does not answer.
    """
    if len(uri.partition(":/")[2].strip("/").replace("@", "/").split("/")) < 2:
        raise SpecError(
            f"{uri!r} names no model; give runs:/RUN/PATH, models:/NAME/VERSION or models:/NAME@ALIAS"
        )
    store.connect(settings)
    with store.reaching_artifacts(uri):
        try:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(folder), tracking_uri=settings.tracking_uri,
                registry_uri=settings.registry_uri,
            )  # fmt: skip
        except MlflowException as error:
            if not store.is_refusal(error):
                raise
            raise NotFoundError(f"No model {uri!r}: {shorten(' '.join(str(error).split()))}") from None
    return pathlib.Path(found)
