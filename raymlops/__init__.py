"""Distributed training and serving on Ray: from a dataset to a monitored endpoint with one spec and one artifact.

import raymlops
found = raymlops.search("jobs/specs/flights.yaml")
found.leaderboard
raymlops.predict(found.version, frame)
with raymlops.serve(found) as endpoint:
    endpoint.predict(frame)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raymlops.api import (
        acknowledge_alarm,
        alarms,
        check_alarms,
        check_notify,
        close_alarm,
        convert,
        delete_person,
        deploy,
        drift,
        evaluate,
        init,
        joined_labels,
        labels,
        list_captured,
        load_model,
        monitor,
        predict,
        promote,
        read_serving_spec,
        read_spec,
        reference,
        register,
        replay,
        search,
        serve,
        show_captured,
        silence_alarm,
        trace,
        train,
        try_notify,
    )

__all__ = [
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


def __getattr__(name: str) -> Any:
    """The functions, imported when first used, so that importing the package is fast."""
    if name not in __all__:
        raise AttributeError(f"module 'raymlops' has no attribute {name!r}")
    import raymlops.api

    return getattr(raymlops.api, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
