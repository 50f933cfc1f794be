"""All operational checks in one judgement. Pure functions."""

import dataclasses
from collections.abc import Callable, Mapping

from raymlops.events.incident import Alarm
from raymlops.monitoring.operations import requests, resources
from raymlops.monitoring.operations.figures import Round


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a round of checks found; `checks` are those that had what they need."""

    alarms: tuple[Alarm, ...]
    checks: tuple[str, ...]


_CHECKS: Mapping[str, Callable[[Round], list[Alarm] | None]] = {
    "errors": requests.check_errors,
    "latency": requests.check_latency,
    "saturation": requests.check_saturation,
    "traffic": requests.check_traffic,
    "observers": requests.check_observers,
    "application": resources.check_application,
    "loading": resources.check_loading,
    "replicas": resources.check_replicas,
    "certificate": resources.check_certificates,
    "keys": resources.check_keys,
    "storage": resources.check_storage,
    "tracking": resources.check_tracking,
}


def judge(round_: Round) -> Judged:
    """The alarms of all checks that are on."""
    alarms: list[Alarm] = []
    judged = []
    for name, check in _CHECKS.items():
        if name in round_.settings.leave_out:
            judged.append(name)  # turned off: what is open ends
            continue
        found = check(round_)
        if found is not None:
            judged.append(name)
            alarms += found
    return Judged(tuple(alarms), tuple(judged))
