"""Our keys in cluster.yaml, under `metadata.raymlops`. Ray checks the rest of that file."""

from pydantic import Field

from raymlops.specs.document import Document


class KubernetesSpec(Document):
    """Settings that KubeRay's manifests need and `ray up` does not."""

    image: str = Field(
        description="Image with Ray and this package, such as one built from clusters/Dockerfile"
    )
    volume_claim: str | None = Field(
        None, description="PersistentVolumeClaim mounted at RAYMLOPS_STORAGE's mount; none if that is a URI"
    )
    mlflow_secret: str | None = Field(
        None, description="Secret whose keys become environment variables of every container; may be absent"
    )
    redis: str | None = Field(
        None,
        description="host:port of a Redis that stores the head's state, so that work and serving continue while "
        "a new head starts; without it they start again",
    )
    redis_secret: str | None = Field(
        None, description="Secret with the Redis password, under the key `password`"
    )
    memory: dict[str, str] = Field(
        default_factory=dict, description="Node type -> memory of its pods, such as 64Gi"
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="Kubernetes' name of a GPU")
    spot_selector: dict[str, str] = Field(
        default_factory=lambda: {"raymlops/market": "spot"},
        description="Node label that pods of node types with raymlops/market: spot ask for",
    )


class ClusterMetadata(Document):
    """The part of cluster.yaml that is ours."""

    kubernetes: KubernetesSpec
