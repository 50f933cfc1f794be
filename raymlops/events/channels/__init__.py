"""Channels: how a message reaches people and programs. A kind of channel is a file here with a class behind `Channel`,
its settings in `raymlops/specs/notify.py`, and a line of `CHANNELS`."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from raymlops.errors import RaymlopsError, SpecError
from raymlops.events.message import Message


class ChannelAwayError(RaymlopsError):
    """The message was not taken now, but may be later; `retry_after` is in seconds, 0 if the receiver did not say."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class MessageRefusedError(RaymlopsError):
    """The receiver will never take this message; the next one it may."""


class Channel(Protocol):
    """Made with its settings and a function that gives the value of an environment variable by its name."""

    def send(self, message: Message) -> None:
        """Returns once the receiver has it, within a time limit of its own. Raises ChannelAwayError or
        MessageRefusedError; anything else counts as the first."""


CHANNELS: Mapping[str, str] = {
    "log": "raymlops.events.channels.log:LogWriter",
    "file": "raymlops.events.channels.file:FileWriter",
    "webhook": "raymlops.events.channels.webhook:WebhookSender",
    "mail": "raymlops.events.channels.mail:MailSender",
    "apprise": "raymlops.events.channels.apprise:AppriseSender",
}
"""Kind -> class, imported on first use."""


def open_channel(settings: Any, environment: Mapping[str, str]) -> Channel:
    """The channel of a document of `raymlops.specs.notify`. Raises SpecError if a variable that it names is not set, or
    a package that it needs is not installed."""

    def find_variable(name: str) -> str:
        if not environment.get(name):
            raise SpecError(f"The environment variable {name}, which notify.yaml names, is not set; set it")
        return environment[name]

    module, _, name = CHANNELS[settings.kind].partition(":")
    made: Channel = getattr(importlib.import_module(module), name)(settings, find_variable)
    return made


def list_variables(settings: Any) -> list[str]:
    """Names of the environment variables that a channel needs."""
    return [value for name, value in settings if name.endswith("_env") and value]
