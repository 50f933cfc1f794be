"""A fake cluster with the node types of our own cluster.yaml: from no workers to some and back, by submitted jobs.

Fake nodes are raylets of this machine with the resources and labels of their type; the autoscaler is the real one.
Their GPUs are numbers only, so what is asked of them is a task, and the search runs on CPUs.
"""

import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from raymlops.clusters import configuration
from tests.cluster_process import ROOT, Head
from tests.serving_process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GPU_JOB = """
import ray
ray.init(log_to_driver=False)
where = ray.remote(num_gpus=1)(lambda: ray.get_runtime_context().get_node_labels()["raymlops/market"])
print("trained on", ray.get(where.remote()))
"""


def to_fake(port: int, folder: pathlib.Path) -> configuration.Config:
    """cluster.yaml for Ray's fake provider: the same types, labels and priorities; two CPUs a node."""
    config = configuration.read_cluster(ROOT / "cluster.yaml")
    types = {}
    for name, kind in config["available_node_types"].items():
        head = name == config["head_node_type"]
        resources = {key: min(value, 2) for key, value in kind["resources"].items()}
        types["ray.head.default" if head else name] = {
            **{key: value for key, value in kind.items() if key != "docker"},
            "resources": resources,
            "node_config": {},
            "max_workers": 0 if head else 2,
        }
    return {
        **{key: config[key] for key in ("cluster_name", "max_workers", "upscaling_speed")},
        # Named by its module: the provider's own name wants a file of defaults that Ray's wheel does not have.
        "provider": {
            "type": "external",
            "module": "tests.fake_nodes.SeparateNodes",
            "folder": str(folder),
            "use_node_id_as_ip": True,  # the nodes share one
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 0.2,
        "auth": {}, "docker": {}, "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
        "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts": {},
        "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip


class Session:
    """The fake cluster and a log of what was seen, with seconds since its start."""

    def __init__(self, folder: pathlib.Path) -> None:
        port = free_port()
        # Sockets lie in it, and their paths may not be long.
        self.nodes = tempfile.TemporaryDirectory(prefix="fake-", ignore_cleanup_errors=True)
        file = folder / "autoscaling.yaml"
        file.write_text(yaml.safe_dump(to_fake(port, pathlib.Path(self.nodes.name))))
        self.began = time.monotonic()
        self.head = Head(
            folder, pathlib.Path(sys.executable), "--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={file}",
            port=port, variables={
                "PYTHONPATH": str(ROOT), "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            },
        )  # fmt: skip
        self.lines: list[str] = []
        self.tell("head is up")

    def tell(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:6.1f} s  {text}")

    def workers(self) -> list[str]:
        """Pool and market of the live workers, from their labels."""
        rows = self.head.get("/api/v0/nodes?detail=true&limit=100").json()["data"]["result"]["result"]
        return sorted(
            f"{row['labels']['raymlops/pool']} {row['labels']['raymlops/market']}"
            for row in rows
            if row["state"] == "ALIVE" and not row["is_head_node"]
        )

    def follow(self, identity: str, seconds: float = 400) -> set[str]:
        """Watch nodes until a job has ended; gives the types that were seen."""
        seen: set[str] = set()
        last: list[str] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            now = self.workers()
            if now != last:
                self.tell(f"workers: {', '.join(now) or 'none'}")
                last = now
            seen |= set(now)
            status = self.head.get(f"/api/jobs/{identity}").json()["status"]
            if status in ("SUCCEEDED", "FAILED", "STOPPED"):
                self.tell(f"job {status}")
                return seen
            time.sleep(1)
        raise AssertionError("\n".join(self.lines))

    def wait_for_none(self, seconds: float = 240) -> None:
        ends = time.monotonic() + seconds
        while self.workers():
            assert time.monotonic() < ends, "\n".join([*self.lines, f"still there: {self.workers()}"])
            time.sleep(1)
        self.tell("workers: none")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    started = Session(tmp_path_factory.mktemp("fake"))
    yield started
    started.head.stop()
    started.nodes.cleanup()
    print("\n" + "\n".join(started.lines))


def test_a_search_brings_up_cpu_nodes_from_none_and_leaves_none(session: Session) -> None:
    assert session.workers() == []
    sent = session.head.run(
        "submit", "--no-wait", "search", "jobs/specs/digits.yaml", "--autoscaling", "--set", "training.epochs=2",
        "--set", "search.trials=2",
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    session.tell("search submitted")
    identity = sent.stdout.strip()
    seen = session.follow(identity)
    log = session.head.get(f"/api/jobs/{identity}/logs").json()["logs"]
    assert "Trial 2 of 2" in log, log[-3000:]
    assert seen == {"cpu on-demand"}
    session.wait_for_none()


def test_a_demand_for_gpus_is_met_by_spot_nodes_first(session: Session, tmp_path: pathlib.Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "gpu.py").write_text(GPU_JOB)
    sent = session.head.run("submit", "--no-wait", "--working-dir", str(tmp_path), "gpu")
    assert sent.returncode == 0, sent.stderr
    session.tell("GPU job submitted")
    identity = sent.stdout.strip()
    seen = session.follow(identity)
    log = session.head.get(f"/api/jobs/{identity}/logs").json()["logs"]
    assert "trained on spot" in log, log[-3000:]
    assert seen == {"gpu spot"}
    session.wait_for_none()
