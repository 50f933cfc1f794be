import pathlib
import stat
from collections.abc import Mapping
from typing import Any

import pytest

from raymlops.clusters import findings, machine_checks, nodes, tokens
from raymlops.clusters.findings import Finding
from raymlops.errors import AuthenticationError

SOUND = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "onnx": "1.23.2",
    "mlflow": "3.17.2",
    "onnxruntime-gpu": "1.31.1",
    "protobuf": "6.33.6",
}
REMOTE = "10.0.0.4:6379"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"onnxruntime": "1.31.1"}, "both installed"),
        ({"mlflow": "3.16.0"}, "older than 3.17.2"),
        ({"mlflow": "3.17.2.dev0"}, None),
        ({"protobuf": "7.1.0"}, "too new"),
        ({"torch": None}, "torch is not installed"),
        ({"torch": "2.13.0+cpu"}, None),
    ],
)
def test_packages_that_do_not_go_together_are_told(changed: dict[str, str | None], told: str | None) -> None:
    packages = {name: version for name, version in {**SOUND, **changed}.items() if version is not None}
    check_told(list(machine_checks.check_packages(packages)), told)


@pytest.mark.parametrize(
    ("environment", "address", "told"),
    [
        ({}, None, None),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000", "RAYMLOPS_STORAGE": "s3://x/y"}, REMOTE, None),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "1"}, None, "only one of"),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}, None, None),
        ({"RAY_TRAIN_V2_ENABLED": "0"}, None, "RAY_TRAIN_V2_ENABLED"),
        ({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}, None, "PICKLE"),
        ({"MLFLOW_TRACKING_URI": "file:///tmp/mlruns"}, None, "file store"),
        ({"MLFLOW_TRACKING_URI": "./mlruns"}, None, "file store"),
        ({"MLFLOW_TRACKING_URI": "http://ann:pw@mlflow"}, None, "holds a password"),
        ({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}, REMOTE, "is a file here"),
        ({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}, "127.0.0.1:6379", None),
        ({"RAYMLOPS_STORAGE": "/home/ann/storage", "HOME": "/home/ann"}, REMOTE, "a folder of this machine"),
        ({"RAYMLOPS_STORAGE": "/mnt/shared", "HOME": "/home/ann"}, REMOTE, None),
        (
            {"RAY_ADDRESS": "10.0.0.4:6379", "RAY_API_SERVER_ADDRESS": "http://10.0.0.5:8265"},
            REMOTE,
            "RAY_API_SERVER_ADDRESS names 10.0.0.5",
        ),
        (
            {"RAY_ADDRESS": "10.0.0.4:6379", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"},
            REMOTE,
            None,
        ),  # a tunnel
    ],
)
def test_settings_that_contradict_each_other_are_told(
    environment: Mapping[str, str], address: str | None, told: str | None
) -> None:
    check_told(list(machine_checks.check_settings(environment, address)), told)


def check_told(findings: list[Finding], told: str | None) -> None:
    if told is None:
        assert findings == []
    else:
        assert [told in finding.what for finding in findings] == [True], findings
        assert findings[0].why
        assert findings[0].fix


@pytest.mark.parametrize(
    ("address", "host"),
    [("local", "127.0.0.1"), ("auto", "127.0.0.1"), ("10.0.0.4:6379", "10.0.0.4"), ("ray://head:10001", "head"),
     ("http://[::1]:8265", "::1")],
)  # fmt: skip
def test_an_address_gives_its_host(address: str, host: str) -> None:
    assert machine_checks.host_of(address) == host


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "auth_token"
    assert tokens.make_token(path)
    text = path.read_text()
    assert len(text) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert tokens.describe_fault(path) == (
        f"{path} has mode 0644: others can read it",
        f"chmod 600 {path}",
    )
    assert not tokens.make_token(path)
    assert path.read_text() == text
    assert tokens.describe_fault(path) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.4", "::", "head.internal"])
def test_nothing_listens_beyond_this_machine_without_a_sound_token(host: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "auth_token"
    with pytest.raises(AuthenticationError, match="raymlops cluster token"):
        tokens.require_token(path, host)
    path.write_text("short")
    with pytest.raises(AuthenticationError, match="shorter than 16"):
        tokens.require_token(path, host)
    path.write_text("x" * 32)
    path.chmod(0o640)
    with pytest.raises(AuthenticationError, match="chmod 600"):
        tokens.require_token(path, host)
    path.chmod(0o600)
    tokens.require_token(path, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_token(host: str, tmp_path: pathlib.Path) -> None:
    tokens.require_token(tmp_path / "none", host)


@pytest.mark.parametrize(
    ("environment", "address", "levels"),
    [
        ({}, None, ["warning"]),  # no token yet
        ({}, REMOTE, ["error"]),
        ({"RAY_AUTH_MODE": "token"}, None, ["error"]),
        ({"RAY_AUTH_MODE": "disabled"}, None, ["warning"]),
        ({"RAY_AUTH_MODE": "disabled"}, REMOTE, ["error"]),
        ({"RAY_AUTH_TOKEN": "x" * 32}, REMOTE, []),
        ({"RAY_AUTH_TOKEN": "x" * 32, "RAY_AUTH_TOKEN_PATH": "/none"}, REMOTE, ["warning"]),
    ],
)
def test_a_missing_token_is_worse_the_farther_away_the_cluster(
    environment: dict[str, str], address: str | None, levels: list[str], tmp_path: pathlib.Path
) -> None:
    findings = list(machine_checks.check_token({"HOME": str(tmp_path), **environment}, address))
    assert [finding.level for finding in findings] == levels


def report(**changed: Any) -> nodes.Report:
    """A node with nothing to fix."""
    return {
        "host": "h", "python": "3.11.9", "packages": dict(SOUND), "token": True, "storage": None, "tracking": None,
        "mlflow_server": "3.17.2", "skew": 0.0, "gpus": None, "providers": [], "listening": [6379],
        "resources": {"CPU": 4},
        "importable": True,
        **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"python": "3.12.1"}, "python differs"),
        ({"packages": {**SOUND, "ray": "2.59.0"}}, "ray differs: here 2.60.0"),
        ({"packages": {**SOUND, "torch": "2.12.0"}}, "torch differs"),
        ({"packages": {name: version for name, version in SOUND.items() if name != "onnx"}}, "none"),
        ({"token": False}, "without token"),
        ({"importable": False}, "does not have raymlops"),
        ({"storage": "Read-only file system"}, "Read-only file system"),
        ({"storage": "No space left on device"}, "No space left"),
        ({"tracking": "Connection refused"}, "cannot reach http://mlflow"),
        ({"mlflow_server": "3.1.0"}, "the MLflow server is 3.1.0"),
        ({"mlflow_server": "<html>"}, None),
        ({"skew": 75.0}, "75 s off"),
        ({"skew": 1.0}, None),
        ({"gpus": 0, "resources": {"GPU": 1}}, "offers 1 GPUs, but torch sees 0"),
        ({"gpus": 1, "resources": {"GPU": 1}, "providers": ["CPUExecutionProvider"]}, "no CUDA provider"),
        ({"gpus": 1, "resources": {"GPU": 1}, "providers": ["CUDAExecutionProvider"]}, None),
        ({"listening": [8265]}, "the dashboard listens beyond loopback"),
        ({"listening": [8404]}, "HAProxy's statistics"),
    ],
)
def test_what_does_not_go_together_on_a_node_is_told(changed: dict[str, Any], told: str | None) -> None:
    reports = {"aaaaaaaaaa": report(), "bbbbbbbbbb": report(**changed)}
    check_told(nodes.compare_reports(reports, {**SOUND, "python": "3.11.9"}, "http://mlflow"), told)


def test_errors_come_first_and_each_says_what_why_and_how() -> None:
    text = findings.to_lines(
        [Finding("a", "slow", "expensive", "fix-a", "warning"), Finding("b", "broken", "down", "fix-b")]
    )
    assert text.splitlines() == ["ERROR b: broken", "    why: down", "    fix: fix-b",
                                 "WARNING a: slow", "    why: expensive", "    fix: fix-a"]  # fmt: skip


def test_this_machine_describes_itself(tmp_path: pathlib.Path) -> None:
    found = nodes.report_node(str(tmp_path / "storage"), "http://127.0.0.1:9")
    assert found["importable"]
    assert found["storage"] is None
    assert "refused" in found["tracking"]
    assert list((tmp_path / "storage").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert nodes.report_node(str(tmp_path / "file"), "")["storage"] == "File exists"
