"""Which channels an event goes to. Sends nothing."""

import fnmatch
import typing

from raymlops.errors import SpecError
from raymlops.events.event import TYPES, Event
from raymlops.events.incident import Family
from raymlops.specs.notify import NotifySpec, Route


def find_channels(event: Event, spec: NotifySpec) -> tuple[str, ...]:
    """Names of the channels, each once, in the order of the spec."""
    if not spec.routes:
        return tuple(spec.channels)
    found = {name for route in spec.routes if _matches(event, route) for name in route.to}
    return tuple(name for name in spec.channels if name in found)


def _matches(event: Event, route: Route) -> bool:
    severities = {event.severity}
    if event.type == "raymlops.alarm.closed":  # no page itself, but who was woken is told that it is over
        severities.add(event.details.get("severity", event.severity))
    pairs = (
        (event.type, route.types),
        (event.application, route.applications),
        (event.model, route.models),
        (event.version, route.versions),
        (event.segment, route.segments),
        (str(event.details.get("family", "")), route.families),
    )
    return (route.severity or event.severity) in severities and all(
        any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns) for text, patterns in pairs
    )


def require_known_filters(spec: NotifySpec, source: str) -> None:
    """Raises SpecError for a filter of types or families that no event can match: what it routes would never be
    told."""
    for place, route in enumerate(spec.routes):
        for key, no, known in (
            ("types", "no event has a type", tuple(TYPES)),
            ("families", "no alarm is of a family", typing.get_args(Family)),
        ):
            for pattern in getattr(route, key):
                if not fnmatch.filter(known, pattern):
                    told = f"{no} like {pattern!r}; {key} are {', '.join(known)}"
                    raise SpecError(f"{source}: routes.{place}.{key}: {told}")
