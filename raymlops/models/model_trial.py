"""Opens a model of unknown origin once in a process of its own: ONNX Runtime ends the process that opens some files, or
that runs them the first time, and nobody would be told which file it was."""

import contextlib

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
