"""Runs in place of HAProxy's binary: rewrites the configuration that Ray Serve wrote, and executes HAProxy.

Serve's template has no TLS, lets statistics and metrics listen on every interface, opens HAProxy's administration
socket to all users, and sets no client timeouts. Run as a script by another interpreter than ours, so only the
standard library is imported. Does not import Ray; its instructions are in files beside the configuration, see
`tls.py`.

    python -I wrapper.py BINARY -db -f CONFIG [more of HAProxy's arguments]
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FRONT_FILE = "front.json"
"""Beside HAProxy's configuration: {"tls": {"certificate": PATH, "key": PATH, "client_ca": PATH or ""}}."""
TOKEN_VARIABLE = "RAYMLOPS_PROXY_TOKEN"  # noqa: S105  -- a name
FRONTENDS = ("frontend http_frontend", "frontend grpc_frontend")
"""The sections whose address the user chose; all others listen on loopback."""
_SECTION = re.compile(r"(global|defaults|frontend|backend|listen|resolvers|peers|userlist|cache|program)\b")
_BIND = re.compile(r"(\s*)bind\s+(\S*):(\d+)(\s.*|)")
_DEADLINES = {
    # the head, and with http-buffer-request also the part of the body that is buffered
    "timeout http-request": "30s",
    "timeout client": "60s",  # while waiting for the client to send or to read data
    "timeout http-keep-alive": "60s",
    "timeout queue": "60s",
    "timeout server": "3700s",  # longer than the longest deadline of a model
}
_ERRORS = {
    400: "The bytes of this connection are not a valid HTTP request",
    408: "The request was not complete in time",
    502: "The replica that had this request ended before it answered, so the request may have been started and "
    "is not sent to another; send it again if that does no harm",
    503: "No replica can be reached; the request was not started, try again later",
    504: "The replica did not answer in time",
}
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

_GRPC_ERRORS = {400: (3, -1), 408: (4, -1), 502: (14, -1), 503: (14, 1000), 504: (4, -1)}
"""The same over gRPC: INVALID_ARGUMENT, DEADLINE_EXCEEDED and UNAVAILABLE, and the milliseconds after which a client
that retries by itself may do so; -1 is never, since the call may have been started."""

Section = tuple[str, list[str]]


def split_sections(text: str) -> list[Section]:
    """(first line, other lines) of each section; lines before the first section have the name ''."""
    sections: list[Section] = [("", [])]
    for line in text.splitlines():
        if _SECTION.match(line):
            sections.append((line, []))
        else:
            sections[-1][1].append(line)
    return sections


def close_listeners(sections: Sequence[Section]) -> list[Section]:
    """Puts everything but the two frontends on loopback; HAProxy's administration socket is the owner's only."""
    return [
        (name, lines if name.strip() in FRONTENDS else [_bind_to_loopback(line) for line in lines])
        if name.split()[:1] != ["global"]
        else (name, [re.sub(r"^(\s*stats socket \S+.*?) mode \d+", r"\1 mode 600", line) for line in lines])
        for name, lines in sections
    ]


def _bind_to_loopback(line: str) -> str:
    found = _BIND.fullmatch(line)
    return f"{found[1]}bind 127.0.0.1:{found[3]}{found[4]}" if found else line


def bound_clients(sections: Sequence[Section]) -> list[Section]:
    """Client timeouts, in place of Serve's if it has some."""
    bounded = []
    for name, lines in sections:
        kept = lines
        if name.split()[:1] == ["defaults"]:
            kept = [line for line in lines if not line.strip().startswith(tuple(_DEADLINES))]
            kept = [*(f"    {what} {seconds}" for what, seconds in _DEADLINES.items()), *kept]
        elif name.split()[:1] == ["global"]:
            kept = ["    tune.http.maxhdr 101", *lines]
        bounded.append((name, kept))
    return bounded


def retry_unstarted(sections: Sequence[Section]) -> list[Section]:
    """A request that was not started, since no connection was made, goes to the next replica, whatever its method. If
    a replica ended with a request, it is retried only if its method runs no model: else one request could crash every
    replica in turn."""
    rule = "    http-request disable-l7-retry if !{ method GET HEAD }"
    repeated = []
    for name, lines in sections:
        if name.strip() in FRONTENDS:
            lines = [rule, *lines]
        elif name.split()[:1] == ["defaults"]:
            lines = [re.sub(r"^(\s*retry-on) .*", r"\1 conn-failure empty-response", line) for line in lines]
        elif name.split()[:1] == ["backend"]:
            lines = [line for line in lines if not line.strip().startswith("retry-on ")]
        repeated.append((name, lines))
    return repeated


