"""The functions for notebooks: `import raymlops`. Each does the same as the command of its name, with the same
environment variables (RAYMLOPS_HOME, MLFLOW_TRACKING_URI, RAY_ADDRESS ...)."""

from raymlops.api.captures import (
    delete_person,
    joined_labels,
    labels,
    list_captured,
    replay,
    show_captured,
    trace,
)
from raymlops.api.endpoints import Deployment, Endpoint, Servable, deploy, read_serving_spec, serve
from raymlops.api.incidents import (
    acknowledge_alarm,
    alarms,
    check_alarms,
    check_notify,
    close_alarm,
    silence_alarm,
    try_notify,
)
from raymlops.api.models import LoadedModel, convert, load_model, predict, promote, register
from raymlops.api.monitoring import drift, monitor, reference
from raymlops.api.training import Evaluated, Search, Spec, evaluate, init, read_spec, search, train

__all__ = [
    "Deployment",
    "Endpoint",
    "Evaluated",
    "LoadedModel",
    "Search",
    "Servable",
    "Spec",
    "acknowledge_alarm",
    "alarms",
    "check_alarms",
    "check_notify",
    "close_alarm",
    "convert",
    "delete_person",
    "deploy",
    "drift",
    "evaluate",
    "init",
    "joined_labels",
    "labels",
    "list_captured",
    "load_model",
    "monitor",
    "predict",
    "promote",
    "read_serving_spec",
    "read_spec",
    "reference",
    "register",
    "replay",
    "search",
    "serve",
    "show_captured",
    "silence_alarm",
    "trace",
    "train",
    "try_notify",
]
