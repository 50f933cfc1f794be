"""What cluster.yaml says beside Ray's own keys, under `metadata.raymlops`. Ray checks the rest of that file."""

from pydantic import Field

from raymlops.specs.document import Document


class KubernetesSpec(Document):
    """What KubeRay's files need and `ray up` does not."""

    image: str = Field(
        description="Image with Ray and this package, such as one built from clusters/Dockerfile"
    )
    volume_claim: str | None = Field(
        None, description="PersistentVolumeClaim mounted at RAYMLOPS_STORAGE's mount; none where it is a URI"
    )
    mlflow_secret: str | None = Field(
        None, description="Secret whose keys become environment variables of every container; may be absent"
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
