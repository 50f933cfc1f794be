"""What notify.yaml may say: channels, which events go to which of them, and how long messages wait. Sends nothing."""

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raymlops.errors import unknown_name
from raymlops.secret_texts import find_secrets, holds_password, names_secret
from raymlops.specs.document import Document

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,49}")


class LogChannel(Document):
    """The log of the process that has the news, as one line."""

    kind: Literal["log"] = "log"


class FileChannel(Document):
    """A file with a CloudEvents document a line (JSON lines)."""

    kind: Literal["file"] = "file"
    path: str = Field(min_length=1, description="the file, absolute or below ~; made with its folders")

    @field_validator("path")
    @classmethod
    def _require_absolute(cls, path: str) -> str:
        if not path.startswith(("/", "~/")) and not re.match(r"[A-Za-z]:[\\/]", path):
            raise ValueError("the path must be absolute, since processes have different working folders")
        return path


class WebhookChannel(Document):
    """An HTTP POST of the event as CloudEvents structured JSON, signed as the Standard Webhooks specification says."""

    kind: Literal["webhook"] = "webhook"
    url: str = Field(default="", description="where to post, if the URL itself is no secret")
    url_env: str = Field(default="", description="else the environment variable that holds the URL")
    secret_env: str = Field(
        default="",
        description="environment variable with the key of the HMAC-SHA256 signature; empty does not sign",
    )
    bearer_env: str = Field(
        default="", description="environment variable with a token for the header Authorization: Bearer"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=120, description="longest wait for an answer")

    @field_validator("url")
    @classmethod
    def _require_http(cls, url: str) -> str:
        found = urllib.parse.urlsplit(url)
        if url and (found.scheme not in ("http", "https") or not found.hostname):
            raise ValueError("expected an http:// or https:// URL")
        return url

    @model_validator(mode="after")
    def _require_one_url(self) -> Self:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("give one of url and url_env")
        return self


class MailChannel(Document):
    """A mail over SMTP."""

    kind: Literal["mail"] = "mail"
    host: str = Field(min_length=1, description="the SMTP server")
    port: int = Field(default=587, ge=1, le=65535, description="its port; 465 is usual with tls: always")
    tls: Literal["starttls", "always", "never"] = Field(
        default="starttls",
        description="starttls encrypts after the greeting, always from the first byte",
    )
    user: str = Field(default="", description="login name; empty does not log in")
    password_env: str = Field(default="", description="environment variable with the password")
    sender: str = Field(min_length=3, description="address in From")
    to: tuple[str, ...] = Field(min_length=1, max_length=100, description="addresses that get the mail")
    timeout_s: float = Field(default=20.0, gt=0, le=120, description="longest wait for each answer")

    @field_validator("to", mode="before")
    @classmethod
    def _read_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("sender", "to")
    @classmethod
    def _require_addresses(cls, value: Any) -> Any:
        for address in (value,) if isinstance(value, str) else value:
            if not re.fullmatch(r"[^@\s<>,]+@[^@\s<>,]+", address):
                raise ValueError(f"{address!r} is no mail address, such as oncall@example.com")
        return value

    @model_validator(mode="after")
    def _require_both(self) -> Self:
        if bool(self.user) != bool(self.password_env):
            raise ValueError("give both user and password_env, or neither")
        return self


class AppriseChannel(Document):
    """Slack, Teams, Discord, PagerDuty, ntfy and over a hundred others, by the package apprise."""

    kind: Literal["apprise"] = "apprise"
    url_env: str = Field(
        min_length=1,
        description="environment variable with the service's URL in apprise's form, such as slack://A/B/C",
    )


Channel = Annotated[
    LogChannel | FileChannel | WebhookChannel | MailChannel | AppriseChannel, Field(discriminator="kind")
]


class Route(Document):
    """Which events go to which channels. An event matches if every filter that is given matches; an event that matches
    several routes goes to the channels of all of them, once to each. Filters are texts with `*` and `?`."""

    to: tuple[str, ...] = Field(min_length=1, description="names of channels")
    types: tuple[str, ...] = Field(default=("*",), min_length=1, description="such as raymlops.alarm.*")
    severity: Literal["page", "note"] | None = Field(
        default=None,
        description="page wakes a person, note is for the day; neither takes both. The end of an alarm that was a page "
        "goes where the page went, as a note",
    )
    applications: tuple[str, ...] = Field(default=("*",), min_length=1, description="names of applications")
    models: tuple[str, ...] = Field(default=("*",), min_length=1, description="names of models")
    versions: tuple[str, ...] = Field(default=("*",), min_length=1, description="versions of the models")
    segments: tuple[str, ...] = Field(default=("*",), min_length=1, description="such as origin=JFK")
    families: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="of alarms: quality, score, labels, columns, operations",
    )

    @field_validator(
        "to", "types", "applications", "models", "versions", "segments", "families", mode="before"
    )
    @classmethod
    def _read_one(cls, value: object) -> object:
        """One text stands for a list of it; YAML reads a version such as 4 as a number."""
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(str(one) if isinstance(one, int | float) else one for one in values)


