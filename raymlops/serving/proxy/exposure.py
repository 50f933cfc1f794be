"""Judges whether an application may be reached from other machines. Decides; starts and changes nothing."""

from raymlops.clusters import tokens
from raymlops.errors import ForbiddenError
from raymlops.specs.serving import ServingSpec


def require_keys(spec: ServingSpec, host: str | None = None) -> None:
    """Raises ForbiddenError when it would answer whoever reaches `host`, by default the spec's, and no one said so."""
    host = spec.host if host is None else host
    if spec.keys or spec.open or tokens.is_loopback(host):
        return
    raise ForbiddenError(
        f"{spec.name} would listen on {host or 'every interface'} without API keys, so that whoever reaches the port "
        "may ask its models. Make keys with `raymlops keys add keys.yaml NAME` and set `keys: keys.yaml` in the spec; "
        "or say that everyone may ask, with --open or `open: true` in the spec"
    )
