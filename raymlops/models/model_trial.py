"""Opens a model of unknown origin once in a process of its own: ONNX Runtime ends the process that opens some files, or
that runs them the first time, and nobody would be told which file it was."""

import contextlib
import threading

from raymlops.errors import (
    ArtifactError,
    DeadlineError,
    InputError,
    ProcessEndedError,
    RaymlopsError,
    TooLargeError,
)
from raymlops.models.isolated_session import IsolatedSession
from raymlops.models.safety import Model
from raymlops.models.session import SessionOptions
from raymlops.tensors import sample


class ModelTrials:
    """Tries models of a key once in this process, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: dict[bytes, str] = {}
        """Key -> why, empty where the model can be opened."""

    def require(self, key: bytes, what: str, model: Model) -> None:
        """Raises ArtifactError where a model of this key cannot be opened, or would end the process that does."""
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
"""Of this process."""


def try_model(what: str, model: Model, optimisation: str = "all") -> None:
    """Open the model and run it on a row of zeros, on the CPU; takes about a second and the memory of the model.

    Raises ArtifactError, which begins with `what`, when either cannot be done or ends the process.
    """
    try:
        session = IsolatedSession(what, lambda: model, SessionOptions(optimisation=optimisation))
        try:
            with contextlib.suppress(InputError, TooLargeError, DeadlineError):  # zeros need not be an input
                session.infer(sample(session.signature, 1))
        finally:
            session.close()
    except ProcessEndedError as error:
        raise ArtifactError(f"{what} ends the process that runs it on a row of zeros: {error}") from None
    except ArtifactError as error:
        raise ArtifactError(f"{what}: {error}") from None
    except RaymlopsError as error:
        raise ArtifactError(
            f"{what} cannot be opened: {error}. Another graph level may help: optimisation: basic, or none"
        ) from None
