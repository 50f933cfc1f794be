import copy
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray
import yaml

from raymlops.cli.clusters import cluster_environment
from raymlops.clusters import capacity, checks, configuration, mounts
from raymlops.clusters.findings import Finding
from raymlops.errors import ForbiddenError, NotFoundError, SpecError
from raymlops.specs.training import WorkerDemand

ROOT = pathlib.Path(__file__).parents[3]
CLOUDS = {"aws": [], "gcp": [ROOT / "clusters/gcp.yaml"], "azure": [ROOT / "clusters/azure.yaml"]}
Config = dict[str, Any]


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A home with a token and MLflow's folder, as `raymlops cluster up` leaves it."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".mlflow").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def read(cloud: str = "aws") -> Config:
    return configuration.read_cluster(ROOT / "cluster.yaml", CLOUDS[cloud])


def find(config: Config) -> list[Finding]:
    return checks.check_cluster(config, ray_version=ray.__version__, base=ROOT)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_passes_rays_schema_and_our_rules(cloud: str) -> None:
    assert [str(finding) for finding in find(read(cloud))] == []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_rendered_reads_back_as_the_same(cloud: str, tmp_path: pathlib.Path) -> None:
    text = configuration.write_cluster(read(cloud))
    assert yaml.safe_load(text) == read(cloud)
    assert not re.search(r"\s&\w", text)  # anchors are hard to read, and some tools do not take them


def test_an_overlay_changes_its_cloud_and_nothing_else() -> None:
    aws, gcp = read("aws"), read("gcp")
    assert gcp["provider"] == {"type": "gcp", "region": "us-central1", "availability_zone": "us-central1-a",
                               "project_id": "your-project"}  # fmt: skip
    for name, kind in aws["available_node_types"].items():
        other = gcp["available_node_types"][name]
        assert {k: v for k, v in kind.items() if k != "node_config"} == {
            k: v for k, v in other.items() if k != "node_config"
        }
        assert "InstanceType" not in other["node_config"]
    assert {key for key in aws if aws[key] != gcp[key]} == {
        "provider",
        "available_node_types",
        "head_setup_commands",
    }


def test_merging_joins_replaces_and_takes_away() -> None:
    below = {"a": {"x": 1, "y": [1]}, "b": 2, "provider": {"type": "aws", "region": "r"}}
    above = {"a": {"y": [2]}, "b": None, "provider": {"type": "gcp"}}
    assert configuration.merge(below, above) == {"a": {"x": 1, "y": [2]}, "provider": {"type": "gcp"}}
    assert below["b"] == 2


def test_the_head_takes_no_work_and_gpus_come_from_zero_spot_first() -> None:
    types = read()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert types["gpu-spot"]["priority"] > types["gpu"]["priority"]
    assert types["gpu-spot"]["resources"] == types["gpu"]["resources"]
    assert {kind["labels"]["raymlops/pool"] for kind in types.values()} == {"head", "cpu", "gpu"}


