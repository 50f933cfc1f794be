import functools
import pathlib
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from raymlops.cli.clusters import cluster_environment
from raymlops.clusters import configuration, manifests

ROOT = pathlib.Path(__file__).parents[3]
SCHEMAS = ROOT.parent / "shared" / "schemas"
CLUSTER = configuration.read_cluster(ROOT / "cluster.yaml")
VARIABLES = {key: value for key, value in cluster_environment(cores=8).items() if key != "RAY_AUTH_MODE"}
SERVE = {"applications": [{"name": "flights", "import_path": "raymlops.serving.app:build_app", "args": {}}]}
MADE = {
    "raycluster": manifests.to_ray_cluster(CLUSTER, ray.__version__, VARIABLES),
    "rayjob": manifests.to_ray_job(
        CLUSTER, ray.__version__, VARIABLES, "python jobs/search.py jobs/specs/digits.yaml"
    ),
    "rayservice": manifests.to_ray_service(CLUSTER, ray.__version__, VARIABLES, SERVE),
}


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    """The v1 schema of a CustomResourceDefinition, strict: what it does not name is a mistake."""
    path = SCHEMAS / f"ray.io_{kind}s.yaml"
    if not path.is_file():
        pytest.skip(f"no {path}: KubeRay's schemas are kept beside the checkout, not in it")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    return strict(
        next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    )


def strict(schema: Any) -> Any:
    """Kubernetes drops unknown fields without a word; here they are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key not in ("description", "default")}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and made["properties"]:
        made.setdefault("additionalProperties", bool(made.get("x-kubernetes-preserve-unknown-fields", False)))
    if made.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    return made


def judge(kind: str, manifest: dict[str, Any]) -> list[str]:
    schema = {**schema_of(kind), "additionalProperties": True}
    schema["properties"] = {**schema["properties"], "metadata": {"type": "object"}}
    errors = jsonschema.Draft7Validator(schema).iter_errors(
        yaml.safe_load(manifests.write_manifest(manifest))
    )
    return [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}" for error in errors
    ]


@pytest.mark.parametrize("kind", MADE)
def test_every_manifest_passes_kuberays_own_schema(kind: str) -> None:
    assert judge(kind, MADE[kind]) == []


def test_a_redis_keeps_the_heads_state_and_its_password_stays_in_a_secret() -> None:
    kubernetes = {"redis": "redis:6379", "redis_secret": "raymlops-redis"}
    config = configuration.merge(CLUSTER, {"metadata": {"raymlops": {"kubernetes": kubernetes}}})
    made = manifests.to_ray_cluster(config, ray.__version__, VARIABLES)
    assert made["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert "gcsFaultToleranceOptions" not in MADE["raycluster"]["spec"]
    assert judge("raycluster", made) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("authOptions", {"mode": "tokens"}),
        ("authOption", {"mode": "token"}),
        ("workerGroupSpecs", [{"groupName": "x"}]),
        ("enableInTreeAutoscaling", "yes"),
    ],
)
def test_the_schema_test_sees_a_mistake(path: str, value: Any) -> None:
    broken = {**MADE["raycluster"], "spec": {**MADE["raycluster"]["spec"], path: value}}
    assert judge("raycluster", broken) != []


def test_node_types_and_groups_are_the_same() -> None:
    spec = MADE["raycluster"]["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    types = configuration.worker_types(CLUSTER)
    assert list(groups) == list(types)
    for name, kind in types.items():
        group = groups[name]
        container = group["template"]["spec"]["containers"][0]
        assert (group["minReplicas"], group["maxReplicas"]) == (kind["min_workers"], kind["max_workers"])
        assert group["labels"] == kind["labels"]
        assert group.get("priority") == kind.get("priority")
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (
            str(kind["resources"]["GPU"]) if "GPU" in kind["resources"] else None
        )
        assert group["rayStartParams"]["num-cpus"] == str(kind["resources"]["CPU"])


def test_the_head_takes_no_work_and_the_token_is_kuberays() -> None:
    spec = MADE["raycluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"  # reached by port-forward, never from outside


@pytest.mark.parametrize("kind", MADE)
def test_every_container_gets_the_storage_the_settings_and_no_secret(kind: str) -> None:
    spec = MADE[kind]["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in pods:
        container = pod["template"]["spec"]["containers"][0]
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert values["RAYMLOPS_STORAGE"].startswith(container["volumeMounts"][0]["mountPath"] + "/")
        assert values["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert not any("PASSWORD" in name or "TOKEN" in name for name in values)
        assert container["envFrom"] == [{"secretRef": {"name": "raymlops-mlflow", "optional": True}}]


def test_spot_pods_go_to_spot_nodes() -> None:
    groups = {
        group["groupName"]: group["template"]["spec"]
        for group in MADE["raycluster"]["spec"]["workerGroupSpecs"]
    }
    assert groups["gpu-spot"]["nodeSelector"] == {"raymlops/market": "spot"}
    assert "nodeSelector" not in groups["gpu"]


def test_a_job_and_a_service_carry_what_they_run() -> None:
    assert MADE["rayjob"]["spec"]["entrypoint"] == "python jobs/search.py jobs/specs/digits.yaml"
    assert yaml.safe_load(MADE["rayservice"]["spec"]["serveConfigV2"]) == SERVE
