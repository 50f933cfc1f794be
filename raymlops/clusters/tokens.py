"""The token that the Ray processes of a cluster show each other: made, kept with mode 0600, and required before
anything listens beyond this machine."""

import ipaddress
import os
import pathlib
import secrets
import shlex
import stat

from raymlops.errors import AuthenticationError


def make_token(path: pathlib.Path) -> bool:
    """Write a new token unless there is one; true if one was made. The file is never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return True


def describe_fault(path: pathlib.Path) -> tuple[str, str] | None:
    """What is wrong with a token file and the command that fixes it; None if nothing is wrong."""
    if not path.is_file():
        return f"there is no token at {path}", "raymlops cluster token"
    if len(path.read_text().strip()) < 16:
        return (
            f"the token at {path} is shorter than 16 characters",
            f"rm {shlex.quote(str(path))}; raymlops cluster token",
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return (
            f"{path} has mode {mode:04o}: others can read it",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return None


def require_token(path: pathlib.Path, host: str) -> None:
    """Raises AuthenticationError if something would listen on `host` without a valid token. Loopback needs none."""
    fault = describe_fault(path)
    if fault is not None and not is_loopback(host):
        raise AuthenticationError(
            f"Will not listen on {host}: {fault[0]}, and anyone who reaches a Ray cluster without a token can "
            f"run code on it; run: {fault[1]}"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
