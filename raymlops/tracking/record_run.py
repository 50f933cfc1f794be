"""The MLflow run that keeps what must not be in a registered model's tags alone: manifests, and signed heads of its
record.

Files are written once and never changed: a head is named by its lease's number and its index, a manifest by its
sha256. The newest head that this user saw is also kept in RAYMLOPS_HOME, so that even a store that was restored as a
whole is detected.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterator

import mlflow
from mlflow.exceptions import MlflowException

from raymlops import attestation
from raymlops.attestation import TrustedKeys
from raymlops.errors import StorageError, UntrustedError
from raymlops.settings import Settings
from raymlops.tracking import store

RUN_TAG = "raymlops.record"
"""On the registered model: the id of its run. On the run: the name of its registered model."""
EXPERIMENT = "raymlops-records"
"""The experiment of these runs, separate from those of searches."""
HEAD_KIND = "https://raymlops.dev/attestation/history-head/v1"
_HEAD = re.compile(r"heads/[0-9]+/(?P<number>[0-9]{1,18})-(?P<index>[0-9]{1,18})\.json")
_A_FOLDER = 100  # heads


@dataclasses.dataclass(frozen=True)
class Head:
    """The last entry of a record: its index and sha256, and the number of the lease under which it was written."""

    model: str
    index: int
    entry: str
    number: int
    run: str = ""
    """The run that keeps the record; a head copied from another store does not count."""

    @property
    def order(self) -> tuple[int, int]:
        return self.number, self.index


def find_run(client: mlflow.MlflowClient, name: str, named: str) -> str:
    """The run that keeps a model's record: the one that the model's tag names, else the oldest that names the model;
    empty if there is none."""
    if named:
        with contextlib.suppress(MlflowException):
            run = client.get_run(named)
            if run.data.tags.get(RUN_TAG) == name:
                return named
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return ""
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{RUN_TAG}` LIKE '%'",
        order_by=["attributes.start_time ASC"],
        max_results=1000,
    )
    found = [str(run.info.run_id) for run in runs if run.data.tags.get(RUN_TAG) == name]
    return found[0] if found else ""


def ensure_run(client: mlflow.MlflowClient, name: str, settings: Settings) -> str:
    """The run that keeps a model's record, created if there is none. Call only while holding the lease."""
    named = str(dict(client.get_registered_model(name).tags).get(RUN_TAG, ""))
    run = find_run(client, name, named)
    if not run:
        experiment = store.ensure_experiment(client, EXPERIMENT, settings).experiment_id
        made = client.create_run(experiment, tags={RUN_TAG: name}, run_name=f"record of {name}")
        run = str(made.info.run_id)
        client.set_terminated(run)
    if run != named:
        client.set_registered_model_tag(name, RUN_TAG, run)
    return run


def leave_run(client: mlflow.MlflowClient, run: str) -> None:
    """Make a run keep the record no longer: foreign files among its heads cannot be deleted."""
    client.delete_tag(run, RUN_TAG)


def read_head(
    client: mlflow.MlflowClient, name: str, run: str, keys: TrustedKeys
) -> tuple[Head | None, list[str]]:
    """The newest head that a trusted key signed, and the problems of newer ones that do not count."""
    problems: list[str] = []
    for path in _list_heads(client, run) if run else ():
        try:
            text = _read_file(client, run, path)
            payload = attestation.verify(text, attestation.STATEMENT_PAYLOAD, keys).payload
            _, predicate = attestation.read_statement(payload, HEAD_KIND)
            head = Head(**predicate)
            if (head.model, head.run) != (name, run):
                raise UntrustedError(f"It is a head of {head.model!r}, kept by run {head.run!r}")
            if path != _path_of(head):
                raise UntrustedError(f"It is the head of entry {head.index}, kept under another name")
            return head, problems
        except (UntrustedError, TypeError, OSError, MlflowException) as error:
            cause = " ".join(str(error).split())[:200]
            problems.append(f"the head {path.removeprefix('heads/')} of the record does not count: {cause}")
    return None, problems


def write_head(client: mlflow.MlflowClient, run: str, head: Head, key: attestation.SigningKey) -> None:
    subject = {f"entry-{head.index}": head.entry}
    statement = attestation.make_statement(subject, HEAD_KIND, dataclasses.asdict(head))
    client.log_text(run, key.sign(statement, attestation.STATEMENT_PAYLOAD), _path_of(head))


def _path_of(head: Head) -> str:
    return f"heads/{head.number // _A_FOLDER:010d}/{head.number:012d}-{head.index:06d}.json"


def _list_heads(client: mlflow.MlflowClient, run: str) -> Iterator[str]:
    """Paths of heads, the newest first: by lease number, then index."""
    with store.reaching_artifacts(run):
        files = store.artifacts_of(client, run)
        folders = sorted((entry.path for entry in files.list_artifacts("heads")), reverse=True)
        for folder in folders:
            paths = [entry.path for entry in files.list_artifacts(folder)]
            found = {path: match for path in paths if (match := _HEAD.fullmatch(path))}
            yield from sorted(
                found, key=lambda path: (int(found[path]["number"]), int(found[path]["index"])), reverse=True
            )


def write_manifest(client: mlflow.MlflowClient, run: str, digest: str, envelope: str) -> None:
    client.log_text(run, envelope, _manifest_path(digest))


def read_manifest(client: mlflow.MlflowClient, run: str, digest: str) -> str:
    """The envelope of a manifest. Raises UntrustedError if there is none."""
    try:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise FileNotFoundError(digest)
        return _read_file(client, run, _manifest_path(digest))
    except (OSError, ValueError, MlflowException) as error:
        cause = " ".join(str(error).split())[:160]
        raise UntrustedError(f"The manifest {digest[:12]} cannot be read: {cause}") from None


def _manifest_path(digest: str) -> str:
    return f"manifests/{digest[:2]}/{digest}.json"


def _read_file(client: mlflow.MlflowClient, run: str, path: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = store.artifacts_of(client, run).download_artifacts(path, folder)
        return pathlib.Path(file).read_text(encoding="utf-8")


def load_seen_head(name: str, settings: Settings) -> Head | None:
    """The newest head that this user has seen."""
    try:
        return Head(**json.loads(_memory(name, settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_head(head: Head, settings: Settings) -> None:
    """Store the head that was seen. Raises StorageError."""
    path = _memory(head.model, settings)
    known = load_seen_head(head.model, settings)
    if known == head:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(dataclasses.asdict(head), file)
        pathlib.Path(file.name).replace(path)
    except OSError as error:
        raise StorageError(
            f"Cannot write {str(path)!r}: {error}; set RAYMLOPS_HOME to another folder"
        ) from None


def _memory(name: str, settings: Settings) -> pathlib.Path:
    where = attestation.digest_of(settings.registry_uri.encode())[:16]
    return settings.home / "records" / where / f"{urllib.parse.quote(name, safe='')}.json"
