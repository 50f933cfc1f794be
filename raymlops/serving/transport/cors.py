"""Cross-origin requests (CORS), as the serving spec allows them. Handles headers only; knows no model."""

from collections.abc import Mapping
from typing import Any

from raymlops.errors import ForbiddenError, shorten
from raymlops.serving.protocol.headers import Headers
from raymlops.serving.transport.http import Response
from raymlops.specs.serving import Cors

EXPOSED = b"x-request-id, x-model-version, inference-header-content-length, retry-after"
"""Headers of answers that a page may read."""
_SAFE = frozenset(("accept", "accept-language", "content-language", "content-type", "range"))
"""Headers that browsers send without a preflight request; content-type needs one because of its values."""


class CorsPolicy:
    """Headers that are added to every answer, and answers to preflight requests."""

    def __init__(self, spec: Cors) -> None:
        self._everyone = "*" in spec.origins
        self._origins = frozenset(origin.lower() for origin in spec.origins)
        self._methods = tuple(method.upper() for method in spec.methods)
        self._any_header = "*" in spec.headers
        self._headers = frozenset(name.lower() for name in spec.headers) | _SAFE
        self._max_age = str(spec.max_age_s).encode()

    def list_headers(self, headers: Mapping[bytes, bytes]) -> Headers:
        """The headers for an answer to a request with these headers, whatever its status."""
        vary = (b"vary", b"Origin")
        origin = headers.get(b"origin")
        if origin is None or not self._allows(origin):
            return (vary,)
        allowed = b"*" if self._everyone else origin
        return (
            vary,
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", EXPOSED),
        )

    def _allows(self, origin: bytes) -> bool:
        return self._everyone or origin.decode("latin-1").lower() in self._origins

    def is_preflight(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers

    def answer_preflight(self, headers: Mapping[bytes, bytes]) -> Response:
        """Headers that answer a preflight request from a page of this origin, except `list_headers`. Raises
        ForbiddenError."""
        origin = headers[b"origin"]
        if not self._allows(origin):
            raise ForbiddenError(
                f"Pages of {shorten(origin.decode('latin-1'), 100)!r} may not ask here; add it to cors: {{origins}} "
                "in the serving spec"
            )
        method = headers[b"access-control-request-method"].decode("latin-1").strip()
        if method not in self._methods:
            raise ForbiddenError(
                f"Pages of other origins may send {', '.join(self._methods)}, not {shorten(method, 20)!r}; see cors: "
                "{methods} in the serving spec"
            )
        asked = headers.get(b"access-control-request-headers", b"").decode("latin-1").lower()
        wanted = [name.strip() for name in asked.split(",") if name.strip()]
        refused = [] if self._any_header else [name for name in wanted if name not in self._headers]
        if refused:
            raise ForbiddenError(
                f"Pages of other origins may not send the header {shorten(refused[0], 100)!r}; see cors: {{headers}} "
                "in the serving spec"
            )
        allowed: list[tuple[bytes, bytes]] = [
            (b"access-control-allow-methods", ", ".join(self._methods).encode()),
            (b"access-control-max-age", self._max_age),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if wanted:
            allowed.append((b"access-control-allow-headers", ", ".join(wanted).encode("latin-1")))
        return Response(204, b"", tuple(allowed))


def make_policy(spec: Cors | None) -> CorsPolicy | None:
    return None if spec is None else CorsPolicy(spec)


def read_policy(args: Mapping[str, Any]) -> CorsPolicy | None:
    """The CORS settings of a deployed application, from its spec. None if it has none, or no valid ones."""
    told = args.get("cors")
    try:
        return CorsPolicy(Cors.model_validate(told)) if told else None
    except ValueError:
        return None
