"""The functions for notebooks: `import raymlops`. Each does the same as the command of its name, with the same
environment variables (RAYMLOPS_HOME, MLFLOW_TRACKING_URI, RAY_ADDRESS ...)."""

from raymlops.api.endpoints import Deployment, Endpoint, Servable, deploy, read_serving_spec, serve
from raymlops.api.models import LoadedModel, convert, load_model, predict, promote, register
from raymlops.api.monitoring import drift, reference
from raymlops.api.training import Evaluated, Search, Spec, evaluate, init, read_spec, search, train

__all__ = [
    "Deployment",
    "Endpoint",
    "Evaluated",
    "LoadedModel",
    "Search",
    "Servable",
    "Spec",
    "convert",
    "deploy",
    "drift",
    "evaluate",
    "init",
    "load_model",
    "predict",
    "promote",
    "read_serving_spec",
    "read_spec",
    "reference",
    "register",
    "search",
    "serve",
    "train",
]
