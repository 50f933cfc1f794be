"""KubeRay's RayCluster, RayJob and RayService manifests, made from cluster.yaml. Applies nothing."""

from collections.abc import Mapping
from typing import Any

import yaml

from raymlops.clusters import configuration
from raymlops.clusters.configuration import Config
from raymlops.specs.cluster import KubernetesSpec

Manifest = dict[str, Any]
_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}


def to_ray_cluster(config: Config, ray_version: str, environment: Mapping[str, str]) -> Manifest:
    """A RayCluster with Ray's autoscaler and token authentication; `environment` is set in every container."""
    return _manifest("RayCluster", config, _cluster_spec(config, ray_version, environment))


def to_ray_job(config: Config, ray_version: str, environment: Mapping[str, str], entrypoint: str) -> Manifest:
    """A RayJob on its own cluster, which is deleted a minute after the job ends."""
    return _manifest("RayJob", config, {
        "entrypoint": entrypoint,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        "backoffLimit": 1,
        "rayClusterSpec": _cluster_spec(config, ray_version, environment),
    })  # fmt: skip


def to_ray_service(
    config: Config, ray_version: str, environment: Mapping[str, str], serve_config: Mapping[str, Any]
) -> Manifest:
    """A RayService: KubeRay keeps the applications of a Serve config running and replaces a failed cluster."""
    return _manifest("RayService", config, {
        "serveConfigV2": yaml.safe_dump(dict(serve_config), sort_keys=False),
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": _cluster_spec(config, ray_version, environment),
    })  # fmt: skip


def write_manifest(manifest: Manifest) -> str:
    return configuration.write_cluster(manifest)


def _manifest(kind: str, config: Config, spec: Manifest) -> Manifest:
    metadata = {"name": config["cluster_name"], "labels": {"app.kubernetes.io/managed-by": "raymlops"}}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _cluster_spec(config: Config, ray_version: str, environment: Mapping[str, str]) -> Manifest:
    kubernetes = configuration.metadata_of(config).kubernetes
    variables = {**environment, **configuration.environment_of(config)}
    types = config["available_node_types"]
    head = config["head_node_type"]
    return {
        **_fault_tolerance(kubernetes),
        "rayVersion": ray_version,
        # KubeRay makes a Secret with a random token, and sets RAY_AUTH_MODE and RAY_AUTH_TOKEN from it.
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": round(float(config.get("idle_timeout_minutes", 5)) * 60),
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 (in the pod)
            "labels": dict(types[head].get("labels", {})),
            "template": _pod(head, types[head], kubernetes, variables),
        },
        "workerGroupSpecs": [
            _worker_group(name, kind, kubernetes, variables)
            for name, kind in configuration.worker_types(config).items()
        ],
    }


def _fault_tolerance(kubernetes: KubernetesSpec) -> Manifest:
    """The Redis that stores the head's state, so that workers and replicas keep running when the head restarts."""
    if kubernetes.redis is None:
        return {}
    options: Manifest = {"redisAddress": kubernetes.redis}
    if kubernetes.redis_secret:
        secret = {"name": kubernetes.redis_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": secret}}
    return {"gcsFaultToleranceOptions": options}


def _worker_group(
    name: str, kind: Config, kubernetes: KubernetesSpec, variables: Mapping[str, str]
) -> Manifest:
    resources = kind.get("resources", {})
    group: Manifest = {
        "groupName": name,
        "replicas": kind.get("min_workers", 0),
        "minReplicas": kind.get("min_workers", 0),
        "maxReplicas": kind["max_workers"],
        "labels": dict(kind.get("labels", {})),
        "rayStartParams": {
            "num-cpus": str(resources.get("CPU", 0)),
            "num-gpus": str(resources.get("GPU", 0)),
        },
        "template": _pod(name, kind, kubernetes, variables),
    }
    if "priority" in kind:
        group["priority"] = kind["priority"]
    return group


def _pod(name: str, kind: Config, kubernetes: KubernetesSpec, variables: Mapping[str, str]) -> Manifest:
    resources = kind.get("resources", {})
    head = not resources.get("CPU")
    amounts: dict[str, str] = {"cpu": "2" if head else str(resources["CPU"])}
    if name in kubernetes.memory:
        amounts["memory"] = kubernetes.memory[name]
    if resources.get("GPU"):
        amounts[kubernetes.gpu_resource] = str(resources["GPU"])
    container: Manifest = {
        "name": "ray-head" if head else "ray-worker",
        "image": kubernetes.image,
        "env": [{"name": key, "value": value} for key, value in sorted(variables.items())],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if head:
        container["ports"] = [{"name": port, "containerPort": number} for port, number in _PORTS.items()]
    if kubernetes.mlflow_secret:
        container["envFrom"] = [{"secretRef": {"name": kubernetes.mlflow_secret, "optional": True}}]
    pod: Manifest = {"containers": [container]}
    if kubernetes.volume_claim:
        mount = "/" + variables.get("RAYMLOPS_STORAGE", "/mnt/raymlops").strip("/").rpartition("/")[0]
        container["volumeMounts"] = [{"name": "storage", "mountPath": mount}]
        claim = {"claimName": kubernetes.volume_claim}
        pod["volumes"] = [{"name": "storage", "persistentVolumeClaim": claim}]
    if kind.get("labels", {}).get("raymlops/market") == "spot":
        pod["nodeSelector"] = dict(kubernetes.spot_selector)
    return {"spec": pod}
