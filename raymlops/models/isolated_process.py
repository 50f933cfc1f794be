"""A process that runs a single model: reads it from the socket that it was started with, then
answers one run after the other. Ends when the process that started it has ended.

    python -m raymlops.models.isolated_process SOCKET
"""

import contextlib
import os
import pathlib
import queue
import resource
import socket
import sys
import threading
from typing import Any

from raymlops.errors import RaymlopsError, TooLargeError
from raymlops.models.external_data import ModelFiles
from raymlops.models.safety import Model
from raymlops.models.session import RunControl, Session, SessionOptions, open_session
from raymlops.models.tensor_stream import StreamEndedError, count_bytes, read_message, write_message
from raymlops.tensors import Batch

ANY_SIZE = 2**62
_ROOM = 2**30
"""Memory for everything but weights and tensors, in bytes."""


def main(number: int) -> None:
    """Serve the socket of this number until the other side closes it."""
    connection = socket.socket(fileno=number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # if memory is short, the system should kill this process first
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        document, files = read_message(connection, ANY_SIZE)
        try:
            session = _open(document, files)
        except RaymlopsError as error:
            write_message(connection, _describe(error))
            return
        write_message(
            connection,
            {
                "signature": session.signature.to_json(),
                "optional": [spec.to_json() for spec in session.optional],
                "metadata": session.metadata,
                "providers": session.providers,
            },
        )
        _Runs(connection, session, int(document["largest"])).serve()
    except StreamEndedError:
        return


def _open(document: dict[str, Any], files: Batch) -> Session:
    data = files.pop("model").tobytes()
    weights = {name: array.tobytes() for name, array in files.items()}
    model: Model = ModelFiles(data, weights) if weights else data
    told = dict(document["options"])
    told["providers"] = tuple(
        provider if isinstance(provider, str) else (provider[0], provider[1])
        for provider in told["providers"]
    )
    options = SessionOptions(**told)
    session = open_session(model, options)
    if options.memory and options.providers == (
        "CPUExecutionProvider",
    ):  # a GPU maps much more memory than it uses
        # ONNX Runtime's memory limit does not count texts.
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        bound = used + options.memory + _ROOM
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    return session


class _Runs:
    """Reads on in one thread while a model runs in another, so that a run can be cancelled."""

    def __init__(self, connection: socket.socket, session: Session, largest: int) -> None:
        """`largest` is the largest answer that the other side accepts, in bytes."""
        self._largest = largest
        self._connection = connection
        self._session = session
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Batch, RunControl]] = queue.SimpleQueue()
        self._controls: dict[int, RunControl] = {}

    def serve(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()
        try:
            while True:
                document, batch = read_message(self._connection, ANY_SIZE)
                if document["kind"] == "end":
                    control = self._controls.get(document["run"])
                    if control is not None:
                        control.end()
                else:
                    control = self._controls[document["run"]] = self._session.begin()
                    self._waiting.put((document, batch, control))
        finally:
            os._exit(0)  # nobody waits for a run that continues

    def _work(self) -> None:
        while True:
            document, batch, control = self._waiting.get()
            try:
                answer = self._session.infer(batch, document["outputs"], control)
                if count_bytes(answer) > self._largest:
                    raise TooLargeError(
                        f"The answer has over {self._largest} bytes; send fewer or smaller rows"
                    )
                write_message(self._connection, {}, answer)
            except RaymlopsError as error:
                write_message(self._connection, _describe(error))
            except MemoryError:
                self._refuse("TooLargeError", "The texts of this request or its answer take too much memory")
            except Exception as error:
                self._refuse("RaymlopsError", f"{type(error).__name__}: {error}")
            finally:
                del self._controls[document["run"]]

    def _refuse(self, kind: str, message: str) -> None:
        write_message(self._connection, {"error": kind, "message": message})


def _describe(error: RaymlopsError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main(int(sys.argv[1]))
