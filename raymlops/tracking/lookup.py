"""Finds registered models and their versions by name, alias or number. Downloads nothing."""

import re
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from raymlops.errors import NotFoundError, UserError, unknown_name

_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))$")


def find_model(client: mlflow.MlflowClient, name: str) -> Any:
    """MLflow's entity of a registered model. Raises NotFoundError with similar names."""
    try:
        return client.get_registered_model(name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        raise NotFoundError(unknown_name("model", name, known)) from None


def alias_of(uri: str) -> str:
    """The alias that a URI names; empty if it names a version by number."""
    parts = _URI.match(uri)
    return (parts["alias"] or "") if parts else ""


def find_version(client: mlflow.MlflowClient, uri: str) -> Any:
    """MLflow's entity of a version. Raises UserError for a malformed URI, NotFoundError with similar names."""
    parts = _URI.match(uri)
    if parts is None:
        raise UserError(f"{uri!r} names no model version; expected models:/NAME@ALIAS or models:/NAME/3")
    name = parts["name"]
    registered = find_model(client, name)
    try:
        if parts["alias"]:
            return client.get_model_version_by_alias(name, parts["alias"])
        return client.get_model_version(name, parts["version"])
    except MlflowException:
        if parts["alias"]:
            raise NotFoundError(
                f"Model {name!r}: " + unknown_name("alias", parts["alias"], registered.aliases)
            ) from None
        versions = [str(v.version) for v in client.search_model_versions(f"name='{name}'")]
        raise NotFoundError(
            f"Model {name!r} has no version {parts['version']}; it has {', '.join(sorted(versions, key=int))}"
        ) from None
