"""Locations of files: a path, or a URI such as s3://bucket/folder. Opens and joins them, and explains briefly why one
does not answer; callers add the remedy."""

import os
import re
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper

from raymlops.errors import StorageError

_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""Schemes opened with pyarrow, as Ray does for checkpoints: the same variables count, and no package is missing."""

_CAUSES = (
    (r"NO_?SUCH_?BUCKET|Bucket '.*' not found|specified bucket does not exist", "there is no such bucket"),
    (
        r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode|Could not connect|Connect timeout|Read timeout",
        "its server does not answer; check that it runs, and that AWS_ENDPOINT_URL, if set, is its address",
    ),
    (
        r"ACCESS_?DENIED|INVALID_?ACCESS_?KEY_?ID|SIGNATURE_?DOES_?NOT_?MATCH|EXPIRED_?TOKEN|INVALID_?CLIENT_?TOKEN"
        r"|HTTP status 40[13]|\(403\)|Unable to locate credentials|Access Key Id you provided",
        "access is denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine",
    ),
)
"""Parts of error texts of bucket servers -> what they mean."""


def may_hold_checkpoints(location: str) -> bool:
    """Whether Ray can use it: Ray opens only what pyarrow opens."""
    return not is_remote(location) or location.partition("://")[0] in (*_ARROW, "file")


def is_remote(location: str) -> bool:
    """Whether it is a URI rather than a path."""
    return "://" in location


def open_location(location: str, *parts: str) -> tuple[Any, str]:
    """The fsspec filesystem of a location, and the path of `parts` below it in that filesystem.

    Raises StorageError if no filesystem opens it, and OSError if its server does not answer.
    """
    try:
        if location.partition("://")[0] in _ARROW:
            opened, folder = pyarrow.fs.FileSystem.from_uri(location)
            files = ArrowFSWrapper(opened, skip_instance_cache=True)
        else:
            files, folder = fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{location!r} cannot be opened: {error}") from None
    return files, "/".join([folder.rstrip("/"), *parts])


def join(location: str, *parts: str) -> str:
    """The location of `parts` below; a URI's query, as in s3://bucket/x?region=eu-west-1, stays at its end."""
    path, mark, query = location.partition("?") if is_remote(location) else (location, "", "")
    return "/".join([path.rstrip("/"), *parts]) + mark + query


def explain(error: Exception) -> str:
    """The cause in a few words: bucket servers answer with whole pages."""
    text = " ".join(str(error).split())
    for pattern, cause in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return cause
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else text[:300]
