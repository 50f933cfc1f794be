"""Decides whether an application may be reachable from other machines without keys. Starts and changes nothing."""

from raymlops.clusters import tokens
from raymlops.errors import ForbiddenError
from raymlops.specs.serving import ServingSpec


def require_keys(spec: ServingSpec, host: str | None = None) -> None:
    """Raises ForbiddenError if anyone who reaches `host` (by default the spec's) could send requests, and the user
    did not allow that."""
    host = spec.host if host is None else host
    if spec.keys or spec.open or tokens.is_loopback(host):
        return
    raise ForbiddenError(
        f"{spec.name} would listen on {host or 'every interface'} without API keys, so anyone who reaches the "
        "port could use its models. Make keys with `raymlops keys add keys.yaml NAME` and set `keys: keys.yaml` "
        "in the spec; or allow everyone with --open or `open: true` in the spec"
    )