def test_secrets_in_a_folder_that_is_mounted_are_held_back_and_named_mounts_go(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "work/prod.env",
        "work/app.py",
        "work/a [x]/Secrets.yaml",
        "home/.mlflow/credentials",
        "one.pem",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    mounts_of = {"/r": "work", "/r/.mlflow": "~/.mlflow", "/r/one.pem": "one.pem"}
    config, held = mounts.exclude_secrets({"file_mounts": mounts_of, "rsync_exclude": [".git"]}, tmp_path)
    assert config["rsync_exclude"] == [".git", "/a \\[x]/Secrets.yaml", "/prod.env"]
    assert config["rsync_filter"] == [".gitignore", ".rayignore"]
    assert set(held) == {"work/prod.env", "work/a [x]/Secrets.yaml"}
    copied = tmp_path / "copied"
    if shutil.which("rsync"):
        excludes = [part for pattern in config["rsync_exclude"] for part in ("--exclude", pattern)]
        subprocess.run(["rsync", "-a", *excludes, f"{tmp_path / 'work'}/", f"{copied}/"], check=True)
        assert [path.name for path in copied.rglob("*") if path.is_file()] == ["app.py"]
    _, held = mounts.exclude_secrets({"file_mounts": mounts_of}, tmp_path, ["work/prod.env"])
    assert set(held) == {"work/a [x]/Secrets.yaml"}
    (tmp_path / "work/credentials").write_text("x")  # excluding it would leave out that of ~/.mlflow
    with pytest.raises(ForbiddenError, match="another mount"):
        mounts.exclude_secrets({"file_mounts": mounts_of}, tmp_path)


def test_every_start_command_takes_the_token_and_the_fast_settings() -> None:
    starts = [command for command in configuration.start_commands(read()) if "ray start" in command]
    assert len(starts) == 2
    assert all('eval "$environment"' in command for command in starts)
    environment = cluster_environment(cores=8)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_a_shell_gets_back_every_value_that_the_environment_prints(tmp_path: pathlib.Path) -> None:
    raymlops = pathlib.Path(sys.executable).parent / "raymlops"
    script = f'set -e; environment="$({raymlops} cluster environment)"; eval "$environment"; env -0'
    shown = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"}
    ).stdout
    values = dict(entry.partition("=")[::2] for entry in shown.decode().split("\0"))
    for name, value in cluster_environment().items():
        assert values[name] == value


def change(**steps: Any) -> Callable[[Config], None]:
    """A change of one key: `available_node_types__head__resources={...}`."""

    def apply(config: Config) -> None:
        for path, value in steps.items():
            *parents, last = path.split("__")
            target: Any = config
            for part in parents:
                target = target[part]
            if value is None:
                target.pop(last)
            else:
                target[last] = value

    return apply


def options(*kept: str) -> Callable[[Config], None]:
    return change(docker__run_options=["--volume /mnt/raymlops:/mnt/raymlops", *kept])


