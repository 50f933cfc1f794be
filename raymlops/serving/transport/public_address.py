"""The public address of this application: scheme, host and prefix, as the request and the proxies in front of us say.
Nothing is decided by it: what a caller claims appears only in the answer to that caller."""

import re

from raymlops.serving.transport.http import Request

_PREFIX = re.compile(r"(/[A-Za-z0-9._~%+-]+)+")
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_LONGEST = 256
_ENDPOINT = re.compile(r"(?<![\w/.~%+-])/(?=(v1|v2|invocations)\b)")


def find_prefix(request: Request) -> str:
    """The prefix of the application's own paths, such as `/shop`; empty at the root.

    A proxy that removes a prefix before it passes a request on says so in `X-Forwarded-Prefix`; if several do, the
    outermost comes first. The application's route follows them.
    """
    told = [part.strip().rstrip("/") for part in request.header("x-forwarded-prefix").split(",")]
    taken = "".join(part for part in told if _PREFIX.fullmatch(part))
    return (taken if len(taken) <= _LONGEST else "") + request.prefix


def find_origin(request: Request) -> str:
    """Scheme and host, such as `https://models.example.com`, by `X-Forwarded-Proto` and `X-Forwarded-Host`, or
    `Forwarded`, or else by the request itself."""
    forwarded = _read_forwarded(request.header("forwarded"))
    scheme = _first(request.header("x-forwarded-proto")) or forwarded.get("proto", "") or request.scheme
    host = _first(request.header("x-forwarded-host")) or forwarded.get("host", "") or request.header("host")
    return (
        f"{scheme.lower() if scheme.lower() in ('http', 'https') else 'http'}://"
        f"{host if len(host) <= _LONGEST and _HOST.fullmatch(host) else 'HOST:8000'}"
    )


def _first(value: str) -> str:
    """The value from the outermost proxy."""
    return value.partition(",")[0].strip()


def _read_forwarded(value: str) -> dict[str, str]:
    """RFC 7239: `for=192.0.2.60;proto=https;host=example.com, for=...`."""
    pairs = (pair.partition("=") for pair in _first(value).split(";"))
    return {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}


def prefix_paths(text: str, prefix: str) -> str:
    """A sentence with paths of the application, as this caller must write them."""
    return _ENDPOINT.sub(f"{prefix}/", text) if prefix else text
