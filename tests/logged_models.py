"""Models logged in MLflow by its own flavours, as others do."""

import pathlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import mlflow

from raymlops.settings import Settings


def log_in(
    own: Settings, folder: pathlib.Path, log_model: Callable[..., Any], model: Any, **options: Any
) -> tuple[str, str]:
    """Logs it into the store of these settings with `name="stock"`, its files below `folder`; the names by which MLflow
    gives it: of the logged model, and of its run."""
    client = mlflow.MlflowClient(tracking_uri=own.tracking_uri)
    experiment = client.create_experiment(folder.name, artifact_location=f"file://{folder}/artifacts")
    # Requirements that are not given MLflow finds by loading the model in a process.
    options = {"pip_requirements": ["mlflow"], **options}
    with (
        mock.patch.dict("os.environ", MLFLOW_TRACKING_URI=own.tracking_uri),
        mlflow.start_run(experiment_id=experiment) as run,
    ):
        found = log_model(model, name="stock", **options)
    return found.model_uri, f"runs:/{run.info.run_id}/stock"