class Folding(Document):
    """How repeats of one thing become one message with a count."""

    gather_s: float = Field(
        default=2.0, ge=0, le=600, description="a message waits so long for repeats before it is sent"
    )
    window_s: float = Field(
        default=300.0,
        ge=0,
        le=86_400,
        description="after a message, repeats of it are counted so long before the next one",
    )


class Spooling(Document):
    """How long messages wait on disk for a channel that is away."""

    messages: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="most messages that wait for a channel; beyond it the oldest notes are dropped first, then the "
        "oldest pages, and the next message says how many",
    )
    hours: float = Field(default=72.0, gt=0, le=8760, description="older messages are dropped, and counted")


_BY_APPRISE = "it is reached with kind: apprise, and url_env with the name of the variable that holds its URL"
_SERVICES: Mapping[str, str] = {
    **dict.fromkeys(
        ("slack", "teams", "msteams", "discord", "telegram", "pagerduty", "opsgenie"), _BY_APPRISE
    ),
    **dict.fromkeys(("email", "smtp"), "write kind: mail"),
    **dict.fromkeys(("http", "https"), "write kind: webhook"),
}
"""What people write as a kind -> what it is here."""


class NotifySpec(Document):
    """Whom events are told: notify.yaml. It holds no secrets, but names of environment variables that do."""

    channels: Mapping[str, Channel] = Field(
        min_length=1, max_length=50, description="name of yours -> channel"
    )
    routes: tuple[Route, ...] = Field(default=(), description="none: every event goes to every channel")
    fold: Folding = Field(default=Folding(), description="how repeats become one message")
    spool: Spooling = Field(default=Spooling(), description="how long messages wait")

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, value: Any) -> Any:
        """Before all other checks, whose messages show the value that they got."""
        for place, name, text in _texts(value):
            if why := _explain_secret(name, text):
                raise ValueError(f"{place}: {why}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _explain_services(cls, value: Any) -> Any:
        channels = value.get("channels") if isinstance(value, Mapping) else None
        for name, channel in channels.items() if isinstance(channels, Mapping) else ():
            kind = channel.get("kind") if isinstance(channel, Mapping) else None
            if isinstance(kind, str) and (told := _SERVICES.get(kind.lower())):
                raise ValueError(f"channels.{name}: Unknown kind {kind!r}; {told}")
        return value

    @model_validator(mode="after")
    def _require_known_channels(self) -> Self:
        for name in self.channels:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"channels: the name {name!r} is not of lower-case letters, digits, _ and -, beginning with a "
                    "letter; it also names the folder where its messages wait"
                )
        for place, route in enumerate(self.routes):
            for name in route.to:
                if name not in self.channels:
                    raise ValueError(f"routes.{place}.to: {unknown_name('channel', name, self.channels)}")
        return self


def _texts(value: Any, place: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """Place, key and text of every text in a document."""
    if isinstance(value, str):
        yield place, name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key), str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}.{index}", name)


def _explain_secret(name: str, text: str) -> str | None:
    """Why a value may not stand in the file, without the value; None if it may."""
    if name.endswith("_env"):
        if not text or (_VARIABLE.fullmatch(text) and not any(find_secrets(text))):
            return None
        return (
            f"expected the name of an environment variable (upper case, such as RAYMLOPS_{name[:-4].upper()}), not the "
            "value itself; put the value into that variable, and its name here"
        )
    if not (holds_password(text) or any(find_secrets(f"{name}: {text}")) or _has_secret_path(text)):
        return None
    remedy = "url_env, with the name of an environment variable that holds it" if "url" in name else (
        "the key that ends in _env, with the name of an environment variable that holds it"
    )  # fmt: skip
    return f"it looks like a secret, which must not stand in a file; give {remedy}"


def _has_secret_path(text: str) -> bool:
    """Whether a URL has a key in its path or query, as incoming webhooks of chat services have."""
    if "://" not in text:
        return False
    try:
        found = urllib.parse.urlsplit(text)
    except ValueError:  # as the field's own check will say
        return False
    pairs = urllib.parse.parse_qsl(found.query)
    whole = "/".join((found.path, found.fragment, *(value for _, value in pairs)))
    # Pieces, since names of teams are words and years joined by hyphens.
    random = any(
        re.search(r"\d", piece) and re.search(r"[A-Za-z]", piece)
        for piece in re.findall(r"[A-Za-z0-9]{16,}", whole)
    )
    named = any(names_secret(key) or key in ("sig", "key", "auth") for key, _ in pairs)
    return random or named or _UUID.search(whole) is not None