def name_client(sections: Sequence[Section], token: str) -> list[Section]:
    """Tells the replicas the client's address, in place of what the client claims; and that it used TLS, unless a
    proxy before us set that header."""
    rules = [
        "    http-request set-header x-forwarded-for %[src]",
        "    http-request set-header x-forwarded-proto https if { ssl_fc } !{ req.hdr(x-forwarded-proto) -m found }",
        "    http-request del-header x-raymlops-proxy",
    ]
    if re.fullmatch(r"[A-Za-z0-9_-]{1,200}", token):
        rules[-1] = f"    http-request set-header x-raymlops-proxy {token}"
    return [(name, [*rules, *lines] if name.strip() in FRONTENDS else lines) for name, lines in sections]


def tell_errors(sections: Sequence[Section], folder: pathlib.Path) -> list[Section]:
    """HAProxy's own errors keep their status, but become JSON like those of the replicas, or gRPC codes. Writes the
    files."""
    for status, text in _ERRORS.items():
        body = json.dumps({"error": text, "status": status, "request_id": ""})
        closes = "Connection: close\r\n" if status < 500 else ""
        again = "Retry-After: 1\r\n" if status == 503 else ""
        (folder / f"{status}.http").write_bytes(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nCache-Control: no-cache\r\n"
            f"{again}{closes}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
    for status, (code, pushback) in _GRPC_ERRORS.items():
        text = urllib.parse.quote(_ERRORS[status], safe=" ,;:")
        (folder / f"{status}.grpc").write_bytes(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: {code}\r\nGrpc-Message: {text}\r\n"
            f"Grpc-Retry-Pushback-Ms: {pushback}\r\nContent-Length: 0\r\n\r\n".encode()
        )
    told = []
    for name, lines in sections:
        kept, kind = lines, ""
        if name.split()[:1] == ["defaults"]:
            kept, kind = [line for line in lines if not line.strip().startswith("errorfile ")], "http"
        elif name.strip() == FRONTENDS[1] or name.startswith("backend grpc"):
            kind = "grpc"
        if kind:
            kept = [*kept, *(f"    errorfile {status} {folder / f'{status}.{kind}'}" for status in _ERRORS)]
        told.append((name, kept))
    return told


def use_tls(sections: Sequence[Section], pem: pathlib.Path, client_ca: str) -> list[Section]:
    """HTTPS and gRPC over TLS on the two frontends; with `client_ca`, clients must show a certificate that it
    signed."""
    verify = f" ca-file {_quote(client_ca)} verify required" if client_ca else ""
    used = []
    for name, lines in sections:
        protocols = {FRONTENDS[0]: "h2,http/1.1", FRONTENDS[1]: "h2"}.get(name.strip())
        if protocols is not None:
            tls = f" ssl crt {_quote(str(pem))} alpn {protocols} ssl-min-ver TLSv1.2{verify}"
            lines = [_with_tls(line, tls) for line in lines]
        used.append((name, lines))
    return used


def _with_tls(line: str, tls: str) -> str:
    found = _BIND.fullmatch(line)
    if found is None:
        return line
    return f"{found[1]}bind {found[2]}:{found[3]}{found[4].replace(' proto h2', '')}{tls}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def join_sections(sections: Sequence[Section]) -> str:
    return "\n".join(line for name, lines in sections for line in ([name] if name else []) + lines) + "\n"


def find_open(sections: Sequence[Section], frontends: Sequence[str] = FRONTENDS) -> list[str]:
    """Lines that listen beyond loopback, or open HAProxy's administration socket to other users, although nobody
    chose that."""
    found = []
    for name, lines in sections:
        for line in lines:
            bind = re.fullmatch(r"\s*bind\s+(\S+).*", line)
            if (
                bind
                and name.strip() not in frontends
                and not re.match(r"127\.0\.0\.1:|unix@|/|abns@", bind[1])
            ):
                found.append(f"{name}: {line.strip()}")
            if re.match(r"\s*stats socket /", line) and " mode 600 " not in f"{line} ":
                found.append(f"{name}: {line.strip()}")
    return found


def main(arguments: Sequence[str]) -> None:
    """Execute HAProxy with the rewritten configuration; exits with 1 and a message if that cannot be done safely."""
    binary, *rest = arguments
    if "-f" not in rest:  # such as -v
        os.execv(binary, [binary, *rest])  # noqa: S606
    config = pathlib.Path(rest[rest.index("-f") + 1])
    _die_with_parent()
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal is for `raymlops serve`, which first lets requests finish
    try:
        settings = read_front(config.parent)
        _own(config.parent)
        _install(binary, config, settings)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        sys.exit(f"HAProxy is not started, since its configuration cannot be made safe: {error}")
    if settings.get("tls"):
        _start_watcher(config, settings)
    os.execv(binary, [binary, *rest])  # noqa: S606


def read_front(folder: pathlib.Path) -> dict[str, Any]:
    """Instructions beside the defaults. Raises ValueError."""
    try:
        settings = json.loads((folder / FRONT_FILE).read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / FRONT_FILE} must hold an object")
    return settings


def _own(folder: pathlib.Path) -> None:
    """Anyone else who can write here could give HAProxy another configuration."""
    folder = folder.absolute()
    for part in (folder, folder.parent):
        status = part.lstat()
        shared = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if (
            status.st_uid not in (0, os.geteuid())
            or stat.S_ISLNK(status.st_mode)
            or (part != folder and shared)
        ):
            raise ValueError(
                f"{part} belongs to another user, or others may write to it; remove it, or set another folder in "
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"
            )
    folder.chmod(0o700)


def _install(binary: str, config: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Replace Serve's configuration by the rewritten one if HAProxy accepts it; else by one with fewer changes, with
    a warning.

    Never left out: loopback listeners, TLS if it was requested, and that started requests are not retried. Raises
    ValueError if HAProxy does not accept these either.
    """
    sections = close_listeners(split_sections(config.read_text()))
    sections = retry_unstarted(sections)
    if tls := settings.get("tls"):
        pem = write_pem(config.parent, tls)
        sections = use_tls(sections, pem, copy_client_ca(config.parent, tls))
    if opened := find_open(sections):
        raise ValueError(f"this would be open to others: {'; '.join(opened)}")
    # Read here, since this script has no settings: Serve's process starts it.
    token = os.environ.get(TOKEN_VARIABLE, "")
    routing = _load_beside("model_routing")
    secret = routing.find_secret(token, os.environ)
    sizes = _load_beside("body_limits")
    more: list[Callable[[list[Section]], list[Section]]] = [
        lambda sections: routing.route_by_model(sections, config.parent, secret),
        lambda sections: bound_clients(sizes.refuse_large(sections, sizes.read_limits(config.parent))),
        lambda sections: name_client(sections, token),
        lambda sections: tell_errors(sections, config.parent),
    ]
    fault = None
    for left_out, changes in (
        ("", more),
        ("routing of gRPC by model", more[1:]),
        ("deadlines and errors of ours, routing of gRPC by model", more[2:3]),
    ):
        if left_out:
            print(f"HAProxy does not accept {left_out}, which are left out: {fault}", file=sys.stderr)
        full = sections
        for change in changes:
            full = change(full)
        fault = _try(binary, config, join_sections(full))
        if fault is None:
            return
    raise ValueError(fault)


def _load_beside(name: str) -> Any:
    """Imports a module of this folder, which is not on this script's path."""
    if __package__:
        return importlib.import_module(f"{__package__}.{name}")
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ValueError(f"there is no {name}.py beside {__file__}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _try(binary: str, config: pathlib.Path, text: str) -> str | None:
    """Install this text if HAProxy accepts it; else return its error."""
    candidate = config.with_name(f"{config.name}.{os.getpid()}")
    try:
        candidate.touch(mode=0o600)
        candidate.write_text(text)
        checked = subprocess.run(
            [binary, "-c", "-f", str(candidate)], capture_output=True, text=True, timeout=20, check=False
        )
        if checked.returncode:
            return " ".join(checked.stderr.split())[-1500:] or f"exit code {checked.returncode}"
        candidate.replace(config)
        return None
    finally:
        candidate.unlink(missing_ok=True)


def write_pem(folder: pathlib.Path, tls: Mapping[str, str]) -> pathlib.Path:
    """Certificate and key in one file, as HAProxy needs them, readable by the owner only.

    While the two do not match, as after one of them was replaced, the old ones stay. Raises OSError if there are
    none.
    """
    text = "\n".join(pathlib.Path(tls[part]).read_text().strip() for part in ("certificate", "key"))
    pem = folder / "front.pem"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls["certificate"], tls["key"])
    except ssl.SSLError as error:
        if not pem.is_file():
            raise
        print(f"TLS: {tls['certificate']} is not in use yet: {error}", file=sys.stderr, flush=True)
        return pem
    partial = folder / f"front.pem.{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(f"{text}\n")
    partial.replace(pem)
    return pem


def copy_client_ca(folder: pathlib.Path, tls: Mapping[str, str]) -> str:
    """A copy with a name that HAProxy's commands accept; empty if clients show no certificate. Raises OSError."""
    if not tls.get("client_ca"):
        return ""
    copied = folder / "client-ca.pem"
    partial = folder / f"client-ca.pem.{os.getpid()}"
    partial.write_bytes(pathlib.Path(tls["client_ca"]).read_bytes())
    partial.replace(copied)
    return str(copied)


def _die_with_parent() -> None:
    """HAProxy ends when the process that started this one ends, however it ends; exec keeps this. Linux only."""
    parent = os.getppid()
    set_death_signal = 1  # PR_SET_PDEATHSIG
    try:
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):  # on other systems `raymlops serve` ends HAProxy itself
        return
    if os.getppid() != parent or parent == 1:
        sys.exit("HAProxy is not started: its parent process has ended")


def _start_watcher(config: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """A process beside HAProxy that passes changed certificates to it without a restart; ends when HAProxy does."""
    if os.fork():
        return
    try:
        _die_with_parent()
        os.setsid()
        # Not a process with the configuration's path among its arguments: Serve counts those.
        admin = re.search(r"^\s*stats socket (\S+)", config.read_text(), re.MULTILINE)
        told = [str(config.parent), admin[1] if admin else "", dict(settings["tls"])]
        arguments = [sys.executable, "-I", __file__, "--watch", json.dumps(told)]
        os.execv(sys.executable, arguments)  # noqa: S606
    finally:
        os._exit(1)


def watch(folder: pathlib.Path, admin: str, tls: Mapping[str, str], poll_s: float = 1.0) -> None:
    """Give HAProxy changed certificates within seconds, over its administration socket."""
    _die_with_parent()
    parts = [pathlib.Path(tls[part]) for part in ("certificate", "key", "client_ca") if tls.get(part)]
    known = None
    while True:
        try:
            stamps = [(path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino) for path in parts]
            if known is None:
                known = stamps
            elif stamps != known:
                update_certificates(folder, tls, admin)
                known = stamps
                print(f"TLS: certificates of {parts[0]} are in use", file=sys.stderr, flush=True)
        except (OSError, ValueError) as error:
            # Half of a pair was replaced, or HAProxy is still starting: the old certificates stay in use.
            print(f"TLS: the changed certificates are not in use yet: {error}", file=sys.stderr, flush=True)
        time.sleep(poll_s)


def update_certificates(folder: pathlib.Path, tls: Mapping[str, str], admin: str) -> None:
    """Replace the certificate in HAProxy's memory, and the file that its next reload reads. Raises OSError,
    ValueError."""
    certificate = "\n".join(pathlib.Path(tls[part]).read_text().strip() for part in ("certificate", "key"))
    updates = [("cert", folder / "front.pem", certificate)]
    if copied := copy_client_ca(folder, tls):
        updates.append(("ca-file", pathlib.Path(copied), pathlib.Path(copied).read_text()))
    for kind, path, text in updates:
        # An empty line ends the command.
        lines = "\n".join(line for line in text.splitlines() if line.strip())
        said = _tell(admin, f"set ssl {kind} {path} <<\n{lines}\n\n")
        said += _tell(admin, f"commit ssl {kind} {path}\n")
        if "Success" not in said:
            _tell(admin, f"abort ssl {kind} {path}\n")
            raise ValueError(" ".join(said.split())[:300])
    write_pem(folder, tls)


def _tell(admin: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(admin)
        connection.sendall(command.encode())
        said = b""
        while part := connection.recv(65536):
            said += part
        return said.decode(errors="replace")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watched, socket_path, pair = json.loads(sys.argv[2])
        watch(pathlib.Path(watched), socket_path, pair)
    main(sys.argv[1:])
