"""The token that every Ray process of a cluster shows the others: made, kept with mode 0600, and required before
anything listens beyond this machine. And what else looks like a secret, so that it is not shown."""

import ipaddress
import os
import pathlib
import re
import secrets
import shlex
import stat

from raymlops.errors import AuthenticationError

_PASSWORD_IN_URI = re.compile(r"\w+://[^/\s:@]+:[^/\s@]+@")


def holds_password(text: str) -> bool:
    """Whether there is a URI in it with a password, as in http://ann:secret@mlflow."""
    return _PASSWORD_IN_URI.search(text) is not None


def make_token(path: pathlib.Path) -> bool:
    """Write a new token unless there is one; true when it was made. Never leaves a readable file behind."""
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
    """What is wrong with a token's file and the command that fixes it; None when nothing is."""
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
            f"{path} has mode {mode:04o}, so that others can read it",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return None


def require_token(path: pathlib.Path, host: str) -> None:
    """Raises AuthenticationError when something would listen on `host` without a sound token. Loopback may."""
    fault = describe_fault(path)
    if fault is not None and not is_loopback(host):
        raise AuthenticationError(
            f"Will not listen on {host}: {fault[0]}, and whoever reaches a Ray cluster without a token runs code on "
            f"it; run: {fault[1]}"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
