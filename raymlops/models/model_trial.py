"""Opens a model of unknown origin in a process of its own first: some files crash the ONNX Runtime process that opens
them or runs them the first time, and nobody would know which file it was."""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Sequence

from raymlops.errors import (
    ArtifactError,
    DeadlineError,
    InputError,
    OverloadedError,
    ProcessEndedError,
    RaymlopsError,
    TooLargeError,
)
from raymlops.models.isolated_session import START_S, IsolatedSession, child_environment
from raymlops.models.safety import Model, read_model
from raymlops.models.session import Session, SessionOptions, open_session
from raymlops.tensors import sample


class ModelTrials:
    """Tries each model only once in this process, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: dict[bytes, str] = {}
        """Key -> reason; empty if the model can be opened."""

    def require(self, key: bytes, what: str, model: Model) -> None:
        """Raises ArtifactError if a model of this key cannot be opened or crashes its process, and OverloadedError if
        it cannot be tried now, which is not remembered."""
        refusal = self._refused.get(key)
        if refusal is None:
            with self._lock:
                refusal = self._refused.get(key)
                if refusal is None:
                    refusal = self._refused[key] = self._try(what, model)
        if refusal:
            raise ArtifactError(refusal)

    def _try(self, what: str, model: Model) -> str:
        try:
            try_model(what, model)
        except ArtifactError as error:
            return str(error)
        return ""


TRIALS = ModelTrials()
"""The trials of this process."""


def try_model(what: str, model: Model, optimisation: str = "all") -> None:
    """Open the model and run it on a row of zeros, on the CPU; takes about a second and the memory of the model.

    Raises ArtifactError, whose text begins with `what`, if either fails or crashes the process, and OverloadedError
    or DeadlineError if no process can try it now, for reasons other than the model.
    """
    try:
        session = IsolatedSession(what, lambda: model, SessionOptions(optimisation=optimisation))
        try:
            _run(session)
        finally:
            session.close()
    except ProcessEndedError as error:
        raise ArtifactError(f"{what} ends the process that runs it on a row of zeros: {error}") from None
    except (OverloadedError, DeadlineError):
        raise
    except ArtifactError as error:
        raise ArtifactError(f"{what}: {error}") from None
    except RaymlopsError as error:
        raise ArtifactError(
            f"{what} cannot be opened: {error}. Another graph level may help: optimisation: basic, or none"
        ) from None


def _run(session: Session) -> None:
    with contextlib.suppress(InputError, TooLargeError, DeadlineError):  # zeros may be an invalid input
        session.infer(sample(session.signature, 1))


def try_together(files: Sequence[tuple[pathlib.Path, str, str]]) -> bool:
    """Whether a single process can open and run all of these files: path, digest, graph level. False means only that
    each must be tried alone; starting a process takes longer than trying a small model."""
    told = json.dumps([(str(path), digest, level) for path, digest, level in files])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "raymlops.models.model_trial"],
            input=told.encode(),
            env=child_environment(),
            capture_output=True,
            timeout=START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    for path, digest, level in json.load(sys.stdin):
        session = open_session(read_model(pathlib.Path(path), digest), SessionOptions(optimisation=level))
        _run(session)
        session.close()


if __name__ == "__main__":
    main()
