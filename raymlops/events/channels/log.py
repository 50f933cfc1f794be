"""The log of this process: one line a message."""

import logging
from collections.abc import Callable

from raymlops.events.message import Message, write_title
from raymlops.specs.notify import LogChannel

_LOG = logging.getLogger("raymlops.events")
_MOST = 1000
"""Characters of a line: a sentence is not cut, as titles of mails are."""


class LogWriter:
    def __init__(self, settings: LogChannel, find_variable: Callable[[str], str]) -> None:
        pass

    def send(self, message: Message) -> None:
        event = message.event
        level = logging.ERROR if event.severity == "page" else logging.WARNING
        after = f" Next: {event.next}" if event.next else ""
        _LOG.log(level, "%s [%s]%s", write_title(message, _MOST), event.type, after)
