"""What is kept and watched of what an application serves: captures, objectives, operational checks, monitoring. Part of
a serving spec."""

import zoneinfo
from collections.abc import Mapping
from typing import Self

from pydantic import Field, field_validator, model_validator

from raymlops.errors import unknown_name
from raymlops.specs.document import Document


class Capture(Document):
    """Requests and their answers as Parquet files, by model, day and version: see docs/capture.md."""

    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the requests, chosen by a hash of the request's id",
    )
    columns: tuple[str, ...] = Field(
        default=(),
        description="inputs and outputs to keep, by name, or as inputs.NAME, outputs.NAME, parameters.NAME; "
        "default all",
    )
    days: int = Field(default=30, ge=1, description="days after which files are deleted")
    drop: tuple[str, ...] = Field(default=(), description="columns to leave out")
    hash: tuple[str, ...] = Field(
        default=(), description="columns that are replaced by their HMAC-SHA256 with the secret"
    )
    secret: str = Field(
        default="",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="name of the environment variable of the replicas that holds the secret of hash",
    )
    person: str = Field(
        default="",
        description="column that identifies a person, whose rows `raymlops capture delete` removes",
    )
    path: str = Field(
        default="",
        description="path or URI of a folder that all nodes reach; default captures below RAYMLOPS_STORAGE; "
        "deploying fills it in",
    )
    file_mb: float = Field(
        default=32.0, gt=0, le=1024, description="a file is written at this size in memory"
    )
    file_s: float = Field(
        default=60.0, gt=0, le=3600, description="a file is written at this age at the latest"
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.hash and not self.secret:
            raise ValueError("hash needs secret: the name of the environment variable that holds it")
        for name in (*self.hash, *filter(None, [self.person])):
            if name in self.drop:
                raise ValueError(f"{name!r} is dropped, and so cannot be hashed or identify a person")
            if self.columns and name not in self.columns:
                raise ValueError(f"{name!r} is not among columns; add it there")
        for name in (*self.columns, *self.drop, *self.hash, *filter(None, [self.person])):
            if not name.strip():
                raise ValueError("a name of a column is empty")
        return self


class Objectives(Document):
    """Service level objectives (SLO) of each model and graph of the application. An alarm is raised when requests miss
    them so fast that 30 days' worth would be used up early: see docs/operational_alarms.md."""

    errors: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="largest share of requests that end in a server error, a timeout or an overloaded replica; "
        "mistakes of callers do not count",
    )
    p99_ms: float | None = Field(
        default=None,
        gt=0,
        le=80_000,
        description="time in which 99% of the answered requests must be answered; none is not checked",
    )


CHECKS: Mapping[str, str] = {
    "errors": "requests fail, more than `slo.errors`",
    "latency": "answers take longer than `slo.p99_ms`",
    "saturation": "requests are refused, or wait longer than they run",
    "traffic": "no requests arrive",
    "application": "the application is not healthy, or is no longer served",
    "observers": "requests do not reach an observer, the capture or the counts of monitoring",
    "loading": "a model's file or version is gone, or models of a folder cannot be loaded",
    "replicas": "replicas end and are started again",
    "certificate": "the TLS certificate expires soon, or cannot be read",
    "keys": "API keys expire soon, or their file cannot be read",
    "storage": "the storage fills up, or is away",
    "tracking": "the tracking store does not answer",
}
"""Operational checks -> what they alarm of."""


class Operations(Document):
    """Operational alarms of the application, beside those of its data: see docs/operational_alarms.md."""

    every_s: float = Field(default=60.0, ge=1, le=3600, description="seconds between two rounds of checks")
    leave_out: tuple[str, ...] = Field(default=(), description="checks that are not made")
    idle_min: float | None = Field(
        default=None,
        gt=0,
        description="minutes without a request after which an alarm is raised; none learns from the days before",
    )
    expiry_days: float = Field(
        default=14.0,
        gt=0,
        le=3650,
        description="certificates and keys that end within so many days raise an alarm; a quarter of it is a page",
    )
    free_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of the storage that must be free; less raises an alarm, a quarter of it is a page",
    )

    @field_validator("leave_out", mode="before")
    @classmethod
    def _read_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("leave_out")
    @classmethod
    def _require_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CHECKS:
                raise ValueError(unknown_name("operational check", name, CHECKS))
        return names


class WatchedVersion(Document):
    """A registered version that is monitored, and where it answers."""

    role: str = Field(description="endpoint, node, shadow or canary")
    model: str = Field(description="the registered model")
    version: str = Field(description="its version")
    reference: str = Field(description="SHA-256 of the version's reference")


class Monitoring(Document):
    """What is counted of what registered versions see and answer, and when somebody is told: see
    docs/counts.md."""

    false_alarms_per_month: float = Field(
        default=1.0, gt=0, le=1000, description="alarms a month, of each version, that come of chance alone"
    )
    segments: tuple[str, ...] = Field(
        default=(),
        description="columns whose values, and pairs of them, are watched by themselves; default evaluation.slices",
    )
    timezone: str = Field(
        default="UTC",
        description="by whose clock hours of a day and weekends are told apart: America/New_York, for example, where "
        "what is usual follows summer time",
    )
    label_delay_days: float = Field(
        default=0.0, ge=0, description="days after which nearly all labels of a request have come"
    )
    days: int = Field(default=90, ge=1, description="days after which counts are deleted")
    tick_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="width of a tick, for which there is one count; a part of an hour",
    )
    path: str = Field(
        default="",
        description="path or URI of a folder that all nodes reach; default monitoring below RAYMLOPS_STORAGE; "
        "deploying fills it in",
    )
    watched: dict[str, WatchedVersion] = Field(
        default={}, description="endpoint, or graph/node -> the version there; deploying fills it in"
    )

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, zone: str) -> str:
        if zone != "UTC" and zone not in zoneinfo.available_timezones():
            raise ValueError(unknown_name("time zone", zone, zoneinfo.available_timezones()))
        return zone

    @field_validator("tick_seconds")
    @classmethod
    def _check_width(cls, seconds: int) -> int:
        if 3600 % seconds:
            raise ValueError(
                f"an hour has no whole number of ticks of {seconds} s; give one such as 60 or 300"
            )
        return seconds
