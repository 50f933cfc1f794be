"""Tries the channels of a notify.yaml: what each needs, what waits for it, and a test message. Returns findings; prints
nothing."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence

from raymlops.errors import NotFoundError, RaymlopsError, describe_cause, unknown_name
from raymlops.events.channels import list_variables, open_channel
from raymlops.events.delivery import make_spools
from raymlops.events.event import TYPES, Event
from raymlops.events.message import start_message
from raymlops.events.routes import find_channels
from raymlops.events.spool import Waiting
from raymlops.specs.notify import NotifySpec


@dataclasses.dataclass(frozen=True)
class ChannelState:
    """`problem` is a sentence, or empty; `waiting` is None for a channel without a spool on disk."""

    name: str
    kind: str
    variables: tuple[str, ...]
    problem: str
    waiting: Waiting | None
    routed: tuple[str, ...]
    """Types of events, `TYPE` or `TYPE (pages only)`, of which at least some go to it."""


@dataclasses.dataclass(frozen=True)
class Delivery:
    """How one channel took the test message: seconds, and a sentence if it did not."""

    channel: str
    seconds: float
    problem: str


def check_channels(
    spec: NotifySpec, folder: pathlib.Path, environment: Mapping[str, str]
) -> tuple[ChannelState, ...]:
    """The state of every channel; contacts no receiver."""
    return tuple(_check(name, spec, folder / name, environment) for name in spec.channels)


def _check(name: str, spec: NotifySpec, folder: pathlib.Path, environment: Mapping[str, str]) -> ChannelState:
    settings, problem = spec.channels[name], ""
    try:
        open_channel(settings, environment)
    except RaymlopsError as error:
        problem = str(error)
    pages, notes = (
        {kind for kind in TYPES if name in _channels_of_type(spec, kind, severity)}
        for severity in ("page", "note")
    )
    routed = tuple(
        kind if kind in pages & notes else f"{kind} ({'pages' if kind in pages else 'notes'} only)"
        for kind in TYPES
        if kind in pages | notes
    )
    if not routed and not problem:
        problem = "no route leads to it"
    waiting = None
    if folder.is_dir():
        try:
            waiting = make_spools(folder, settings, spec)[0].count()
        except OSError as error:
            problem = problem or f"its spool {str(folder)!r} cannot be read: {describe_cause(error)}"
    return ChannelState(name, settings.kind, tuple(list_variables(settings)), problem, waiting, routed)


def _channels_of_type(spec: NotifySpec, kind: str, severity: str) -> set[str]:
    """Those that some event of the type goes to, whatever the filters of models and segments."""
    open_filters = dict.fromkeys(("applications", "models", "versions", "segments", "families"), ("*",))
    wide = spec.model_copy(
        update={"routes": tuple(one.model_copy(update=open_filters) for one in spec.routes)}
    )
    event = Event(kind, "any", "any", "any", severity="page" if severity == "page" else "note")
    return set(find_channels(event, wide))


def send_test(
    spec: NotifySpec, environment: Mapping[str, str], channels: Sequence[str] = (), *, who: str = ""
) -> tuple[Delivery, ...]:
    """Send a test message to channels, of all if none are named, at once and whatever the routes. Raises NotFoundError
    for a name that the spec lacks."""
    for name in channels:
        if name not in spec.channels:
            raise NotFoundError(unknown_name("channel", name, spec.channels))
    event = Event(
        "raymlops.notify.test",
        "raymlops",
        "test",
        "A test of this channel: nothing is wrong",
        who=who,
        next="raymlops notify check",
    )
    return tuple(_send(name, spec, event, environment) for name in channels or spec.channels)


def _send(name: str, spec: NotifySpec, event: Event, environment: Mapping[str, str]) -> Delivery:
    started, problem = time.perf_counter(), ""
    try:
        open_channel(spec.channels[name], environment).send(start_message(event, time.time()))
    except RaymlopsError as error:
        problem = str(error)
    except Exception as error:
        logging.getLogger(__name__).debug("Channel %s", name, exc_info=True)
        problem = describe_cause(error)
    return Delivery(name, time.perf_counter() - started, problem)
