"""Turns the models of a spec into hosted endpoints: checks the file, opens the session, warms it up. Does not import
Ray."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence

from raymlops.errors import ArtifactError, RaymlopsError
from raymlops.models.isolated_session import IsolatedSession, open_isolated
from raymlops.models.row_independence import prove_rows
from raymlops.models.safety import read_model
from raymlops.models.session import SessionOptions, open_session
from raymlops.runtime.model_files import find_file
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.protocol.columns import read_columns
from raymlops.serving.protocol.mlflow_codec import read_answers_frames
from raymlops.specs.serving import HostedModel

LOG = logging.getLogger("raymlops.serving")


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Adds `what` to the text of failures in this block, for readers in another process. Raises ArtifactError."""
    try:
        yield
    except MemoryError:
        raise ArtifactError(f"{what} does not fit into the memory of its replica") from None
    except RaymlopsError as error:
        raise ArtifactError(f"{what}: {error}") from error
    except Exception as error:
        raise ArtifactError(f"{what}: {type(error).__name__}: {error}") from error


def host_model(
    name: str,
    path: pathlib.Path,
    spec: HostedModel,
    *,
    threads: int = 1,
    gpus: Sequence[str | int] = (),
    queue: int = 128,
    memory: int = 0,
) -> Hosted:
    """A warm endpoint for one file. Raises NotFoundError, ArtifactError, ResourceError."""
    file = find_file(path)
    model = read_model(file, spec.digest)
    options = SessionOptions.for_device(spec.device, gpus, spec.threads or threads, spec.optimisation)
    options = dataclasses.replace(options, shared=True, memory=memory)
    session = open_isolated(name, file, model, options) if spec.isolate else open_session(model, options)
    statistics = Statistics(name, spec.version or "1")
    batching = BatchOptions(spec.batching.max_rows, spec.batching.wait_ms / 1000, True, queue)
    mode, independence = spec.batching.mode, prove_rows(model)
    endpoint = ModelEndpoint(session, statistics, batching, mode, spec.deadline_s, independence)
    LOG.info("%s: shared runs: %s", name, statistics.sharing)
    columns = read_columns(session.signature, session.contract, session.optional)
    running = session.is_running if isinstance(session, IsolatedSession) else None
    frames = read_answers_frames(file.parent)
    return Hosted(
        name,
        endpoint,
        statistics,
        columns,
        check=endpoint.check,
        running=running,
        explanation=session.contract.get("explanation", {}),
        answers_frames=frames,
        try_batch=endpoint.try_batch,
    )
