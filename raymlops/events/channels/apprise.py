"""Slack, Teams and the other services of the package apprise, each named by a URL in apprise's form."""

import importlib.util
import logging
from collections.abc import Callable

from raymlops.errors import SpecError
from raymlops.events.channels import ChannelAwayError
from raymlops.events.message import Message, write_text, write_title
from raymlops.specs.notify import AppriseChannel


class AppriseSender:
    def __init__(self, settings: AppriseChannel, find_variable: Callable[[str], str]) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise SpecError(
                "A channel of kind apprise needs the package apprise; install it with: pip install 'raymlops[notify]'"
            )
        import apprise

        # Its log has whole URLs, which are secrets.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        url = find_variable(settings.url_env)
        self._name = settings.url_env
        self._service = apprise.Apprise()
        if not self._service.add(url):
            raise SpecError(
                f"The variable {settings.url_env} holds no URL that apprise knows, such as slack://A/B/C; the forms of "
                "all services are at https://appriseit.com/services/"
            )
        self._types = {"page": apprise.NotifyType.FAILURE, "note": apprise.NotifyType.WARNING}

    def send(self, message: Message) -> None:
        kind = self._types[message.event.severity]
        if not self._service.notify(title=write_title(message), body=write_text(message), notify_type=kind):
            raise ChannelAwayError(
                f"The service of {self._name} did not take the message; `apprise -vv URL` of its package says why"
            )