TOKEN = "RAY_AUTH_MODE=token"
GOOD = ("--env RAYMLOPS_STORAGE=/mnt/raymlops/s", "--env MLFLOW_TRACKING_URI=http://mlflow:5000")
BROKEN: dict[str, tuple[Callable[[Config], None], str]] = {
    "a key Ray does not know": (change(max_wokers=3), "max_wokers"),
    "no provider": (change(provider=None), "provider"),
    "a provider Ray does not know": (change(provider={"type": "arws"}), "arws"),
    "no node types": (change(available_node_types=None), "available_node_types"),
    "a head that is no type": (change(head_node_type="master"), "head_node_type"),
    "text for a number": (change(max_workers="many"), "max_workers"),
    "half a CPU": (change(available_node_types__cpu__resources={"CPU": 0.5}), "available_node_types.cpu.resources.CPU"),
    "more kept workers than allowed": (change(max_workers=1, available_node_types__cpu__min_workers=2), "max_workers"),
    "work on the head": (change(available_node_types__head__resources={"CPU": 8}), "the head runs tasks"),
    "no metadata": (change(metadata=None), "metadata"),
    "a wrong key in metadata": (change(metadata__raymlops__kubernetes__imagee="x"), "imagee"),
    "memory of no type": (change(metadata__raymlops__kubernetes__memory={"gpus": "1Gi"}), "gpus"),
    "no token shipped": (change(file_mounts={"/home/ray/raymlops": "."}), "does not copy the token"),
    "a start without authentication": (change(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379"]),
                                       "RAY_AUTH_MODE=token"),
    "a dashboard for everyone": (change(head_start_ray_commands=[f"{TOKEN} ray start --head --dashboard-host=0.0.0.0"]),
                                 "the dashboard listens on 0.0.0.0"),
    "a firewall that is open": (change(provider__security_group={"GroupName": "x", "IpPermissions": [
        {"FromPort": 0, "ToPort": 65535, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}), "0-65535"),
    "SSH for everyone": (change(provider__security_group={"GroupName": "x", "IpPermissions": [
        {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}), "22-22"),
    "workers kept for nobody": (change(available_node_types__cpu__min_workers=4), "4 workers are kept"),
    "no workers at all": (change(available_node_types__cpu__max_workers=0, available_node_types__gpu__max_workers=0,
                                 **{"available_node_types__gpu-spot__max_workers": 0}),
                          "no node type may have workers"),
    "spot without a fallback": (change(available_node_types__gpu=None, metadata__raymlops__kubernetes__memory={}),
                                "no on-demand type"),
    "expensive nodes first": (change(available_node_types__gpu__priority=20), "no higher priority"),
    "no storage": (options(GOOD[1]), "RAYMLOPS_STORAGE is not set"),
    "storage inside the container": (options("--env RAYMLOPS_STORAGE=/data", GOOD[1]), "inside the container"),
    "no tracking server": (options(GOOD[0]), "MLFLOW_TRACKING_URI"),
    "a database on the head": (options(GOOD[0], "--env MLFLOW_TRACKING_URI=sqlite:////mnt/x.db"), "the head's disk"),
    "a server on loopback": (options(GOOD[0], "--env MLFLOW_TRACKING_URI=http://127.0.0.1:5000"), "loopback"),
    "a password in the options": (options(*GOOD, "--env MLFLOW_TRACKING_PASSWORD=x"), "holds a secret"),
    "a password in a URI": (options(GOOD[0],
                                    "--env MLFLOW_TRACKING_URI=http://ann:secret@mlflow"), "holds a secret"),
    "another Ray in the image": (change(docker__image="rayproject/ray:2.40.0-py311-cpu"), "2.40.0"),
    "another Python in the image": (change(docker__image=f"rayproject/ray:{ray.__version__}-py39-cpu"), "py39"),
    "a mount that is not here": (change(file_mounts={"/x/.ray": "~/.ray", "/data": "./no-such-folder"}),
                                 "no-such-folder"),
}  # fmt: skip


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cluster_yaml_is_told_before_anything_is_rented(name: str) -> None:
    breaking, told = BROKEN[name]
    config = copy.deepcopy(read())
    breaking(config)
    findings = find(config)
    assert any(told in finding.what for finding in findings), [finding.what for finding in findings]
    assert all(finding.why and finding.fix for finding in findings)


def test_a_home_without_a_token_is_told_with_the_command(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fixes = [finding.fix for finding in find(read())]
    assert fixes == ["raymlops cluster token", "mkdir -m 700 ~/.mlflow"]


def test_a_file_that_is_missing_or_no_mapping_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="No file"):
        configuration.read_cluster(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(SpecError, match="expected a mapping"):
        configuration.read_cluster(tmp_path / "list.yaml")


KINDS = capacity.kinds_of(configuration.read_cluster(ROOT / "cluster.yaml"))


@pytest.mark.parametrize(
    ("workers", "resources", "labels", "told"),
    [
        (1, {"CPU": 16, "GPU": 1}, {}, None),
        (48, {"CPU": 1, "GPU": 1}, {}, None),
        (49, {"CPU": 1, "GPU": 1}, {}, "at most 48 fit"),
        (1, {"CPU": 17}, {}, "no node has that much"),
        (1, {"CPU": 1, "GPU": 2}, {}, "no node has that much"),
        (17, {"CPU": 1, "GPU": 1}, {"raymlops/market": "on-demand"}, "at most 16 fit"),
        (1, {"CPU": 1}, {"raymlops/pool": "tpu"}, "labels"),
        (48, {"GPU": 1}, {"raymlops/market": "in(spot, on-demand)"}, None),
        (17, {"GPU": 1}, {"raymlops/market": "!spot"}, "at most 16 fit"),
        (1, {"GPU": 1}, {"raymlops/market": "!in(spot, on-demand)"}, "no node has that"),
        (1, {"GPU": 1}, {"ray.io/accelerator-type": "A10G"}, None),  # known once a node lives
    ],
)
def test_a_demand_that_can_never_be_met_is_told(
    workers: int, resources: dict[str, float], labels: dict[str, str], told: str | None
) -> None:
    shortage = capacity.explain_shortage(WorkerDemand(workers, resources, labels), KINDS)
    assert (shortage is None) if told is None else (shortage is not None and told in shortage)
