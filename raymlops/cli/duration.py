"""A length of time on the command line: 90s, 10m, 12h or 3d."""

import datetime
import re

import click

_PATTERN = re.compile(r"(\d{1,6})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST = datetime.timedelta(days=3650)


class Duration(click.ParamType):  # type: ignore[type-arg]  # before click 8.3 it takes none
    name = "time"

    def convert(
        self, value: str | datetime.timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.timedelta:
        if isinstance(value, datetime.timedelta):
            return value
        found = _PATTERN.fullmatch(value)
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is not of the form 30s, 90m, 12h or 3d", param, ctx)
        lasting = datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})
        if lasting > _MOST:
            self.fail(f"{value!r} is more than {_MOST.days} days", param, ctx)
        return lasting
