"""Times as people write them -> milliseconds since 1970-01-01 UTC. ISO 8601 only; other forms need a format, see
`conversions`."""

import datetime
import functools
import re

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LEAP_SECOND = re.compile(r"\d{4}-\d\d-\d\d.\d\d:\d\d:60", re.ASCII | re.DOTALL)
_LONGEST = 40
"""Characters of a time that is remembered; longer ones have hundreds of zeros."""


def parse_instant(text: str) -> int:
    """An ISO 8601 time, UTC where it names no zone. Raises ValueError, OverflowError."""
    return _parse_short(text) if len(text) <= _LONGEST else _parse(text)


def _parse(text: str) -> int:
    if text[-1:] == "z":  # RFC 3339 has small letters
        return _parse(f"{text[:-1]}Z")
    if _LEAP_SECOND.match(text):  # which POSIX has not
        return _parse(f"{text[:17]}59{text[19:]}") + 1000
    time = datetime.datetime.fromisoformat(text)
    since = (time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time) - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


_parse_short = functools.lru_cache(2**14)(_parse)  # rows of a table share their hours and days
