"""A receiver of webhooks that answers as it is told: it fails, hangs, and keeps what it took."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any


class Receiver:
    """`answers` are the statuses of the next requests, then 204; "hang" does not answer until `released`."""

    def __init__(self, answers: tuple[int | str, ...] = ()) -> None:
        self.answers = list(answers)
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.taken: list[dict[str, Any]] = []
        """Documents that were answered with 204."""
        self.released = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver._take(dict(self.headers.items()), body)
                with contextlib.suppress(OSError):  # whoever hung up
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        with self._lock:
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.bodies.append(body)
            answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            self.released.wait(30)
            return 503
        assert isinstance(answer, int)
        if answer == 204:
            with self._lock:
                self.taken.append(json.loads(body))
        return answer

    def wait(self, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        """The documents that were taken, once there are so many."""
        deadline = time.monotonic() + seconds
        while len(self.taken) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.taken) >= count, self.taken
        return self.taken

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def receive(*answers: int | str) -> Iterator[Receiver]:
    receiver = Receiver(answers)
    try:
        yield receiver
    finally:
        receiver.close()
