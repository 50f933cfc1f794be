"""Makes uvicorn use changed certificates while it serves, and require those of clients. Does not depend on Serve."""

import logging
import pathlib
import ssl
import threading
import time
from typing import Any

from raymlops.serving.fastpath import uvicorn_internals

LOG = logging.getLogger("raymlops.serving")
_POLL_S = 1.0


def refresh_certificates() -> None:
    """uvicorn reads certificates only once: make it require those of clients if a CA was given, and read changed
    files for new connections."""
    uvicorn_internals.replace_ssl_context(_make_watched)


def _make_watched(create: Any) -> Any:
    def create_and_watch(certfile: Any, keyfile: Any, *arguments: Any, **options: Any) -> Any:
        context = create(certfile, keyfile, *arguments, **options)
        ca = options.get("ca_certs") or (arguments[3] if len(arguments) > 3 else None)
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED  # Serve has no option for it
        if certfile and keyfile:
            watched = (context, str(certfile), str(keyfile))
            threading.Thread(target=_watch_certificates, args=watched, daemon=True).start()
        return context

    return create_and_watch


def _watch_certificates(context: Any, certfile: str, keyfile: str) -> None:
    paths = [pathlib.Path(certfile), pathlib.Path(keyfile)]
    known = None
    while True:
        try:
            stamps = [(path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino) for path in paths]
            if known is not None and stamps != known:
                context.load_cert_chain(certfile, keyfile)
                LOG.info("TLS: certificates of %s are in use", certfile)
            known = stamps
        except (
            Exception
        ) as error:  # half of a pair was replaced, or a file cannot be read; in any case, look again
            LOG.error("TLS: the changed certificates are not in use yet: %s", error)
        time.sleep(_POLL_S)
