"""A team's tracking server on PostgreSQL: users and passwords, and trials that log at once over HTTP."""

import concurrent.futures
import glob
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import httpx
import mlflow
import psycopg
import pytest

from raymlops.errors import SpecError, StorageError
from raymlops.settings import Settings
from raymlops.tracking import runs, server, store
from tests.serving_process import free_port

TRIALS, EPOCHS = 6, 5


def find_initdb() -> str | None:
    """On the path, or where Debian's packages put it."""
    return shutil.which("initdb") or next(
        iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))[::-1]), None
    )


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[str, pathlib.Path]]:
    """A PostgreSQL of its own with a password: its URI, and the file the password is in."""
    initdb = find_initdb()
    if initdb is None:
        pytest.skip("no initdb: PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raymlops-pg-"))
    port, password = free_port(), "not-in-any-uri"
    (folder / "password").write_text(password)
    if user:
        folder.chmod(0o711)
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    binaries = pathlib.Path(initdb).resolve().parent
    subprocess.run(
        [initdb, "-D", folder / "data", "-U", "mlflow", "-A", "scram-sha-256", "--no-sync",
         f"--pwfile={folder / 'password'}"],
        user=user, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    running = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", str(folder), "-F", "-h", "127.0.0.1"],
        user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        passfile = folder / "pgpass"
        passfile.write_text(f"127.0.0.1:{port}:*:mlflow:{password}\n")
        passfile.chmod(0o600)
        for _ in range(300):
            try:
                psycopg.connect(
                    host="127.0.0.1", port=port, user="mlflow", password=password, dbname="postgres"
                ).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.2)
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres", passfile
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """`raymlops tracking-server`, that can be stopped and started again."""

    def __init__(self, folder: pathlib.Path, database: tuple[str, pathlib.Path]) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.credentials = folder / "tracking-server" / "credentials"
        self.command = [
            sys.executable, "-m", "raymlops", "tracking-server", "--database", database[0], "--artifacts",
            str(folder / "files"),
            "--port", str(self.port), "--workers", "2",
        ]  # fmt: skip
        self.environment = {**os.environ, "RAYMLOPS_HOME": str(folder), "PGPASSFILE": str(database[1])}
        self.start()

    def start(self, seconds: float = 200) -> None:
        self.log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ends = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > ends:
                self.stop()
                raise RuntimeError((self.folder / "server.log").read_text()[-3000:])
            time.sleep(0.3)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, database: tuple[str, pathlib.Path]) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), database)
    yield started
    started.stop()


@pytest.fixture
def user(running: Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A user who has the credentials; MLflow's clients read these variables."""
    lines = dict(line.split(" = ") for line in running.credentials.read_text().splitlines() if " = " in line)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", lines["mlflow_tracking_username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lines["mlflow_tracking_password"])
    return Settings.from_env(
        {"MLFLOW_TRACKING_URI": running.url, "RAYMLOPS_HOME": str(running.folder), "USER": "ann"}
    )


def test_secrets_are_for_their_owner_alone_and_not_in_the_command(running: Server) -> None:
    for path in (running.folder / "tracking-server").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    line = pathlib.Path(f"/proc/{running.process.pid}/cmdline").read_text()
    assert "basic-auth" in line
    assert running.credentials.read_text().split()[-1] not in line


@pytest.mark.parametrize("credentials", [None, ("admin", "password1234"), ("admin", "")])
def test_nobody_gets_in_without_the_password(running: Server, credentials: tuple[str, str] | None) -> None:
    answer = httpx.post(
        f"{running.url}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, auth=credentials
    )
    assert answer.status_code == 401


def test_a_client_without_the_password_is_told(
    running: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match="Cannot use the tracking store"):
        store.connect(Settings.from_env({"MLFLOW_TRACKING_URI": running.url, "RAYMLOPS_HOME": str(tmp_path)}))


def log_trials(
    settings: Settings,
    search: str,
    spool: pathlib.Path,
    wait: float = 0.0,
    begun: threading.Event | None = None,
) -> tuple[str, str]:
    """Several trials of one search, all reporting at once; gives the parent's run and its experiment. `begun` is set
    when the trials report."""
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "team", settings).experiment_id
    parent = runs.start_run(client, experiment, search=search, tags={}, parameters={"trials": TRIALS})
    trials = runs.TrialRuns(client, experiment, parent, spool=spool, tell=lambda line: None)

    def run_trial(number: int) -> None:
        trial = f"{number:05d}"
        trials.trial_started(trial, {"lr": 0.1 * number})
        for epoch in range(1, EPOCHS + 1):
            trials.trial_reported(trial, {"epoch": epoch, "train_loss": 1 / (epoch + number)})
            if begun is not None:
                begun.set()
            time.sleep(wait)
        trials.trial_ended(trial, None)

    with concurrent.futures.ThreadPoolExecutor(TRIALS) as pool:
        list(pool.map(run_trial, range(TRIALS)))
    left = trials.close(240)  # a server of a busy machine may take minutes to be back
    runs.log_json(client, parent, "spec.json", {"name": search})
    runs.finish_run(client, parent, metrics={"left": left}, tags={})
    return parent, experiment


def check_runs(settings: Settings, parent: str, experiment: str) -> None:
    client = mlflow.MlflowClient(settings.tracking_uri)
    children = client.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(children) == TRIALS
    for child in children:
        steps = [metric.step for metric in client.get_metric_history(child.info.run_id, "train_loss")]
        assert (child.info.status, sorted(steps)) == ("FINISHED", list(range(1, EPOCHS + 1)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_searches_of_several_people_log_at_once_over_http(user: Settings, tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(lambda name: log_trials(user, name, tmp_path / f"{name}.jsonl"), ("ann", "ben"))
        )
    for parent, experiment in found:
        check_runs(user, parent, experiment)
        client = mlflow.MlflowClient(user.tracking_uri)
        assert [file.path for file in client.list_artifacts(parent)] == ["spec.json"]  # through the server
    assert len({experiment for _, experiment in found}) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_restarts_under_a_search_loses_no_run_and_doubles_none(
    running: Server, user: Settings, tmp_path: pathlib.Path
) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        searching = pool.submit(log_trials, user, "restarted", tmp_path / "spool.jsonl", 1.0, begun)
        assert begun.wait(120)
        time.sleep(1)
        running.stop()
        running.start()
        parent, experiment = searching.result()
    check_runs(user, parent, experiment)


@pytest.mark.parametrize(
    "database", ["mydb", "file:///tmp/x", "postgresql://mlflow:secret@db/mlflow"], indirect=False
)
def test_a_database_that_cannot_be_or_shows_its_password_is_refused(
    database: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(SpecError, match="--database"):
        server.plan_server(
            tmp_path, database=database, artifacts=str(tmp_path), host="127.0.0.1", port=1, workers=1
        )
