"""A model that runs in its own process: a request that crashes it, or uses up its memory, affects nothing else.

A process that has ended is restarted, at once the first time and then after growing pauses. The run during which it
ended is not repeated. It ends with the process that started it, however that ends, because their socket closes.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import raymlops
from raymlops import errors, settings
from raymlops.errors import DeadlineError, OverloadedError, ProcessEndedError, RaymlopsError
from raymlops.models.external_data import ModelFiles
from raymlops.models.safety import Model, digest_of, read_model
from raymlops.models.session import RunControl, Session, SessionOptions
from raymlops.models.tensor_stream import StreamEndedError, read_message, write_message
from raymlops.tensors import Batch, Signature, TensorSpec

LARGEST_ANSWER = 2**31
"""Largest answer that is accepted from the process if no limit is set, in bytes."""
START_S = 120.0
"""Longest start of a process, with the loading of its model, in seconds."""
GRACE_S = 5.0
"""Time for a run to stop after it is told to, before its process is killed, in seconds."""
HEALTHY_S = 60.0
"""If a process lived this long, the model itself did not end it: the next one starts at once."""
LONGEST_PAUSE_S = 30.0
WAITED_S = 2.0
"""Pauses up to this are waited for; in longer ones callers are told to retry later."""
STARTS = 3
"""Consecutive starts that may fail before the model counts as unhealthy."""
_KILLED = "signal SIGKILL"
_RAISED = ("InputError", "TooLargeError", "DeadlineError", "ArtifactError", "ResourceError")


_KEPT = (
    "CUDA", "HOME", "LANG", "LC_", "LD_", "MKL_", "NVIDIA", "OMP_", "PATH", "TEMP", "TMP", "TZ", "VIRTUAL_ENV",
)  # fmt: skip
"""Prefixes of the environment variables that the process gets: no keys or tokens of its parent."""


def child_environment() -> dict[str, str]:
    """Variables for a process that runs models; it finds the same packages as this one."""
    kept = {name: value for name, value in settings.read_environment().items() if name.startswith(_KEPT)}
    path = os.pathsep.join([str(pathlib.Path(raymlops.__file__).parents[1]), *filter(None, sys.path)])
    return {**kept, "PYTHONPATH": path}


@dataclasses.dataclass
class _Process:
    """A process that has loaded the model."""

    popen: "subprocess.Popen[bytes]"
    connection: socket.socket
    started: float
    writing: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def end(self) -> str:
        """Kill it if it has not ended, and describe its end."""
        self.popen.kill()
        code = self.popen.wait()
        self.connection.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class IsolatedRun(RunControl):
    """One run in another process, which is told to stop, and is killed if it does not."""

    def __init__(self) -> None:
        self.ended = False
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._number = 0

    def end(self) -> None:
        self.ended = True
        threading.Thread(target=self._end, daemon=True).start()

    def enter(self, process: _Process, number: int) -> None:
        with self._lock:
            self._process, self._number = process, number

    def leave(self) -> None:
        with self._lock:
            self._process = None

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        with process.writing, contextlib.suppress(StreamEndedError):
            write_message(process.connection, {"kind": "end", "run": self._number})
        ends = time.monotonic() + GRACE_S
        while self._process is not None and time.monotonic() < ends:
            time.sleep(0.05)
        with self._lock:
            if self._process is not None:
                process.popen.kill()


class IsolatedSession(Session):
    """Runs one batch at a time, like a Session. Safe to call from several threads."""

    def __init__(self, name: str, read: Callable[[], Model], options: SessionOptions) -> None:
        """`read` returns the checked model; it is called for each start. Raises what opening the model raises."""
        self._name = name
        self._read = read
        self._options = dataclasses.replace(options, shared=False)
        self._largest = options.memory or LARGEST_ANSWER
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._ended_soon = 0
        self._failed_starts = 0
        self._next_start = 0.0
        self._closed = False
        self.by_value = ("a process of its own",)
        self.weights: Batch = {}
        self._process: _Process | None = None
        told = self._start()
        self.signature = Signature.from_json(told["signature"])
        self.optional = tuple(TensorSpec.from_json(spec) for spec in told["optional"])
        self.metadata = {str(key): str(value) for key, value in told["metadata"].items()}
        self.providers = tuple(told["providers"])

    def is_running(self) -> bool:
        """Whether the process is running and answers."""
        process = self._process
        return process is not None and process.popen.poll() is None

    def with_weights(self, weights: Batch) -> "Session":
        raise NotImplementedError("a model in a process of its own has all its weights there")

    def begin(self) -> IsolatedRun:
        return IsolatedRun()

    def infer(
        self, batch: Batch, outputs: Sequence[str] | None = None, control: RunControl | None = None
    ) -> Batch:
        """Like a Session's. Raises ProcessEndedError if the process ends during this run, and OverloadedError while
        it is not restarted."""
        control = control if isinstance(control, IsolatedRun) else self.begin()
        names = [spec.name for spec in self.signature.outputs] if outputs is None else list(outputs)
        with self._lock:
            document, answer = self._run(batch, names, control)
        if "error" in document:
            kind = str(document["error"])
            raise getattr(errors, kind if kind in _RAISED else "RaymlopsError")(str(document["message"]))
        self._check_answer(answer, names)
        return {name: answer[name] for name in names}

    def check(self, batch: Batch) -> None:
        """Run the batch if nothing else runs. A crash of the process is not an error here: raises only what the model
        raises for the batch, or that the process cannot be started."""
        if self._failed_starts >= STARTS:
            raise RaymlopsError(f"The process of {self._name!r} did not start {self._failed_starts} times")
        if not self._lock.locked() and self._next_start <= time.monotonic():
            with contextlib.suppress(OverloadedError):
                self.infer_within(batch, GRACE_S)

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.end()
                self._process = None

    def _run(self, batch: Batch, names: list[str], control: IsolatedRun) -> tuple[dict[str, Any], Batch]:
        """The process's answer; the caller holds the lock."""
        process = self._send(batch, names, control)
        try:
            return read_message(process.connection, self._largest)
        except StreamEndedError:
            how = self._bury(process)
            if control.ended:
                raise DeadlineError("The run was ended; nobody waits for it any more") from None
            raise ProcessEndedError(
                f"The process of {self._name!r} ended ({how}) while it ran this request, which is not run again; "
                "it is restarted for other requests",
                retry_after=max(1.0, self._next_start - time.monotonic()),
            ) from None
        finally:
            control.leave()

    def _send(self, batch: Batch, names: list[str], control: IsolatedRun) -> _Process:
        """A process that has received the whole request. If one ended before that, the next one is asked."""
        for _ in range(2):
            process = self._require()
            if control.ended:
                raise DeadlineError("The run was ended; nobody waits for it any more")
            number = next(self._numbers)
            try:
                with process.writing:
                    control.enter(process, number)
                    write_message(process.connection, {"kind": "run", "run": number, "outputs": names}, batch)
                if control.ended:  # cancelled before it was sent, so the process does not know of it
                    control.end()
                return process
            except StreamEndedError:
                control.leave()
                self._bury(process)
        raise OverloadedError(f"The process of {self._name!r} ended twice before it had this request")

    def _bury(self, process: _Process) -> str:
        """Schedule the next start, and describe how this process ended."""
        how = process.end()
        self._process = None
        self._plan_start(process)
        return how

    def _check_answer(self, answer: Batch, names: list[str]) -> None:
        specs = {spec.name: spec for spec in self.signature.outputs}
        if set(answer) != set(names) or any(answer[name].dtype != specs[name].dtype for name in names):
            raise RaymlopsError(f"The process of {self._name!r} answered other tensors than it was asked for")

    def _plan_start(self, process: _Process | None) -> None:
        """Restart at once, or after a pause if processes end soon after their start."""
        now = time.monotonic()
        lived = now - process.started if process is not None else 0.0
        self._ended_soon = self._ended_soon + 1 if lived < HEALTHY_S else 0
        pause = min(LONGEST_PAUSE_S, 2.0 ** min(9, self._ended_soon - 2)) if self._ended_soon > 1 else 0.0
        self._next_start = now + pause
        threading.Thread(target=self._start_again, args=(pause,), daemon=True).start()

    def _start_again(self, pause: float) -> None:
        time.sleep(pause)
        with self._lock, contextlib.suppress(RaymlopsError):
            self._require()

    def _require(self) -> _Process:
        """The process, started if necessary; the caller holds the lock. Raises OverloadedError."""
        if self._process is not None and self._process.popen.poll() is not None:  # while it was idle
            self._bury(self._process)
        if self._process is not None:
            return self._process
        if self._closed:
            raise OverloadedError(f"The process of {self._name!r} was ended with its replica")
        pause = self._next_start - time.monotonic()
        if pause > WAITED_S:
            raise OverloadedError(
                f"The process of {self._name!r} has ended {self._ended_soon} times in a row, and is started again in "
                f"{pause:.0f} s",
                retry_after=pause,
            )
        time.sleep(max(0.0, pause))
        try:
            self._start()
        except (RaymlopsError, OSError) as error:  # including failures to read the model
            self._failed_starts += 1
            self._plan_start(None)
            raise OverloadedError(f"The process of {self._name!r} does not start: {error}") from None
        assert self._process is not None
        return self._process

    def _start(self) -> dict[str, Any]:
        """Start a process and load the model. Raises what that raises, and OverloadedError if the machine, not the
        model, is why no process can run now."""
        model = self._read()
        files = {"model": model.data, **model.weights} if isinstance(model, ModelFiles) else {"model": model}
        popen, ours = self._spawn()
        process = _Process(popen, ours, time.monotonic())
        try:
            ours.settimeout(START_S)
            tensors = {name: np.frombuffer(content, np.uint8) for name, content in files.items()}
            document = {"options": dataclasses.asdict(self._options), "largest": self._largest}
            write_message(ours, document, tensors)
            told, _ = read_message(ours, 0)
            ours.settimeout(None)
        except StreamEndedError as error:
            left = process.started + START_S - time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it closes its socket before it ends
                popen.wait(min(GRACE_S, max(0.0, left)))
            how = process.end()
            if how == _KILLED:  # killed here, since it took too long, or by a system that is short of memory
                raise OverloadedError(
                    f"The process of {self._name!r} did not start, {how} after "
                    f"{time.monotonic() - process.started:.0f} of at most {START_S:g} s; try again in a moment"
                ) from None
            raise RaymlopsError(f"The process of {self._name!r} ended at its start, {how}: {error}") from None
        if "error" in told:
            process.end()
            kind = str(told["error"])
            raise getattr(errors, kind if kind in _RAISED else "RaymlopsError")(str(told["message"]))
        self._process, self._failed_starts = process, 0
        return told

    def _spawn(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        """A new process, and the socket to it. Raises OverloadedError."""
        try:
            ours, theirs = socket.socketpair()
            number = theirs.fileno()
            with theirs, contextlib.ExitStack() as opened:
                opened.enter_context(ours)
                popen = subprocess.Popen(
                    [sys.executable, "-m", "raymlops.models.isolated_process", str(number)],
                    pass_fds=(number,),
                    stdin=subprocess.DEVNULL,
                    env=child_environment(),
                )
                opened.pop_all()
        except OSError as error:  # the system may be out of processes, memory or descriptors
            raise OverloadedError(
                f"No process can be started for {self._name!r} now: {error}; try again in a moment"
            ) from None
        return popen, ours


def open_isolated(name: str, file: pathlib.Path, model: Model, options: SessionOptions) -> IsolatedSession:
    """A session in its own process, whose later starts read the same model again."""
    digest = digest_of(model)
    return IsolatedSession(name, lambda: read_model(file, digest), options)
