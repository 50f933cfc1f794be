"""A tracking store that is away, and versions that are gone, are told within seconds and without MLflow's patience."""

import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest

from raymlops.settings import Settings
from raymlops.tracking.reachability import explain_absence, find_missing
from raymlops.tracking.store import connect


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 200, b"{}"
            if "version=9" in self.path:
                status, body = 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}'
            self.send_response(503 if self.path.startswith("/broken") else status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def settings_of(uri: str) -> Settings:
    return Settings.from_env({"MLFLOW_TRACKING_URI": uri, "RAYMLOPS_HOME": "/nowhere"})


def test_a_file_that_is_gone_is_away_and_is_not_made_again(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mlflow.db"
    assert "No such file" in explain_absence(settings_of(f"sqlite:///{file}"))
    assert not file.exists()
    file.write_text("not a database")
    assert "not a database" in explain_absence(settings_of(f"sqlite:///{file}"))
    assert find_missing(settings_of(f"sqlite:///{file}"), [("m", "1")]) == [], "nothing is known"


def test_versions_that_the_registry_no_longer_has_are_found(settings: Settings) -> None:
    client = connect(settings)
    assert explain_absence(settings) == ""
    client.create_registered_model("reachable")
    for _ in range(2):
        client.create_model_version("reachable", "file:///nothing")
    client.delete_model_version("reachable", "2")
    versions = [("reachable", "1"), ("reachable", "2"), ("reachable", "3"), ("other", "1")]
    assert find_missing(settings, versions) == versions[1:]


def test_a_server_is_asked_for_its_health_and_passwords_are_not_told(server: str) -> None:
    assert explain_absence(settings_of(server)) == ""
    assert "status 503" in explain_absence(settings_of(f"{server}/broken"))
    assert (
        explain_absence(settings_of("http://me:secret@127.0.0.1:1"))
        == "http://me:***@127.0.0.1:1: no connection"
    )
    assert find_missing(settings_of(server), [("m", "1"), ("m", "9")]) == [("m", "9")]
    assert find_missing(settings_of("http://127.0.0.1:1"), [("m", "1")]) == []


def test_a_database_that_does_not_answer_is_not_waited_for() -> None:
    told = explain_absence(settings_of("postgresql://me:secret@127.0.0.1:1/runs"), patience_s=2.0)
    assert told.startswith("postgresql://me:***@127.0.0.1:1/runs: ")
    assert "secret" not in told
